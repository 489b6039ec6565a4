"""Scratch folders, removed with the object that owns them or, after a kill, when the next one is created."""

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

from gh_assets.local.locks import try_lock

PREFIX = "gh-assets-scratch-"


class Scratch:
    """A temporary folder that exists as long as this object.

    The owning process holds a lock on it, which the kernel releases when the process ends: an unlocked folder is
    abandoned.
    """

    def __init__(self) -> None:
        clear_dead_scratch()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = _locked(self.path)
            if lock is not None:
                break  # otherwise another process cleared it between its creation and its lock
        self._remove = weakref.finalize(self, _remove, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self._remove()


def clear_dead_scratch() -> list[Path]:
    """Remove the scratch folders of killed processes, and return their paths."""
    cleared = []
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        lock = _locked(path)
        if lock is not None:
            _remove(path, lock)
            cleared.append(path)
    return cleared


def _locked(path: Path) -> int | None:
    """Lock a folder and return the descriptor; None if it is locked, inaccessible, or gone."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        with suppress(OSError):
            if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)
    return None


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
