"""The server of `gh-assets serve`, and the limits on connections, which lie below the application.

h11 bounds the bytes of a request's head, of a chunk's size and of trailers, and `guard` those of a body. uvicorn limits
neither how long a client may take to send a request or to read the response, nor the connections of one client: that
is what `ConnectionLimits` does.
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence

import uvicorn

from gh_assets.errors import ConfigurationError
from gh_assets.settings import Settings, split_list
from gh_assets.web.addresses import network_of, proxy_matcher, unmapped
from gh_assets.web.guard import LOCAL_HOSTS, MAX_HEAD
from gh_assets.web.logs import log_json
from gh_assets.web.uvicorn_internals import (
    Connection,
    ObservedServer,
    Phase,
    abort,
    client_of,
    observed_protocol,
    phase_of,
    request_of,
    send_and_close,
)

HEAD_SECONDS = 10.0
"""Time limit for a request's head, from the opening of the connection or the first byte of the head."""

WRITE_SECONDS = 30.0
"""Time limit for a client to read the part of a response that the kernel does not buffer."""

MAX_CONNECTIONS = 1000
"""Maximum number of connections; requests on further ones get status 503."""

MAX_CLIENT_CONNECTIONS = 100
"""Maximum number of connections of one client (see `network_of`); trusted proxies are exempt."""

REPLACEABLE_SECONDS = 1.0
"""After this time without a byte from its client, a connection is replaced by a new one of the same client."""

RECEIVE_BUFFER, SEND_BUFFER = 32 * 1024, 128 * 1024
"""Bytes that the kernel buffers for each connection and direction (Linux doubles them for its own use).

A read returns at most the receive buffer, so that no head much larger than `MAX_HEAD` is parsed.
"""

SHUTDOWN_SECONDS = 15
"""Time that running requests have when the server stops."""

TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class ConnectionLimits:
    """Close connections whose client is too slow, and those above the limit of one client.

    Parameters
    ----------
    is_exempt : callable
        Whether the number of connections of an address is unlimited, as for trusted proxies.
    """

    def __init__(self, is_exempt: Callable[[str], bool]) -> None:
        self._is_exempt = is_exempt
        self._clients: dict[str, dict[Connection, None]] = {}
        # With the request, because a client that sends one after another is not in one phase all the time.
        self._since: dict[Connection, tuple[Phase, object, float]] = {}

    def opened(self, connection: Connection) -> None:
        """Count a new connection; above the limit, close one that only waits, or else the new one."""
        address = client_of(connection)
        if self._is_exempt(unmapped(address)):
            return
        own = self._clients.setdefault(network_of(address), {})
        own[connection] = None
        if len(own) > MAX_CLIENT_CONNECTIONS:
            excess = next((other for other in own if self._is_replaceable(other)), connection)
            self.closed(excess)
            abort(excess)

    def closed(self, connection: Connection) -> None:
        """Stop counting a connection."""
        client = network_of(client_of(connection))
        own = self._clients.get(client, {})
        own.pop(connection, None)
        if not own:
            self._clients.pop(client, None)

    def _is_replaceable(self, connection: Connection) -> bool:
        """Whether a connection never had a request, or has waited for its client for a while."""
        if request_of(connection) is None:
            return True
        phase, request, began = self._since.get(connection, (Phase.RESPONDING, None, 0.0))
        return (
            request is request_of(connection)
            and phase is phase_of(connection) is not Phase.RESPONDING
            and time.monotonic() - began > REPLACEABLE_SECONDS
        )

    def tick(self, connections: Iterable[Connection]) -> None:
        """Close the connections whose client exceeds a time limit."""
        now = time.monotonic()
        since: dict[Connection, tuple[Phase, object, float]] = {}
        for connection in connections:
            state = phase_of(connection), request_of(connection)
            before = self._since.get(connection)
            began = before[2] if before is not None and before[:2] == state else now
            if state[0] is Phase.READING and now - began > HEAD_SECONDS:
                send_and_close(connection, TIMEOUT)
            elif state[0] is Phase.WRITING and now - began > WRITE_SECONDS:
                abort(connection)
            else:
                since[connection] = *state, began
        self._since = since


def limit_buffers(listener: socket.socket) -> None:
    """Limit what the kernel buffers for the connections that a socket accepts, and how long."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: also after the process has closed its side
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * WRITE_SECONDS))


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def make_server(
    settings: Settings, host: str, port: int, on_listening: Callable[[str], None], *, root_path: str
) -> ObservedServer:
    """Build the server without starting it; see `serve` for the parameters."""
    from gh_assets.web.app import build_app  # loads torch: an address that is taken is reported before

    limits = ConnectionLimits(proxy_matcher(split_list(settings.trusted_proxies or "")))
    # For other machines this one has host names that only the settings can tell.
    hosts = (*LOCAL_HOSTS, host, *settings.serve_hosts) if host in LOCAL_HOSTS or settings.serve_hosts else ()

    def start_listening(listeners: Sequence[socket.socket]) -> None:
        for listener in listeners:
            limit_buffers(listener)
            on_listening(_url_of(listener))

    config = uvicorn.Config(
        build_app(settings, hosts=hosts, root_path=root_path),
        host=host,
        port=port,
        # Unlike httptools, h11 limits the bytes that it has not parsed, and refuses a second Host header.
        http=observed_protocol(limits),
        h11_max_incomplete_event_size=MAX_HEAD,
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # AddressMiddleware reads them
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return ObservedServer(config, limits, start_listening)


def serve(settings: Settings, host: str, port: int, on_listening: Callable[[str], None], *, root_path: str) -> None:
    """Serve until the process is interrupted; requests that have begun are completed.

    Parameters
    ----------
    settings : Settings
    host, port : str, int
        Address to listen on; port 0 is any free port.
    on_listening : callable
        Called with the URL of each socket that the server listens on.
    root_path : str
        Path prefix under which a reverse proxy serves the application, such as `/recs`; empty for the root.

    Raises
    ------
    ConfigurationError
        If the address cannot be listened on.
    """
    log_json()
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # uvicorn would only log the reason
    except OSError as error:
        raise ConfigurationError(f"Cannot listen on {host} port {port}: {os.strerror(error.errno or 0)}.") from None
    make_server(settings, host, port, on_listening, root_path=root_path).run()
