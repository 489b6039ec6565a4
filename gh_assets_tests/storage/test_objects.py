"""Objects in the bucket: replaced in one step, conditionally, with errors that say what to do."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.exceptions import RefreshError
from google.oauth2.credentials import Credentials
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from gh_assets.embedded.bucket.app import BucketServer
from gh_assets.embedded.bucket.files import Files
from gh_assets.errors import (
    AuthenticationError,
    ConcurrentWriteError,
    ConfigurationError,
    GhAssetsError,
    ServiceUnavailableError,
    StoredDataError,
)
from gh_assets.storage.objects import ABSENT, CloudStorageClient, Digest, ObjectStore, checksum, digest_of, make_client
from gh_assets_tests.conftest import serving


def test_content_metadata_and_generation(objects: ObjectStore, tmp_path: Path) -> None:
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
def test_a_file_is_stored_as_its_bytes_are(objects: ObjectStore, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(random.Random(size).randbytes(size))
    stored = objects.write("x", path, metadata={"k": "v"}, content_type="text/plain", if_generation=ABSENT)
    digest = digest_of(path)
    assert digest == Digest(hashlib.sha256(path.read_bytes()).hexdigest(), checksum(path.read_bytes()), size)
    assert (stored.size, stored.crc32c, stored.metadata, stored.content_type) == (
        size,
        digest.crc32c,
        {"k": "v"},
        "text/plain",
    )
    assert objects.read("x") == path.read_bytes()
    assert objects.read_to("x", tmp_path / "again") == digest.sha256
    with pytest.raises(ConcurrentWriteError):
        objects.write("x", b"another content", if_generation=ABSENT)


def test_a_checksum_is_that_of_cloud_storage() -> None:
    assert checksum(b"123456789") == "4waSgw==", "the check value of CRC-32C, 0xE3069283, in base64"


def test_a_copy_is_like_its_source_but_for_what_is_said(objects: ObjectStore) -> None:
    source = objects.write("a", b"content", metadata={"k": "v"}, content_type="text/plain")
    objects.copy(source, "b")
    objects.copy(source, "c", metadata={"other": "one"}, if_generation=ABSENT)
    copies = [objects.describe("b"), objects.describe("c")]
    assert [copied and copied.metadata for copied in copies] == [{"k": "v"}, {"other": "one"}]
    assert [copied and copied.content_type for copied in copies] == ["text/plain"] * 2
    assert [objects.read(name) for name in "bc"] == [b"content"] * 2
    with pytest.raises(ConcurrentWriteError):
        objects.copy(source, "b", metadata={"another": "one"}, if_generation=ABSENT)
    objects.delete("a")
    with pytest.raises(StoredDataError, match=f"There is no object {source.uri}"):
        objects.copy(source, "d")


def test_a_copy_that_takes_several_calls_goes_on_where_it_was(objects: ObjectStore) -> None:
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


def test_what_is_not_there_is_deleted_and_listed_as_nothing(objects: ObjectStore, gcs_client) -> None:
    assert list(objects.list("")) == [], "the bucket is made by the first write"
    objects.write("a/1", b"x"), objects.write("a/2", b"y"), objects.write("b", b"z")
    assert list(objects.names("a/")) == ["a/1", "a/2"]
    objects.delete("a/1")
    objects.delete("a/1")
    assert list(objects.names("")) == ["a/2", "b"]
    with pytest.raises(ConfigurationError, match="does not exist: create it"):
        list(ObjectStore(gcs_client, "no-such-bucket-here").list(""))


def test_an_object_of_another_bucket_is_streamed(objects: ObjectStore, gcs_client) -> None:
    other = ObjectStore(gcs_client, f"{objects.name}-other", create=True)
    other.write("x", b"of the other bucket")
    with objects.open_in_bucket(other.name, "x") as file:
        assert file.read() == b"of the other bucket"
    with pytest.raises(StoredDataError, match=f"There is no object gs://{other.name}/y"):  # noqa: SIM117
        with objects.open_in_bucket(other.name, "y") as file:
            file.read()


def test_googles_console_shows_objects_and_folders_and_no_emulator_has_one(objects: ObjectStore) -> None:
    assert objects.page("a b") is None
    store = ObjectStore(CloudStorageClient(Renewing(), "project"), "bucket")
    console = "https://console.cloud.google.com/storage"
    assert store.page("a b/c?d") == f"{console}/browser/_details/bucket/a%20b/c%3Fd"
    assert store.page("folder/") == f"{console}/browser/bucket/folder/"


def test_a_condition_that_does_not_hold_changes_nothing(objects: ObjectStore) -> None:
    objects.write("x", b"mine", if_generation=ABSENT)
    with pytest.raises(ConcurrentWriteError, match="another process"):
        objects.write("x", b"yours", if_generation=ABSENT)
    stale = objects.write("x", b"newer").generation
    objects.write("x", b"newest", if_generation=stale)
    with pytest.raises(ConcurrentWriteError):
        objects.write("x", b"late", if_generation=stale)
    assert objects.read("x") == b"newest"


def test_what_is_missing_is_named(objects: ObjectStore, gcs_client) -> None:
    with pytest.raises(StoredDataError, match=r"There is no object gs://.*/nothing"):
        objects.read("nothing")
    with pytest.raises(ConfigurationError, match="does not exist: create it"):
        ObjectStore(gcs_client, "no-such-bucket-here").write("x", b"y")


def test_a_server_that_is_away_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.storage.objects.RETRY_SECONDS", 0.2)
    with pytest.raises(ServiceUnavailableError, match="Run again"):
        ObjectStore(make_client(endpoint="http://127.0.0.1:9"), "bucket").read("x")


REFUSALS = {
    "role": (403, "forbidden", "robot@project.iam.gserviceaccount.com does not have storage.objects.get access.", True),
    "billing": (403, "accountDisabled", "The billing account for the owning project is disabled.", False),
    "retention": (403, "retentionPolicyNotMet", "Object 'b/x' is subject to bucket's retention policy.", False),
    "billing, too": (403, "forbidden", "The Billing account for the owning project is disabled.", False),
    "requester": (400, "required", "Bucket is a requester pays bucket but no user project provided.", False),
    "scope": (403, "insufficientPermissions", "...Insufficient Permission", True),
    "long": (400, "invalid", "x" * 299 + ".yz\nIn detail: ...", False),
}


@pytest.mark.parametrize("kind", list(REFUSALS))
@pytest.mark.parametrize("call", ["read", "read_to", "write", "write a file", "describe", "delete", "list"])
def test_googles_own_reason_is_in_the_message(tmp_path: Path, kind: str, call: str) -> None:
    """And a role is recommended only where one is missing; to run again, nowhere."""
    status, reason, message, helps = REFUSALS[kind]

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        errors = [{"message": message, "domain": "global", "reason": reason}]
        await JSONResponse({"error": {"code": status, "message": message, "errors": errors}}, status)(
            scope, receive, send
        )

    (tmp_path / "file").write_bytes(b"content")
    calls: dict[str, Callable[[ObjectStore], object]] = {
        "read": lambda store: store.read("x"),
        "read_to": lambda store: store.read_to("x", tmp_path / "out"),
        "write": lambda store: store.write("x", b"content"),
        "write a file": lambda store: store.write("x", tmp_path / "file"),
        "describe": lambda store: store.describe("x"),
        "delete": lambda store: store.delete("x"),
        "list": lambda store: list(store.list("x")),
    }
    with serving(refuse) as url, pytest.raises(GhAssetsError) as caught:
        calls[call](ObjectStore(make_client(endpoint=url), "bucket"))
    said = message.split("\n")[0][:300].rstrip(".")
    assert f"It says: {said} ({reason})." in str(caught.value)
    assert "gs://bucket/x" in str(caught.value)
    assert ("Storage Object Admin" in str(caught.value)) == helps
    assert "un again" not in str(caught.value)
    assert isinstance(caught.value, AuthenticationError if status == 403 else ConfigurationError)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, AuthenticationError),
        (408, ServiceUnavailableError),
        (409, ConcurrentWriteError),
        (405, ConfigurationError),
        (412, ConcurrentWriteError),
        (429, ServiceUnavailableError),
        (503, ServiceUnavailableError),
    ],
)
def test_an_answer_is_the_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, status: int, expected: type[GhAssetsError]
) -> None:
    """Also where a proxy answers with a page instead of Google."""
    monkeypatch.setattr("gh_assets.storage.objects.RETRY_SECONDS", 0.2)
    with serving(PlainTextResponse("a page of a proxy", status)) as url, pytest.raises(GhAssetsError) as caught:
        ObjectStore(make_client(endpoint=url), "bucket").write("x", b"content")
    assert type(caught.value) is expected
    assert "gs://bucket/x" in str(caught.value)
    assert ("Storage Object Admin" in str(caught.value)) == (expected in (AuthenticationError, ConfigurationError))


class Renewing(Credentials):
    """Credentials whose tokens are numbered; each renewal gives the next."""

    def __init__(self) -> None:
        super().__init__("token-0")  # type: ignore[no-untyped-call]
        self.renewed = 0

    def refresh(self, request: object) -> None:
        assert callable(request), "what Google's credentials ask with"
        self.renewed += 1
        self.token = f"token-{self.renewed}"
        self.expiry = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(hours=1)


@pytest.fixture
def picky(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A bucket that takes one token only: the first of a list."""
    accepted = ["token-0"]
    files = Files(tmp_path / "files")

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        # As Google does, it reads what it refuses: else the end of the connection may overtake the answer.
        body = await Request(scope, receive).body()

        async def again() -> Any:
            return {"type": "http.request", "body": body}

        await BucketServer(files, accepted[0])(scope, again, send)

    with serving(serve) as url:
        yield url, accepted
    files.close()


