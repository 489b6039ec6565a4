"""A proxy that makes chosen calls of a server fail, or kills a process at one of them.

It parses both protocols as far as is needed to separate calls: the length of MongoDB's messages, and HTTP's headers.
"""

import contextlib
import os
import re
import signal
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from pathlib import Path
from typing import Literal

import bson
import pytest

from gh_assets_tests.support.tcp import TcpListener

Fault = Literal["pass", "refuse", "cut", "truncate", "delay", "duplicate", "damage"]
FAULTS: list[Fault] = ["refuse", "cut", "truncate", "delay", "duplicate", "damage"]

IGNORED_COMMANDS = {"hello", "ismaster", "isMaster", "ping", "endSessions", "buildInfo"}

DELAY = 0.2


class Plan:
    """Decides what happens to each call, and records the calls.

    Parameters
    ----------
    decide : callable
        Returns the fault of the call with a number, from 1; by default all calls pass.
    """

    def __init__(self, decide: Callable[[int], Fault] = lambda _: "pass") -> None:
        self.decide = decide
        self.calls: list[str] = []
        self.lock = threading.Lock()

    def before(self, call: str) -> Fault:
        """Return the fault of a call that the server has not received yet."""
        with self.lock:
            self.calls.append(call)
            return self.decide(len(self.calls))

    def after(self, call: str) -> None:
        """Note a call whose response the client has not received yet."""


def fail_at(number: int, fault: Fault) -> Plan:
    """Return a plan with one fault, at the call with the given number."""
    return Plan(lambda call: fault if call == number else "pass")


