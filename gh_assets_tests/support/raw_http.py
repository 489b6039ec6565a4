"""Connections to a server that send bytes as they are, for requests that no HTTP library would send."""

from __future__ import annotations

import socket
from contextlib import suppress

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
