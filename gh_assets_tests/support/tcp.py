"""TCP servers on 127.0.0.1 for tests: one thread per connection, and forwarding to another server."""

from __future__ import annotations

import contextlib
import socket
import threading


def free_port() -> int:
    """Return a port that no server listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forward(one: socket.socket, other: socket.socket) -> None:
    """Forward the bytes between two connections in both directions until either ends."""
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(1 << 16):
            target.sendall(part)
    for stream in (source, target):
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)


class TcpListener:
    """Accepts connections until it is closed.

    A subclass sets the attributes that `serve` needs before it calls ``super().__init__()``.

    Parameters
    ----------
    port : int
        0 for a free one.
    """

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections; open ones stay."""
        # Closing alone would not wake the accepting thread.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def serve(self, client: socket.socket) -> None:
        """Handle one connection in a thread of its own."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()
