"""What people say of recommendations: not interested, or known already.

Each verdict is a message of the ingest format. It is written to a journal on this machine, with fsync, before it is
acknowledged, and from there to Mongo as soon as that answers: a server that is killed, or a Mongo that is away, loses
none. Applying a message twice changes nothing, so the journal may be shipped twice.

A person is whoever holds an id: the page gives each visitor a random one in a cookie. The id says nothing of who it is,
and no login is kept with it.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pymongo.errors import PyMongoError

from gh_assets.errors import GhAssetsError
from gh_assets.local.locks import open_lock, try_lock
from gh_assets.storage.messages import Consumer, Message, versioned
from gh_assets.storage.mongo import Collections, MongoDatabase

Verdict = Literal["not_interested", "known", "none"]

VERDICTS: tuple[Verdict, ...] = ("not_interested", "known", "none")
"""``none`` takes back what was said before."""

MAX_PEOPLE = 5000
"""People whose verdicts are held in memory."""

MAX_VERDICTS = 2000
"""Verdicts of one person that count, the latest."""

RETRY_SECONDS = 5.0

log = logging.getLogger(__name__)

Verdicts = Mapping[int, tuple[Verdict, str]]
"""Verdict and name by repository."""


class JournalError(GhAssetsError):
    """A verdict could not be written down."""


@dataclass(frozen=True)
class FeedbackEntry:
    """One verdict."""

    person: str
    repo_id: int
    full_name: str
    verdict: Verdict
    at: dt.datetime

    def message(self) -> Message:
        value = {
            "person": self.person,
            "repo_id": self.repo_id,
            "full_name": self.full_name,
            "verdict": self.verdict,
            "at": self.at,
        }
        return Message(update=versioned(Collections.FEEDBACK, f"{self.person}:{self.repo_id}", "said", value, self.at))


class Feedback:
    """Verdicts of everybody.

    Parameters
    ----------
    folder : Path
        Of the journals; several servers may share it.
    database : callable
        Gives the database, or None while Mongo is away.
    on_change : callable, optional
        Told how many verdicts Mongo has not yet.
    """

    def __init__(
        self,
        folder: Path,
        database: Callable[[], MongoDatabase | None],
        on_change: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._folder, self._database, self._on_change = folder, database, on_change
        self._people: OrderedDict[str, dict[int, tuple[Verdict, str]]] = OrderedDict()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        # A journal belongs to whoever holds its lock; those that nobody holds any more are shipped, too.
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._held = open_lock(folder / f"{self._name}.lock")
        try_lock(self._held)
        self._journal = folder / f"{self._name}.jsonl"
        self._unshipped: dict[tuple[str, int], FeedbackEntry] = {}
        self._thread = threading.Thread(target=self._ship_forever, name="feedback", daemon=True)

    def start(self) -> None:
        """Ship what is there, and what comes."""
        self._thread.start()

    def close(self) -> None:
        """Ship once more, and stop."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)
        os.close(self._held)

    # -- asking --------------------------------------------------------------------------------------------------------

    def of(self, person: str) -> Verdicts:
        """What a person said, the latest verdict on each repository; asks Mongo the first time."""
        with self._lock:
            known = self._people.get(person)
            if known is not None:
                self._people.move_to_end(person)
                return dict(known)
        found, whole = self._stored(person)
        with self._lock:
            for said in self._unshipped.values():
                if said.person == person:
                    found[said.repo_id] = said.verdict, said.full_name
            found = {repo_id: entry for repo_id, entry in found.items() if entry[0] != "none"}
            if whole:
                self._people[person] = found
                while len(self._people) > MAX_PEOPLE:
                    self._people.popitem(last=False)
            return dict(found)

    def _stored(self, person: str) -> tuple[dict[int, tuple[Verdict, str]], bool]:
        """What Mongo has, and whether it could be asked."""
        database = self._database()
        if database is None:
            return {}, False
        try:
            documents = (
                database[Collections.FEEDBACK].find({"said.person": person}).sort("said.at", -1).limit(MAX_VERDICTS)
            )
            found = {d["said"]["repo_id"]: (d["said"]["verdict"], d["said"]["full_name"]) for d in documents}
        except PyMongoError:
            return {}, False
        return found, True

    # -- telling -------------------------------------------------------------------------------------------------------

    def say(self, person: str, repo_id: int, full_name: str, verdict: Verdict) -> None:
        """Take a verdict; when this returns it survives whatever comes.

        Raises
        ------
        JournalError
            If it cannot be written down.
        """
        said = FeedbackEntry(person, repo_id, full_name, verdict, dt.datetime.now(dt.UTC))
        line = said.message().to_json() + b"\n"
        known = dict(self.of(person))
        with self._writing:
            try:
                descriptor = os.open(self._journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    size = os.fstat(descriptor).st_size
                    try:
                        if os.write(descriptor, line) != len(line):
                            raise OSError("the line was cut")
                        os.fsync(descriptor)
                    except OSError:
                        os.ftruncate(descriptor, size)  # half a line would spoil the next one
                        raise
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise JournalError(
                    f"This could not be written down ({error.strerror or error}): try again later."
                ) from error
            with self._lock:
                self._unshipped[person, repo_id] = said
                known = dict(self._people.get(person, known))
                known.pop(repo_id, None)
                if verdict != "none":
                    known[repo_id] = verdict, full_name
                while len(known) > MAX_VERDICTS:
                    known.pop(next(iter(known)))
                if person in self._people:
                    self._people[person] = known
                waiting = len(self._unshipped)
        self._on_change(waiting)
        self._wake.set()

    # -- shipping ------------------------------------------------------------------------------------------------------

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
        """Bring all journals that are nobody else's to Mongo; does nothing while that is away."""
        database = self._database()
        if database is None:
            return
        self._set_aside()
        for path in self._mine():
            with path.open("rb") as lines:
                Consumer(database).apply(line for line in lines if line.strip())
            path.unlink()
        self._forget_locks()
        with self._writing, self._lock:
            if not self._journal.exists():
                self._unshipped.clear()
            waiting = len(self._unshipped)
        self._on_change(waiting)

    def _set_aside(self) -> None:
        with self._writing:
            if self._journal.exists():
                self._journal.rename(self._journal.with_name(f"{self._name}-{secrets.token_hex(4)}.shipping"))

    def _mine(self) -> Iterator[Path]:
        """Journals to ship: own ones that were set aside, and those of servers that are no more."""
        for path in sorted(self._folder.iterdir()):
            owner = "-".join(path.stem.split("-")[:2])
            if path.suffix not in (".jsonl", ".shipping") or path == self._journal:
                continue
            if owner == self._name:
                yield path
                continue
            lock = open_lock(self._folder / f"{owner}.lock")
            try:
                if try_lock(lock) and path.exists():
                    yield path
            finally:
                os.close(lock)

    def _forget_locks(self) -> None:
        owners = {"-".join(path.stem.split("-")[:2]) for path in self._folder.iterdir() if path.suffix != ".lock"}
        for path in self._folder.glob("*.lock"):
            if path.stem == self._name or path.stem in owners:
                continue
            lock = open_lock(path)
            try:
                if try_lock(lock):
                    path.unlink(missing_ok=True)
            finally:
                os.close(lock)


def verdict_of(value: Any) -> Verdict | None:
    """A verdict from outside."""
    return value if isinstance(value, str) and value in VERDICTS else None
