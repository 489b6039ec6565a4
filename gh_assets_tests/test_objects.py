"""Objects in the bucket: replaced in one step, conditionally, with errors that say what to do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.oauth2.credentials import Credentials
from starlette.requests import Request
from starlette.responses import JSONResponse

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
from gh_assets.objects import ABSENT, CloudStorageClient, ObjectStore, make_client
from gh_assets_tests.conftest import serving


def test_content_metadata_and_generation(objects: ObjectStore, tmp_path: Path) -> None:
    first = objects.write("a/b", b"one", metadata={"k": "v"})
    second = objects.write("a/b", b"two two")
    assert objects.read("a/b") == b"two two"
    assert second.generation != first.generation
    assert (first.size, second.size, first.metadata) == (3, 7, {"k": "v"})
    assert objects.describe("a/b") == second
    assert objects.describe("a/c") is None
    objects.read_to("a/b", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"two two"
    assert list(objects.names("a/")) == ["a/b"]


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
    monkeypatch.setattr("gh_assets.objects.RETRY_SECONDS", 0.2)
    with pytest.raises(ServiceUnavailableError, match="Run again"):
        ObjectStore(make_client(endpoint="http://127.0.0.1:9"), "bucket").read("x")


REFUSALS = {
    "role": (403, "forbidden", "robot@project.iam.gserviceaccount.com does not have storage.objects.get access.", True),
    "billing": (403, "accountDisabled", "The billing account for the owning project is disabled.", False),
    "retention": (403, "retentionPolicyNotMet", "Object 'b/x' is subject to bucket's retention policy.", False),
    "requester": (400, "required", "Bucket is a requester pays bucket but no user project provided.", False),
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
    assert message.rstrip(".") in str(caught.value)
    assert ("Storage Object Admin" in str(caught.value)) == helps
    assert "un again" not in str(caught.value)
    assert isinstance(caught.value, AuthenticationError if status == 403 else ConfigurationError)


class Renewing(Credentials):
    """Credentials whose tokens are numbered; each renewal gives the next."""

    def __init__(self) -> None:
        super().__init__("token-0")  # type: ignore[no-untyped-call]
        self.renewed = 0

    def refresh(self, _request: object) -> None:
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


def test_a_token_is_renewed_before_it_ends(picky: tuple[str, list[str]]) -> None:
    url, accepted = picky
    credentials = Renewing()
    store = ObjectStore(CloudStorageClient(credentials, "project", url), "bucket", create=True)
    store.write("x", b"content")
    credentials.expiry = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=30)
    accepted[0] = "token-1"
    assert store.read("x") == b"content"


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
