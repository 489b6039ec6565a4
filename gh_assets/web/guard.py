"""What stands before every request: limits, hosts, keys, and the headers that tell a browser what a page may do.

Pure ASGI, so that it costs little and sees bodies as they come.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

import orjson
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gh_assets.web.addresses import local_path, network_of
from gh_assets.web.metrics import Metrics

MAX_BODY = 64 * 1024
"""Bytes of a request's body."""

MAX_ADDRESS = 16 * 1024
"""Bytes of an address with its query: a cursor and a few dozen repositories."""

MAX_HEAD = 2 * MAX_ADDRESS
"""Bytes of a request's head: its address and its headers."""

BODY_SECONDS = 10.0
"""How long a body may take."""

MAX_CLIENTS = 10_000

MAX_CONCURRENT = 4
"""Requests of one client that are worked on at once: another client waits for no more than these."""

MAX_WAITING = 100
"""Requests of one client that are worked on or wait."""

PUBLIC_PATHS = ("/healthz", "/readyz")
"""What a supervisor asks, without a key and however often."""

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

LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")

log = logging.getLogger("gh_assets.web.access")

Refusal = tuple[int, str, str, dict[str, str]]
"""Status, code, words and headers of a refusal."""


class TooLargeError(Exception):
    """The body is larger than any that is of use."""


class TooSlowError(Exception):
    """The body takes longer than anybody waits."""


