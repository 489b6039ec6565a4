"""Tests of objects in a bucket: atomic and conditional writes, and errors with advice."""

import datetime as dt
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse

from gh_assets import errors
from gh_assets.storage.objects import ABSENT, CloudStorageClient, Digest, ObjectStore, checksum, digest_of, make_client
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.bucket import Middleware, tokenless_buckets
from gh_assets_tests.support.credentials import RenewingCredentials


def test_write_stores_content_and_metadata_as_a_new_generation(objects: ObjectStore, tmp_path: Path) -> None:
    first = objects.write("a/b", b"one", metadata={"k": "v"})
    second = objects.write("a/b", b"two two")
    assert objects.read("a/b") == b"two two"
    assert second.generation != first.generation
    assert (first.size, second.size, first.metadata) == (3, 7, {"k": "v"})
    assert objects.describe("a/b") == second
    assert objects.describe("a/c") is None
    assert objects.read_to("a/b", tmp_path / "file") == hashlib.sha256(b"two two").hexdigest()
    assert (tmp_path / "file").read_bytes() == b"two two"
    assert list(objects.names("a/")) == ["a/b"]
    assert second.uri == objects.uri("a/b") == f"gs://{objects.name}/a/b"
    assert second.created is not None
    assert abs(dt.datetime.now(dt.UTC) - second.created) < dt.timedelta(minutes=5)


@pytest.mark.parametrize("size", [0, 7, 3_000_000])
def test_file_is_stored_with_its_checksums(objects: ObjectStore, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(size).randbytes(size))
    stored = objects.write("x", path, metadata={"k": "v"}, content_type="text/plain", if_generation=ABSENT)
    digest = digest_of(path)
    assert digest == Digest(hashlib.sha256(path.read_bytes()).hexdigest(), checksum(path.read_bytes()), size)
    assert (stored.size, stored.crc32c) == (size, digest.crc32c)
    assert (stored.metadata, stored.content_type) == ({"k": "v"}, "text/plain")
    assert objects.read("x") == path.read_bytes()
    assert objects.read_to("x", tmp_path / "again") == digest.sha256


def test_checksum_has_the_form_of_cloud_storage() -> None:
    assert checksum(b"123456789") == "4waSgw==", "the check value of CRC-32C, 0xE3069283, in base64"


def test_copy_has_the_properties_of_its_source_unless_given(objects: ObjectStore) -> None:
    source = objects.write("a", b"content", metadata={"k": "v"}, content_type="text/plain")
    objects.copy(source, "b")
    objects.copy(source, "c", metadata={"other": "one"}, if_generation=ABSENT)
    copies = [objects.describe("b"), objects.describe("c")]
    assert [copied and copied.metadata for copied in copies] == [{"k": "v"}, {"other": "one"}]
    assert [copied and copied.content_type for copied in copies] == ["text/plain"] * 2
    assert [objects.read(name) for name in "bc"] == [b"content"] * 2
    with pytest.raises(errors.ConcurrentWriteError):
        objects.copy(source, "b", metadata={"another": "one"}, if_generation=ABSENT)
    objects.delete("a")
    with pytest.raises(errors.StoredDataError, match=f"There is no object {source.uri}"):
        objects.copy(source, "d")


def test_copy_in_several_calls_is_continued(objects: ObjectStore) -> None:
    source, seen = objects.write("a", b"content"), []

    async def rewrite(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] != "POST":  # the copied metadata
            await JSONResponse({"name": "b"})(scope, receive, send)
            return
        seen.append(scope["query_string"])
        answer: dict[str, Any] = {"done": len(seen) == 3, "totalBytesRewritten": len(seen), "objectSize": 3}
        answer |= {"resource": {"name": "b"}} if answer["done"] else {"rewriteToken": f"token-{len(seen)}"}
        await JSONResponse(answer)(scope, receive, send)

    with serving(rewrite) as url:
        ObjectStore(make_client(endpoint=url), "bucket").copy(source, "b")
    assert [b"rewriteToken=" in query for query in seen] == [False, True, True]
    assert [f"rewriteToken=token-{turn}".encode() in seen[turn] for turn in (1, 2)] == [True, True]


