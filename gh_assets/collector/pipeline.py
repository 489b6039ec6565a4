"""Collecting the stars of many repositories: who has to be asked, in which order, and what is kept of it.

The driver knows neither Dagster nor where tables lie: it is given a source, a store and a `CollectionState`.
Each repository is committed by itself, table first, state second, so a run that is killed loses only what was
in flight, and the next run goes on.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as AbstractCollection
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from io import BytesIO
from typing import Any, Protocol

import polars as pl
import pymongo
from pymongo.collection import Collection
from pymongo.database import Database

from gh_assets.collector.star_sources.base import (
    CollectionTask,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarRows,
    StarSource,
)
from gh_assets.errors import BudgetSpentError, StoredDataError
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.local.concurrency import map_bounded
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.documents import as_stored
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections

logger = logging.getLogger(__name__)

STATE_BATCH = 200
"""Repositories whose state is written to Mongo at once; at most so many are collected again after a crash."""

UNSTARS_CHECKED = "unstars checked"
"""In the collection ``meta``: that `CollectionState.check_unstars` was here."""

COMMIT_SECONDS = 3.0
"""States wait no longer than this to be written."""


_WITH_STATE = {"state": {"$exists": True}}
"""Documents may hold other registers (`seeds`), and no state yet."""


class StarStore(Protocol):
    """Where the tables of stargazers lie, one a partition."""

    def checksums(self, partitions: Iterable[str]) -> Mapping[str, str | None]:
        """Checksums of the tables that are there, by partition; None where one is damaged."""

    def repair(self, partition: str) -> None:
        """Put an earlier table in the place of one that is damaged."""

    def read(self, partition: str) -> tuple[pl.DataFrame, str]:
        """Read a table, and its checksum."""

    def write(self, partition: str, table: pl.DataFrame) -> str:
        """Replace a table, in one step; gives its checksum."""


@dataclass(frozen=True)
class RepositoryState:
    """What is known of the collection of one repository's stars.

    Attributes
    ----------
    stargazer_count : int or None
        GitHub's count when the stars were read.
    source : str or None
        Which source the stars are from.
    checksum : str or None
        Of the table that this state speaks of.
    closed_at : datetime or None
        When its own list was found closed, if it was when it was asked last.
    proven : bool
        Whether the table was proven to be all that was asked for; see `StarCollection`.
        Nothing that a version before this field collected was: it is asked for once more.
    entries, null_entries, failed_entries : int
        Entries of the list, and of these those that are not in the table: without a user, or GitHub failed on them.
    collected_at, asked_at : datetime or None
        When its stars were read, and when it was asked for them, last.
    """

    repo_id: int
    partition: str
    full_name: str
    outcome: Outcome
    reason: str | None
    stars: int | None
    stargazer_count: int | None
    source: str | None
    max_pages: int
    pages: Sequence[Page]
    checksum: str | None
    complete: bool
    collected_at: dt.datetime | None
    asked_at: dt.datetime | None
    closed_at: dt.datetime | None = None
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RepositoryState:
        state = document["state"]
        pages = [_page_of(page) for page in state["pages"]]
        parsed = ("repo_id", "outcome", "pages")
        plain = {name: state[name] for name in cls.__dataclass_fields__ if name not in parsed and name in state}
        return cls(repo_id=document["_id"], outcome=Outcome(state["outcome"]), pages=pages, **plain)

    def message(self) -> Message:
        """What makes it known: the state that was asked for last wins, in whatever order states arrive."""
        assert self.asked_at is not None
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "repo_id"}
        pages = [asdict(page) for page in self.pages]
        value = plain | {"outcome": self.outcome.value, "pages": pages}
        return Message(update=versioned(Collections.STARGAZER_STATE, self.repo_id, "state", value, self.asked_at))


def _page_of(document: Mapping[str, Any]) -> Page:
    """A page as it was stored; versions before did not count entries."""
    names = ("etag", "rows", "full")
    more = {name: document[name] for name in ("entries", "failed") if name in document}
    return Page(*(document[name] for name in names), **more)


class CollectionState:
    """The states of all repositories, and the pages of those that are being collected, in Mongo.

    Parameters
    ----------
    database : pymongo.database.Database
        Collections ``stargazer_state`` (a document a repository, by its database id), ``stargazer_pages`` and
        ``unstars`` (a document a star that was taken back).
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self.collection = database[Collections.STARGAZER_STATE]
        self.pages = database[Collections.STARGAZER_PAGES]
        self.unstars = database[Collections.UNSTARS]
        self._meta = database[Collections.META]
        self._consumer = Consumer(database)

    def load(self) -> dict[int, RepositoryState]:
        """All states, by repository id."""
        states = (RepositoryState.from_document(document) for document in self.collection.find(_WITH_STATE))
        return {state.repo_id: state for state in states}

    def save(self, states: Sequence[RepositoryState]) -> None:
        """Write states."""
        self._consumer.apply(state.message() for state in states)

    def remember_unstars(self, stars: pl.DataFrame) -> None:
        """Keep stars that were taken back as history, whoever gives them again later."""
        self._consumer.apply(_unstar(row, dt.datetime.now(dt.UTC)) for row in stars.iter_rows(named=True))

    def unstarred(self) -> set[int]:
        """Repositories of which stars were taken back."""
        return {int(str(document["_id"]).partition("/")[0]) for document in self.unstars.find({}, {"_id": 1})}

    def forget_unstars(self, repo_id: int, stars: pl.DataFrame) -> int:
        """Drop history that is not true: a star that is in the table was never taken back; gives how many."""
        times = dict(stars.select("user_id", "starred_at").rows())
        wrong = []
        for document in self.unstars.find(_of_repository(repo_id)):
            unstar = document["unstar"]
            if unstar["user_id"] in times:
                then, now = unstar["starred_at"], times[unstar["user_id"]]
                # A star that was taken back and given again has a later time.
                if then is None or now is None or now <= then:
                    wrong.append(document["_id"])
        if wrong:
            self.unstars.delete_many({"_id": {"$in": wrong}})
        return len(wrong)

    def check_unstars(self, store: StarStore) -> None:
        """Once in a database: drop the false history that earlier versions wrote after answers with holes."""
        if self._meta.find_one({"_id": UNSTARS_CHECKED}) is not None:
            return
        partitions = {state.repo_id: state.partition for state in self.load().values() if state.checksum is not None}
        dropped = 0
        for repo_id in self.unstarred() & partitions.keys():
            with suppress(StoredDataError):  # it is collected again, and checked then
                dropped += self.forget_unstars(repo_id, store.read(partitions[repo_id])[0])
        if dropped:
            logger.warning("%d stars had been noted as taken back, though they are there: the notes are gone.", dropped)
        self._meta.update_one({"_id": UNSTARS_CHECKED}, {"$set": {"dropped": dropped}}, upsert=True)

    def interrupted(self) -> set[int]:
        """Repositories of which pages are kept."""
        return {int(str(document["_id"]).partition("/")[0]) for document in self.pages.find({}, {"_id": 1})}

    def forget_pages(self, repo_ids: Iterable[int]) -> None:
        """Drop the pages of repositories that are done."""
        for repo_id in repo_ids:
            self.pages.delete_many(_of_repository(repo_id))


