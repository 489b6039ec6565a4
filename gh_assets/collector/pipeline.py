"""Collecting the stars of many repositories: which ones are requested, in which order, and what is stored.

The pipeline is independent of Dagster and of settings: it gets a source, a store and a state. Each repository is
committed by itself, table first and state second, so that a killed run loses only what was in flight, and the next run
continues.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as AbstractCollection
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from gh_assets.collector.star_sources.base import (
    OWN_LIST_SOURCES,
    CollectionOptions,
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarSource,
)
from gh_assets.collector.state import CollectionState, MongoCheckpoint, RepositoryState, state_after
from gh_assets.errors import BudgetSpentError, StoredDataError
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.local.concurrency import map_bounded
from gh_assets.storage.asset_store import PartitionTables

logger = logging.getLogger(__name__)

STATE_BATCH = 200
"""States that are written to Mongo at once: the number of repositories that a crash makes the next run repeat."""

COMMIT_SECONDS = 3.0
"""Maximum time until a state is written."""


@dataclass
class CollectionReport:
    """Counts of a run.

    Attributes
    ----------
    total, pending, asked, unchanged : int
        Repositories: all, those that may have new stars, those of these that were collected, those with nothing new.
    pages, pages_not_modified : int
    stars, unstarred : int
    closed : int
        Repositories whose own list may not be read.
    unproven : int
        Repositories whose stored stars may be incomplete: the next run collects them again.
    gaps : int
        Repositories whose event feeds may have lost stars since the last look.
    stopped : str or None
        Why the run ended early.
    outcomes : Counter
        Repositories by outcome, without those that were not reached.
    states : dict
        By partition.
    changed : set of str
        Partitions whose stars changed.
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
    gaps: int = 0
    pending: int = 0
    stopped: str | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    states: dict[str, RepositoryState] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)

    def add(self, state: RepositoryState) -> None:
        """Count a repository."""
        self.outcomes[state.outcome.value] += 1
        self.stars += state.stars or 0
        self.closed += state.closed_at is not None
        self.unproven += state.outcome is Outcome.OK and not state.proven
        self.states[state.partition] = state

    def add_collection(self, collected: StarCollection, state: RepositoryState) -> None:
        """Count a repository that was collected."""
        self.asked += 1
        self.pages += collected.requests
        self.pages_not_modified += collected.not_modified
        self.gaps += collected.gap is not None
        if collected.table is not None and not collected.unchanged:
            self.changed.add(state.partition)
        self.unstarred += collected.unstarred.height if collected.unstarred is not None else 0
        self.add(state)


@dataclass(frozen=True)
class Selection:
    """Repositories to collect, in order, and what is known before.

    Attributes
    ----------
    pending : list of RepositoryRef
    report : CollectionReport
        Counts of the other repositories; the run adds its own.
    known : mapping of int to RepositoryState
        States by repository id.
    stored : mapping of str to str
        Checksums of undamaged tables by partition.
    interrupted : mapping
        Ids of the pages of interrupted runs, by repository.
    """

    pending: list[RepositoryRef]
    report: CollectionReport
    known: Mapping[int, RepositoryState]
    stored: Mapping[str, str]
    interrupted: Mapping[int, Sequence[str]]