def test_missing_objects_are_listed_and_deleted_without_an_error(objects: ObjectStore) -> None:
    assert list(objects.list("")) == [], "the first write creates the bucket"
    objects.write("a/1", b"x"), objects.write("a/2", b"y"), objects.write("b", b"z")
    assert list(objects.names("a/")) == ["a/1", "a/2"]
    objects.delete("a/1")
    objects.delete("a/1")
    assert list(objects.names("")) == ["a/2", "b"]


def test_object_of_another_bucket_is_streamed(objects: ObjectStore, gcs_client: CloudStorageClient) -> None:
    other = ObjectStore(gcs_client, f"{objects.name}-other", create=True)
    other.write("x", b"of the other bucket")
    with objects.open_in_bucket(other.name, "x") as file:
        assert file.read() == b"of the other bucket"
    with pytest.raises(errors.StoredDataError, match=f"There is no object gs://{other.name}/y"):  # noqa: SIM117
        with objects.open_in_bucket(other.name, "y") as file:
            file.read()


def test_pages_are_those_of_googles_console_and_emulators_have_none(objects: ObjectStore) -> None:
    assert objects.page("a b") is None
    store = ObjectStore(CloudStorageClient(RenewingCredentials(), "project"), "bucket")
    console = "https://console.cloud.google.com/storage"
    assert store.page("a b/c?d") == f"{console}/browser/_details/bucket/a%20b/c%3Fd"
    assert store.page("folder/") == f"{console}/browser/bucket/folder/"


def test_write_with_an_unmet_precondition_changes_nothing(objects: ObjectStore) -> None:
    objects.write("x", b"first", if_generation=ABSENT)
    with pytest.raises(errors.ConcurrentWriteError, match="another process"):
        objects.write("x", b"second", if_generation=ABSENT)
    stale = objects.write("x", b"newer").generation
    objects.write("x", b"newest", if_generation=stale)
    with pytest.raises(errors.ConcurrentWriteError):
        objects.write("x", b"late", if_generation=stale)
    assert objects.read("x") == b"newest"


def test_missing_object_or_bucket_is_named(objects: ObjectStore, gcs_client: CloudStorageClient) -> None:
    with pytest.raises(errors.StoredDataError, match=r"There is no object gs://.*/nothing"):
        objects.read("nothing")
    reason = r"The bucket of gs://no-such-bucket/.* does not exist: create it"
    for call in ("write", "list"):
        with pytest.raises(errors.ConfigurationError, match=reason):
            CALLS[call](ObjectStore(gcs_client, "no-such-bucket"), Path())


def test_unavailable_server_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.storage.objects.RETRY_SECONDS", 0.2)
    with pytest.raises(errors.ServiceUnavailableError, match="Run again: nothing is lost"):
        ObjectStore(make_client(endpoint="http://127.0.0.1:9"), "bucket").read("x")


CALLS: dict[str, Callable[[ObjectStore, Path], object]] = {
    "read": lambda store, folder: store.read("x"),
    "read_to": lambda store, folder: store.read_to("x", folder / "out"),
    "write": lambda store, folder: store.write("x", b"content"),
    "write a file": lambda store, folder: store.write("x", folder / "file"),
    "describe": lambda store, folder: store.describe("x"),
    "delete": lambda store, folder: store.delete("x", if_generation=17),
    "list": lambda store, folder: list(store.list("x")),
}

REFUSALS = {
    "role": (403, "forbidden", "robot@project.iam.gserviceaccount.com does not have storage.objects.get access.", True),
    "billing": (403, "accountDisabled", "The billing account for the owning project is disabled.", False),
    "retention": (403, "retentionPolicyNotMet", "Object 'b/x' is subject to bucket's retention policy.", False),
    "billing, too": (403, "forbidden", "The Billing account for the owning project is disabled.", False),
    "requester": (400, "required", "Bucket is a requester pays bucket but no user project provided.", False),
    "scope": (403, "insufficientPermissions", "...Insufficient Permission", True),
    "long": (400, "invalid", "x" * 299 + ".yz\nIn detail: ...", False),
}