def test_a_token_that_is_refused_before_its_time_is_renewed_once(picky: tuple[str, list[str]], tmp_path: Path) -> None:
    url, accepted = picky
    credentials = Renewing()
    store = ObjectStore(CloudStorageClient(credentials, "project", url), "bucket", create=True)
    store.write("x", b"content")
    accepted[0] = "token-1"
    assert store.read("x") == b"content"
    assert credentials.renewed == 1
    accepted[0] = "token-2"
    store.write("y", b"content")
    assert credentials.renewed == 2
    store.read_to("y", tmp_path / "y")
    accepted[0] = "another one"
    with pytest.raises(AuthenticationError):
        store.read("x")
    assert credentials.renewed == 3, "once, not for ever"


@pytest.mark.parametrize(("minutes", "renewed"), [(-1, 1), (0.5, 1), (4.9, 1), (5.2, 0), (60, 0)])
def test_a_token_is_renewed_before_it_ends(picky: tuple[str, list[str]], minutes: float, renewed: int) -> None:
    url, accepted = picky
    credentials = Renewing()
    store = ObjectStore(CloudStorageClient(credentials, "project", url), "bucket", create=True)
    store.write("x", b"content")
    credentials.expiry = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(minutes=minutes)
    accepted[0] = f"token-{renewed}"
    assert store.read("x") == b"content"
    assert credentials.renewed == renewed


