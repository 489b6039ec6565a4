"""The addresses of a request: the client that it counts for, and the path prefix that a reverse proxy adds.

Pure ASGI, and the outermost middleware. What a client may do is decided in `guard`.
"""

import functools
import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

MAX_PREFIX = 200

_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")


def read_prefix(text: str) -> str | None:
    """Parse the path prefix under which a reverse proxy serves this server.

    Parameters
    ----------
    text : str
        For example `/recs` or `/team/recs/`.

    Returns
    -------
    str or None
        Without a trailing slash, empty for the root; None if it is not a plain path.
    """
    prefix = text.strip().rstrip("/")
    # Only letters, digits and `._~-`: the prefix becomes part of links, of a cookie and of `Location`.
    return prefix if len(prefix) <= MAX_PREFIX and _PREFIX.fullmatch(prefix) else None


def root_of(scope: Scope) -> str:
    """Return the path prefix under which the client of a request sees the server; empty for the root."""
    # A mount (the static files) adds its own path to `root_path` and keeps the original in `app_root_path`.
    return str(scope.get("app_root_path", scope.get("root_path", "")))


def local_path(scope: Scope) -> str:
    """Return the path of a request without the proxy's prefix, as the routes are declared."""
    return str(scope["path"])[len(root_of(scope)) :]


@functools.lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return the client that an address belongs to.

    A subscriber usually has a whole IPv6 /64, so all addresses of a /64 are one client. An IPv4-mapped IPv6 address
    is the IPv4 address, and text that is not an address is returned as it is.
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
    """Convert an IPv4-mapped IPv6 address to IPv4, so that a dual-stack socket recognizes an IPv4 proxy."""
    return network_of(address) if address.lower().startswith("::ffff:") else address


def proxy_matcher(proxies: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether an address belongs to the given addresses and networks of proxies."""
    return AddressMiddleware(_no_app, proxies=proxies).trusted_hosts.__contains__


async def _no_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Application that is never called."""


class AddressMiddleware(ProxyHeadersMiddleware):
    """Apply the `X-Forwarded-*` headers of trusted proxies, and serve `/x/` as `/x`.

    Proxies are expected to strip their prefix from the path, as nginx, Caddy and Traefik do.

    Parameters
    ----------
    app : ASGI application
    proxies : sequence of str
        Addresses and networks of trusted proxies.
    prefix : str
        Path prefix of requests for which no trusted proxy sends `X-Forwarded-Prefix`.
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
            # Routes are declared without trailing slashes, which some proxies add.
            scope["path"] = root + (scope["path"].rstrip("/") or "/")
            scope["raw_path"] = root.encode() + scope["raw_path"]
            scope["root_path"] = root
        await super().__call__(scope, receive, send)

    def _root_of(self, scope: Scope) -> str:
        client = scope.get("client")
        if client is not None and client[0] in self.trusted_hosts:
            values = [value for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
            prefix = read_prefix(values[0].decode("latin-1")) if len(values) == 1 else None
            if prefix is not None:
                return prefix
        return self._prefix