def _unstar(star: Mapping[str, Any], noticed_at: dt.datetime) -> Message:
    value = {name: star[name] for name in ("repo_id", "user_id", "login", "starred_at")} | {"noticed_at": noticed_at}
    identity = f"{star['repo_id']}/{star['user_id']}"
    return Message(update=versioned(Collections.UNSTARS, identity, "unstar", value, noticed_at))


class MongoCheckpoint:
    """Pages of one repository in Mongo: a small document each.

    The first `KEPT_IN_MEMORY` are written with the one that follows them: most repositories never need it.

    Parameters
    ----------
    pages : pymongo.collection.Collection
    repository : RepositoryRef
    resume : bool
        Whether pages may be there.
    """

    KEPT_IN_MEMORY = 10
    MAX_AGE = dt.timedelta(hours=24)

    def __init__(self, pages: Collection[dict[str, Any]], repository: RepositoryRef, *, resume: bool) -> None:
        self._pages = pages
        self.repo_id = repository.repo_id
        self._resume = resume
        self._waiting: list[tuple[dict[str, Any], StarRows]] = []
        self.written = False

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        if not self._resume:
            return []
        oldest = dt.datetime.now(dt.UTC) - self.MAX_AGE
        found: list[tuple[Page, pl.DataFrame]] = []
        for document in self._pages.find(_of_repository(self.repo_id)).sort("_id", 1):
            fits = document["source"] == source and document["at"] >= oldest
            if not fits or document["number"] != len(found) + 1:
                break
            found.append((_page_of(document), pl.read_ipc(BytesIO(document["table"]))))
        self.written = bool(found)
        if not found:
            self._pages.delete_many(_of_repository(self.repo_id))
        return found

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        document = {
            "_id": f"{self.repo_id}/{number:06d}",
            "number": number,
            "source": source,
            **asdict(page),
            "at": dt.datetime.now(dt.UTC),
        }
        self._waiting.append((document, rows))
        if self.written or number > self.KEPT_IN_MEMORY:
            self.flush()

    def flush(self) -> None:
        """Write what is only in memory yet."""
        if self._waiting:
            operations = [
                pymongo.ReplaceOne({"_id": document["_id"]}, document | {"table": _packed(rows)}, upsert=True)
                for document, rows in self._waiting
            ]
            self._pages.bulk_write(operations, ordered=True)
            self._waiting, self.written = [], True