def test_a_first_token_is_fetched_and_one_that_nobody_gives_is_a_refusal(picky: tuple[str, list[str]]) -> None:
    url, accepted = picky
    credentials = Renewing()
    ObjectStore(CloudStorageClient(credentials, "project", url), "bucket", create=True).write("x", b"content")
    credentials.token = None
    accepted[0] = "token-1"
    store = ObjectStore(CloudStorageClient(credentials, "project", url), "bucket")
    assert store.read("x") == b"content"

    class Refused(Renewing):
        def refresh(self, _request: object) -> None:
            raise RefreshError("the key was deleted")  # type: ignore[no-untyped-call]

    store = ObjectStore(CloudStorageClient(Refused(), "project", url), "bucket")
    with pytest.raises(AuthenticationError, match=r"refused access to gs://bucket/x\. Give the account the role"):
        store.read("x")


@pytest.mark.parametrize("call", ["write", "describe", "delete", "list"])
def test_a_fault_that_passes_is_tried_again_and_one_that_does_not_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    calls: dict[str, Callable[[ObjectStore], object]] = {
        "write": lambda store: store.write("x", b"content"),
        "describe": lambda store: store.describe("x"),
        "delete": lambda store: store.delete("x", if_generation=17),
        "list": lambda store: list(store.list("x")),
    }
    faults, seen = [True], []
    files = Files(tmp_path / "files")
    server = BucketServer(files, "token")

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        own = not scope["path"].endswith("/b/bucket")  # Google's client looks at the bucket whenever it likes
        if own:
            seen.append(scope["query_string"])
        if own and faults[0]:
            faults[0] = False
            await JSONResponse({}, 503)(scope, receive, send)
            return
        await server({**scope, "headers": [*scope["headers"], (b"authorization", b"Bearer token")]}, receive, send)

    with serving(serve) as url:
        calls[call](ObjectStore(make_client(endpoint=url), "bucket", create=True))
    files.close()
    assert len(seen) >= 2
    assert (b"ifGenerationMatch=17" in seen[0]) == (call == "delete")
    monkeypatch.setattr("gh_assets.storage.objects.RETRY_SECONDS", 0.2)
    with serving(JSONResponse({}, 503)) as url, pytest.raises(ServiceUnavailableError, match="gs://bucket/x"):
        calls[call](ObjectStore(make_client(endpoint=url), "bucket"))


