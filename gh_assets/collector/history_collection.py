"""Updating the star histories of many repositories: which come first, what is stored, and what is reported.

Independent of Dagster and of settings. Each repository is committed by itself, table first and state second: a killed
run loses only the repositories in flight. A table that does not have the checksum of its state is read anew.
"""

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from gh_assets.collector.history_reader import NO_HISTORIES, HistoryReader, HistoryReading, KnownHistory
from gh_assets.collector.history_state import HistoryState, HistoryStates
from gh_assets.collector.quota import record_quota
from gh_assets.collector.star_history import last_day, recent_days, stars_of, table_of, weeks_of
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.errors import BudgetSpentError, StoredDataError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.github.rate_limits import Resource
from gh_assets.local.concurrency import map_bounded
from gh_assets.local.progress import Progress
from gh_assets.schemas import STAR_HISTORY, STAR_TRENDS
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.documents import as_stored
from gh_assets.storage.mongo import MongoDatabase

DUE_AFTER = dt.timedelta(hours=20)
"""Age at which a history is due again: a day, less the time that a daily run may begin earlier than the last one."""

TREND_DAYS = dt.timedelta(days=14)
"""Age, beside the newest history, beyond which a history says nothing of the last 30 days."""


@dataclass
class HistoryReport:
    """Counts of a run.

    Attributes
    ----------
    total : int
        Repositories.
    pages, not_modified : int
        Requests for histories, and repositories whose newest page had the status 304.
    stopped : str or None
        Why the run ended early.
    states : dict
        By partition, of the repositories that were requested.
    """

    total: int = 0
    pages: int = 0
    not_modified: int = 0
    stopped: str | None = None
    states: dict[str, HistoryState] = field(default_factory=dict)

    def add(self, reading: HistoryReading, state: HistoryState) -> None:
        """Count a reading of a repository."""
        self.pages += reading.requests
        self.not_modified += reading.not_modified
        self.states[state.partition] = state

    @property
    def asked(self) -> int:
        """Number of repositories that were requested."""
        return len(self.states)

    @property
    def stars(self) -> int:
        """Sum of the days of the histories that were requested."""
        return sum(state.sum for state in self.states.values())

    @property
    def outcomes(self) -> Counter[str]:
        """Outcomes of the repositories that were requested."""
        return Counter(state.outcome.value for state in self.states.values())

    @property
    def unavailable(self) -> bool:
        """Whether this GitHub has no histories."""
        return bool(self.asked) and self.outcomes[Outcome.UNAVAILABLE.value] == self.asked

    def summary_lines(self) -> list[str]:
        """Describe what the numbers alone do not show, a sentence or two per line."""
        lines = [NO_HISTORIES] if self.unavailable else []
        unread = self.outcomes[Outcome.UNKNOWN.value]
        if unread:
            lines.append(f"The star histories of {unread:,} repositories could not be read: the next run tries again.")
        if self.stopped is not None:
            lines.append(f"{self.stopped} {self.asked:,} of {self.total:,} star histories were read.")
        return lines


def is_due(asked_at: dt.datetime | None, now: dt.datetime) -> bool:
    """Return whether a history that was last requested at a time, or never (None), is due."""
    return asked_at is None or asked_at <= now - DUE_AFTER


def due_histories(
    repositories: Sequence[RepositoryRef], asked_at: Mapping[int, dt.datetime], now: dt.datetime
) -> list[RepositoryRef]:
    """Return the reachable repositories whose history is due, longest first.

    Parameters
    ----------
    repositories : sequence of RepositoryRef
    asked_at : mapping of int to datetime
        From `HistoryStates.asked_at`.
    now : datetime
        With a time zone.
    """
    never = dt.datetime.min.replace(tzinfo=dt.UTC)
    due = [one for one in repositories if one.outcome in REACHABLE and is_due(asked_at.get(one.repo_id), now)]
    return sorted(due, key=lambda one: asked_at.get(one.repo_id, never))


def read_histories(
    repositories: Sequence[RepositoryRef],
    client: GitHubClient,
    database: MongoDatabase,
    store: AssetStore,
    *,
    max_pages: int = 1,
    reserve: float = 0.0,
    workers: int = 8,
    progress: Progress | None = None,
) -> HistoryReport:
    """Read the histories of repositories in the order given, and store their days and states.

    The newest pages of all repositories come first, then the older ones of those that are not complete.

    Parameters
    ----------
    repositories : sequence of RepositoryRef
        Those that are not reachable are left out.
    client : GitHubClient
    database : pymongo database
    store : AssetStore
    max_pages : int
        Maximum number of pages of 30 weeks, older than what is stored, that are read of a repository.
    reserve : float
        Share of the quota that is left: older pages are read only with more.
    workers : int
    progress : Progress, optional

    Raises
    ------
    AuthenticationError, RateLimitedError, CancelledError, OutageError
        If no more requests are possible; what was read until then is stored.
    """
    progress = progress or Progress()
    wanted = [repository for repository in repositories if repository.outcome in REACHABLE]
    run = _Run(client, HistoryStates(database), PartitionTables(store, STAR_HISTORY.name), max_pages, reserve, workers)
    report = HistoryReport(total=len(wanted))
    try:
        for read, choose in ((run.newest, lambda: wanted), (run.older, lambda: run.incomplete(wanted))):
            for reading, after in map_bounded(read, choose(), workers):
                report.add(reading, after)
                progress.report(STAR_HISTORY.name, report.asked, report.total, f"{report.pages:,} requests")
        if run.interrupted is not None:
            raise run.interrupted
    except BudgetSpentError as error:
        report.stopped = str(error)
    if report.asked and not report.unavailable:
        store.write_table(STAR_TRENDS.name, trends_of(run.states.load().values()))
    record_quota(database, client)
    return report


