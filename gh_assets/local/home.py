"""The home, the folder in which everything of this machine lies: only its owner gets in."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from gh_assets.errors import ConfigurationError

HOME_ENTRIES = ("bucket", "cache", "checkpoints", "dagster", "errors.log", "gcs", "mongo", "run", "web", "world.json")
"""What the product keeps in a home."""

GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keep_private() -> None:
    """Make all files that this process and its children create readable by their owner only."""
    os.umask(os.umask(GROUP_AND_OTHERS) | GROUP_AND_OTHERS)


def open_home(home: Path) -> Path:
    """Make a home if there is none, and close it to others if an earlier version left it open.

    Where the home is a folder with other things in it, only what is ours is closed.

    Raises
    ------
    ConfigurationError
        If there can be no home: it is a file, lies below one, or may not be written to.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(home, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written to", str(home))
        if home.stat().st_mode & GROUP_AND_OTHERS and home.stat().st_uid == os.getuid():
            mixed = any(path.name not in HOME_ENTRIES for path in home.iterdir())
            for name in HOME_ENTRIES:
                _close(home / name)
            if not mixed:
                home.chmod(0o700)
    except OSError as error:
        shown = f"{str(home)[:200]}{'…' if len(str(home)) > 200 else ''}"
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise ConfigurationError(
            f"GH_ASSETS_HOME ({shown}) cannot be used: {reason}. Set it to a folder that you can write to."
        ) from error
    return home


def owner_only(path: str, flags: int) -> int:
    """An opener, for `open`, of files that nobody else may read."""
    return os.open(path, flags, 0o600)


def make_private(folder: Path) -> Path:
    """Make a folder of a home that nobody else may enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _close(path: Path) -> None:
    """Take every right of others away, the folder's own at last: what was cut off is done again."""
    if not path.is_symlink() and path.is_dir():
        for inner in path.iterdir():
            _close(inner)
    with suppress(FileNotFoundError):  # a server of an earlier version may be at work
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~GROUP_AND_OTHERS)