@dataclass(frozen=True)
class StarPipeline:
    """Updates the stars of repositories.

    Parameters
    ----------
    source : StarSource
    store : PartitionTables
        Receives a table for each repository with outcome ok whose stars changed.
    state : CollectionState
    options : CollectionOptions
    """

    source: StarSource
    store: PartitionTables
    state: CollectionState
    options: CollectionOptions

    def collect(self, repositories: Sequence[RepositoryRef]) -> CollectionReport:
        """Select repositories and collect them; see `run`."""
        return self.run(self.select(repositories))

    def select(self, repositories: Sequence[RepositoryRef]) -> Selection:
        """Decide which repositories are collected: those without data first, then by age.

        A run that is cut short has then got the most from its requests. The states of repositories that are not
        collected are updated from their metadata.
        """
        self.state.check_unstars(self.store)
        known = self.state.load()
        checksums = self._intact_tables(repositories, known)
        interrupted = self.state.interrupted()
        report = CollectionReport(total=len(repositories))
        pending = []
        updated = []
        for repository in repositories:
            before = known.get(repository.repo_id)
            if self._is_wanted(repository, before, checksums.get(repository.partition)):
                pending.append(repository)
                continue
            after = _state_without_request(repository, before)
            if after != before:
                updated.append(after)
            report.unchanged += after.outcome is Outcome.OK
            report.add(after)
        pending.sort(key=lambda repository: _staleness(repository, known.get(repository.repo_id), interrupted))
        report.pending = len(pending)
        self.state.save(updated)
        return Selection(pending, report, known, checksums, interrupted)

    def _is_wanted(self, repository: RepositoryRef, before: RepositoryState | None, checksum: str | None) -> bool:
        """Return whether a repository is to be collected: it may have stars that are not stored, or it is forced.

        It has none if GitHub's count is unchanged, the stored table is proven, and the same pages are requested.
        """
        options = self.options
        if repository.outcome not in REACHABLE:
            return False
        if options.full or repository.repo_id in options.force:
            return True
        if before is None or before.outcome is not Outcome.OK or checksum is None or checksum != before.checksum:
            return True
        if not before.proven or self._may_know_more(before):
            return True
        if before.stargazer_count != repository.stargazer_count or repository.stargazer_count is None:
            return True
        is_cut = not before.complete or len(before.pages) > options.max_pages
        return is_cut and before.max_pages != options.max_pages

    def _may_know_more(self, before: RepositoryState) -> bool:
        """Return whether the source may have new stars of a repository although GitHub's count of them is the same."""
        if self.source.name == "auto":
            return before.closed_at is not None
        return self.source.name not in OWN_LIST_SOURCES

    def _intact_tables(
        self, repositories: Sequence[RepositoryRef], known: Mapping[int, RepositoryState]
    ) -> dict[str, str]:
        """Return the checksums of undamaged tables by partition; damaged ones are replaced by their previous version.

        A single damaged table would stop all that follows. It is collected again even if GitHub's count is unchanged.
        """
        intact: dict[str, str] = {}
        expected = {r.partition: known[r.repo_id].checksum for r in repositories if r.repo_id in known}
        for partition, checksum in self.store.checksums(r.partition for r in repositories).items():
            if checksum is None or (checksum != expected.get(partition) and not _is_readable(self.store, partition)):
                logger.warning("The stored stars of %s are damaged: they are collected again.", partition)
                self.store.repair(partition)
                checksum = self.store.checksums([partition]).get(partition)
            if checksum is not None:
                intact[partition] = checksum
        return intact

    def run(
        self, selection: Selection, on_progress: Callable[[CollectionReport], None] | None = None
    ) -> CollectionReport:
        """Collect the selected repositories.

        Parameters
        ----------
        selection : Selection
        on_progress : callable, optional
            Called with the report after each repository.

        Returns
        -------
        CollectionReport
            With a state for each repository; those that were not reached keep theirs. If the cap on requests was
            reached, `CollectionReport.stopped` says so.

        Raises
        ------
        AuthenticationError, RateLimitedError, CancelledError
            If no more requests are possible; what was collected until then is kept.
        """
        report = selection.report
        unstarred = self.state.unstarred()
        commits = _Commits(self.state)

        def store(collected: StarCollection) -> tuple[RepositoryState, StarCollection]:
            before = selection.known.get(collected.repository.repo_id)
            checksum = self._store_table(collected, selection.stored, unstarred)
            after = state_after(before, collected, self.source.name, self.options.max_pages, checksum)
            commits.add(after)
            return after, collected

        workers = self.options.workers
        try:
            results = self.source.collect(self._tasks(selection, commits), workers)
            for after, collected in map_bounded(store, results, workers):
                report.add_collection(collected, after)
                if on_progress is not None:
                    on_progress(report)
        except BudgetSpentError as error:
            report.stopped = str(error)
        finally:
            # However the loop ended: what is stored gets its state, and what had begun keeps its pages.
            commits.close()
        for repository in selection.pending:  # those that were not reached
            before = selection.known.get(repository.repo_id)
            if repository.partition not in report.states and before is not None:
                report.add(before)
        return report

    def _tasks(self, selection: Selection, commits: _Commits) -> Iterator[CollectionTask]:
        for repository in selection.pending:
            pages = selection.interrupted.get(repository.repo_id, ())
            checkpoint = MongoCheckpoint(self.state.pages, repository, pages)
            commits.open(checkpoint)
            load = partial(_previous, self.store, repository, selection.known.get(repository.repo_id))
            previous = load if repository.partition in selection.stored else lambda: None
            yield CollectionTask(repository, previous, checkpoint, self.options.full)

    def _store_table(
        self, collected: StarCollection, stored: Mapping[str, str], unstarred: Mapping[int, Sequence[str]]
    ) -> str | None:
        """Store the table and the unstars of a repository, and return the table's checksum."""
        if collected.unstarred is not None:
            self.state.add_unstars(collected.unstarred)
        if collected.table is None:
            return None
        repository = collected.repository
        checksum = stored.get(repository.partition) if collected.unchanged else None
        checksum = checksum or self.store.write(repository.partition, collected.table)
        if repository.repo_id in unstarred:
            self.state.drop_false_unstars(unstarred[repository.repo_id], collected.table)
        return checksum


