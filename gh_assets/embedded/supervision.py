"""Start embedded servers on demand and share them among the processes of a home.

`ensure_running` is cheap while the server runs: two system calls and a connection. A process is a user of the server
from its first call until it ends, in whatever way.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gh_assets.embedded.guardian import START_SECONDS, accepts, is_file_of, read_state
from gh_assets.errors import ServiceUnavailableError
from gh_assets.local.home import make_private, open_home, owner_only
from gh_assets.local.locks import exclusive, is_locked, open_lock, unlock, wait_lock

IDLE_SECONDS = 10.0
"""Time after which a server without users is stopped."""

SIGNS_OF_DAMAGE = ("corrupt", "malformed", "not a database", "salvage")

_INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")

_user_locks: dict[Path, int] = {}
_user_locks_guard = threading.Lock()


@dataclass(frozen=True)
class ServerSpec:
    """The definition of a server.

    Parameters
    ----------
    key : str
        Base name of its files in ``HOME/run``; one server runs per key and home.
    title : str
        Name in messages.
    command : tuple of str
        Program and arguments. ``{port}`` is replaced by the port, ``{fd}`` by the descriptor of a listening socket.
    idle_seconds : float
        See `IDLE_SECONDS`.
    """

    key: str
    title: str
    command: tuple[str, ...]
    idle_seconds: float = IDLE_SECONDS


def ensure_running(spec: ServerSpec, home: Path) -> int:
    """Start the server if it does not run, and use it until this process ends.

    Returns
    -------
    int
        Its port on 127.0.0.1.

    Raises
    ------
    ServiceUnavailableError
        If it cannot be started. The message contains the last lines of its log.
    """
    try:
        base = make_private(open_home(home) / "run") / spec.key
        _become_user(base)
        port = _running_port(base)
        if port is None:
            with exclusive(base.with_suffix(".start")):  # another process may start it at this moment
                port = _running_port(base) or _start(spec, base)
        return port
    except OSError as error:
        raise ServiceUnavailableError(
            f"The embedded {spec.title} cannot be started under {home}: {error}. "
            "Set GH_ASSETS_HOME to a folder that you can write to."
        ) from error


def release(key: str, home: Path) -> None:
    """Stop using a server in this process."""
    with _user_locks_guard:
        descriptor = _user_locks.pop(home / "run" / key, None)
    if descriptor is not None:
        unlock(descriptor)
        os.close(descriptor)


def release_all(home: Path) -> None:
    """Stop using the servers of a home in this process."""
    for base in list(_user_locks):
        if base.parent == home / "run":
            release(base.name, home)


def _become_user(base: Path) -> None:
    with _user_locks_guard:
        path = base.with_suffix(".users")
        held = _user_locks.get(base)
        if held is not None:
            if is_file_of(held, path):
                return
            os.close(held)  # the home was deleted
        descriptor = open_lock(path)
        wait_lock(descriptor, shared=True)
        _user_locks[base] = descriptor


def _running_port(base: Path) -> int | None:
    if not is_locked(base.with_suffix(".ready")):
        return None
    port = read_state(base).get("port")
    return port if isinstance(port, int) and accepts(port) else None


def _start(spec: ServerSpec, base: Path) -> int:
    with open(base.with_suffix(".spec"), "w", encoding="utf-8", opener=owner_only) as file:
        json.dump({"command": spec.command, "idle_seconds": spec.idle_seconds}, file)
    guardian: subprocess.Popen[bytes] | None = None
    if not is_locked(base.with_suffix(".guard")):
        # Servers inherit only the variables that they need, no tokens or passwords.
        needed = [name for name in os.environ if name in _INHERITED_VARIABLES or name.startswith(("LC_", "PYTHON"))]
        environment = {name: os.environ[name] for name in needed}
        with open(base.with_suffix(".log"), "ab", opener=owner_only) as log:
            command = [sys.executable, "-m", "gh_assets.embedded.guardian", str(base.with_suffix(".spec"))]
            streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            guardian = subprocess.Popen(command, cwd=base.parent, env=environment, start_new_session=True, **streams)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        port = _running_port(base)
        if port is not None:
            return port
        if guardian is not None and guardian.poll() is not None:
            break
        time.sleep(0.02)
    end = _log_tail(base.with_suffix(".log"))
    message = f"The embedded {spec.title} did not start. Its log, {base.with_suffix('.log')}, ends: {end}."
    if any(sign in end.lower() for sign in SIGNS_OF_DAMAGE):
        message += (
            " Its data are damaged: move the home elsewhere, then restore a backup with gh-assets data restore "
            "or collect again."
        )
    raise ServiceUnavailableError(message)


def _log_tail(path: Path, count: int = 2) -> str:
    """Return the last lines that do not belong to a stack trace."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    messages = [line.rstrip(" .") for line in lines if line.strip() and not line[0].isspace()]
    return "; ".join(messages[-count:]) or "(nothing)"
