"""The source of stars that reads users' lists, and inverts them: for each wanted repository, the users who starred it.

Lists are kept whole in segments: immutable tables of some hundred users each. A user's state in Mongo names the segment
with the present list and is written after it, so that a killed run loses at most the users of one segment.
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from gh_assets.collector.star_sources.base import CollectionTask, RepositoryRef, StarCollection
from gh_assets.collector.star_sources.merging import collection_from_users
from gh_assets.collector.star_sources.starred_lists import StarredListTask, StarredReader, UserList
from gh_assets.collector.star_sources.starred_state import SeedUser, SegmentStore, StarredState, StoredLists, UserState
from gh_assets.collector.star_sources.user_selection import select_users, unread_users
from gh_assets.errors import BudgetSpentError, RateLimitedError, StoredDataError
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STARRED
from gh_assets.storage.documents import as_stored

logger = logging.getLogger(__name__)

SEGMENT_USERS = 250
SEGMENT_ROWS = 100_000
"""A segment is written when it has this many users or rows."""

READING_TIME = dt.timedelta(hours=1)
"""Stars younger than this when a user's list was stored may have been given after it was read."""

ORPHAN_AGE = dt.timedelta(hours=24)
"""Age at which segments without a state are deleted: another process may be about to name a younger one."""


@dataclass
class StarredReport:
    """Progress of reading users' lists.

    Attributes
    ----------
    known : int
        Users known before.
    total : int
        Users to collect.
    collected : int
        Lists that were read, or failed.
    unchanged : int
    stars : int
    unread : int
        Users whose lists could not be read whole; the next run collects them again.
    outcomes : dict
        Number of lists by outcome.
    """

    known: int = 0
    total: int = 0
    collected: int = 0
    unchanged: int = 0
    stars: int = 0
    unread: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


