"""Advisory file locks. The kernel drops them with their holder, so `kill -9` of anybody leaves nothing wedged."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path


def open_lock(path: Path) -> int:
    """Open (and create) a lock file; returns a file descriptor that an exec'd child does not inherit."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock if nobody holds it against us; False otherwise, at once."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(descriptor: int, *, shared: bool = False) -> None:
    """Take the lock, waiting for as long as another holds it."""
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def unlock(descriptor: int) -> None:
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Whether another process holds the file's exclusive lock now."""
    if not path.exists():
        return False
    descriptor = open_lock(path)
    try:
        return not try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def create_once(path: Path, content: bytes) -> bytes:
    """What a file holds, readable by its owner only: `content`, or what another process put there first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        draft = path.with_suffix(f".{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        try:
            path.hardlink_to(draft)  # the first of several processes wins, and all read what it wrote
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()
