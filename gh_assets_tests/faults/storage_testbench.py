"""Google's testbench of Cloud Storage, and a proxy that makes it inject faults into the calls of the product's clients.

The testbench (github.com/googleapis/storage-testbench) is not part of this project: it needs a checkout, and a Python
with its requirements. It injects a fault if a header of the request asks for it; the proxy adds that header to the
calls that a plan selects.
"""

import contextlib
import json
import os
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import requests

from gh_assets.embedded.guardian import free_port
from gh_assets_tests.faults.proxy import http_message
from gh_assets_tests.support.tcp import TcpListener
from gh_assets_tests.support.waiting import running

CHECKOUT, PYTHON = "GH_ASSETS_STORAGE_TESTBENCH", "GH_ASSETS_STORAGE_TESTBENCH_PYTHON"

requires_testbench = pytest.mark.skipif(
    not os.environ.get(CHECKOUT),
    reason=f"{CHECKOUT} is not set to a checkout of github.com/googleapis/storage-testbench ({PYTHON}: a Python in "
    "which pip has installed it)",
)

METHODS = {
    "upload": "storage.objects.insert",
    "start": "storage.objects.insert",
    "piece": "storage.objects.insert",
    "list": "storage.objects.list",
    "describe": "storage.objects.get",
    "read": "storage.objects.get",
    "rewrite": "storage.objects.rewrite",
    "delete": "storage.objects.delete",
}
"""The kinds of calls of the product, and their names in the testbench; a `piece` is a chunk of a resumable upload."""

RETURNED = [f"return-{status}" for status in (408, 429, 500, 502, 503, 504)] + ["return-reset-connection"]
BROKEN = ["return-broken-stream"]  # not for a response without content, which cannot break in the middle
STALLED = ["stall-for-1s-after-0K"]
SURVIVED = {
    "upload": [*RETURNED, *BROKEN, *STALLED, "return-503-after-256K"],
    "start": RETURNED,
    "piece": [
        *(*RETURNED, *BROKEN, "return-503-after-1280K", "return-broken-stream-final-chunk-after-10B"),
        *("stall-for-1s-after-1280K", "header:return-503-after-256K"),
    ],
    "list": [*RETURNED, *BROKEN, *STALLED],
    "describe": [*RETURNED, *BROKEN, *STALLED],
    "read": [
        *(*RETURNED, *BROKEN, *STALLED, "return-broken-stream-after-256K", "stall-for-1s-after-256K"),
        *("header:return-broken-stream", "header:return-corrupted-data", "header:return-503-after-256K"),
        "header:return-503-after-256K/retry-1",
    ],
    "rewrite": [*RETURNED, *BROKEN, *STALLED],
    "delete": RETURNED,
}
"""Faults that a client survives, by kind of call; those with ``header:`` are not retry tests of the testbench."""

LONG = ["header:stall-always", "header:stall-at-256KiB"]
"""Faults that take 10 s each."""

REFUSED = ["return-400", "return-401"]
"""Permanent errors, which are reported and not retried."""


