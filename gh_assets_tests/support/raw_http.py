"""Connections to a server that send bytes as they are, for requests that no HTTP library would send."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from gh_assets_tests.support.served_home import Running


def connect(server: Running, source: str = "127.0.0.1", receive_buffer: int | None = None) -> socket.socket:
    """Connect from an address of this machine, which owns all of 127.0.0.0/8."""
    host, port = server.url.removeprefix("http://").split(":")
    stream = socket.socket()
    if receive_buffer is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    stream.bind((source, 0))
    stream.settimeout(10)
    stream.connect((host, int(port)))
    return stream


@contextmanager
def connections(server: Running, n: int, source: str = "127.0.0.1", **options: Any) -> Iterator[list[socket.socket]]:
    """Keep several connections open during a block; see `connect`."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(server, source, **options)) for _ in range(n)]


def receive_all(stream: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    return b"".join(iter(lambda: stream.recv(65536), b""))


def exchange(server: Running, content: bytes, wait: float = 10.0) -> bytes:
    """Send bytes; return what the server sends until it closes the connection, completes a head or falls silent."""
    with connect(server) as stream:
        stream.settimeout(wait)
        stream.sendall(content)
        received = b""
        with suppress(TimeoutError, ConnectionResetError):
            while part := stream.recv(65536):
                received += part
                if b"\r\n\r\n" in received and b"connection: close" not in received.lower():
                    break
    return received
