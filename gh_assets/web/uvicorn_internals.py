"""The undocumented parts of uvicorn that connection limits need; nothing else in the package uses them.

uvicorn has no public way to see connections: these are attributes of its h11 protocol and overridden methods of its
server. `test_uvicorn_internals.py` fails if an upgrade changes them.
"""

import asyncio
import enum
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

Connection = H11Protocol


class Phase(enum.Enum):
    """What a connection waits for: a request, the rest of its head, the application, or the client to read."""

    IDLE = enum.auto()
    READING = enum.auto()
    RESPONDING = enum.auto()
    WRITING = enum.auto()


def phase_of(connection: Connection) -> Phase:
    if connection.transport.get_write_buffer_size():
        return Phase.WRITING
    if connection.cycle is not None and not connection.cycle.response_complete:
        return Phase.RESPONDING
    # uvicorn's keep-alive timer runs from the end of a response to the next byte of the client.
    return Phase.READING if connection.timeout_keep_alive_task is None else Phase.IDLE


def request_of(connection: Connection) -> object | None:
    """The current or latest request of a connection, comparable by identity; None before the first."""
    return connection.cycle


def client_of(connection: Connection) -> str:
    """The IP address of a connection's client, empty if it is not known."""
    return connection.client[0] if connection.client is not None else ""


def abort(connection: Connection) -> None:
    """Close a connection at once, without sending what is buffered."""
    connection.connections.discard(connection)  # uvicorn does so later; until then it counts against other requests
    connection.transport.abort()


def send_and_close(connection: Connection, response: bytes) -> None:
    connection.transport.write(response)
    connection.transport.close()


class ConnectionObserver(Protocol):
    """What is called about the connections of a server."""

    def opened(self, connection: Connection) -> None:
        """Handle a new connection."""

    def closed(self, connection: Connection) -> None:
        """Handle the end of a connection."""

    def tick(self, connections: Iterable[Connection]) -> None:
        """Handle all open connections, ten times a second."""


def observed_protocol(observer: ConnectionObserver) -> type[Connection]:
    """Return a protocol, for `uvicorn.Config(http=…)`, that reports its connections."""

    class ObservedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            observer.opened(self)

        def connection_lost(self, exc: Exception | None) -> None:
            observer.closed(self)
            super().connection_lost(exc)

    return ObservedProtocol


class ObservedServer(uvicorn.Server):
    """Server that reports its connections, and the sockets that it listens on once it does."""

    def __init__(
        self,
        config: uvicorn.Config,
        observer: ConnectionObserver,
        on_listening: Callable[[Sequence[socket.socket]], None],
    ) -> None:
        super().__init__(config)
        self._observer, self._on_listening = observer, on_listening

    @property
    def connections(self) -> list[Connection]:
        """The open connections."""
        return list(self.server_state.connections)  # type: ignore[arg-type]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening([listener for server in self.servers for listener in server.sockets])

    async def on_tick(self, counter: int) -> bool:
        self._observer.tick(self.connections)
        return await super().on_tick(counter)
