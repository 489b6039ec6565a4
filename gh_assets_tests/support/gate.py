"""A gate in front of a server, which can be closed and opened again at the same address."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterable

from gh_assets_tests.support.tcp import TcpListener, forward


class Gate:
    """Forwards connections to a port while it is open; closed, it cuts them and refuses new ones.

    Parameters
    ----------
    target : int
        Port on 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self._streams: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_open = False
        self._listener: _Forwarder | None = None
        self.open()

    def open(self) -> None:
        """Accept connections."""
        self._is_open = True
        self._listener = _Forwarder(self)
        self.port = self._listener.port

    def shut(self) -> None:
        """Cut all connections, as if the server were killed."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        with self._lock:
            self._is_open = False
            streams, self._streams = self._streams, set()
        _cut(streams)

    def add(self, *streams: socket.socket) -> None:
        """Keep the streams of a connection, to cut them when the gate is closed."""
        with self._lock:
            if self._is_open:
                self._streams |= set(streams)
                return
        _cut(streams)


def _cut(streams: Iterable[socket.socket]) -> None:
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)


class _Forwarder(TcpListener):
    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        super().__init__(gate.port)

    def serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.gate.target)) as server:
            self.gate.add(client, server)
            forward(client, server)