class StarredLists:
    """Source of stars that reads the lists of users. Its stars of a repository are never complete.

    Parameters
    ----------
    reader : StarredReader
    state : StarredState
    segments : SegmentStore
    seeds : callable
        Given the wanted repositories, returns users who may have starred them.
    max_users : int
        Maximum number of users in total, those with the highest weights.
    max_pages : int
        Maximum pages per list of the reader; a list that was cut after fewer is read again.
    full : bool
        Read also lists that are not due, and all to their end, which detects stars that were taken back.
    progress : callable, optional
        Called with the report so far, for the first time before the first request.
    """

    name = "starred"

    def __init__(
        self,
        reader: StarredReader,
        state: StarredState,
        segments: SegmentStore,
        seeds: Callable[[Sequence[RepositoryRef]], Iterable[SeedUser]],
        *,
        max_users: int = 5000,
        max_pages: int = 10,
        full: bool = False,
        progress: Callable[[StarredReport], None] | None = None,
    ) -> None:
        self.reader = reader
        self.state = state
        self.segments = segments
        self.seeds = seeds
        self.max_users = max_users
        self.max_pages = max_pages
        self.full = full
        self.progress = progress
        self.report = StarredReport()

    def may_have_changed(self, *, closed: bool) -> bool:
        """Return True: more users may be known."""
        return True

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Collect users first, then return which of the wanted repositories they starred."""
        wanted = list(tasks)
        if not wanted:
            return
        failure: Exception | None = None
        try:
            self._collect_users([task.repository for task in wanted], workers)
        except (BudgetSpentError, RateLimitedError) as error:
            failure = error  # raised when the stars that are known were yielded
        states = self.state.load()
        rows, damaged = self._stars_by_repository({task.repository.repo_id for task in wanted}, states)
        read_whole = {
            user: state.collected_at - READING_TIME
            for user, state in states.items()
            if isinstance(user, int)
            and state.collected_at is not None
            and state.holds_all_stars
            and state.segment not in damaged
        }
        collected = sum(state.collected_at is not None for state in states.values())
        nothing = f"none of the {collected:,} users whose lists were read starred it"

        def result(task: CollectionTask) -> StarCollection:
            stars = rows.get(task.repository.repo_id)
            return collection_from_users(task.repository, stars, task.load_previous(), read_whole, nothing)

        yield from map_bounded(result, wanted, workers)
        if failure is not None:
            raise failure

    # -- reading lists -------------------------------------------------------------------------------------------

    def _collect_users(self, repositories: Sequence[RepositoryRef], workers: int) -> None:
        states = self.state.load()
        users = select_users(
            self.seeds(repositories), states, max_users=self.max_users, max_pages=self.max_pages, full=self.full
        )
        self.report.known, self.report.total = len(states), len(users)
        if self.progress is not None and users:
            self.progress(self.report)
        self._read(users, states, workers)
        # Most faults are transient: users whose lists failed are collected once more after all others.
        states = self.state.load()
        unread = unread_users(users, states)
        self.report.total += len(unread)
        self._read(unread, states, workers)
        self.report.unread = len(unread_users(unread, self.state.load()))
        self._sweep()

    def _read(self, users: Sequence[SeedUser], states: Mapping[int | str, UserState], workers: int) -> None:
        """Read the lists of users, and store them."""
        if not users:
            return
        stored = StoredLists(self.segments)
        tasks = (self._task(user, states.get(user.key), stored) for user in users)
        self._keep(self.reader.read(tasks, workers), states)

    def _task(self, user: SeedUser, state: UserState | None, stored: StoredLists) -> StarredListTask:
        if state is None:
            return StarredListTask(user)
        known = stored.read(state)
        # A list that was cut after fewer pages ends where this one has to continue.
        may_end_early = state.proven and not state.ends_early(self.max_pages) and not self.full
        return StarredListTask(
            user,
            state.etag,
            known,
            was_complete=state.complete,
            refresh=may_end_early and known is not None,
            entries=state.entries,
            null_entries=state.null_entries,
            failed_entries=state.failed_entries,
        )

    def _keep(self, results: Iterable[UserList], states: Mapping[int | str, UserState]) -> None:
        """Store lists as they are read, some hundred at once."""
        lists: list[UserList] = []
        try:
            for entry in results:
                lists.append(entry)
                self._count(entry)
                rows = sum(e.rows.height for e in lists if e.rows is not None and not e.unchanged)
                if len(lists) >= SEGMENT_USERS or rows >= SEGMENT_ROWS:
                    self._write(lists, states)
                    lists = []
        finally:
            self._write(lists, states)

    def _count(self, entry: UserList) -> None:
        self.report.collected += 1
        self.report.unchanged += entry.unchanged
        self.report.stars += entry.rows.height if entry.rows is not None else 0
        self.report.outcomes[entry.outcome.value] = self.report.outcomes.get(entry.outcome.value, 0) + 1
        if self.progress is not None:
            self.progress(self.report)

    def _write(self, lists: Sequence[UserList], states: Mapping[int | str, UserState]) -> None:
        """Write a segment, then the states that name it."""
        now = as_stored(dt.datetime.now(dt.UTC))
        changed = [entry.rows for entry in lists if entry.rows is not None and not entry.unchanged]
        segment = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
        if any(rows.height for rows in changed):
            self.segments.write(segment, pl.concat(changed))
        saved = []
        for entry in lists:
            key = entry.user_id if entry.user_id is not None else entry.seed.key
            before = states.get(key)
            if entry.rows is None:
                login = entry.login or entry.seed.login
                kept = before or UserState(user_id=key, login=login, outcome=entry.outcome)
                changes = {"outcome": entry.outcome, "reason": entry.reason, "asked_at": now}
                saved.append(kept.model_copy(update=changes))
                continue
            if entry.unchanged:
                holder = before.segment if before is not None else None
            else:
                holder = segment if entry.rows.height else None
            saved.append(
                UserState(
                    user_id=key, login=entry.login, outcome=entry.outcome, segment=holder, stars=entry.rows.height,
                    complete=entry.complete, max_pages=self.max_pages, etag=entry.etag, collected_at=now, asked_at=now,
                    proven=entry.proven, entries=entry.entries, null_entries=entry.null_entries,
                    failed_entries=entry.failed_entries,
                )
            )  # fmt: skip
        self.state.save(saved)

    def _sweep(self) -> None:
        """Delete old segments that no state names."""
        named = {state.segment for state in self.state.load().values()}
        oldest = dt.datetime.now(dt.UTC) - ORPHAN_AGE
        for name in list(self.segments.names()):
            if name not in named and _written_at(name) < oldest:
                self.segments.delete(name)

    # -- inverting lists -----------------------------------------------------------------------------------------

    def _stars_by_repository(
        self, wanted: set[int], states: Mapping[int | str, UserState]
    ) -> tuple[dict[int, pl.DataFrame], set[str]]:
        """Return the stars of all known lists, of schema `STARGAZERS` by repository, and the damaged segments."""
        damaged: set[str] = set()
        users_of: dict[str, list[int]] = {}
        known = {user: state for user, state in states.items() if isinstance(user, int) and state.segment is not None}
        for user_id, state in known.items():
            users_of.setdefault(str(state.segment), []).append(user_id)
        logins = pl.DataFrame(
            {"user_id": list(known), "now": [state.login for state in known.values()]},
            schema={"user_id": pl.Int64, "now": pl.String},
        )
        ids = pl.Series(sorted(wanted), dtype=pl.Int64)

        def read(segment: str) -> pl.DataFrame:
            users = pl.Series(users_of[segment], dtype=pl.Int64)
            try:
                stored = self.segments.read(segment)
            except StoredDataError as error:
                logger.warning("%s The lists of its %d users are read again by the next run.", error, len(users))
                damaged.add(segment)
                stored = STARRED.empty()
            of_users = pl.col("user_id").is_in(users.implode())
            return stored.filter(of_users & pl.col("repo_id").is_in(ids.implode())).drop("full_name")

        parts = list(map_bounded(read, sorted(users_of), 4))
        lost = [state for state in known.values() if state.segment in damaged]
        unread = {"segment": None, "etag": None, "proven": False, "collected_at": None}
        unread["asked_at"] = as_stored(dt.datetime.now(dt.UTC))
        self.state.save(state.model_copy(update=unread) for state in lost)
        if not parts:
            return {}, damaged
        table = (
            pl.concat(parts)
            .join(logins, on="user_id", how="left")
            .select(
                "repo_id",
                "user_id",
                pl.coalesce("now", "login").alias("login"),
                "starred_at",
                pl.lit(self.name).alias("source"),
            )
            .sort("repo_id", "starred_at", "user_id", nulls_last=False)
        )
        return {int(key[0]): rows for key, rows in table.partition_by("repo_id", as_dict=True).items()}, damaged


def _written_at(name: str) -> dt.datetime:
    """Return the time in the name of a segment; the present if it has none."""
    try:
        return dt.datetime.strptime(name.split("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return dt.datetime.now(dt.UTC)
