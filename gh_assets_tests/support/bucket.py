"""Access to the embedded Cloud Storage of a home, and buckets that need no token."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.cloud import storage
from pydantic import SecretStr

from gh_assets.embedded import servers
from gh_assets.embedded.bucket.app import BucketServer
from gh_assets.embedded.bucket.files import Files
from gh_assets.storage.objects import make_client
from gh_assets_tests.support.serving import serving

Middleware = Callable[[Any, Any], Awaitable[tuple[Any, Any]]]


def bucket_client(home: Path) -> storage.Client:
    """Return a client of a home's embedded Cloud Storage."""
    endpoint, token = servers.cloud_storage(home)
    return make_client(endpoint=endpoint, token=SecretStr(token))


@contextmanager
def tokenless_buckets(folder: Path, middleware: Middleware | None = None) -> Iterator[str]:
    """Serve buckets that need no token, as the emulators for Google's variable do; yield the URL.

    Requests pass through `middleware`, which returns an application, or None, and the input.
    """
    files = Files(folder)
    server = BucketServer(files, "token")

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        app, receive = (await middleware(scope, receive)) if middleware else (None, receive)
        headers = [*scope["headers"], (b"authorization", b"Bearer token")]
        await (app or server)({**scope, "headers": headers}, receive, send)

    with serving(serve) as url:
        yield url
    files.close()
