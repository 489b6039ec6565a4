"""Tests of reading objects: tokens, parts and memory."""

import datetime as dt
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from google.auth.exceptions import RefreshError
from starlette.requests import Request

from gh_assets.embedded.bucket.app import BucketServer
from gh_assets.embedded.bucket.files import Files
from gh_assets.errors import AuthenticationError, StoredDataError
from gh_assets.storage.objects import CloudStorageClient, ObjectStore
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.credentials import RenewingCredentials


@dataclass
class PickyBucket:
    """A bucket that accepts one token."""

    url: str
    accepted: str = "token-0"

    def opened_by(self, credentials: RenewingCredentials) -> ObjectStore:
        return ObjectStore(CloudStorageClient(credentials, "project", self.url), "bucket", create=True)


@pytest.fixture
def picky(tmp_path: Path) -> Iterator[PickyBucket]:
    files = Files(tmp_path / "files")
    bucket = PickyBucket("")

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        # Like Google, read rejected requests: otherwise the end of the connection may overtake the response.
        body = await Request(scope, receive).body()

        async def again() -> Any:
            return {"type": "http.request", "body": body}

        await BucketServer(files, bucket.accepted)(scope, again, send)

    with serving(serve) as bucket.url:
        yield bucket
    files.close()


def test_token_rejected_before_its_expiry_is_renewed_once(picky: PickyBucket, tmp_path: Path) -> None:
    credentials = RenewingCredentials()
    store = picky.opened_by(credentials)
    store.write("x", b"content")
    picky.accepted = "token-1"
    assert store.read("x") == b"content"
    assert credentials.renewed == 1
    picky.accepted = "token-2"
    store.write("y", b"content")
    assert credentials.renewed == 2
    store.read_to("y", tmp_path / "y")
    picky.accepted = "another token"
    with pytest.raises(AuthenticationError):
        store.read("x")
    assert credentials.renewed == 3, "renewed once per read"


@pytest.mark.parametrize(("minutes", "renewed"), [(-1, 1), (0.5, 1), (4.9, 1), (5.2, 0), (60, 0)])
def test_token_is_renewed_before_its_expiry(picky: PickyBucket, minutes: float, renewed: int) -> None:
    credentials = RenewingCredentials()
    store = picky.opened_by(credentials)
    store.write("x", b"content")
    credentials.expiry = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(minutes=minutes)
    picky.accepted = f"token-{renewed}"
    assert store.read("x") == b"content"
    assert credentials.renewed == renewed


def test_first_token_is_fetched_and_a_failed_renewal_is_an_authentication_error(
    picky: PickyBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = RenewingCredentials()
    picky.opened_by(credentials).write("x", b"content")
    credentials.token = None
    picky.accepted = "token-1"
    assert picky.opened_by(credentials).read("x") == b"content"
    refused = Mock(side_effect=RefreshError("the key was deleted"))  # type: ignore[no-untyped-call]
    monkeypatch.setattr(RenewingCredentials, "refresh", refused)
    with pytest.raises(AuthenticationError, match=r"refused access to gs://bucket/x\. Give the account the role"):
        picky.opened_by(RenewingCredentials()).read("x")


def test_large_object_is_read_in_parts(objects: ObjectStore, gcs_client: CloudStorageClient) -> None:
    content = random.Random(0).randbytes(3 << 20)
    objects.write("large", content)
    parts = list(gcs_client.reader.parts(objects.name, "large"))
    assert b"".join(parts) == content
    assert len(parts[0]) <= 1 << 16, "most objects are small"
    assert max(len(part) for part in parts) <= 1 << 20


def test_object_larger_than_the_memory_limit_is_not_read(
    objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gh_assets.local.memory.memory_limit", lambda: 2 << 20)
    objects.write("fits", bytes(2 << 20))
    assert len(objects.read("fits")) == 2 << 20
    uri = objects.write("large", bytes((2 << 20) + 1)).uri
    with pytest.raises(StoredDataError, match=f"^{uri} takes .* it is not read"):
        objects.read("large")
