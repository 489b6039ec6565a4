"""The undocumented parts of uvicorn that `gh_assets/web/uvicorn_internals.py` uses still mean the same."""

import asyncio
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
import uvicorn

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
from gh_assets_tests.support.serving import in_thread
from gh_assets_tests.support.waiting import until

ADVICE = (
    "uvicorn has changed how it keeps connections: adapt the attribute in gh_assets/web/uvicorn_internals.py to the "
    "new uvicorn, or pin the version before it in pyproject.toml, because without it slow clients are not disconnected."
)

REQUEST = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


class Recorder:
    """Observer that keeps what it is called with."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.closed_connections: list[Connection] = []
        self.ticked: list[Connection] = []
        self.port = 0

    def opened(self, connection: Connection) -> None:
        self.connections.append(connection)

    def closed(self, connection: Connection) -> None:
        self.closed_connections.append(connection)

    def tick(self, connections: Iterable[Connection]) -> None:
        self.ticked = list(connections)

    def listening(self, listeners: Sequence[socket.socket]) -> None:
        self.port = listeners[0].getsockname()[1]

    def connect(self) -> tuple[socket.socket, Connection]:
        """Connect to the server; return both sides of the connection."""
        before = len(self.connections)
        stream = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        until(lambda: len(self.connections) > before)
        return stream, self.connections[-1]


@pytest.fixture
def release() -> threading.Event:
    """Lets the application respond."""
    return threading.Event()


@pytest.fixture
def recorder(release: threading.Event) -> Iterator[Recorder]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not release.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20000000")]})
        await send({"type": "http.response.body", "body": bytes(20_000_000)})

    observer = Recorder()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http=observed_protocol(observer), lifespan="off", log_level="error"
    )
    server = ObservedServer(config, observer, observer.listening)
    with in_thread(server):
        yield observer
        release.set()
        server.force_exit = True


def test_phases_of_a_connection(recorder: Recorder, release: threading.Event) -> None:
    stream, connection = recorder.connect()
    with stream:
        assert client_of(connection) == "127.0.0.1", ADVICE
        assert phase_of(connection) is Phase.READING, ADVICE
        assert request_of(connection) is None, ADVICE
        stream.sendall(REQUEST[:10])
        assert phase_of(connection) is Phase.READING, ADVICE
        stream.sendall(REQUEST[10:])
        until(lambda: phase_of(connection) is Phase.RESPONDING)
        first = request_of(connection)
        assert first is not None, ADVICE
        release.set()
        until(lambda: phase_of(connection) is Phase.WRITING)
        received = 0
        while received < 20_000_000:
            received += len(stream.recv(1 << 20))
        until(lambda: phase_of(connection) is Phase.IDLE)
        until(lambda: recorder.ticked == [connection])
        stream.sendall(REQUEST[:10])
        until(lambda: phase_of(connection) is Phase.READING)
        stream.sendall(REQUEST[10:])
        until(lambda: request_of(connection) is not first)
    until(lambda: recorder.closed_connections == [connection])


def test_connections_are_closed_by_the_server(recorder: Recorder) -> None:
    stream, connection = recorder.connect()
    with stream:
        until(lambda: recorder.ticked == [connection])
        connection.loop.call_soon_threadsafe(send_and_close, connection, b"bye")
        assert stream.recv(100) == b"bye", ADVICE
        assert stream.recv(100) == b"", ADVICE
    stream, connection = recorder.connect()
    with stream:
        until(lambda: recorder.ticked == [connection])
        connection.loop.call_soon_threadsafe(abort, connection)
        assert stream.recv(100) == b"", ADVICE
    until(lambda: recorder.ticked == [] and len(recorder.closed_connections) == 2)
