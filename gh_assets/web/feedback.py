"""Feedback of visitors on recommendations: "not interested" or "known already".

Each entry is a message of the ingest format. It is appended to a journal on this machine, with fsync, before it is
acknowledged, and applied to MongoDB as soon as that is reachable: neither a killed server nor an unreachable MongoDB
loses any. Applying a message twice has no effect, so that a journal may be applied twice.

Entries belong to a visitor id: the pages give each visitor a random one in a cookie, and clients of the API choose
their own. No login is stored with it.
"""

import datetime as dt
import logging
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from pymongo.errors import PyMongoError

from gh_assets.errors import GhAssetsError
from gh_assets.local.locks import open_lock, try_lock
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections, MongoDatabase

Verdict = Literal["not_interested", "known", "none"]
"""``none`` withdraws an earlier verdict."""

MAX_VISITORS = 5000
"""Visitors whose verdicts are kept in memory."""

MAX_VERDICTS = 2000
"""Maximum number of verdicts of one visitor that count; the latest are kept."""

RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)

Verdicts = Mapping[int, tuple[Verdict, str]]
"""Verdict and full name by repository id."""


class JournalError(GhAssetsError):
    """Feedback could not be written to the journal."""


class Feedback:
    """The verdicts of all visitors.

    Parameters
    ----------
    folder : Path
        Folder of the journals; several servers may share it.
    database : callable
        Returns the database, or None while MongoDB is unreachable.
    on_change : callable, optional
        Called with the number of entries that are not in MongoDB yet.
    """

    def __init__(
        self,
        folder: Path,
        database: Callable[[], MongoDatabase | None],
        on_change: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._folder, self._database, self._on_change = folder, database, on_change
        self._visitors: OrderedDict[str, dict[int, tuple[Verdict, str]]] = OrderedDict()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        # A server locks its journals; those without a lock were left by a killed server and are applied, too.
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._journal_lock = open_lock(folder / f"{self._name}.lock")
        try_lock(self._journal_lock)
        self._journal = folder / f"{self._name}.jsonl"
        self._unshipped: dict[tuple[str, int], tuple[Verdict, str]] = {}
        self._thread = threading.Thread(target=self._ship_forever, name="feedback", daemon=True)

    def start(self) -> None:
        """Start the thread that applies journals to MongoDB."""
        self._thread.start()

    def close(self) -> None:
        """Apply the journals once more, and stop."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        os.close(self._journal_lock)

    # -- reading -------------------------------------------------------------------------------------------------------

    def verdicts_of(self, visitor_id: str) -> Verdicts:
        """Return the latest verdict of a visitor on each repository; the first call reads MongoDB."""
        with self._lock:
            cached = self._visitors.get(visitor_id)
            if cached is not None:
                self._visitors.move_to_end(visitor_id)
                return dict(cached)
        stored = self._stored(visitor_id)
        with self._lock:
            latest = dict(stored or {})
            latest |= {repo_id: verdict for (of, repo_id), verdict in self._unshipped.items() if of == visitor_id}
            verdicts = {repo_id: verdict for repo_id, verdict in latest.items() if verdict[0] != "none"}
            if stored is not None:
                self._visitors[visitor_id] = verdicts
                while len(self._visitors) > MAX_VISITORS:
                    self._visitors.popitem(last=False)
            return dict(verdicts)

    def _stored(self, visitor_id: str) -> Verdicts | None:
        """Read the verdicts in MongoDB; None if it is unreachable."""
        database = self._database()
        if database is None:
            return None
        try:
            documents = (
                database[Collections.FEEDBACK].find({"said.person": visitor_id}).sort("said.at", -1).limit(MAX_VERDICTS)
            )
            return {d["said"]["repo_id"]: (d["said"]["verdict"], d["said"]["full_name"]) for d in documents}
        except PyMongoError:
            return None

    # -- writing -------------------------------------------------------------------------------------------------------

    def record(self, visitor_id: str, repo_id: int, full_name: str, verdict: Verdict) -> None:
        """Store a verdict durably.

        Raises
        ------
        JournalError
            If the journal cannot be written.
        """
        now = dt.datetime.now(dt.UTC)
        value = {"person": visitor_id, "repo_id": repo_id, "full_name": full_name, "verdict": verdict, "at": now}
        message = Message(update=versioned(Collections.FEEDBACK, f"{visitor_id}:{repo_id}", "said", value, now))
        before = self.verdicts_of(visitor_id)
        with self._writing:
            try:
                _append(self._journal, message.to_json() + b"\n")
            except OSError as error:
                raise JournalError(
                    f"The feedback could not be saved ({error.strerror or error}). Try again later."
                ) from error
            with self._lock:
                self._unshipped[visitor_id, repo_id] = verdict, full_name
                verdicts = dict(self._visitors.get(visitor_id, before))
                verdicts.pop(repo_id, None)
                if verdict != "none":
                    verdicts[repo_id] = verdict, full_name
                while len(verdicts) > MAX_VERDICTS:
                    verdicts.pop(next(iter(verdicts)))
                if visitor_id in self._visitors:
                    self._visitors[visitor_id] = verdicts
                unshipped = len(self._unshipped)
        self._on_change(unshipped)
        self._wake.set()

    # -- applying journals to MongoDB ----------------------------------------------------------------------------------

    def _ship_forever(self) -> None:
        while True:
            self._wake.wait(RETRY_SECONDS)
            self._wake.clear()
            stopping = self._stop.is_set()
            try:
                self.ship()
            except (PyMongoError, OSError) as error:
                log.warning("feedback waits", extra={"fields": {"error": type(error).__name__}})
            if stopping:
                return

    def ship(self) -> None:
        """Apply this server's journals and those of killed servers to MongoDB, if it is reachable."""
        database = self._database()
        if database is None:
            return
        self._rotate_journal()
        for path in self._journals_to_ship():
            with path.open("rb") as lines:
                Consumer(database).apply(line for line in lines if line.strip())
            path.unlink()
        self._remove_stale_locks()
        with self._writing, self._lock:
            if not self._journal.exists():
                self._unshipped.clear()
            unshipped = len(self._unshipped)
        self._on_change(unshipped)

    def _rotate_journal(self) -> None:
        with self._writing:
            if self._journal.exists():
                self._journal.rename(self._journal.with_name(f"{self._name}-{secrets.token_hex(4)}.shipping"))

    def _journals_to_ship(self) -> Iterator[Path]:
        """Rotated journals of this server, and all journals of servers that no longer run."""
        for path in sorted(self._folder.iterdir()):
            if path.suffix not in (".jsonl", ".shipping") or path == self._journal:
                continue
            if _owner_of(path) == self._name:
                yield path
                continue
            with _locked(self._folder / f"{_owner_of(path)}.lock") as is_abandoned:
                if is_abandoned and path.exists():
                    yield path

    def _remove_stale_locks(self) -> None:
        owners = {_owner_of(path) for path in self._folder.iterdir() if path.suffix != ".lock"} | {self._name}
        for path in self._folder.glob("*.lock"):
            if path.stem in owners:
                continue
            with _locked(path) as is_abandoned:
                if is_abandoned:
                    path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Try to lock a file for the length of a block; yield whether no other process had locked it."""
    lock = open_lock(path)
    try:
        yield try_lock(lock)
    finally:
        os.close(lock)


def _append(path: Path, line: bytes) -> None:
    """Append a line durably and entirely, or not at all.

    Raises
    ------
    OSError
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError("the line was truncated")
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)  # half a line would corrupt the next one
            raise
    finally:
        os.close(descriptor)


def _owner_of(path: Path) -> str:
    """The process name that a journal's file name begins with."""
    return "-".join(path.stem.split("-")[:2])


def parse_verdict(value: Any) -> Verdict | None:
    """Return the value if it is a verdict, else None."""
    return value if value in get_args(Verdict) else None
