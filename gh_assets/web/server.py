"""Serving the application: `gh-assets serve`. What a connection may cost is bounded here, below the application.

The bytes of a head, of a chunk's size and of trailers are bounded by h11, those of a body by the guard (`safety`).
uvicorn has no limit on how long a connection may take to ask or to read its answer, nor on how many one client has:
these are the `ConnectionLimits`.
"""

from __future__ import annotations

import enum
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from gh_assets.errors import ConfigurationError
from gh_assets.settings import Settings, split_words
from gh_assets.web.addresses import network_of, unmapped
from gh_assets.web.app import build_app
from gh_assets.web.logs import log_json
from gh_assets.web.safety import LOCAL, MOST_HEAD

HEAD_SECONDS = 10.0
"""Limit on the time that a request's head may take, from the connection or its first byte."""

WRITE_SECONDS = 30.0
"""Limit on the time that a client may take to read an answer, as far as it is not with the kernel yet."""

CONNECTIONS = 1000
"""Limit on all connections; more are answered 503."""

ADDRESS_CONNECTIONS = 100
"""Limit on the connections of one client, see `network_of`; a trusted proxy has none."""

SOCKET_BUFFER = 128 * 1024
"""Bytes of a connection that the kernel keeps in each direction (Linux doubles it for its own use)."""

STOP_SECONDS = 15
"""How long requests that have begun may take when the server stops."""

TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Phase(enum.Enum):
    """What a connection waits for: a request, the rest of its head, the application, or the client's reading."""

    IDLE = enum.auto()
    READING = enum.auto()
    ANSWERING = enum.auto()
    WRITING = enum.auto()


def phase_of(connection: H11Protocol) -> Phase:
    """The phase that a connection is in."""
    if connection.transport.get_write_buffer_size():
        return Phase.WRITING
    if connection.cycle is not None and not connection.cycle.response_complete:
        return Phase.ANSWERING
    # uvicorn's own timer runs from an answer to the next byte that comes.
    return Phase.READING if connection.timeout_keep_alive_task is None else Phase.IDLE


class ConnectionLimits:
    """Ends connections that take too long, and those that one client has too many of.

    Parameters
    ----------
    is_exempt : callable
        Whether an address may have any number of connections: proxies.
    """

    def __init__(self, is_exempt: Callable[[str], bool]) -> None:
        self._is_exempt = is_exempt
        # The request belongs to it: whoever asks again and again is not in one phase all the time.
        self._since: dict[H11Protocol, tuple[Phase, object, float]] = {}

    def enforce(self, connections: Iterable[H11Protocol], now: float) -> None:
        """Look at all connections, and end those beyond a limit.

        Parameters
        ----------
        connections : iterable of H11Protocol
        now : float
            Seconds of a clock that only goes forward.
        """
        since: dict[H11Protocol, tuple[Phase, object, float]] = {}
        clients: dict[str, list[H11Protocol]] = defaultdict(list)
        for connection in connections:
            state = phase_of(connection), connection.cycle
            before = self._since.get(connection)
            began = before[2] if before is not None and before[:2] == state else now
            if state[0] is Phase.READING and now - began > HEAD_SECONDS:
                connection.transport.write(TIMEOUT)
                connection.transport.close()
            elif state[0] is Phase.WRITING and now - began > WRITE_SECONDS:
                connection.transport.abort()
            else:
                since[connection] = *state, began
                if connection.client is not None and not self._is_exempt(unmapped(connection.client[0])):
                    clients[network_of(connection.client[0])].append(connection)
        for found in clients.values():
            excess = len(found) - ADDRESS_CONNECTIONS
            if excess > 0:
                # First those that wait for something of the client, the longest first; then the newest requests.
                found.sort(
                    key=lambda one: (-since[one][2], 0) if since[one][0] is Phase.ANSWERING else (0, since[one][2])
                )
                for connection in found[:excess]:
                    connection.transport.abort()
        self._since = since


def configuration(settings: Settings, host: str, port: int, *, root_path: str = "", **more: Any) -> uvicorn.Config:
    """How the application is served.

    Parameters
    ----------
    settings : Settings
    host, port : str, int
        Where it listens.
    root_path : str
        Path below which a proxy shows it; empty: the root.
    """
    # Listening to others means that names are given to it elsewhere: then only the settings can say which.
    hosts = (*LOCAL, host, *settings.serve_hosts) if host in LOCAL or settings.serve_hosts else ()
    return uvicorn.Config(
        build_app(settings, hosts=hosts, root_path=root_path),
        host=host,
        port=port,
        http="h11",  # unlike httptools it bounds what it has not understood yet, and refuses a second Host
        h11_max_incomplete_event_size=MOST_HEAD,
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application's own middleware reads them
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_SECONDS,
        **more,
    )


class LimitedServer(uvicorn.Server):
    """A server whose connections are limited, and that says where it listens once it does.

    Parameters
    ----------
    config : uvicorn.Config
    proxies : sequence of str
        Addresses and networks of trusted proxies.
    on_listening : callable, optional
        Called with each address.
    """

    def __init__(
        self, config: uvicorn.Config, proxies: list[str], on_listening: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(config)
        trusted = ProxyHeadersMiddleware(config.app, proxies).trusted_hosts  # type: ignore[arg-type]
        self._limits = ConnectionLimits(trusted.__contains__)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for listening in server.sockets:
                bound_connections(listening)
                host, port = listening.getsockname()[:2]
                if self._on_listening is not None:
                    self._on_listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def on_tick(self, counter: int) -> bool:
        self._limits.enforce(list(self.server_state.connections), time.monotonic())  # type: ignore[arg-type]
        return await super().on_tick(counter)


def bound_connections(listening: socket.socket) -> None:
    """Bound what the kernel keeps for each connection that a socket accepts, and how long."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: also after the process has closed its side
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * WRITE_SECONDS))


def make_server(
    settings: Settings,
    host: str,
    port: int,
    *,
    root_path: str = "",
    on_listening: Callable[[str], None] | None = None,
) -> LimitedServer:
    """The server of `gh-assets serve`, not started yet; the parameters are those of `serve`."""
    config = configuration(settings, host, port, root_path=root_path)
    return LimitedServer(config, split_words(settings.trusted_proxies or ""), on_listening)


def serve(
    settings: Settings, host: str, port: int, on_listening: Callable[[str], None], *, root_path: str = ""
) -> None:
    """Serve until somebody ends it; requests that have begun are answered.

    Parameters
    ----------
    settings : Settings
    host, port : str, int
        Where to listen; port 0: any that is free.
    on_listening : callable
        Called with the address.
    root_path : str
        Path below which a proxy shows the server, such as `/recs`; empty: the root.

    Raises
    ------
    ConfigurationError
        If nobody can listen there.
    """
    log_json()
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass  # uvicorn itself would only log why it cannot
    except OSError as error:
        raise ConfigurationError(f"Nobody can listen on {host} port {port}: {os.strerror(error.errno or 0)}.") from None
    make_server(settings, host, port, root_path=root_path, on_listening=on_listening).run()