def test_a_large_object_arrives_in_parts(objects: ObjectStore, gcs_client) -> None:
    content = random.Random(0).randbytes(3 << 20)
    objects.write("large", content)
    parts = list(gcs_client.reader.parts(objects.name, "large"))
    assert b"".join(parts) == content
    assert len(parts[0]) <= 1 << 16, "most objects are small"
    assert max(len(part) for part in parts) <= 1 << 20


def test_an_object_may_take_as_much_memory_as_there_is_and_no_more(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gh_assets.local.memory.memory_limit", lambda: 2 << 20)
    objects.write("fits", bytes(2 << 20))
    assert len(objects.read("fits")) == 2 << 20
    uri = objects.write("large", bytes((2 << 20) + 1)).uri
    with pytest.raises(StoredDataError, match=f"^{uri} takes .* it is not read"):
        objects.read("large")


def test_googles_own_variables_name_credentials_and_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "of-google")
    with pytest.raises(ConfigurationError, match="has no usable credentials: File"):
        make_client()
    user = {"type": "authorized_user", "client_id": "i", "client_secret": "s", "refresh_token": "r"}
    (tmp_path / "key.json").write_text(json.dumps(user))
    assert [make_client(project).project for project in (None, "mine")] == ["of-google", "mine"]
    assert make_client().api_endpoint == "https://storage.googleapis.com"
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:1")
    assert make_client().api_endpoint == "http://127.0.0.1:1"
    assert make_client(endpoint="http://127.0.0.1:2").api_endpoint == "http://127.0.0.1:2", "what is given counts"


def test_metadata_that_are_not_given_are_not_sent(tmp_path: Path) -> None:
    sent: list[bytes] = []
    files = Files(tmp_path / "files")
    server = BucketServer(files, "token")

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        async def heard() -> Any:
            message = await receive()
            sent.append(message.get("body", b""))
            return message

        headers = [*scope["headers"], (b"authorization", b"Bearer token")]
        await server({**scope, "headers": headers}, heard, send)

    (tmp_path / "file").write_bytes(b"content")
    with serving(listen) as url:
        store = ObjectStore(make_client(endpoint=url), "bucket", create=True)
        store.write("x", b"content")
        store.write("y", tmp_path / "file")
    files.close()
    assert sent
    assert b"metadata" not in b"".join(sent)
