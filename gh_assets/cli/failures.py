"""Explanations of failures for the terminal, and the log file with their details."""

import errno
import os
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pymongo.errors import ConnectionFailure, PyMongoError

from gh_assets.errors import GhAssetsError
from gh_assets.local.home import owner_only
from gh_assets.storage.mongo import mongo_reason

LOG_BYTES = 1_000_000
"""Size at which the log is started anew."""

EXPLAINED_ERRORS = (GhAssetsError, PyMongoError)
"""Errors whose own message explains the failure without a stack trace."""

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

DAMAGED = ("not a database", "malformed", "no such table", "no such column", "file is encrypted")


def database_errors() -> tuple[type[Exception], ...]:
    """Return the errors of the history's database; those of SQLAlchemy only if it was loaded, which takes time."""
    loaded = sys.modules.get("sqlalchemy.exc")
    return (sqlite3.Error,) if loaded is None else (sqlite3.Error, loaded.DBAPIError)


def system_errors() -> tuple[type[Exception], ...]:
    """Return the failures of the machine. Their messages concern files and devices, never users."""
    return (OSError, MemoryError, *database_errors())


def cause_of(error: BaseException) -> BaseException:
    """Return the exception that explains a failure, without the wrappers of Dagster and others.

    It is the first in the chain that is an error of this package or of MongoDB, else the first failure of the machine,
    else the one that was raised first.
    """
    chain = list(_chain(error))
    for kinds in (EXPLAINED_ERRORS, system_errors()):
        for link in chain:
            if isinstance(link, kinds):
                return link
    return chain[-1]


def explain(error: BaseException, history: Path) -> str:
    """Explain in a sentence or two what happened and what to do.

    Parameters
    ----------
    error : BaseException
        The result of `cause_of`.
    history : Path
        Folder of Dagster's history.
    """
    if isinstance(error, GhAssetsError):
        return str(error)
    if isinstance(error, PyMongoError):
        is_transient = isinstance(error, ConnectionFailure) or error.has_error_label("RetryableWriteError")
        remedy = "Run again: nothing is lost." if is_transient else "What was collected is kept."
        return f"MongoDB failed during the command: {mongo_reason(error)}. {remedy}"
    if isinstance(error, database_errors()):
        return _explain_history(error, history)
    if isinstance(error, OSError):
        where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
        if error.errno in NO_SPACE:
            return f"The disk is full{where}: free some space and run again. What was collected is kept."
        reason = error.strerror or type(error).__name__
        return f"The operating system reported an error: {reason}{where}. What was collected is kept."
    if isinstance(error, MemoryError):
        return "Memory ran out. What was collected is kept."
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {Path(frame[0].filename).name}:{frame[0].lineno}" if frame else ""
    return f"An unexpected {type(error).__name__}{place} ended the command. What was collected is kept."


def write_log(error: BaseException, home: Path) -> Path | None:
    """Append the stack traces of an error and its causes to the log of a home.

    The log holds types and locations, and only the machine's own messages, so that it contains neither tokens nor
    users' data and can be attached to a report.

    Returns
    -------
    Path or None
        ``errors.log`` in the home, or a new temporary file if the home cannot be written to; None if neither can.
    """
    lines = [f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, {' '.join(sys.version.split()[:1])} on {sys.platform}\n"]
    for link in reversed(list(_chain(error))):
        lines += traceback.format_tb(link.__traceback__)
        message = str(getattr(link, "orig", None) or link) if isinstance(link, system_errors()) else ""
        lines.append(f"{type(link).__module__}.{type(link).__qualname__}: {message}".rstrip(": ") + "\n\n")
    text = "".join(lines).encode("utf-8", "backslashreplace")
    path = home / "errors.log"
    try:
        mode = "ab" if not path.exists() or path.stat().st_size < LOG_BYTES else "wb"
        with open(path, mode, opener=owner_only) as file:
            file.write(text)
        return path
    except OSError:
        try:
            with tempfile.NamedTemporaryFile(prefix="gh-assets-", suffix=".log", delete=False) as temporary:
                temporary.write(text)
            return Path(temporary.name)
        except OSError:
            return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:  # an error that is raised again while it is handled forms a cycle
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _explain_history(error: BaseException, history: Path) -> str:
    message = str(getattr(error, "orig", None) or error).rstrip(".")
    if any(sign in message for sign in DAMAGED):
        return (
            f"Dagster's history is damaged ({message}): move the folder {history} away and run again. Only the "
            "record of runs is lost with it; repositories, stars and models are stored elsewhere."
        )
    if "full" in message:
        return f"The disk is full ({history}): free some space and run again. What was collected is kept."
    return f"Dagster's history in {history} cannot be used: {message}. What was collected is kept."