class KillAt(Plan):
    """Kills a process at a step: before or after a call of a server, or before or after a change on disk.

    Steps on disk are reported by `traced_steps`.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step, self.steps = step, 0
        self.pid: int | None = None
        self.killed_at: str | None = None

    def before(self, call: str) -> Fault:
        self.calls.append(call)
        return "refuse" if self.count(f"before {call}") else "pass"

    def after(self, call: str) -> None:
        self.count(f"after {call}")

    def count(self, where: str) -> bool:
        """Count a step, and kill the process if it is the one; return whether the process has been killed."""
        with self.lock:
            self.steps += 1
            if self.steps != self.step or self.pid is None:
                return self.killed_at is not None
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.killed_at = where
            return True


class Proxy(TcpListener):
    """Forwards calls to a server on 127.0.0.1, with the faults of a plan.

    Parameters
    ----------
    kind : {"mongo", "http"}
    port : int
        Port of the server.
    plan : Plan
        Can be replaced at any time.
    certificate : tuple of Path, optional
        Certificate of the home, with its key and alone, for TLS on both sides.
    """

    def __init__(
        self, kind: Literal["mongo", "http"], port: int, plan: Plan, certificate: tuple[Path, Path] | None = None
    ) -> None:
        self.kind, self.upstream, self.plan = kind, port, plan
        self.contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None
        if certificate is not None:
            self.contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            for context in self.contexts:
                context.load_cert_chain(certificate[0])
                context.load_verify_locations(certificate[1])
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError, EOFError, struct.error),
            self._accept_tls(client) as client,
            self._connect() as server,
        ):
            while self._exchange(client, server, self._request(client)):
                pass

    def _accept_tls(self, client: socket.socket) -> socket.socket:
        return client if self.contexts is None else self.contexts[0].wrap_socket(client, server_side=True)

    def _connect(self) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.upstream))
        return plain if self.contexts is None else self.contexts[1].wrap_socket(plain, server_hostname="127.0.0.1")

    def _exchange(self, client: socket.socket, server: socket.socket, request: bytes) -> bool:
        """Forward one call; return whether the connection stays open."""
        call = self._describe(request)
        if call is None:
            server.sendall(request)
            client.sendall(self._response(server, request))
            return True
        plan = self.plan
        fault = plan.before(call)
        if fault == "refuse":
            return False
        if fault == "delay":
            threading.Event().wait(DELAY)
        server.sendall(request)
        response = self._response(server, request)
        if fault == "duplicate" and self.kind == "http":
            # Like a retry after a lost response: the server receives the call twice, the client the second response.
            with self._connect() as again:
                again.sendall(request)
                response = self._response(again, request)
        plan.after(call)
        if fault == "cut" or (fault == "duplicate" and self.kind == "mongo"):
            return False  # the driver then repeats the call
        if fault == "truncate":
            client.sendall(response[: len(response) // 2])
            return False
        if fault == "damage" and self.kind == "http" and not response.endswith(b"\r\n\r\n"):
            response = response[:-1] + bytes([response[-1] ^ 1])
        client.sendall(response)
        return True

    # -- protocols -------------------------------------------------------------------------------------------------

    def _describe(self, request: bytes) -> str | None:
        """Return a description of a call, or None if it is ignored."""
        if self.kind == "http":
            method, path, _ = request.split(b"\r\n", 1)[0].decode().split(" ")
            part = re.search(rb"\r\nrange: *bytes=(\d+)-\r\n", request, re.IGNORECASE)
            return f"{method} {path.split('?')[0]}{f' from {int(part[1])}' if part else ''}"
        if struct.unpack_from("<i", request, 12)[0] != 2013:
            return None
        size = struct.unpack_from("<i", request, 21)[0]
        document = bson.decode(request[21 : 21 + size])
        name, value = next(iter(document.items()))
        return None if name in IGNORED_COMMANDS else f"{name} {value}"

    def _request(self, client: socket.socket) -> bytes:
        return _mongo_message(client) if self.kind == "mongo" else http_message(client)

    def _response(self, server: socket.socket, request: bytes) -> bytes:
        if self.kind == "http":
            return http_message(server, bodiless=request.startswith(b"HEAD"))
        if struct.unpack_from("<i", request, 12)[0] == 2013 and struct.unpack_from("<I", request, 16)[0] & 2:
            return b""  # moreToCome: there is no response
        return _mongo_message(server)


def _exactly(stream: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = stream.recv(min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return parts


def _mongo_message(stream: socket.socket) -> bytes:
    head = _exactly(stream, 4)
    return head + _exactly(stream, struct.unpack("<i", head)[0] - 4)


def http_message(stream: socket.socket, *, bodiless: bool = False) -> bytes:
    """Read an HTTP message with its body, if it has one."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += _exactly(stream, 1)
    first, _, rest = head.partition(b"\r\n")
    headers = BytesParser().parsebytes(rest)
    if bodiless or (first.startswith(b"HTTP/") and first.split(b" ")[1] in (b"204", b"304")):
        return head
    if headers["transfer-encoding"] != "chunked":
        return head + _exactly(stream, int(headers["content-length"] or 0))
    body, size = b"", -1
    while size:
        line = b""
        while not line.endswith(b"\r\n"):
            line += _exactly(stream, 1)
        size = int(line, 16)
        body += line + _exactly(stream, size + 2)
    return head + body


STEPS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir")
"""Functions of `os` around which a process can be killed."""


@contextlib.contextmanager
def traced_steps(channel: socket.socket) -> Iterator[None]:
    """Report every step on disk during the block, and wait for permission to continue."""

    def traced(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def report(when: str) -> None:
            channel.sendall(f"{when} {name}\n".encode().ljust(32))
            _exactly(channel, 1)

        def step(*arguments: object, **more: object) -> object:
            report("before")
            result = real(*arguments, **more)
            report("after")
            return result

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, traced(name, getattr(os, name)))
        yield


def follow_steps(plan: KillAt, channel: socket.socket) -> None:
    """Receive the steps of `traced_steps` until the process ends."""
    with channel, contextlib.suppress(OSError, EOFError):
        while True:
            when, _, call = _exactly(channel, 32).decode().strip().partition(" ")
            plan.calls.append(call)
            plan.count(f"{when} {call}")
            channel.sendall(b".")
