"""The process that watches over one embedded server: it starts, restarts and stops it.

Run as ``python -m gh_assets.embedded.guardian SPEC``, where SPEC is the JSON file that `supervision` wrote. Only the
standard library is imported, so that it starts fast. Its state is held by locks, which the kernel releases when their
process ends:

* ``KEY.users``: shared lock of each process that uses the server; if there is none, the guardian can lock it.
* ``KEY.guard``: held by the guardian while it runs.
* ``KEY.ready``: held by the guardian while ``KEY.json`` describes its own server, so that the description of a killed
  guardian's server is never used.
* ``KEY.server``: held by the guardian and inherited by the server. If it is locked when a guardian starts, a server has
  survived its guardian, and is stopped before another one starts on the same data.

A server whose command contains ``{fd}`` inherits a listening socket that the guardian keeps open, so that no other
process can take over the port while the server restarts.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from gh_assets.local.home import keep_private
from gh_assets.local.locks import open_lock, try_lock, unlock, wait_lock

POLL_SECONDS = 0.2
START_SECONDS = 60.0
STOP_SECONDS = 10.0
MAX_RESTARTS = 5
RESTART_WINDOW_SECONDS = 10.0


def listening_socket(preferred: int | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, if possible on the preferred port."""
    if preferred is not None:
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", preferred), backlog=1024)
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


def free_port(preferred: int | None = None) -> int:
    """Return a free port on 127.0.0.1, if possible the preferred one."""
    with listening_socket(preferred) as probe:
        return int(probe.getsockname()[1])


def accepts(port: int, request: bytes = b"") -> bool:
    """Whether a server accepts connections on the port, and responds to a request if there is one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(request)
            return not request or connection.recv(1) != b""
    except OSError:
        return False


def read_state(base: Path) -> dict[str, Any]:
    """Return port and process ids of a server, as its guardian wrote them last; empty if there are none."""
    try:
        state = json.loads(base.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def is_file_of(descriptor: int, path: Path) -> bool:
    """Whether an open file still exists at its path; False if it was deleted, or deleted and created again."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except OSError:
        return False


def _die_with_parent() -> None:
    """Let Linux stop the server when its guardian is killed; other systems rely on the server's lock."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class Guardian:
    """A server and its state files."""

    def __init__(self, spec_path: Path) -> None:
        spec: dict[str, Any] = json.loads(spec_path.read_text(encoding="utf-8"))
        self.command: list[str] = spec["command"]
        self.idle_seconds: float = spec["idle_seconds"]
        self.base = spec_path.with_suffix("")
        self.guard, self.ready, self.users, self.server_lock = (
            open_lock(self.base.with_suffix(suffix)) for suffix in (".guard", ".ready", ".users", ".server")
        )
        self.socket: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.port: int | None = None
        self.stopping = False

    def run(self) -> int:
        wait_lock(self.guard)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is meant for the command
        previous = read_state(self.base)
        self.port = previous.get("port")
        self._stop_orphan(previous.get("server_pid"))
        try:
            self._start()
            wait_lock(self.ready)
            return self._watch()
        finally:
            self._stop()

    def _on_signal(self, _number: int, _frame: object) -> None:
        self.stopping = True

    def _stop_orphan(self, pid: int | None) -> None:
        """Stop a server whose guardian was killed; it holds the server lock, so the process id is not reused."""
        deadline = time.monotonic() + STOP_SECONDS
        while not try_lock(self.server_lock):
            if pid is not None:
                late = time.monotonic() > deadline - STOP_SECONDS / 2
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
            if time.monotonic() > deadline:
                raise SystemExit("the server of a former guardian does not stop")
            time.sleep(POLL_SECONDS)

    def _start(self) -> None:
        descriptors = [self.server_lock]
        if "{fd}" in self.command:
            if self.socket is None:
                self.socket = listening_socket(self.port)
            self.port = int(self.socket.getsockname()[1])
            descriptors.append(self.socket.fileno())
        else:
            self.port = free_port(self.port)
        placeholders = {"{port}": str(self.port), "{fd}": str(descriptors[-1])}
        command = [placeholders.get(part, part) for part in self.command]
        with self.base.with_suffix(".log").open("ab") as log:
            if log.tell() > 10_000_000:
                log.truncate(0)
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self.process = subprocess.Popen(command, pass_fds=descriptors, preexec_fn=_die_with_parent, **streams)
        deadline = time.monotonic() + START_SECONDS
        request = b"" if self.socket is None else b"GET / HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
        while not accepts(self.port, request):
            if self.process.poll() is not None:
                raise SystemExit(f"the server exited during its start with status {self.process.returncode}")
            if time.monotonic() > deadline or self.stopping:
                raise SystemExit(f"the server did not respond within {START_SECONDS:.0f} s")
            time.sleep(0.02)
        state = {"port": self.port, "server_pid": self.process.pid, "guardian_pid": os.getpid()}
        draft = self.base.with_suffix(".json.new")
        draft.write_text(json.dumps(state), encoding="utf-8")
        draft.replace(self.base.with_suffix(".json"))

    def _watch(self) -> int:
        restarts: deque[float] = deque(maxlen=MAX_RESTARTS)
        idle_since: float | None = None
        while not self.stopping and is_file_of(self.users, self.base.with_suffix(".users")):  # the home exists
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            if self.process is None or self.process.poll() is not None:
                if len(restarts) == MAX_RESTARTS and now - restarts[0] < RESTART_WINDOW_SECONDS:
                    print("the server exits repeatedly; giving up", file=sys.stderr)  # noqa: T201 - its log
                    return 1
                restarts.append(now)
                self._start()
            if not try_lock(self.users):
                idle_since = None
                continue
            idle_since = now if idle_since is None else idle_since
            if now - idle_since >= self.idle_seconds:
                # The users' lock is still held, so that a new user waits until the server has stopped.
                self._stop()
                return 0
            unlock(self.users)
        return 0

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    keep_private()
    sys.exit(Guardian(Path(sys.argv[1])).run())
