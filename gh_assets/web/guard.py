"""The guard before every request: size limits, host names, API keys, rate limits and security headers.

Pure ASGI, so that it adds little time and reads request bodies as they arrive.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cached_property
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

import orjson
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gh_assets.local.token_bucket import KeyedTokenBuckets
from gh_assets.web.addresses import local_path, network_of
from gh_assets.web.metrics import Metrics
from gh_assets.web.problems import RequestProblemError

MAX_BODY = 64 * 1024
"""Maximum size of a request body in bytes."""

MAX_ADDRESS = 16 * 1024
"""Maximum size of a URL in bytes: enough for a cursor and a few dozen repositories."""

MAX_HEAD = 2 * MAX_ADDRESS
"""Maximum size of a URL and the headers in bytes."""

BODY_SECONDS = 10.0
"""Time limit for receiving a request body."""

MAX_CLIENTS = 10_000
"""Clients whose request rates are kept."""

MAX_CONCURRENT = 4
"""Requests of one client that are processed at once; another client waits for no more than these."""

MAX_WAITING = 100
"""Requests of one client that are processed or wait."""

PUBLIC_PATHS = ("/healthz", "/readyz")
"""Paths for supervisors: without API key and without rate limit."""

STATIC = "/static/"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]", "::1")

log = logging.getLogger("gh_assets.web.access")


class ClientConcurrency:
    """Limit on the concurrent requests of a client: further ones wait, so that other clients are not delayed."""

    def __init__(self) -> None:
        self._clients: dict[str, tuple[asyncio.Semaphore, int]] = {}

    def is_full(self, client: str) -> bool:
        """Whether the maximum number of a client's requests is processed or waits."""
        return client in self._clients and self._clients[client][1] >= MAX_WAITING

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        """Wait for a slot of a client and hold it."""
        semaphore, taken = self._clients.get(client) or (asyncio.Semaphore(MAX_CONCURRENT), 0)
        self._clients[client] = semaphore, taken + 1
        try:
            async with semaphore:
                yield
        finally:
            taken = self._clients[client][1] - 1
            if taken:
                self._clients[client] = semaphore, taken
            else:
                del self._clients[client]