class KeyedTokenBucket:
    """Requests that a client may send: a minute's worth at once, and then as they come back.

    Parameters
    ----------
    a_minute : int
        0: any number.
    clock : callable
        Seconds that only go forward.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.a_minute, self._clock = a_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Seconds until the client may ask; 0: now, and this counts."""
        if not self.a_minute:
            return 0.0
        now = self._clock()
        left, at = self._left.pop(client, (float(self.a_minute), now))
        left = min(float(self.a_minute), left + (now - at) * self.a_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / self.a_minute
        self._left[client] = (left - 1 if wait == 0 else left), now
        while len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return wait


class ClientConcurrency:
    """Requests of a client that are worked on at once: more of them wait, so that others' requests come in between."""

    def __init__(self) -> None:
        self._clients: dict[str, tuple[asyncio.Semaphore, int]] = {}

    def full(self, client: str) -> bool:
        """Whether too many requests of a client wait already."""
        return client in self._clients and self._clients[client][1] >= MAX_WAITING

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a client's turn, and have it."""
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


class Guard:
    """Middleware: refuses what no request should be, and says of every answer what a browser may do with it.

    Parameters
    ----------
    app : ASGI application
    metrics : Metrics
    hosts : sequence of str
        Names that the server answers to; empty: any.
    keys : sequence of SecretStr
        One of which every request has to bring; empty: none is wanted.
    a_minute : int
        Requests of a client; 0: any number, also at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        hosts: Sequence[str] = (),
        keys: Sequence[SecretStr] = (),
        a_minute: int = 0,
    ) -> None:
        self.app, self.metrics = app, metrics
        self._hosts = frozenset(host.lower() for host in hosts)
        self._keys = [key.get_secret_value().encode() for key in keys]
        self._rate = KeyedTokenBucket(a_minute)
        self._concurrency = ClientConcurrency() if a_minute else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, method = time.perf_counter(), 500, scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the same answer, of which the server sends no body

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        try:
            refused = self._refused(scope)
            if refused is not None:
                await self._refuse(refused, scope, receive, tell)
                return
            if _has_body(scope):
                try:
                    receive = _again(await _body_of(receive), receive)
                except TooLargeError:
                    words = f"The request's body is larger than {MAX_BODY // 1024} kB."
                    await self._refuse((413, "too_large", words, {}), scope, receive, tell)
                    return
                except TooSlowError:
                    words = f"The request's body took longer than {BODY_SECONDS:.0f} seconds."
                    await self._refuse((408, "too_slow", words, {}), scope, receive, tell)
                    return
            async with self._turn(scope):
                await self.app(scope, receive, tell)
        finally:
            seconds = time.perf_counter() - started
            route = scope.get("route")
            path = str(getattr(route, "path", "none"))
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            if log.isEnabledFor(logging.INFO):
                fields = {"route": path, "status": status, "ms": round(1000 * seconds, 1), "method": method}
                log.info("request", extra={"fields": fields})

    def _turn(self, scope: Scope) -> AbstractAsyncContextManager[None]:
        path = local_path(scope)
        if self._concurrency is None or path in PUBLIC_PATHS or path.startswith("/static/"):
            return nullcontext()
        return self._concurrency.turn(_client_of(scope))

    async def _refuse(self, told: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        status, code, words, headers = told
        self.metrics.refused.labels(code).inc()
        # What else is on its way over this connection is not worth reading.
        headers = {**headers, "connection": "close"}
        response: Response
        if local_path(scope).startswith("/api/"):
            content = orjson.dumps({"error": {"code": code, "message": words}})
            response = Response(content, status, headers, "application/json")
        else:
            response = Response(f"{HTTPStatus(status).phrase}. {words}\n", status, headers, "text/plain")
        await response(scope, receive, send)

    def _refused(self, scope: Scope) -> Refusal | None:
        path = local_path(scope)
        address = len(scope["raw_path"]) + len(scope["query_string"])
        if address > MAX_ADDRESS:
            return 414, "too_long", f"The address is longer than {MAX_ADDRESS // 1024} kB.", {}
        if address + sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEAD:
            return 431, "too_long", f"The request's headers are longer than {MAX_HEAD // 1024} kB.", {}
        if scope["http_version"] not in ("1.0", "1.1"):
            return 505, "wrong_version", "This server speaks HTTP/1.1.", {}
        headers = dict(scope["headers"])
        if b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy that believes the other one sees other requests on the same connection.
            return 400, "two_lengths", "The request says twice how long its body is.", {}
        key = _key_of(headers)
        known = bool(self._keys) and _matches(key, self._keys)
        scope.setdefault("state", {})["has_key"] = known
        if path in PUBLIC_PATHS and (known or not key or not self._keys):
            return None
        if self._hosts:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in self._hosts and host not in self._hosts:
                # A page elsewhere whose name was made to point here must not read what this machine serves.
                return 421, "wrong_host", "This server does not answer to that host: see GH_ASSETS_SERVE_HOSTS.", {}
        try:
            unquote_to_bytes(scope["raw_path"]).decode()
            unquote_to_bytes(scope["query_string"]).decode()
        except UnicodeDecodeError:
            return 400, "not_utf8", "The address is not UTF-8.", {}
        if "\0" in path or b"%00" in scope["query_string"]:
            return 400, "not_text", "The address holds a NUL.", {}
        client = _client_of(scope)
        if self._keys and not known:
            wait = self._rate.wait(f"unknown {client}")
            if wait:
                return _later(wait)
            wanted = "Bearer" if path.startswith("/api/") else 'Basic realm="gh_assets", charset="UTF-8"'
            words = "A key is wanted: Authorization: Bearer KEY, or as the password where a browser asks for one."
            return 401, "no_key", words, {"www-authenticate": wanted}
        if path.startswith("/static/"):
            return None
        if self._concurrency is not None and self._concurrency.full(client):
            return _later(1.0)
        wait = self._rate.wait(client)
        return _later(wait) if wait else None


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in scope["headers"])


async def _body_of(receive: Receive) -> bytes:
    """A body that is neither too large nor too slow: all of it, before anybody looks at it.

    Raises
    ------
    TooLargeError, TooSlowError
    """
    parts: list[bytes] = []
    size = 0
    until = time.monotonic() + BODY_SECONDS
    while True:
        try:
            message = await asyncio.wait_for(receive(), max(until - time.monotonic(), 0.001))
        except TimeoutError:
            raise TooSlowError from None
        if message["type"] != "http.request":
            return b"".join(parts)  # the client has gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise TooLargeError
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read, and then whatever comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _client_of(scope: Scope) -> str:
    client = scope.get("client")
    return network_of(str(client[0])) if client else "unknown"


def _later(wait: float) -> Refusal:
    seconds = max(1, round(wait + 0.5))
    words = f"Too many requests from this client: try again in {seconds} s."
    return 429, "too_many", words, {"retry-after": str(seconds)}


def _key_of(headers: dict[bytes, bytes]) -> bytes:
    """The key that a request brings, as a bearer token or as a password."""
    kind, _, value = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"bearer":
        return value.strip()
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return headers.get(b"x-api-key", b"")


def _matches(key: bytes, keys: Sequence[bytes]) -> bool:
    # All are compared, each in constant time: how long it takes tells nothing.
    return sum(hmac.compare_digest(key, known) for known in keys) > 0


def same_origin(request: Request) -> bool:
    """Whether a form was sent from a page of this server, as far as the browser says."""
    state = request.headers.get("sec-fetch-site")
    if state is not None:
        return state in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host", "")
