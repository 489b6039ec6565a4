"""The source of stars that reads users' lists, and inverts them: for each wanted repository, the users who starred it.

Lists are kept whole in segments: immutable tables of some hundred users each. A user's state in Mongo names the segment
with the present list and is written after it, so that a killed run loses at most the users of one segment.
"""

import datetime as dt
import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from gh_assets.collector.star_sources.base import CollectionOptions, CollectionTask, RepositoryRef, StarCollection
from gh_assets.collector.star_sources.frontier import Frontier, Yields
from gh_assets.collector.star_sources.merging import collection_from_users
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred, StarredListTask, UserList
from gh_assets.collector.star_sources.starred_state import RECENT_DAYS, SeedUser, StarredState, StoredLists, UserState
from gh_assets.errors import BudgetSpentError, RateLimitedError, StoredDataError
from gh_assets.github.list_reading import Coverage, coverage_fields
from gh_assets.github.outcomes import Outcome
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STARGAZERS, STARRED
from gh_assets.storage.asset_store import PartitionTables
from gh_assets.storage.documents import as_stored

logger = logging.getLogger(__name__)

SEGMENT_USERS = 250
SEGMENT_ROWS = 100_000
"""A segment is written when it has this many users or rows."""

READING_TIME = dt.timedelta(hours=1)
"""Stars younger than this when a user's list was stored may have been given after it was read."""

STARRED_LIST_TTL = dt.timedelta(days=7)
"""Lists that were read within this time are not read again."""

WORTHWHILE_HITS = 0.5
"""Number of new stars on wanted repositories that have to be expected for a list to be read again."""