@pytest.mark.parametrize(("status", "reason", "message", "lacks_role"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("call", CALLS)
def test_message_has_googles_reason_and_recommends_a_role_only_if_one_is_missing(
    file: Path, call: str, status: int, reason: str, message: str, lacks_role: bool
) -> None:
    file.rename(file.with_name("file"))
    reasons = [{"message": message, "domain": "global", "reason": reason}]
    refusal = JSONResponse({"error": {"code": status, "message": message, "errors": reasons}}, status)
    with serving(refusal) as url, pytest.raises(errors.GhAssetsError) as caught:
        CALLS[call](ObjectStore(make_client(endpoint=url), "bucket"), file.parent)
    quoted = message.split("\n")[0][:300].rstrip(".")
    assert f"It says: {quoted} ({reason})." in str(caught.value)
    assert "gs://bucket/x" in str(caught.value)
    assert ("Storage Object Admin" in str(caught.value)) == lacks_role
    assert "un again" not in str(caught.value)
    assert isinstance(caught.value, errors.AuthenticationError if status == 403 else errors.ConfigurationError)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, errors.AuthenticationError),
        (408, errors.ServiceUnavailableError),
        (409, errors.ConcurrentWriteError),
        (405, errors.ConfigurationError),
        (412, errors.ConcurrentWriteError),
        (429, errors.ServiceUnavailableError),
        (503, errors.ServiceUnavailableError),
    ],
)
def test_status_of_a_response_determines_the_error(
    monkeypatch: pytest.MonkeyPatch, status: int, expected: type[errors.GhAssetsError]
) -> None:
    """Even if the response is the page of a proxy."""
    monkeypatch.setattr("gh_assets.storage.objects.RETRY_SECONDS", 0.2)
    with serving(PlainTextResponse("a page of a proxy", status)) as url, pytest.raises(errors.GhAssetsError) as caught:
        ObjectStore(make_client(endpoint=url), "bucket").write("x", b"content")
    assert type(caught.value) is expected
    assert "gs://bucket/x" in str(caught.value)
    lasting = errors.AuthenticationError, errors.ConfigurationError
    assert ("Storage Object Admin" in str(caught.value)) == (expected in lasting)


@contextmanager
def bucket_behind(middleware: Middleware, folder: Path) -> Iterator[ObjectStore]:
    """Open a bucket whose requests pass through `middleware`."""
    with tokenless_buckets(folder / "files", middleware) as url:
        yield ObjectStore(make_client(endpoint=url), "bucket", create=True)


@pytest.mark.parametrize("call", ["write", "describe", "delete", "list"])
def test_temporary_error_is_retried_and_a_lasting_one_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    seen: list[bytes] = []

    async def fail_once(scope: Any, receive: Any) -> tuple[Any, Any]:
        if scope["path"].endswith("/b/bucket"):  # Google's client requests the bucket at any time
            return None, receive
        seen.append(scope["query_string"])
        return (JSONResponse({}, 503) if len(seen) == 1 else None), receive

    with bucket_behind(fail_once, tmp_path) as store:
        CALLS[call](store, tmp_path)
    assert len(seen) >= 2
    assert (b"ifGenerationMatch=17" in seen[0]) == (call == "delete")
    monkeypatch.setattr("gh_assets.storage.objects.RETRY_SECONDS", 0.2)
    with serving(JSONResponse({}, 503)) as url, pytest.raises(errors.ServiceUnavailableError, match="gs://bucket/x"):
        CALLS[call](ObjectStore(make_client(endpoint=url), "bucket"), tmp_path)


def test_google_variables_set_credentials_project_and_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "of-google")
    with pytest.raises(errors.ConfigurationError, match="has no usable credentials: File"):
        make_client()
    user = {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r"}
    (tmp_path / "key.json").write_text(json.dumps(user))
    assert [make_client(project).project for project in (None, "own")] == ["of-google", "own"]
    assert make_client().api_endpoint == "https://storage.googleapis.com"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
    assert make_client().api_endpoint == "http://127.0.0.1:1"
    given = make_client(endpoint="http://127.0.0.1:2")
    assert given.api_endpoint == "http://127.0.0.1:2", "the argument takes precedence"


def test_missing_metadata_are_not_sent(file: Path) -> None:
    sent: list[bytes] = []

    async def record(scope: Any, receive: Any) -> tuple[Any, Any]:
        async def recorded() -> Any:
            message = await receive()
            sent.append(message.get("body", b""))
            return message

        return None, recorded

    with bucket_behind(record, file.parent) as store:
        store.write("x", b"content")
        store.write("y", file)
    assert sent
    assert b"metadata" not in b"".join(sent)