def _packed(rows: StarRows) -> bytes:
    buffer = BytesIO()
    rows.table().write_ipc(buffer, compression="zstd")
    return buffer.getvalue()


def _of_repository(repo_id: int) -> dict[str, Any]:
    return {"_id": {"$gte": f"{repo_id}/", "$lt": f"{repo_id}0"}}  # "0" follows "/"


@dataclass
class CollectionReport:
    """What a run did, as numbers for people and metadata.

    Attributes
    ----------
    total, to_ask, asked, unchanged : int
        Repositories: all, those that may have news, those of these that were asked, those left alone.
    pages, pages_not_modified : int
    stars, unstarred : int
    closed : int
        Repositories whose own list may not be read.
    unproven : int
        Repositories whose stars are stored, but may lack some: they are asked again by the next run.
    stopped : str or None
        Why the run ended before all were asked.
    outcomes : Counter
        Repositories by outcome; those not reached are not counted.
    states : dict
        By partition.
    """

    total: int = 0
    asked: int = 0
    unchanged: int = 0
    pages: int = 0
    pages_not_modified: int = 0
    stars: int = 0
    unstarred: int = 0
    closed: int = 0
    unproven: int = 0
    pending: int = 0
    stopped: str | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    states: dict[str, RepositoryState] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return len(self.states)


def needs_collection(
    repository: RepositoryRef,
    state: RepositoryState | None,
    source: StarSource,
    max_pages: int,
    checksum: str | None,
) -> bool:
    """Whether a repository may have stars that we do not have.

    Not when GitHub's own count is what it was, what is stored (with `checksum`; None if it cannot be read) was proven
    to be all of it, and the pages asked for are those that we have.
    """
    if repository.outcome not in REACHABLE:
        return False
    if state is None or state.outcome is not Outcome.OK or checksum is None or checksum != state.checksum:
        return True
    if not state.proven or source.may_have_changed(closed=state.closed_at is not None):
        return True
    if state.stargazer_count != repository.stargazer_count or repository.stargazer_count is None:
        return True
    if state.complete and len(state.pages) <= max_pages:
        return False
    return state.max_pages != max_pages