MAX_AGE = dt.timedelta(days=30)
"""Age at which a list is read again, even if no new star is expected."""

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
    gained : int
        Stars on listed repositories that no list had before.
    unread : int
        Users whose lists could not be read whole; the next run collects them again.
    outcomes : Counter
        Number of lists by outcome.
    """

    known: int = 0
    total: int = 0
    collected: int = 0
    unchanged: int = 0
    stars: int = 0
    gained: int = 0
    unread: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass
class StarredLists:
    """Source of stars that reads the lists of users. Its stars of a repository are never complete.

    Parameters
    ----------
    reader : RestStarred or GraphQLStarred
    state : StarredState
    segments : PartitionTables
    seeds : callable
        Given the wanted repositories, returns users who may have starred them.
    options : CollectionOptions
        A list that was cut after fewer pages than the maximum is read again.
    progress : callable, optional
        Called with the report so far, for the first time before the first request.
    yields : Yields, optional
        What lists of users have given so far, by how the users were found.
    """

    reader: RestStarred | GraphQLStarred
    state: StarredState
    segments: PartitionTables
    seeds: Callable[[Sequence[RepositoryRef]], Iterable[SeedUser]]
    options: CollectionOptions
    progress: Callable[[StarredReport], None] = lambda report: None
    yields: Yields = field(default_factory=Yields)
    report: StarredReport = field(default_factory=StarredReport)
    _wanted: frozenset[int] = field(default=frozenset(), init=False)
    _stars_of_wanted: int = field(default=0, init=False)
    _stored_stars: Mapping[int, int] = field(default_factory=dict, init=False)
    name = "starred"

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Collect users first, then return which of the wanted repositories they starred."""
        wanted = list(tasks)
        if not wanted:
            return
        failure: Exception | None = None
        self._wanted = frozenset(task.repository.repo_id for task in wanted)
        try:
            self._collect_users(wanted, workers)
        except (BudgetSpentError, RateLimitedError) as error:
            failure = error  # raised when the stars that are known were yielded
        states = self.state.load()
        rows, damaged = self._stars_by_repository(self._wanted, states)
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
            stars = rows.get(task.repository.repo_id, STARGAZERS.empty())
            return collection_from_users(task.repository, stars, task.load_previous(), read_whole, nothing)

        yield from map_bounded(result, wanted, workers)
        if failure is not None:
            raise failure

    # -- reading lists -------------------------------------------------------------------------------------------

    def _collect_users(self, tasks: Sequence[CollectionTask], workers: int) -> None:
        repositories = [task.repository for task in tasks]
        states = self.state.load()
        named, self._stars_of_wanted = users_of_stored_stars(tasks, workers)
        self._stored_stars = {user.user_id: user.weight for user in named if user.user_id is not None}
        new, due = select_users([*named, *self.seeds(repositories)], states, self.options)
        room = max(0, self.options.max_users - len(states))
        needed = self.options.target_share * sum(repository.stargazer_count or 0 for repository in repositories)
        self._frontier = Frontier(new, due, self.yields, room, lambda: self._stars_of_wanted >= needed > 0)
        self.report.known, self.report.total = len(states), len(self._frontier)
        if self.report.total:
            self.progress(self.report)
        self._read(self._frontier, states, workers)
        # Most faults are transient: users whose lists failed are collected once more after all others.
        states = self.state.load()
        unread = unread_users(self._frontier.taken, states)
        self.report.total = self.report.collected + len(unread)
        self._read(unread, states, workers)
        self.report.unread = len(unread_users(unread, self.state.load()))
        self._sweep()

    def _read(self, users: Iterable[SeedUser], states: Mapping[int | str, UserState], workers: int) -> None:
        """Read the lists of users, and store them."""
        stored = StoredLists(self.segments)
        tasks = (self._task(user, states.get(user.key), stored) for user in users)
        self._keep(self.reader.read(tasks, workers), states)

    def _task(self, user: SeedUser, state: UserState | None, stored: StoredLists) -> StarredListTask:
        if state is None:
            return StarredListTask(user)
        known = stored.read(state)
        # A list that was cut after fewer pages ends where this one has to continue.
        may_end_early = state.proven and not state.ends_early(self.options.max_pages) and not self.options.full
        coverage = Coverage(**coverage_fields(state))
        return StarredListTask(user, known, state.etag, coverage, refresh=may_end_early and known is not None)

    def _keep(self, results: Iterable[UserList], states: Mapping[int | str, UserState]) -> None:
        """Store lists as they are read, some hundred at once."""
        lists: list[UserList] = []
        rows = 0
        try:
            for entry in results:
                lists.append(entry)
                self._count(entry, states.get(entry.user_id or entry.seed.key))
                rows += entry.rows.height if entry.rows is not None and not entry.unchanged else 0
                if len(lists) >= SEGMENT_USERS or rows >= SEGMENT_ROWS:
                    self._write(lists, states)
                    lists, rows = [], 0
        finally:
            if lists:
                self._write(lists, states)

    def _count(self, entry: UserList, before: UserState | None) -> None:
        new = None
        if entry.rows is not None:
            since = None if before is None else before.collected_at
            hits = self._hits(entry.rows)
            later = [repo_id for repo_id, at in hits if since is None or (at is not None and at > since)]
            # Whatever named the user, feeds may have shown some of the stars before.
            stored = self._stored_stars.get(entry.user_id or 0, 0) if before is None else 0
            known = max(stored, entry.seed.known_stars) if before is None else 0
            new = max(0, len(later) - known)
            self._stars_of_wanted += max(0, sum(repo_id in self._wanted for repo_id in later) - stored)
            self.report.gained += len(later)
            self.report.stars += entry.rows.height
        self._frontier.learn(entry.seed, new, entry.requests)
        self.report.collected += 1
        self.report.unchanged += entry.unchanged
        self.report.outcomes[entry.outcome.value] += 1
        self.progress(self.report)

    def _hits(self, rows: pl.DataFrame) -> list[tuple[int, dt.datetime | None]]:
        """Return the stars on listed repositories, of which a run may want but a part, and their times."""
        listed = self.options.listed or self._wanted
        stars = zip(rows["repo_id"].to_list(), rows["starred_at"].to_list(), strict=True)
        return [(repo_id, starred_at) for repo_id, starred_at in stars if repo_id in listed]

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
            hits = self._hits(entry.rows)
            recent = sum(at is not None and at > now - dt.timedelta(days=RECENT_DAYS) for _, at in hits)
            saved.append(
                UserState(
                    user_id=key, login=entry.login, outcome=entry.outcome, segment=holder, stars=entry.rows.height,
                    hits=len(hits), hits_a_day=recent / RECENT_DAYS, max_pages=self.options.max_pages,
                    etag=entry.etag, collected_at=now, asked_at=now, **coverage_fields(entry),
                )
            )  # fmt: skip
        self.state.save(saved)

    def _sweep(self) -> None:
        """Delete old segments that no state names."""
        named = {state.segment for state in self.state.load().values()}
        oldest = dt.datetime.now(dt.UTC) - ORPHAN_AGE
        for name in list(self.segments.partitions()):
            if name not in named and _written_at(name) < oldest:
                self.segments.delete(name)

    # -- inverting lists -----------------------------------------------------------------------------------------

    def _stars_by_repository(
        self, wanted: frozenset[int], states: Mapping[int | str, UserState]
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
                stored = self.segments.read(segment)[0]
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
            .with_columns(login=pl.coalesce("now", "login"), source=pl.lit(self.name))
            .select(*STARGAZERS.columns)
            .sort("repo_id", "starred_at", "user_id", nulls_last=False)
        )
        return {int(key[0]): rows for key, rows in table.partition_by("repo_id", as_dict=True).items()}, damaged


