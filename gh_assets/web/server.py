"""Serving the application: `gh-assets serve`. What a connection may cost is bounded here, below the application.

The bytes of a head, of a chunk's size and of trailers are bounded by h11, those of a body by the guard (`safety`).
uvicorn has no limit on how long a connection may take to ask or to read its answer, nor on how many one client has:
these are the `ConnectionLimits`.
"""

from __future__ import annotations

import asyncio
import enum
import os
import socket
import time
from collections.abc import Callable, Iterable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from gh_assets.errors import ConfigurationError
from gh_assets.settings import Settings, split_list
from gh_assets.web.addresses import network_of, trusts, unmapped
from gh_assets.web.app import build_app
from gh_assets.web.guard import LOCAL, MAX_HEAD
from gh_assets.web.logs import log_json

HEAD_SECONDS = 10.0
"""Limit on the time that a request's head may take, from the connection or its first byte."""

WRITE_SECONDS = 30.0
"""Limit on the time that a client may take to read an answer, as far as it is not with the kernel yet."""

CONNECTIONS = 1000
"""Limit on all connections; more are answered 503."""

ADDRESS_CONNECTIONS = 100
"""Limit on the connections of one client, see `network_of`; a trusted proxy has none."""

WAIT_SECONDS = 1.0
"""A connection that has waited for its client for so long makes room for another of that client."""

RECEIVE_BUFFER, SEND_BUFFER = 32 * 1024, 128 * 1024
"""Bytes of a connection that the kernel keeps in each direction (Linux doubles them for its own use).

No more than what has come is read at once: so a head is never parsed that is much larger than `MAX_HEAD`.
"""

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
        self._clients: dict[str, dict[H11Protocol, None]] = {}
        # The request belongs to it: whoever asks again and again is not in one phase all the time.
        self._since: dict[H11Protocol, tuple[Phase, object, float]] = {}

    def admit(self, connection: H11Protocol) -> None:
        """Count a new connection; beyond the limit it takes the place of one that only waits, or ends."""
        address = connection.client[0] if connection.client is not None else ""
        if self._is_exempt(unmapped(address)):
            return
        own = self._clients.setdefault(network_of(address), {})
        own[connection] = None
        if len(own) > ADDRESS_CONNECTIONS:
            excess = next((one for one in own if self._only_waits(one)), connection)
            self.release(excess)
            excess.connections.discard(excess)  # at once: it must not count against other clients' requests
            excess.transport.abort()

    def release(self, connection: H11Protocol) -> None:
        """Count a connection no more."""
        client = network_of(connection.client[0] if connection.client is not None else "")
        own = self._clients.get(client, {})
        own.pop(connection, None)
        if not own:
            self._clients.pop(client, None)

    def _only_waits(self, connection: H11Protocol) -> bool:
        """Whether a connection never asked, or has waited for its client for a while."""
        if connection.cycle is None:
            return True
        phase, cycle, began = self._since.get(connection, (Phase.ANSWERING, None, 0.0))
        return (
            cycle is connection.cycle
            and phase is phase_of(connection) is not Phase.ANSWERING
            and time.monotonic() - began > WAIT_SECONDS
        )

    def end_slow(self, connections: Iterable[H11Protocol], now: float) -> None:
        """End the connections whose client takes too long.

        Parameters
        ----------
        connections : iterable of H11Protocol
        now : float
            Seconds of a clock that only goes forward.
        """
        since: dict[H11Protocol, tuple[Phase, object, float]] = {}
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
        self._since = since


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol, which says when a connection comes and goes."""

    limits: ConnectionLimits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.limits.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.release(self)
        super().connection_lost(exc)


def configuration(
    settings: Settings, limits: ConnectionLimits, host: str, port: int, *, root_path: str = ""
) -> uvicorn.Config:
    """How the application is served.

    Parameters
    ----------
    settings : Settings
    limits : ConnectionLimits
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
        # Unlike httptools, h11 bounds what it has not understood yet, and refuses a second Host.
        http=type("Protocol", (LimitedProtocol,), {"limits": limits}),
        h11_max_incomplete_event_size=MAX_HEAD,
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application's own middleware reads them
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=STOP_SECONDS,
    )


class LimitedServer(uvicorn.Server):
    """A server whose connections are limited, and that says where it listens once it does.

    Parameters
    ----------
    config : uvicorn.Config
    limits : ConnectionLimits
    on_listening : callable, optional
        Called with each address.
    """

    def __init__(
        self, config: uvicorn.Config, limits: ConnectionLimits, on_listening: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(config)
        self._limits = limits
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for use_progress in server.sockets:
                bound_connections(use_progress)
                host, port = use_progress.getsockname()[:2]
                if self._on_listening is not None:
                    self._on_listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def on_tick(self, counter: int) -> bool:
        self._limits.end_slow(list(self.server_state.connections), time.monotonic())  # type: ignore[arg-type]
        return await super().on_tick(counter)


def bound_connections(use_progress: socket.socket) -> None:
    """Bound what the kernel keeps for each connection that a socket accepts, and how long."""
    use_progress.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    use_progress.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: also after the process has closed its side
        use_progress.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * WRITE_SECONDS))


def make_server(
    settings: Settings,
    host: str,
    port: int,
    *,
    root_path: str = "",
    on_listening: Callable[[str], None] | None = None,
) -> LimitedServer:
    """The server of `gh-assets serve`, not started yet; the parameters are those of `serve`."""
    limits = ConnectionLimits(trusts(split_list(settings.trusted_proxies or "")))
    return LimitedServer(configuration(settings, limits, host, port, root_path=root_path), limits, on_listening)


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
