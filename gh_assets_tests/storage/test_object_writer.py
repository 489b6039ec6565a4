"""Tests of writing small objects by one request."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, RedirectResponse

from gh_assets.embedded.bucket.app import BucketServer
from gh_assets.embedded.bucket.files import Files, Preconditions
from gh_assets.errors import ServiceUnavailableError
from gh_assets.storage import object_writer
from gh_assets.storage import objects as objects_module
from gh_assets.storage.objects import CloudStorageClient, ObjectStore, make_client
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.bucket import tokenless_buckets

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1, max_size=20)

NAMES = TEXT.filter(lambda name: name not in (".", ".."))
"""Names of objects: Cloud Storage does not allow "." and "..", which clients take out of addresses."""

PARTS = st.sampled_from([b"\r\n--", b"--", b"\r\n\r\n", b"content-type: text/plain", b"x", b"\0", b"\r\n"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=NAMES,
    content=st.lists(PARTS, max_size=8).map(b"".join),
    metadata=st.dictionaries(st.text("abc-", min_size=1, max_size=8), TEXT, max_size=3),
)
def test_googles_client_reads_what_was_written_and_describes_it_identically(
    objects: ObjectStore, gcs_client: CloudStorageClient, name: str, content: bytes, metadata: dict[str, str]
) -> None:
    stored = objects.write(name, content, metadata=metadata, content_type="text/plain")
    assert objects.describe(name) == stored
    assert (stored.name, stored.metadata, stored.content_type) == (name, metadata, "text/plain")
    assert gcs_client.bucket(objects.name).blob(name).download_as_bytes() == content


def test_object_of_any_size_has_the_same_description(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "SMALL", 3)
    for content in (b"", b"123", b"1234"):
        stored = objects.write("x", content, metadata={"k": "v"}, content_type="text/plain")
        assert stored == objects.describe("x")
        assert (objects.read("x"), stored.size, stored.metadata) == (content, len(content), {"k": "v"})


def test_proxy_for_addresses_without_tls_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, targets = Files(tmp_path / "files"), []
    files.create_bucket("bucket")

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope["headers"])
        targets.append((given[b"host"], given[b"proxy-authorization"]))
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"host", b"proxy-authorization")]
        inside = {**scope, "headers": [*headers, (b"host", b"127.0.0.1"), (b"authorization", b"Bearer token")]}
        await BucketServer(files, "token")(inside, receive, send)

    with serving(proxy) as url:
        monkeypatch.setenv("HTTP_PROXY", url.replace("://", "://name:password@"))
        monkeypatch.delenv("http_proxy", raising=False)
        store = ObjectStore(make_client(endpoint="http://storage.example"), "bucket")
        assert store.write("a b", b"content").size == 7
    assert targets == [(b"storage.example", b"Basic bmFtZTpwYXNzd29yZA==")]
    assert files.find("bucket", "a b", Preconditions()).size == 7
    files.close()


@pytest.mark.parametrize("fault", ["cut", "page", "silence"])
def test_response_that_was_not_received_is_requested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(object_writer, "SECONDS", 0.5)
    seen: list[str] = []

    async def once(scope: Any, receive: Any) -> tuple[Any, Any]:
        if scope["method"] != "POST" or not scope["path"].endswith("/o"):
            return None, receive
        seen.append(scope["path"])
        faults: dict[str, Callable[[], Any]] = {
            "cut": lambda: PlainTextResponse('{"name": "x", "gener'),
            "page": lambda: PlainTextResponse("a page of a proxy", 502),
            "silence": lambda: _silence,
        }
        return (faults[fault]() if len(seen) == 1 else None), receive

    with tokenless_buckets(tmp_path / "files", once) as url:
        store = ObjectStore(make_client(endpoint=url), "bucket", create=True)
        store.bucket.create()
        assert store.write("x", b"content", if_generation=0).size == 7
        assert store.read("x") == b"content"
    assert len(seen) == 2


async def _silence(scope: Any, receive: Any, send: Any) -> None:
    """Do not answer until the client gives up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def test_redirect_is_not_followed_with_the_credentials() -> None:
    elsewhere: list[str] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        elsewhere.append(scope["path"])
        await RedirectResponse("/elsewhere", 307)(scope, receive, send)

    with serving(serve) as url, pytest.raises(ServiceUnavailableError, match="gs://bucket/x"):
        ObjectStore(make_client(endpoint=url), "bucket").write("x", b"content")
    assert elsewhere == ["/upload/storage/v1/b/bucket/o"]