def select_users(
    seeds: Iterable[SeedUser], states: Mapping[int | str, UserState], options: CollectionOptions
) -> tuple[list[SeedUser], list[SeedUser]]:
    """Return the users to collect: new ones, and known ones whose lists are due.

    A list is due if new stars on wanted repositories are expected in it, if it was not read for long, if it could not
    be read, or if it was cut after fewer pages than the maximum.

    Parameters
    ----------
    seeds : iterable of SeedUser
    states : mapping
        States of all known users, by `SeedUser.key`.
    options : CollectionOptions

    Returns
    -------
    new : list of SeedUser
        Those that are connected with the most wanted repositories first.
    due : list of SeedUser
        Those with the most expected stars first.
    """
    now = dt.datetime.now(dt.UTC)
    users = _merged(seeds, states)
    new = [user for key, user in users.items() if key not in states]
    new.sort(key=lambda user: (-user.weight, user.user_id or 0, user.login))

    def is_due(state: UserState) -> bool:
        if options.full or state.is_unread or (state.outcome is Outcome.OK and state.ends_early(options.max_pages)):
            return True
        age = dt.timedelta.max if state.asked_at is None else now - state.asked_at
        expected = state.expected_hits(now)
        return age >= STARRED_LIST_TTL and (expected is None or expected >= WORTHWHILE_HITS or age >= MAX_AGE)

    due = [key for key in users if key in states and is_due(states[key])]
    # By powers of two of the expected stars, within which users of one segment follow each other: it is read once.
    due.sort(
        key=lambda key: (
            -_magnitude(states[key].expected_hits(now)),
            states[key].asked_at or now,
            states[key].segment or "",
        )
    )
    return new, [users[key] for key in due]


def _magnitude(expected: float | None) -> int:
    return math.frexp(expected)[1] if expected else 0


def users_of_stored_stars(tasks: Sequence[CollectionTask], workers: int) -> tuple[list[SeedUser], int]:
    """Return the users whom stored stars of event feeds and of GH Archive name, and the number of all stored stars.

    Of a repository no more stars count than GitHub counts: what was taken back since does not replace what is missing.
    """
    found: dict[int, SeedUser] = {}
    stars = 0
    for task, previous in map_bounded(lambda task: (task, task.load_previous()), tasks, workers):
        if previous is None:
            continue
        of_others = previous.table.filter(pl.col("source").is_in(["events", "gharchive"]) & (pl.col("user_id") > 0))
        size = task.repository.stargazer_count or 0
        stars += min(previous.table.height, size)
        for user_id, login, source in of_others.select("user_id", "login", "source").rows():
            before = found.get(user_id)
            weight, smallest = (1, size) if before is None else (before.weight + 1, min(before.smallest, size))
            found[user_id] = SeedUser(login, user_id, weight, source, smallest)
    return list(found.values()), stars


def unread_users(users: Iterable[SeedUser], states: Mapping[int | str, UserState]) -> list[SeedUser]:
    """Return the users whose lists could not be read, or not be proven to be whole."""
    by_login = {state.login.lower(): state for state in states.values()}
    # The id of a user who was named by login is known once the list was read.
    found = ((user, states.get(user.key) or by_login.get(user.login.lower())) for user in users)
    return [user for user, state in found if state is None or state.is_unread]


def _merged(seeds: Iterable[SeedUser], states: Mapping[int | str, UserState]) -> dict[int | str, SeedUser]:
    """Return one seed per user, the one with the highest weight, and one of weight 0 for every other known user."""
    seeds = list(seeds)
    ids = {seed.login.lower(): seed.user_id for seed in seeds if seed.user_id is not None and seed.user_id > 0}
    ids |= {state.login.lower(): state.user_id for state in states.values() if isinstance(state.user_id, int)}
    users: dict[int | str, SeedUser] = {}
    for seed in seeds:
        # Users of old events have no id of GitHub; users from files may have none at all.
        user_id = seed.user_id if seed.user_id is not None and seed.user_id > 0 else ids.get(seed.login.lower())
        user = replace(seed, user_id=user_id)
        if user.key not in users or users[user.key].weight < user.weight:
            users[user.key] = user
    for key, state in states.items():
        if isinstance(key, str) and state.login.lower() in ids:
            continue  # the list was read later under the user's id
        users.setdefault(key, SeedUser(state.login, key if isinstance(key, int) else None, 0))
    return users


def _written_at(name: str) -> dt.datetime:
    """Return the time in the name of a segment; the present if it has none."""
    try:
        return dt.datetime.strptime(name.split("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return dt.datetime.now(dt.UTC)