def collect_stargazers(
    repositories: Sequence[RepositoryRef],
    source: StarSource,
    store: StarStore,
    state: CollectionState,
    *,
    max_pages: int,
    workers: int = 8,
    ask_all: bool = False,
    ask: AbstractCollection[int] = (),
    prepare: Callable[[CollectionReport, Sequence[RepositoryRef], Mapping[int, RepositoryState]], None] | None = None,
    progress: Callable[[CollectionReport], None] | None = None,
) -> CollectionReport:
    """Bring the stars of the repositories up to date.

    Parameters
    ----------
    repositories : sequence of RepositoryRef
    source : StarSource
    store : StarStore
        Gets a table for each repository whose outcome is ok and whose stars changed.
    state : CollectionState
    max_pages : int
        The source's limit; a repository collected with another one is asked again.
    workers : int
        Repositories in flight at once.
    ask_all : bool
        Ask also for those whose star count did not change, and read their lists to the end: unstars are noticed so.
    ask : collection of int
        Repositories, by id, to ask whatever their count says; only what is new is read.
    prepare : callable, optional
        Called before anything is asked, with the report so far, the repositories that will be asked, and all states.
    progress : callable, optional
        Called with the report so far after each repository.

    Returns
    -------
    CollectionReport
        With a state for each repository: those not asked keep theirs.

    Raises
    ------
    AuthenticationError, RateLimitedError, CancelledError
        If nobody can be asked any more; what was collected until then is kept. The cap that a person set on requests
        is no error: the report says that it was reached.
    """
    state.check_unstars(store)
    known, unstarred = state.load(), state.unstarred()
    stored = _sound_tables(repositories, known, store)
    interrupted = state.interrupted()
    report = CollectionReport(total=len(repositories))
    pending = []
    unasked: list[RepositoryState] = []
    for repository in repositories:
        before = known.get(repository.repo_id)
        checksum = stored.get(repository.partition)
        wanted = needs_collection(repository, before, source, max_pages, checksum)
        if wanted or ((ask_all or repository.repo_id in ask) and repository.outcome in REACHABLE):
            pending.append(repository)
            continue
        after = _state_without_request(repository, before)
        if after != before:
            unasked.append(after)
        report.unchanged += after.outcome is Outcome.OK
        _count(report, after)
    # Those without anything first, then the stalest: a run that is cut short has then bought the most.
    pending.sort(key=lambda repository: _staleness(repository, known.get(repository.repo_id), interrupted))
    report.pending = len(pending)
    state.save(unasked)
    if prepare is not None:
        prepare(report, pending, known)
    commits = _Commits(state, interrupted)

    def tasks() -> Iterator[CollectionTask]:
        for repository in pending:
            repo_id = repository.repo_id
            checkpoint = MongoCheckpoint(state.pages, repository, resume=repo_id in interrupted)
            commits.open(checkpoint)
            before = known.get(repo_id) if repository.partition in stored else None
            yield CollectionTask(repository, partial(_previous, store, before), checkpoint, ask_all)

    def keep(collected: StarCollection) -> tuple[RepositoryState, StarCollection]:
        before = known.get(collected.repository.repo_id)
        checksum = None
        if collected.unstarred is not None:
            state.remember_unstars(collected.unstarred)
        if collected.table is not None:
            checksum = before.checksum if before is not None and collected.unchanged else None
            checksum = checksum or store.write(collected.repository.partition, collected.table)
            if collected.repository.repo_id in unstarred:
                state.forget_unstars(collected.repository.repo_id, collected.table)
        after = _state_after(collected.repository, before, collected, source.name, max_pages, checksum)
        commits.add(after)
        return after, collected

    try:
        for after, collected in map_bounded(keep, source.collect(tasks(), workers), workers):
            report.asked += 1
            report.pages += collected.requests
            report.pages_not_modified += collected.not_modified
            report.unstarred += collected.unstarred.height if collected.unstarred is not None else 0
            _count(report, after)
            if progress is not None:
                progress(report)
    except BudgetSpentError as error:
        report.stopped = str(error)
    finally:
        # Whatever ended the loop, what has been collected and stored is remembered as such, and so is what had begun.
        commits.close()
    for repository in pending:  # the cap was reached before them
        before = known.get(repository.repo_id)
        if repository.partition not in report.states and before is not None:
            _count(report, before)
    return report


def _sound_tables(
    repositories: Sequence[RepositoryRef], known: Mapping[int, RepositoryState], store: StarStore
) -> dict[str, str]:
    """Checksums of the stored tables, by partition; damaged ones are replaced by what they were before, if it is there.

    One table that cannot be read would stop all that follows: it is collected again, whatever GitHub's count says.
    """
    sound: dict[str, str] = {}
    expected = {r.partition: known[r.repo_id].checksum for r in repositories if r.repo_id in known}
    for partition, checksum in store.checksums(repository.partition for repository in repositories).items():
        if checksum is None or (checksum != expected.get(partition) and not _can_be_read(store, partition)):
            logger.warning("The stored stars of %s are damaged: they are collected again.", partition)
            store.repair(partition)
        else:
            sound[partition] = checksum
    return sound


def _can_be_read(store: StarStore, partition: str) -> bool:
    try:
        store.read(partition)
    except StoredDataError:
        return False
    return True