def _is_readable(store: PartitionTables, partition: str) -> bool:
    try:
        store.read(partition)
    except StoredDataError:
        return False
    return True


class _Commits:
    """Saves states every few seconds from a thread of its own, since workers may wait for quota for an hour.

    Parameters
    ----------
    state : CollectionState
    """

    def __init__(self, state: CollectionState) -> None:
        self._state = state
        self._checkpoints: dict[int, MongoCheckpoint] = {}
        self._waiting: list[RepositoryState] = []
        self._failure: Exception | None = None
        self._lock = threading.Lock()
        self._committing = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gh-assets-commits", daemon=True)
        self._thread.start()

    def open(self, checkpoint: MongoCheckpoint) -> None:
        """Register the checkpoint of a repository that is about to be collected."""
        with self._lock:
            self._checkpoints[checkpoint.repo_id] = checkpoint

    def add(self, after: RepositoryState) -> None:
        """Save the state of a repository whose table is stored, soon."""
        with self._lock:
            self._waiting.append(after)
            is_full = len(self._waiting) >= STATE_BATCH
            failure = self._failure
        if failure is not None:
            raise failure
        if is_full:
            self._commit()

    def close(self) -> None:
        """Save the remaining states, and the pages of repositories that had begun."""
        self._over.set()
        self._thread.join()
        self._commit()
        for checkpoint in list(self._checkpoints.values()):
            checkpoint.flush()

    def _run(self) -> None:
        while not self._over.wait(COMMIT_SECONDS):
            try:
                self._commit()
            except Exception as error:  # noqa: BLE001 - the next `add` raises it
                self._failure = error
                return

    def _commit(self) -> None:
        """Save states, then delete the pages of finished repositories."""
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
                done = [self._checkpoints.pop(after.repo_id) for after in states]
            self._state.delete_pages(identity for checkpoint in done for identity in checkpoint.stored)


def _staleness(
    repository: RepositoryRef, before: RepositoryState | None, interrupted: AbstractCollection[int]
) -> tuple[int, float]:
    if repository.repo_id in interrupted:
        return 0, 0.0  # a part of it is paid for
    if before is None or before.collected_at is None:
        return 1, 0.0
    return 2, before.collected_at.timestamp()


def _previous(
    store: PartitionTables, repository: RepositoryRef, before: RepositoryState | None
) -> PreviousStars | None:
    """Return the stored stars, with what the state says of them if it describes this table.

    It may describe another one after a crash between the two writes, or beside another collector.
    """
    try:
        table, checksum = store.read(repository.partition)
    except StoredDataError:
        return None
    if before is not None and checksum == before.checksum:
        return before.previous_stars(table)
    # A repository may have got the name, and so the partition, of another one.
    table = table.filter(pl.col("repo_id") == repository.repo_id)
    return None if table.is_empty() else PreviousStars(table, [])


def _state_without_request(repository: RepositoryRef, before: RepositoryState | None) -> RepositoryState:
    """Return the state of a repository that is not collected: unchanged, or its outcome from its metadata."""
    if before is not None and (repository.outcome in REACHABLE or before.outcome == repository.outcome):
        return before
    collected = StarCollection(repository, repository.outcome, "as its metadata say")
    return state_after(before, collected, None, 0, None)
