"""What a request's address means: which client it counts for, and below which path people see this server.

Pure ASGI, the first that sees a request. What a client may do is decided in `safety`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

LONGEST_PREFIX = 200

_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")


def read_prefix(text: str) -> str | None:
    """Read the path below which a proxy shows this server.

    Parameters
    ----------
    text : str
        Such as `/recs` or `/team/recs/`.

    Returns
    -------
    str or None
        Without a slash at its end, empty for the root; None if it is no plain path.
    """
    prefix = text.strip().rstrip("/")
    # Letters, digits and `._~-` alone: it becomes a part of links, of a cookie and of `Location`.
    return prefix if len(prefix) <= LONGEST_PREFIX and _PREFIX.fullmatch(prefix) else None


def root_of(request: Request) -> str:
    """The path below which this request's client sees the server; empty for the root."""
    return root_of_scope(request.scope)


def root_of_scope(scope: Scope) -> str:
    # A mount (the static files) puts its own path into `root_path`, and keeps the first one here.
    return str(scope.get("app_root_path", scope.get("root_path", "")))


def local_path(scope: Scope) -> str:
    """The request's path as the routes know it, without the proxy's prefix."""
    return str(scope["path"])[len(root_of_scope(scope)) :]


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """The client that an address counts for.

    One subscriber has a /64 of IPv6, so addresses within it are one client. An IPv4 address that is written as one of
    IPv6 is that IPv4 address.

    Parameters
    ----------
    address : str
        Whatever is no address counts for itself.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def unmapped(address: str) -> str:
    """The same address, as one of IPv4 if it is one: on a socket for both versions a proxy must be recognized."""
    return network_of(address) if address.lower().startswith("::ffff:") else address


def trusts(proxies: Sequence[str]) -> Callable[[str], bool]:
    """Whether an address is one of the trusted proxies.

    Parameters
    ----------
    proxies : sequence of str
        Addresses and networks.
    """
    return Addresses(_nothing, proxies=proxies).trusted_hosts.__contains__


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that is never called."""


class Addresses(ProxyHeadersMiddleware):
    """Middleware: believes trusted proxies about client, scheme and path, and gives each page one address.

    `/x/` is answered as `/x`. Proxies are expected to take their prefix off the path, as nginx, Caddy and Traefik do.

    Parameters
    ----------
    app : ASGI application
    proxies : sequence of str
        Addresses and networks of trusted proxies.
    prefix : str
        Path below which people see the server, unless a proxy's `X-Forwarded-Prefix` says.
    """

    def __init__(self, app: ASGIApp, *, proxies: Sequence[str] = (), prefix: str = "") -> None:
        super().__init__(app, trusted_hosts=list(proxies))  # type: ignore[arg-type]
        self._prefix = prefix

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope}
            if scope.get("client") is not None:
                scope["client"] = (unmapped(scope["client"][0]), scope["client"][1])
            root = self._root_of(scope)
            # The routes know no trailing slashes; proxies add and remove them as they like.
            scope["path"] = root + (scope["path"].rstrip("/") or "/")
            scope["raw_path"] = root.encode() + scope["raw_path"]
            scope["root_path"] = root
        await super().__call__(scope, receive, send)

    def _root_of(self, scope: Scope) -> str:
        client = scope.get("client")
        if client is not None and client[0] in self.trusted_hosts:
            given = [value for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
            prefix = read_prefix(given[0].decode("latin-1")) if len(given) == 1 else None
            if prefix is not None:
                return prefix
        return self._prefix
