"""The home: the folder that holds all local state. Only its owner can access it."""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from gh_assets.errors import ConfigurationError

HOME_ENTRIES = ("bucket", "cache", "checkpoints", "dagster", "errors.log", "gcs", "mongo", "run", "web", "world.json")
"""Names of the files and folders that the product creates in a home."""

GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keep_private() -> None:
    """Restrict the files that this process and its children create to their owner."""
    os.umask(os.umask(GROUP_AND_OTHERS) | GROUP_AND_OTHERS)


def open_home(home: Path) -> Path:
    """Create the home if it does not exist, and remove the access of other users that earlier versions allowed.

    In a folder that also holds other files, only the `HOME_ENTRIES` are restricted.

    Raises
    ------
    ConfigurationError
        If the path is a file, lies below a file, or is not writable.
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
    """Open a file that only its owner can read; the `opener` of `open`."""
    return os.open(path, flags, 0o600)


def make_private(folder: Path) -> Path:
    """Create a folder that only its owner can enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _close(path: Path) -> None:
    """Remove all permissions of other users, those of the folder last so that an interrupted call is repeated."""
    if not path.is_symlink() and path.is_dir():
        for inner in path.iterdir():
            _close(inner)
    with suppress(FileNotFoundError):  # a running server of an earlier version may have removed it
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~GROUP_AND_OTHERS)