@contextmanager
def running_testbench() -> Iterator[int]:
    """Run the testbench; yield its port."""
    checkout, python = Path(os.environ[CHECKOUT]), Path(os.environ.get(PYTHON, sys.executable))
    port = free_port()
    command = [str(python), "testbench_run.py", "127.0.0.1", str(port), "10"]
    environment = os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}  # it calls gunicorn

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}/", timeout=5).text == "OK"
        return False

    with running(command, answers, cwd=checkout, env=environment):
        yield port


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes
    ----------
    kind : str
        A key of `METHODS`, or another word for calls that are not about objects.
    bucket, name : str
        The object, which is the target of a rewrite; the name is empty if it is in the body.
    sent : int
        Bytes of the body.
    start : int
        First requested byte.
    last : bool
        Whether a chunk is the last one of its upload.
    """

    kind: str
    bucket: str
    name: str
    sent: int
    start: int
    last: bool


def fits(fault: str, call: Call) -> bool:
    """Whether a real server could have this fault at a call.

    `return-broken-stream` returns 200, not 308, for a chunk before the last, which would mean a complete upload.
    """
    return call.last or (call.kind, fault) != ("piece", "return-broken-stream")


@dataclass
class CallOutcome:
    """The outcome of a call: the requested fault, whether it occurred, and the response to the client."""

    call: Call
    fault: str | None
    occurred: bool
    status: int | None
    described: dict[str, Any] | None

    @property
    def written(self) -> dict[str, Any] | None:
        """The object whose storage was acknowledged to the client."""
        if self.call.kind == "rewrite" and self.described is not None:
            return self.described.get("resource")
        return self.described if self.call.kind in ("upload", "piece") else None


class FaultInjector(TcpListener):
    """Forwards calls to the testbench, with the header for the fault of each call.

    Parameters
    ----------
    upstream : int
        Port of the testbench.
    plan : callable
        Returns the fault of a call, or None; can be replaced at any time.
    """

    def __init__(self, upstream: int, plan: Callable[[Call], str | None] = lambda _: None) -> None:
        self.upstream, self.plan = upstream, plan
        self.answers: list[CallOutcome] = []
        self._in_flight = 0
        self._lock = threading.Condition()
        super().__init__()
        self.url, self.testbench = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{upstream}"

    def settle(self) -> Counter[str]:
        """Wait for the end of all calls, and count the faults that occurred by kind of call and name."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._in_flight == 0, 60)
            return self.faults()

    def wait_for_others(self) -> None:
        """Wait for the outcome of the calls before this one; for plans."""
        self._lock.wait_for(lambda: self._in_flight == 1, 5)

    def faults(self) -> Counter[str]:
        """Count the faults that occurred so far."""
        return Counter(f"{answer.call.kind} {answer.fault}" for answer in self.answers if answer.occurred)

    def serve(self, client: socket.socket) -> None:
        """Forward one call; the connection ends with the response or the fault."""
        with client, contextlib.suppress(OSError, EOFError):
            request = http_message(client)
            call = _call(request)
            with self._lock:
                self._in_flight += 1
                fault = self.plan(call) if call.kind in METHODS else None
            try:
                self._pass_on(client, request, call, fault)
            finally:
                with self._lock:
                    self._in_flight -= 1
                    self._lock.notify_all()

    def _pass_on(self, client: socket.socket, request: bytes, call: Call, fault: str | None) -> None:
        header, test = self._header(call, fault)
        first, _, rest = request.partition(b"\r\n")
        received, reset = bytearray(), False
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            try:
                server.sendall(first + b"\r\nConnection: close\r\n" + header + _KEPT_ALIVE.sub(b"", rest, count=1))
                while part := server.recv(1 << 16):
                    received += part
                    client.sendall(part)
            except ConnectionError:
                reset = True
        status, described = _answer(bytes(received))
        if test is None:
            occurred = fault is not None and _is_seen(fault, call, len(received), reset)
        else:
            occurred = bool(requests.get(f"{self.testbench}/retry_test/{test}", timeout=30).json()["completed"])
        with self._lock:
            self.answers.append(CallOutcome(call, fault, occurred, status, described))
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _header(self, call: Call, fault: str | None) -> tuple[bytes, str | None]:
        """Return the header that asks for a fault, and the id of the retry test that it belongs to."""
        if fault is None:
            return b"", None
        if fault.startswith("header:"):
            return f"x-goog-emulator-instructions: {fault.removeprefix('header:')}\r\n".encode(), None
        wanted = {"instructions": {METHODS[call.kind]: [fault]}}
        made = requests.post(f"{self.testbench}/retry_test", json=wanted, timeout=30)
        made.raise_for_status()
        test = str(made.json()["id"])
        return f"x-retry-test-id: {test}\r\n".encode(), test


_KEPT_ALIVE = re.compile(rb"connection:[^\r]*\r\n", re.IGNORECASE)


def _call(request: bytes) -> Call:
    raw, _, body = request.partition(b"\r\n\r\n")
    head = raw.decode("latin-1")
    method, target, _ = head.split("\r\n", 1)[0].split(" ")
    url = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(url.query).items()}
    parts = [unquote(part) for part in url.path.strip("/").split("/")]
    start = re.search(r"\r\nrange: *bytes=(\d+)-", head, re.IGNORECASE)
    bucket = parts[parts.index("b") + 1] if "b" in parts[:-1] else ""
    name, kind = "", "other"
    match parts:
        case ["upload", "storage", "v1", "b", _, "o"]:
            kind = "piece" if "upload_id" in query else "start" if query.get("uploadType") == "resumable" else "upload"
        case ["storage", "v1", "b", _, "o"]:
            kind = "list"
        case [*_, "o", name, "rewriteTo", "b", bucket, "o", target]:
            kind, name = "rewrite", target
        case ["storage", "v1", "b", _, "o", name] if method == "GET":
            kind = "read" if query.get("alt") == "media" else "describe"
        case ["download", "storage", "v1", "b", _, "o", name]:
            kind = "read"
        case ["storage", "v1", "b", _, "o", name] if method == "DELETE":
            kind = "delete"
    piece = re.search(r"\r\ncontent-range: *bytes \d+-(\d+)/(\d+)", head, re.IGNORECASE)
    last = piece is not None and int(piece[1]) + 1 == int(piece[2])
    return Call(kind, bucket, name, len(body), int(start[1]) if start else 0, last)


def _answer(received: bytes) -> tuple[int | None, dict[str, Any] | None]:
    """Return the status of a response, and its JSON if that is complete."""
    head, _, body = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        return None, None
    status = int(head[9:12])
    try:
        described = json.loads(body) if status == 200 and b"application/json" in head else None
    except ValueError:
        described = None
    return status, described if isinstance(described, dict) else None


def _is_seen(fault: str, call: Call, received: int, reset: bool) -> bool:
    """Whether a fault occurred that the testbench does not report; it needs a content of some length."""
    if fault.endswith("/retry-1"):
        return call.start > 0
    if fault.endswith(("return-corrupted-data", "stall-always")):
        return received > 0
    if fault.endswith("stall-at-256KiB"):
        return received > 256 << 10
    return reset or (call.kind == "piece" and call.sent >= 256 << 10)