class _Commits:
    """Saves states every few seconds, from a thread of its own: whoever waits for quota saves nothing meanwhile.

    Parameters
    ----------
    state : CollectionState
    interrupted : collection of int
        Repositories of which pages are kept, from an earlier run.
    """

    def __init__(self, state: CollectionState, interrupted: AbstractCollection[int]) -> None:
        self._state = state
        self._interrupted = interrupted
        self._checkpoints: dict[int, MongoCheckpoint] = {}
        self._waiting: list[RepositoryState] = []
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gh-assets-commits", daemon=True)
        self._thread.start()

    def open(self, checkpoint: MongoCheckpoint) -> None:
        """Know the pages of a repository that is about to be collected."""
        with self._lock:
            self._checkpoints[checkpoint.repo_id] = checkpoint

    def add(self, after: RepositoryState) -> None:
        """Save the state of a repository whose table is stored, soon."""
        with self._lock:
            self._waiting.append(after)
            many = len(self._waiting) >= STATE_BATCH
            failure = self._failure
        if failure is not None:
            raise failure
        if many:
            self._commit()

    def close(self) -> None:
        """Save the rest, and the pages of what had begun."""
        self._over.set()
        self._thread.join()
        self._commit()
        for checkpoint in list(self._checkpoints.values()):
            checkpoint.flush()

    def _run(self) -> None:
        while not self._over.wait(COMMIT_SECONDS):
            try:
                self._commit()
            except Exception as error:  # noqa: BLE001 - whoever adds next hears of it
                self._failure = error
                return

    def _commit(self) -> None:
        """Save states, then forget the pages of what is done."""
        with self._committing:
            with self._lock:
                states, self._waiting = self._waiting, []
            try:
                self._state.save(states)
            except BaseException:
                with self._lock:
                    self._waiting = [*states, *self._waiting]
                raise
            with self._lock:
                done = {after.repo_id: self._checkpoints.pop(after.repo_id, None) for after in states}
            self._state.forget_pages(
                repo_id
                for repo_id, checkpoint in done.items()
                if repo_id in self._interrupted or (checkpoint is not None and checkpoint.written)
            )


def _staleness(
    repository: RepositoryRef, before: RepositoryState | None, interrupted: AbstractCollection[int]
) -> tuple[int, float]:
    if repository.repo_id in interrupted:
        return 0, 0.0  # half of it is paid for
    if before is None or before.collected_at is None:
        return 1, 0.0
    return 2, before.collected_at.timestamp()


def _previous(store: StarStore, before: RepositoryState | None) -> PreviousStars | None:
    """What was collected before, if the table still is the one that the state speaks of.

    After a crash between the two, or beside another collector, it may not be: then nothing is taken from it.
    """
    if before is None or before.checksum is None:
        return None
    try:
        table, checksum = store.read(before.partition)
    except StoredDataError:
        return None
    if checksum != before.checksum:
        return None
    return PreviousStars(
        table,
        before.pages,
        before.complete,
        before.max_pages,
        before.source,
        before.proven,
        before.entries,
        before.null_entries,
        before.failed_entries,
    )


def _count(report: CollectionReport, state: RepositoryState) -> None:
    report.outcomes[state.outcome.value] += 1
    report.stars += state.stars or 0
    report.closed += state.closed_at is not None
    report.unproven += state.outcome is Outcome.OK and not state.proven
    report.states[state.partition] = state


def _state_without_request(repository: RepositoryRef, before: RepositoryState | None) -> RepositoryState:
    """The state of a repository that is not asked: as before, or what its metadata say about it."""
    if repository.outcome in REACHABLE and before is not None:
        return before
    if before is not None and before.outcome == repository.outcome:
        return before
    return _state_after(
        repository, before, StarCollection(repository, repository.outcome, "as its metadata say"), None, 0, None
    )


def _state_after(
    repository: RepositoryRef,
    before: RepositoryState | None,
    collected: StarCollection,
    source: str | None,
    max_pages: int,
    checksum: str | None,
) -> RepositoryState:
    now = as_stored(dt.datetime.now(dt.UTC))
    ok = collected.table is not None
    closed_at = collected.closed_at
    if closed_at is None and collected.outcome is Outcome.RESTRICTED:
        closed_at = now
    elif collected.outcome is Outcome.UNKNOWN and before is not None:
        closed_at = before.closed_at
    kept = before if not ok else None  # previous good data stay, and so does what is known about them
    return RepositoryState(
        repo_id=repository.repo_id,
        partition=repository.partition,
        full_name=repository.full_name,
        outcome=collected.outcome,
        reason=collected.reason,
        stars=collected.table.height if collected.table is not None else (kept.stars if kept else None),
        stargazer_count=repository.stargazer_count if ok else (kept.stargazer_count if kept else None),
        source=(collected.source or source) if ok else (kept.source if kept else None),
        max_pages=max_pages if ok else (kept.max_pages if kept else 0),
        pages=collected.pages if ok else (kept.pages if kept else []),
        checksum=checksum if ok else (kept.checksum if kept else None),
        complete=collected.complete if ok else (kept.complete if kept else False),
        collected_at=now if ok else (kept.collected_at if kept else None),
        asked_at=now,
        closed_at=closed_at,
        proven=collected.proven if ok else (kept.proven if kept else False),
        entries=collected.entries if ok else (kept.entries if kept else 0),
        null_entries=collected.null_entries if ok else (kept.null_entries if kept else 0),
        failed_entries=collected.failed_entries if ok else (kept.failed_entries if kept else 0),
    )