class _Run:
    """The readings of one run, each of which is stored at once; many threads may share it."""

    def __init__(
        self,
        client: GitHubClient,
        states: HistoryStates,
        tables: PartitionTables,
        max_pages: int,
        reserve: float,
        workers: int,
    ) -> None:
        self.client, self.states, self.tables = client, states, tables
        self.max_pages, self.reserve, self.workers = max_pages, reserve, workers
        self.known = states.load()
        self.interrupted: Exception | None = None
        self._newest = HistoryReader(client, 0)
        self._new: set[int] = set()

    def newest(self, repository: RepositoryRef) -> tuple[HistoryReading, HistoryState]:
        """Read the newest pages."""
        before = self.known.get(repository.repo_id)
        stored = _stored(self.tables, before)
        reading = self._newest.read(repository, stored)
        if stored is None:
            self._new.add(repository.repo_id)
        return reading, self._save(before, stored, reading)

    def incomplete(self, repositories: Iterable[RepositoryRef]) -> Iterator[RepositoryRef]:
        """Yield the repositories of which older pages may be read, as long as the quota has more than the reserve."""
        for repository in repositories:
            state = self.known.get(repository.repo_id)
            if state is None or state.outcome is not Outcome.OK or state.complete or state.checksum is None:
                continue
            if self._pages_left(repository):
                if not self._may_read():
                    return
                yield repository

    def older(self, repository: RepositoryRef) -> tuple[HistoryReading, HistoryState]:
        """Read older pages of a history whose newest ones were read."""
        before = self.known[repository.repo_id]
        stored = _stored(self.tables, before)
        if stored is None or before.read_until is None:
            raise StoredDataError(f"The star history of {repository.full_name} is not as it was just stored.")
        is_new = repository.repo_id in self._new
        reader = HistoryReader(self.client, self._pages_left(repository))
        until = before.read_until.date()
        reading = reader.read_older(repository, replace(stored, read_now=is_new), until, self._may_read)
        self.interrupted = self.interrupted or reading.interrupted
        return reading, self._save(before, stored, reading)

    def _pages_left(self, repository: RepositoryRef) -> int:
        """Return how many older pages may be read: of a new history, the newest one counts."""
        return self.max_pages - (repository.repo_id in self._new)

    def _may_read(self) -> bool:
        left, limit = self.client.pool.remaining(Resource.REST), self.client.pool.limit(Resource.REST)
        # Each worker may have a request under way.
        return left is None or limit is None or left - self.workers >= self.reserve * limit

    def _save(self, before: HistoryState | None, stored: KnownHistory | None, reading: HistoryReading) -> HistoryState:
        after = _state_after(before, reading)
        if reading.weeks is not None:
            after = after.model_copy(update={"checksum": _store(self.tables, before, stored, reading)})
        self.states.save([after])
        self.known[after.repo_id] = after
        return after


def trends_of(states: Iterable[HistoryState]) -> pl.DataFrame:
    """Return the trends of all repositories whose history was read within `TREND_DAYS` of the newest one.

    Returns
    -------
    polars.DataFrame
        Of schema `STAR_TRENDS`, by repository id.
    """
    read = [(state, state.read_until) for state in states if state.read_until is not None]
    newest = max((until for _, until in read), default=None)
    rows = [
        (state.repo_id, trend.recent, trend.usual)
        for state, until in sorted(read, key=lambda pair: pair[0].repo_id)
        if newest is not None and newest - until <= TREND_DAYS and (trend := state.trend) is not None
    ]
    return pl.DataFrame(rows, schema=STAR_TRENDS.dtypes, orient="row")


def _stored(tables: PartitionTables, before: HistoryState | None) -> KnownHistory | None:
    """Return what is stored of a history; None if nothing is, or the table is not that of the state."""
    if before is None or before.checksum is None:
        return None
    try:
        table, checksum = tables.read(before.partition)
    except StoredDataError:
        return None
    if checksum != before.checksum:
        return None
    return KnownHistory(weeks_of(table), before.etag, before.complete, before.gap)


def _store(
    tables: PartitionTables, before: HistoryState | None, stored: KnownHistory | None, reading: HistoryReading
) -> str:
    """Store the days of a history, unless they are stored already, and return the table's checksum."""
    assert reading.weeks is not None
    assert reading.today is not None
    if before is not None and before.checksum and stored is not None and stored.weeks == reading.weeks:
        return before.checksum
    until = last_day(reading.weeks, reading.today)
    return tables.write(reading.repository.partition, table_of(reading.repository.repo_id, reading.weeks, until))


def _state_after(before: HistoryState | None, reading: HistoryReading) -> HistoryState:
    """Return the state after a reading; what is stored stays if the history could not be read."""
    now = as_stored(dt.datetime.now(dt.UTC))
    repository = reading.repository
    changes: dict[str, Any] = {
        "repo_id": repository.repo_id,
        "partition": repository.partition,
        "full_name": repository.full_name,
        "outcome": reading.outcome,
        "reason": reading.reason,
        "asked_at": now,
    }
    if reading.weeks is None or reading.today is None:
        return before.model_copy(update=changes) if before is not None else HistoryState(**changes)
    until = last_day(reading.weeks, reading.today)
    return HistoryState(
        **changes,
        complete=reading.complete,
        proven=reading.proven,
        entries=len(reading.weeks),
        collected_at=now,
        etag=reading.etag,
        first_week=_midnight(min(reading.weeks)),
        read_until=_midnight(until),
        sum=stars_of(reading.weeks),
        gap=reading.gap,
        recent=recent_days(reading.weeks, until),
    )


def _midnight(day: dt.date) -> dt.datetime:
    """Return a day as MongoDB can store it."""
    return dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)