class RequestHead:
    """What the checks of the guard read of a request."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.path = local_path(scope)
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        client = scope.get("client")
        self.client = network_of(str(client[0])) if client else "unknown"
        self.is_static = self.path.startswith(STATIC)

    @cached_property
    def api_key(self) -> bytes:
        """The API key that the request sends, as bearer token, password or `X-API-Key`; empty if there is none."""
        scheme, _, value = self.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return value.strip()
        if scheme.lower() == b"basic":
            try:
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        return self.headers.get(b"x-api-key", b"")


class Guard:
    """Middleware that refuses unacceptable requests and adds the security headers to every response.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    hosts : sequence of str
        Host names that are served; empty: all.
    keys : sequence of SecretStr
        API keys, of which each request must send one; empty: none is required.
    per_minute : int
        Requests of a client per minute; 0: neither rate nor concurrency is limited.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, hosts: Sequence[str], keys: Sequence[SecretStr], per_minute: int
    ) -> None:
        self.app, self.metrics = app, metrics
        self._hosts = frozenset(host.lower() for host in hosts)
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._rates = KeyedTokenBuckets(per_minute, per_minute / 60, MAX_CLIENTS) if per_minute else None
        self._concurrency = ClientConcurrency() if per_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 500, scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server drops the body of the response

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        try:
            head = RequestHead(scope)
            try:
                self._check(head)
                if _has_body(scope):
                    receive = _replay(await _read_body(receive), receive)
            except RequestProblemError as refusal:
                self.metrics.refused.labels(refusal.code).inc()
                await _response_to(refusal, head)(scope, receive, send_with_headers)
            else:
                async with self._slot(head):
                    await self.app(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            route = str(getattr(scope.get("route"), "path", "none"))
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                fields = {"route": route, "status": status, "ms": round(1000 * seconds, 1), "method": method}
                log.info("request", extra={"fields": fields})

    def _slot(self, head: RequestHead) -> AbstractAsyncContextManager[None]:
        if self._concurrency is None or head.path in PUBLIC_PATHS or head.is_static:
            return nullcontext()
        return self._concurrency.slot(head.client)

    def _check(self, head: RequestHead) -> None:
        """Run all checks in order, each of which raises `RequestProblemError` to refuse the request."""
        has_key = bool(self._keys) and _matches(head.api_key, self._keys)
        head.scope.setdefault("state", {})["has_key"] = has_key
        _check_size(head)
        _check_protocol(head)
        # A wrong key is counted everywhere: guessing must not be faster at a public path.
        if head.path not in PUBLIC_PATHS or (self._keys and head.api_key and not has_key):
            self._check_host(head)
            _check_encoding(head)
            self._check_key(head)
            self._check_rate(head)

    def _check_host(self, head: RequestHead) -> None:
        # DNS rebinding: a foreign page whose host name resolves to this machine must not read what it serves.
        host = head.headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if self._hosts and name not in self._hosts and host not in self._hosts:
            message = "This server does not serve that host name. Its operator can add it to GH_ASSETS_SERVE_HOSTS."
            raise RequestProblemError(421, "wrong_host", message)

    def _check_key(self, head: RequestHead) -> None:
        if not self._keys or head.scope["state"]["has_key"]:
            return
        self._count(f"unknown {head.client}")
        scheme = "Bearer" if is_api(head.path) else 'Basic realm="gh_assets", charset="UTF-8"'
        message = (
            "An API key is required. Send it as `Authorization: Bearer KEY`, or enter it as the password when the "
            "browser asks for one."
        )
        raise RequestProblemError(401, "no_key", message, {"www-authenticate": scheme})

    def _check_rate(self, head: RequestHead) -> None:
        if head.is_static:
            return
        if self._concurrency is not None and self._concurrency.is_full(head.client):
            raise _too_many_requests(1.0)
        self._count(head.client)

    def _count(self, client: str) -> None:
        """Count a request of a client, and refuse it if it is one too many."""
        if self._rates is not None and (wait := self._rates.take(client)):
            raise _too_many_requests(wait)


def _check_size(head: RequestHead) -> None:
    address = len(head.scope["raw_path"]) + len(head.scope["query_string"])
    if address > MAX_ADDRESS:
        raise RequestProblemError(414, "too_long", f"The URL is longer than {MAX_ADDRESS // 1024} kB.")
    if address + sum(len(name) + len(value) + 4 for name, value in head.scope["headers"]) > MAX_HEAD:
        message = f"The URL and the headers are longer than {MAX_HEAD // 1024} kB."
        raise RequestProblemError(431, "too_long", message)


def _check_protocol(head: RequestHead) -> None:
    if head.scope["http_version"] not in ("1.0", "1.1"):
        raise RequestProblemError(505, "wrong_version", "This server supports HTTP/1.0 and HTTP/1.1.")
    # Request smuggling: a proxy that uses the other header sees other requests on the same connection.
    if b"content-length" in head.headers and b"transfer-encoding" in head.headers:
        message = "The request has both Content-Length and Transfer-Encoding."
        raise RequestProblemError(400, "two_lengths", message)


def _check_encoding(head: RequestHead) -> None:
    try:
        unquote_to_bytes(head.scope["raw_path"]).decode()
        unquote_to_bytes(head.scope["query_string"]).decode()
    except UnicodeDecodeError:
        raise RequestProblemError(400, "not_utf8", "The URL is not valid UTF-8.") from None
    if "\0" in head.path or b"%00" in head.scope["query_string"]:
        raise RequestProblemError(400, "not_text", "The URL contains a NUL character.")


def is_api(path: str) -> bool:
    """Whether a path belongs to the API, whose errors are JSON."""
    return path.startswith("/api/")


def _response_to(refusal: RequestProblemError, head: RequestHead) -> Response:
    # The rest of what the client sends over this connection is not read.
    headers = {**refusal.headers, "connection": "close"}
    if is_api(head.path):
        return Response(orjson.dumps(refusal.to_json()), refusal.status, headers, "application/json")
    text = f"{HTTPStatus(refusal.status).phrase}. {refusal.message}\n"
    return Response(text, refusal.status, headers, "text/plain")


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


async def _read_body(receive: Receive) -> bytes:
    """Read a whole request body, unless it is too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while (message := await receive())["type"] == "http.request":  # until the client disconnects
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    text = f"The request body is larger than {MAX_BODY // 1024} kB."
                    raise RequestProblemError(413, "too_large", text)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        text = f"The request body did not arrive within {BODY_SECONDS:.0f} seconds."
        raise RequestProblemError(408, "too_slow", text) from None
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that yields a body that was read, and then what follows."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _too_many_requests(wait: float) -> RequestProblemError:
    seconds = max(1, round(wait + 0.5))
    message = f"Too many requests from this client. Try again in {seconds} s."
    return RequestProblemError(429, "too_many", message, {"retry-after": str(seconds)})


def _matches(key: bytes, keys: Sequence[bytes]) -> bool:
    # Every key is compared, each in constant time, so that the duration reveals nothing.
    return sum(hmac.compare_digest(key, known) for known in keys) > 0


def same_origin(request: Request) -> bool:
    """Whether the browser says that a form was sent from a page of this server; True if it says nothing."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")
