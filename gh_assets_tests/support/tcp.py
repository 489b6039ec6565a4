"""TCP servers on 127.0.0.1 for tests: one thread per connection, and forwarding to another server."""

import contextlib
import socket
import threading


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
    cut(source, target)


def cut(*streams: socket.socket) -> None:
    """End connections for both sides."""
    for stream in streams:
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)


class TcpListener:
    """Accepts connections until it is closed.

    A subclass sets the attributes that `serve` needs before it calls ``super().__init__()``.
    """

    port = 0

    def __init__(self) -> None:
        self.open()

    def open(self) -> None:
        """Accept connections, after `close` at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Accept no more connections; open ones stay."""
        cut(self._listener)  # closing alone would not wake the accepting thread
        self._listener.close()

    def serve(self, client: socket.socket) -> None:
        """Handle one connection in a thread of its own."""
        raise NotImplementedError

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()


class Gate(TcpListener):
    """A gate in front of a server: it forwards connections while it is open; shut, it cuts and refuses them.

    Parameters
    ----------
    target : int
        Port on 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._streams: set[socket.socket] = set()
        super().__init__()

    def shut(self) -> None:
        """Cut all connections, as if the server were killed."""
        self.close()
        streams, self._streams = self._streams, set()
        cut(*streams)

    def serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as server:
            self._streams |= {client, server}
            if self._listener.fileno() < 0:  # shut in the meantime
                cut(client, server)
            forward(client, server)
