"""Collecting the stars of many repositories: who has to be asked, in which order, and what is kept of it.

The driver knows neither Dagster nor where tables lie: it is given a source, a store and a `CollectionState`.
Each repository is committed by itself, table first, state second, so a run that is killed loses only what was
in flight, and the next run goes on.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import polars as pl
import pymongo
from pymongo.collection import Collection

from gh_assets.collector.concurrency import map_bounded
from gh_assets.collector.outcomes import REACHABLE, Outcome
from gh_assets.collector.sources import Page, PreviousStars, RepositoryRef, StarCollection, StarSource

STATE_BATCH = 200
"""Repositories whose state is written to Mongo at once; at most so many are collected again after a crash."""


class StarStore(Protocol):
    """Where the tables of stargazers lie, one a partition."""

    def partitions(self) -> set[str]:
        """Partitions that have a table."""

    def read(self, partition: str) -> pl.DataFrame:
        """Read a table."""

    def write(self, partition: str, table: pl.DataFrame) -> None:
        """Replace a table, in one step."""


@dataclass(frozen=True)
class RepositoryState:
    """What is known of the collection of one repository's stars."""

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
    complete: bool
    collected_at: dt.datetime | None
    asked_at: dt.datetime | None

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RepositoryState:
        pages = [Page(page["etag"], page["rows"], page["full"]) for page in document["pages"]]
        plain = {
            name: document[name] for name in cls.__dataclass_fields__ if name not in ("repo_id", "outcome", "pages")
        }
        return cls(repo_id=document["_id"], outcome=Outcome(document["outcome"]), pages=pages, **plain)

    def to_document(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "repo_id"}
        pages = [{"etag": page.etag, "rows": page.rows, "full": page.full} for page in self.pages]
        return plain | {"_id": self.repo_id, "outcome": self.outcome.value, "pages": pages}


class CollectionState:
    """The states of all repositories, in a Mongo collection.

    Parameters
    ----------
    collection : pymongo.collection.Collection
        One document a repository, by its database id.
    """

    def __init__(self, collection: Collection[dict[str, Any]]) -> None:
        self.collection = collection

    def load(self) -> dict[int, RepositoryState]:
        """All states, by repository id."""
        states = (RepositoryState.from_document(document) for document in self.collection.find())
        return {state.repo_id: state for state in states}

    def save(self, states: Sequence[RepositoryState], known: Mapping[int, RepositoryState]) -> None:
        """Write states: inserts for new ones, replacements for those already `known`."""
        operations: list[pymongo.InsertOne[dict[str, Any]] | pymongo.ReplaceOne[dict[str, Any]]] = []
        for state in states:
            document = state.to_document()
            if state.repo_id in known:
                operations.append(pymongo.ReplaceOne({"_id": state.repo_id}, document, upsert=True))
            else:
                operations.append(pymongo.InsertOne(document))
        if operations:
            self.collection.bulk_write(operations, ordered=False)


@dataclass
class CollectionReport:
    """What a run did, as numbers for people and metadata."""

    total: int = 0
    asked: int = 0
    unchanged: int = 0
    pages: int = 0
    pages_not_modified: int = 0
    stars: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    states: dict[str, RepositoryState] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return len(self.states)


def needs_asking(repository: RepositoryRef, state: RepositoryState | None, max_pages: int, has_table: bool) -> bool:
    """Whether a repository may have stars that we do not have.

    Not when GitHub's own count is what it was and the pages asked for are those that we have.
    """
    if repository.outcome not in REACHABLE:
        return False
    if state is None or not has_table or state.outcome is not Outcome.OK:
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
        Ask also for those whose star count did not change.
    progress : callable, optional
        Called with the report so far after each repository.

    Returns
    -------
    CollectionReport
        With a state for each repository: those not asked keep theirs.

    Raises
    ------
    AuthenticationError, RateLimitedError
        If nobody can be asked any more; what was collected until then is kept.
    """
    known = state.load()
    present = store.partitions()
    report = CollectionReport(total=len(repositories))
    to_ask = []
    to_save: list[RepositoryState] = []
    for repository in repositories:
        before = known.get(repository.repo_id)
        has_table = repository.partition in present
        if needs_asking(repository, before, max_pages, has_table) or (ask_all and repository.outcome in REACHABLE):
            to_ask.append(repository)
            continue
        after = _unasked(repository, before)
        if after != before:
            to_save.append(after)
        report.unchanged += after.outcome is Outcome.OK
        _count(report, after)
    # Those without anything first: a run that is cut short has then bought the most.
    to_ask.sort(key=lambda repository: known.get(repository.repo_id) is not None)

    def collect(repository: RepositoryRef) -> tuple[RepositoryState, StarCollection]:
        before = known.get(repository.repo_id)
        previous = None
        if before is not None and before.pages and repository.partition in present and before.source == source.name:
            previous = PreviousStars(store.read(repository.partition), before.pages)
        collected = source.collect(repository, previous)
        if collected.table is not None and not _same(previous, collected):
            store.write(repository.partition, collected.table)
        return _state_after(repository, before, collected, source.name, max_pages), collected

    try:
        for after, collected in _in_batches(map_bounded(collect, to_ask, workers), to_save, state, known):
            report.asked += 1
            report.pages += collected.requests
            report.pages_not_modified += collected.not_modified
            _count(report, after)
            if progress is not None:
                progress(report)
    finally:
        # Whatever ended the loop, what has been collected and stored is remembered as such.
        state.save(to_save, known)
    return report


def _in_batches(
    results: Iterator[tuple[RepositoryState, StarCollection]],
    to_save: list[RepositoryState],
    state: CollectionState,
    known: Mapping[int, RepositoryState],
) -> Iterator[tuple[RepositoryState, StarCollection]]:
    for after, collected in results:
        to_save.append(after)
        if len(to_save) >= STATE_BATCH:
            state.save(to_save, known)
            to_save.clear()
        yield after, collected


def _same(previous: PreviousStars | None, collected: StarCollection) -> bool:
    return previous is not None and collected.table is not None and previous.table.equals(collected.table)


def _count(report: CollectionReport, state: RepositoryState) -> None:
    report.outcomes[state.outcome.value] += 1
    report.stars += state.stars or 0
    report.states[state.partition] = state


def _unasked(repository: RepositoryRef, before: RepositoryState | None) -> RepositoryState:
    """The state of a repository that is not asked: as before, or what its metadata say about it."""
    if repository.outcome in REACHABLE and before is not None:
        return before
    if before is not None and before.outcome == repository.outcome:
        return before
    return _state_after(repository, before, StarCollection(repository.outcome, "as its metadata say"), None, 0)


def _state_after(
    repository: RepositoryRef,
    before: RepositoryState | None,
    collected: StarCollection,
    source: str | None,
    max_pages: int,
) -> RepositoryState:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    ok = collected.table is not None
    kept = before if not ok else None  # previous good data stay, and so does what is known about them
    return RepositoryState(
        repo_id=repository.repo_id,
        partition=repository.partition,
        full_name=repository.full_name,
        outcome=collected.outcome,
        reason=collected.reason,
        stars=collected.table.height if collected.table is not None else (kept.stars if kept else None),
        stargazer_count=repository.stargazer_count if ok else (kept.stargazer_count if kept else None),
        source=source if ok else (kept.source if kept else None),
        max_pages=max_pages if ok else (kept.max_pages if kept else 0),
        pages=collected.pages if ok else (kept.pages if kept else []),
        complete=collected.complete if ok else (kept.complete if kept else False),
        collected_at=now if ok else (kept.collected_at if kept else None),
        asked_at=now,
    )
