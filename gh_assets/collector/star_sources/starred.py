"""Users' own lists of starred repositories: open to all, also where repositories' lists of stargazers are closed.

Each user's list is read newest first and kept whole, in segments: immutable tables of some hundred users each. A user's
state (in Mongo, by a message) names the segment that holds the user's present list, and is written after it, so that
a run that is killed loses at most the users of one segment. `StarredLists` turns the lists around: for each wanted
repository the users who starred it.

Source: docs.github.com/rest/activity/starring (``GET /users/{username}/starred``);
docs.github.com/graphql/reference/objects#user (``starredRepositories``).
"""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import polars as pl
from pymongo.database import Database

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.base import (
    PER_PAGE,
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    merge_stars,
)
from gh_assets.errors import (
    BudgetSpentError,
    GitHubError,
    GraphQLUnavailableError,
    RateLimitedError,
    ServiceUnavailableError,
    StoredDataError,
)
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import (
    FAILED,
    LIGHT_PAGE,
    GraphQLLists,
    Listing,
    QuerySize,
    is_page,
    page_without,
)
from gh_assets.github.list_reading import Progress, by_position, number_of
from gh_assets.github.outcomes import Outcome
from gh_assets.github.responses import STAR_JSON, GitHubResponse
from gh_assets.github.times import parse_times
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STARGAZERS, STARRED
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.documents import as_stored
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections

logger = logging.getLogger(__name__)

SEGMENT_USERS = 250
SEGMENT_ROWS = 100_000
"""A segment is written when it has so many users or rows."""

STARRED_LIST_TTL = dt.timedelta(days=7)
"""Lists that were read within this time are not asked for again."""

READING_TIME = dt.timedelta(hours=1)
"""Stars that were given so shortly before a user's list was kept may have been given after it was read."""

MAX_RESTARTS = 2

CONNECTION = "starredRepositories"

ORPHAN_AGE = dt.timedelta(hours=24)
"""Segments that no state names are deleted when they are older: another process may be about to name a younger one."""


@dataclass(frozen=True)
class SeedUser:
    """A user whose list may be worth reading.

    Attributes
    ----------
    login : str
    user_id : int or None
        GitHub's database id, if it is known.
    weight : int
        With how many of the wanted repositories the user has been seen: the highest are asked first.
    """

    login: str
    user_id: int | None = None
    weight: int = 1


@dataclass(frozen=True)
class UserState:
    """What is known of the list of one user; logins without a user are known by the login.

    ``proven`` and what follows it are as those of `UserList`; lists that a version before these
    fields read are not proven, and read once more.
    """

    user_id: int | str
    login: str
    outcome: Outcome
    reason: str | None = None
    segment: str | None = None
    stars: int = 0
    complete: bool = False
    max_pages: int = 0
    etag: str | None = None
    collected_at: dt.datetime | None = None
    asked_at: dt.datetime | None = None
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> UserState:
        state = document["state"]
        names = (name for name in cls.__dataclass_fields__ if name not in ("user_id", "outcome"))
        plain = {name: state[name] for name in names if name in state}
        return cls(user_id=document["_id"], outcome=Outcome(state["outcome"]), **plain)

    def message(self) -> Message:
        """What makes it known: the state that was asked for last wins."""
        assert self.asked_at is not None
        value = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "user_id"}
        value["outcome"] = self.outcome.value
        return Message(update=versioned(Collections.STARRED_STATE, self.user_id, "state", value, self.asked_at))


class StarredState:
    """The states of all users' lists, and users who were seen but not asked yet, in Mongo.

    Parameters
    ----------
    database : pymongo.database.Database
        Collection ``starred_state``: a document a user, by database id.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self.collection = database[Collections.STARRED_STATE]
        self._consumer = Consumer(database)

    def load(self) -> dict[int | str, UserState]:
        """All states, by user id (``login:…`` for those of whom no id is known)."""
        found = self.collection.find({"state": {"$exists": True}}, {"state": 1})
        return {document["_id"]: UserState.from_document(document) for document in found}

    def seeds(self) -> list[SeedUser]:
        """Users who were seen."""
        found = self.collection.find({"seed": {"$exists": True}}, {"seed": 1})
        return [SeedUser(d["seed"]["login"], d["_id"], int(d["seed"]["weight"])) for d in found]

    def save(self, states: Iterable[UserState]) -> None:
        """Write states."""
        self._consumer.apply(state.message() for state in states)

    def remember_seeds(self, seeds: Iterable[SeedUser], seen_at: dt.datetime) -> None:
        """Keep users who were seen, to be asked some day."""
        self._consumer.apply(
            Message(
                update=versioned(
                    Collections.STARRED_STATE,
                    seed.user_id,
                    "seed",
                    {"login": seed.login, "weight": seed.weight},
                    seen_at,
                )
            )
            for seed in seeds
            if seed.user_id is not None
        )


class SegmentStore(Protocol):
    """Where segments lie: immutable tables of schema `STARRED`."""

    def write(self, name: str, table: pl.DataFrame) -> object:
        """Write a new one."""

    def read(self, name: str) -> pl.DataFrame:
        """Read one."""

    def names(self) -> Iterable[str]:
        """All there are."""

    def delete(self, name: str) -> None:
        """Delete one."""


# -- reading one user's list ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StarredListTask:
    """A user's list to read.

    Attributes
    ----------
    seed : Seed
    etag : str or None
        Of its first page when it was read last.
    known : polars.DataFrame or None
        What it held then, of schema `STARRED`.
    refresh : bool
        Whether reading may end where it meets what is known; else the list is read anew.
    entries, null_entries, failed_entries : int
        Entries of the known list; see `UserList`.
    """

    seed: SeedUser
    etag: str | None = None
    known: pl.DataFrame | None = None
    refresh: bool = True
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0


@dataclass(frozen=True)
class UserList:
    """What was found out about one user's list.

    Attributes
    ----------
    rows : polars.DataFrame or None
        Of schema `STARRED`, newest first, all that is known now; None unless the outcome is ok.
    complete : bool
        Whether it goes to the end of the list, and is proven.
    unchanged : bool
        It is what was known.
    proven : bool
        Whether the rows are all that was asked for: nothing failed in any answer, and where the list was read to its
        end it agrees with GitHub's count.
    entries, null_entries, failed_entries : int
        Entries of the list, of these those without a repository that can be seen, and those that GitHub failed on.
    """

    seed: SeedUser
    outcome: Outcome
    reason: str | None = None
    user_id: int | None = None
    login: str = ""
    rows: pl.DataFrame | None = None
    complete: bool = False
    unchanged: bool = False
    etag: str | None = None
    requests: int = 0
    proven: bool = False
    entries: int = 0
    null_entries: int = 0
    failed_entries: int = 0


class _Reading:
    """A list that is being read, until a star is met that is known, or as many as are wanted are read."""

    def __init__(self, work: StarredListTask, max_pages: int) -> None:
        self.work = work
        self.parts: list[pl.DataFrame] = []
        known = frozenset[tuple[int, Any]]()
        if work.known is not None and work.refresh:
            known = frozenset(work.known.select("repo_id", "starred_at").rows())
        counts = work.entries, work.null_entries, work.failed_entries
        self.progress = Progress(max_pages * PER_PAGE, known, *counts)

    def add(
        self,
        user_id: int,
        login: str,
        stars: Sequence[tuple[Any, Any, Any]],
        *,
        total: int | None = None,
        failed: Collection[int] = (),
    ) -> bool:
        """Take a page of (repository id, name, time). True if the list need not be read further.

        Parameters
        ----------
        total : int, optional
            GitHub's count of the whole list.
        failed : collection of int
            Places of entries that GitHub failed on.
        """
        places = [
            place for place, star in enumerate(stars) if number_of(star[0]) is not None and isinstance(star[1], str)
        ]
        good = [stars[place] for place in places]
        rows = pl.DataFrame(
            {
                "user_id": pl.Series([user_id] * len(good), dtype=pl.Int64),
                "login": pl.Series([login] * len(good), dtype=pl.String),
                "repo_id": pl.Series([entry[0] for entry in good], dtype=pl.Int64),
                "full_name": pl.Series([entry[1] for entry in good], dtype=pl.String),
                "starred_at": parse_times([entry[2] for entry in good]),
            },
            schema=STARRED.dtypes,
        )
        self.parts.append(rows)
        identities = by_position(rows.select("repo_id", "starred_at").rows(), places, len(stars))
        self.progress.add(identities, total=total, failed=failed)
        return self.progress.ended

    def done(
        self, user_id: int, login: str, *, more: bool, was_complete: bool, etag: str | None, requests: int,
        problem: str | None = None,
    ) -> UserList:  # fmt: skip
        """What is known now; `problem` says why the list could not be read, or be believed, further."""
        known, progress = self.work.known, self.progress
        fresh = pl.concat(self.parts) if self.parts else STARRED.empty()
        if progress.met and known is not None:
            fresh = pl.concat([fresh, known])
        rows = fresh.unique("repo_id", keep="first", maintain_order=True)
        ended = was_complete if progress.met else not more
        proven = problem is None and progress.is_proven(to_its_end=ended)
        if known is not None and not (ended and proven and not progress.null_entries and not progress.failed_entries):
            # A star that is known and was not met may be in what was not read.
            unmet = known.join(rows, on="repo_id", how="anti")
            if unmet.height:
                rows = pl.concat([rows, unmet])
                rows = rows.sort("starred_at", descending=True, maintain_order=True, nulls_last=True)
        rows = rows.with_columns(pl.lit(user_id, pl.Int64).alias("user_id"), pl.lit(login).alias("login"))
        return UserList(
            self.work.seed,
            Outcome.OK,
            problem,
            user_id,
            login,
            rows,
            complete=ended and proven,
            unchanged=known is not None and rows.equals(known),
            etag=etag if proven else None,
            requests=requests,
            proven=proven,
            entries=progress.count,
            null_entries=progress.null_entries,
            failed_entries=progress.failed_entries,
        )


class StarredReader(Protocol):
    """A way to read users' lists."""

    def read(self, tasks: Iterable[tuple[StarredListTask, bool]], workers: int) -> Iterator[UserList]:
        """Read lists; each work comes with whether what is known of it goes to the end of the list."""


class RestStarred:
    """Users' lists by REST: ``GET /user/{id}/starred``, newest first, 100 a page.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        At most this many pages a user, the newest.
    on_page : callable, optional
        Called after each page with how many pages and stars of the user's were read.
    prove : bool
        Make sure that the list did not change while it was read, by asking for its pages once more.
    """

    def __init__(
        self,
        client: GitHubClient,
        max_pages: int,
        on_page: Callable[[int, int], None] | None = None,
        *,
        prove: bool = True,
    ) -> None:
        self.client = client
        self.max_pages = max_pages
        self.on_page = on_page
        self.prove = prove

    def read(self, tasks: Iterable[tuple[StarredListTask, bool]], workers: int) -> Iterator[UserList]:
        """Several users at once."""
        return map_bounded(lambda work: self._read(*work), tasks, workers)

    def _read(self, work: StarredListTask, was_complete: bool) -> UserList:
        seed = work.seed
        reading = _Reading(work, self.max_pages)
        requests = last = 0
        answers: list[GitHubResponse] = []
        try:
            user = self._whose(seed)
            if isinstance(user, UserList):
                return user
            user_id, login = user
            path = f"/user/{user_id}/starred"
            for number in range(1, self.max_pages + 1):
                response = self._page(path, number, work.etag if number == 1 and work.refresh else None)
                requests += 1
                if response.status == 304 and work.known is not None:
                    return UserList(
                        seed, Outcome.OK, None, user_id, login, work.known, was_complete, True, work.etag, requests,
                        True, work.entries, work.null_entries, work.failed_entries,
                    )  # fmt: skip
                if response.status != 200 or not isinstance(response.payload, list):
                    outcome, reason = classify_refusal(response)
                    return UserList(seed, outcome, reason, seed.user_id, seed.login, requests=requests)
                answers.append(response)
                last = max(last, response.last_page or number)
                ended = reading.add(user_id, login, [_star_of(entry) for entry in response.payload])
                more = response.has_next_page and bool(response.payload)
                if self.on_page is not None:
                    self.on_page(number, sum(part.height for part in reading.parts))
                if ended or not more:
                    break
            problem = None
            if not more and number < last and not ended:
                problem = f"the list ended on page {number}, of {last}"
            # A star that was taken back while we paged moves the first of each later page out of sight.
            for number, before in enumerate(answers[:-1] if self.prove and problem is None else (), start=1):
                now = self._page(path, number, before.etag)
                requests += 1
                if now.status != 304 and (now.status != 200 or now.content != before.content):
                    problem = "the list changed while it was read"
                    break
        except (ServiceUnavailableError, GitHubError) as error:
            return UserList(seed, Outcome.UNKNOWN, str(error), seed.user_id, seed.login, requests=requests)
        return reading.done(
            user_id,
            login,
            more=more,
            was_complete=was_complete,
            etag=answers[0].etag,
            requests=requests,
            problem=problem,
        )

    def _page(self, path: str, number: int, etag: str | None) -> GitHubResponse:
        parameters: dict[str, str | int] = {"per_page": PER_PAGE, "page": number}
        return self.client.get(path, parameters=parameters, accept=STAR_JSON, etag=etag)

    def _whose(self, seed: SeedUser) -> tuple[int, str] | UserList:
        """Id and login, asked for if only the login is known."""
        if seed.user_id is not None:
            return seed.user_id, seed.login
        response = self.client.get(f"/users/{seed.login}")
        account = response.payload if isinstance(response.payload, dict) else {}
        user_id, login = number_of(account.get("id")), account.get("login")
        if response.status == 200 and user_id is not None and isinstance(login, str):
            return user_id, login
        outcome, reason = classify_refusal(response)
        return UserList(seed, outcome, reason, None, seed.login, requests=1)


def _star_of(entry: Any) -> tuple[Any, Any, Any]:
    # Servers that ignore the media type answer with bare repositories, without the time.
    starred = isinstance(entry, dict) and "repo" in entry
    repo = entry["repo"] if starred else entry
    if not isinstance(repo, dict):
        return None, None, None
    return repo.get("id"), repo.get("full_name"), entry.get("starred_at") if starred else None


class GraphQLStarred:
    """Users' lists by GraphQL: many users a query.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        At most this many pages a user, the newest.
    batch : QuerySize, optional
    in_flight : int
    """

    def __init__(
        self, client: GitHubClient, max_pages: int, *, batch: QuerySize | None = None, in_flight: int = 4
    ) -> None:
        self.client = client
        self.max_pages = max_pages
        self._lists: GraphQLLists[UserList] = GraphQLLists(client, starred_query, batch=batch, in_flight=in_flight)

    def read(self, tasks: Iterable[tuple[StarredListTask, bool]], workers: int) -> Iterator[UserList]:
        """Fill queries with the next pages of several users."""
        return self._lists.read(
            (_Starred(number, work, whole, self.max_pages, self.client) for number, (work, whole) in enumerate(tasks)),
            workers,
        )


class _Starred(Listing[UserList]):
    """One user's list, newest first, until a star is met that is known."""

    def __init__(
        self, key: int, work: StarredListTask, was_complete: bool, max_pages: int, client: GitHubClient
    ) -> None:
        super().__init__(key)
        self.client = client
        self.work = work
        self.seed = work.seed
        self.was_complete = was_complete
        self.max_pages = max_pages
        self.login = work.seed.login
        self.size = PER_PAGE
        self.moved = False
        self.restarts = 0
        self._begin()

    def _begin(self) -> None:
        """Read from the newest star on."""
        self.reading = _Reading(self.work, self.max_pages)
        self.expected = 1
        self.cursors: list[str] = []
        self.user_id = self.seed.user_id

    def pages_left(self) -> int:
        return self.expected

    def variables(self) -> Mapping[str, Any]:
        progress = self.reading.progress
        size = max(1, min(self.size, progress.limit - progress.entries))
        return {"i": self.login, "c": self.cursors[-1] if self.cursors else None, "f": size}

    def shrink_page(self) -> bool:
        lighter, self.size = self.size > LIGHT_PAGE, min(self.size, LIGHT_PAGE)
        return lighter

    def is_whole(self, node: Any) -> bool:
        has_owner = isinstance(node, Mapping) and number_of(node.get("databaseId")) is not None
        return has_owner and is_page(node, CONNECTION, "nameWithOwner", self.cursors)

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        return page_without(node, CONNECTION, "nameWithOwner", failed, self.cursors)

    def parse_page(self, node: Any) -> UserList | None:
        user_id, login = int(node["databaseId"]), str(node.get("login"))
        if self.seed.user_id is not None and user_id != self.seed.user_id:
            return self._renamed("somebody else has this login now")
        if self.user_id is not None and user_id != self.user_id:
            # The login has changed hands between two pages.
            self.restarts += 1
            if self.restarts > MAX_RESTARTS:
                return self.give_up("its login changed hands while it was read")
            self._begin()
            return None
        self.user_id = user_id
        stars = node[CONNECTION]
        found = [((edge or {}).get("node") or {}, (edge or {}).get("starredAt")) for edge in stars["edges"]]
        ended = self.reading.add(
            user_id,
            login,
            [(repo.get("databaseId"), repo.get("nameWithOwner"), when) for repo, when in found],
            total=stars["totalCount"],
            failed=node.get(FAILED, ()),
        )
        more = bool(stars["pageInfo"]["hasNextPage"])
        if more:
            self.cursors.append(stars["pageInfo"]["endCursor"])
        progress = self.reading.progress
        self.expected = -(-(min(progress.limit, stars["totalCount"]) - progress.entries) // self.size)
        if more and not ended:
            return None
        return self.reading.done(
            user_id,
            login,
            # GitHub itself cuts very long lists, and says so.
            more=more or bool(stars.get("isOverLimit")),
            was_complete=self.was_complete,
            etag=None,
            requests=self.requests,
        )

    def parse_refusal(self, kind: str, message: str) -> UserList | None:
        if kind == "NOT_FOUND":
            return self._renamed(message)
        if kind == "FORBIDDEN":
            return UserList(self.seed, Outcome.RESTRICTED, message, self.seed.user_id, self.login)
        return None

    def _renamed(self, message: str) -> UserList | None:
        """The id is the identity: by it the present login is found. None: to be asked again, by that."""
        gone = UserList(self.seed, Outcome.GONE, message, self.seed.user_id, self.login, requests=self.requests)
        if self.seed.user_id is None or self.moved:
            return gone
        try:
            response = self.client.get(f"/user/{self.seed.user_id}")
        except (ServiceUnavailableError, GitHubError, BudgetSpentError, RateLimitedError) as error:
            return replace(gone, outcome=Outcome.UNKNOWN, reason=str(error))
        login = response.payload.get("login") if isinstance(response.payload, dict) else None
        if response.status != 200 or not isinstance(login, str):
            outcome, reason = classify_refusal(response)
            return replace(gone, outcome=outcome, reason=reason)
        # Read from its beginning under the new login: what the old one brought must not count twice.
        self.login, self.moved = login, True
        self._begin()
        return None

    def give_up(self, reason: str) -> UserList:
        return UserList(self.seed, Outcome.UNKNOWN, reason, self.seed.user_id, self.login, requests=self.requests)


def starred_query(size: int) -> str:
    """The query for a page of each of `size` users: ``i0…`` are logins, ``c0…`` cursors, ``f0…`` page sizes."""
    declared = ", ".join(f"$i{n}: String!, $c{n}: String, $f{n}: Int!" for n in range(size))
    asked = "\n".join(
        f"r{n}: user(login: $i{n}) {{ databaseId login "
        f"starredRepositories(first: $f{n}, after: $c{n}, orderBy: {{field: STARRED_AT, direction: DESC}}) {{ "
        "isOverLimit totalCount pageInfo { hasNextPage endCursor } "
        "edges { starredAt node { databaseId nameWithOwner } } } }"
        for n in range(size)
    )
    return f"query({declared}) {{\n{asked}\nrateLimit {{ cost limit remaining resetAt }}\n}}"


# -- the source ----------------------------------------------------------------------------------------------------


@dataclass
class StarredReport:
    """What a pass over users did; `unread` are those whose lists could not be read: they are asked again next time."""

    known: int = 0
    total: int = 0
    asked: int = 0
    unchanged: int = 0
    stars: int = 0
    unread: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)


class StarredLists:
    """Stars of repositories, learned from the lists of users.

    What it tells of a repository is what the users who were asked have starred: never all its stars.

    Parameters
    ----------
    reader, fallback : StarredReader
        `fallback` is used where the server or the token has no GraphQL.
    state : StarredState
    segments : SegmentStore
    seeds : callable
        Given the wanted repositories, the users that may be worth asking.
    max_users : int
        At most so many users in all, those with the most weight.
    max_pages : int
        What the readers read; a list that was cut at fewer is read again.
    full : bool
        Read also lists that are fresh, and to their end: unstars are noticed so.
    progress : callable, optional
        Called with the report so far, the first time before anybody is asked.
    """

    name = "starred"

    def __init__(
        self,
        reader: StarredReader,
        state: StarredState,
        segments: SegmentStore,
        seeds: Callable[[Sequence[RepositoryRef]], Iterable[SeedUser]],
        *,
        fallback: StarredReader | None = None,
        max_users: int = 5000,
        max_pages: int = 10,
        full: bool = False,
        progress: Callable[[StarredReport], None] | None = None,
    ) -> None:
        self.reader = reader
        self.fallback = fallback
        self.state = state
        self.segments = segments
        self.seeds = seeds
        self.max_users = max_users
        self.max_pages = max_pages
        self.full = full
        self.progress = progress
        self.report = StarredReport()
        self._workers = 1

    def may_have_changed(self, *, closed: bool) -> bool:
        """More users may have been asked."""
        return True

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Ask users first, then tell what they starred of the wanted repositories."""
        wanted = list(tasks)
        if not wanted:
            return
        self._workers = workers
        failure: Exception | None = None
        try:
            self._collect_users([work.repository for work in wanted])
        except (BudgetSpentError, RateLimitedError) as error:
            # What the users told so far is told on, before anybody hears of it.
            failure = error
        states = self.state.load()
        rows, damaged = self._stars_of({work.repository.repo_id for work in wanted}, states)
        whole = {
            user: state.collected_at - READING_TIME
            for user, state in states.items()
            if isinstance(user, int)
            and state.collected_at is not None
            and state.complete
            and not state.null_entries
            and not state.failed_entries
            and state.outcome is Outcome.OK
            and state.segment not in damaged
        }
        asked = sum(state.collected_at is not None for state in states.values())
        nothing = f"none of the {asked:,} users whose lists were read starred it"

        def told(work: CollectionTask) -> StarCollection:
            mine = rows.get(work.repository.repo_id)
            return collection_from_users(work.repository, mine, work.load_previous(), whole, nothing)

        yield from map_bounded(told, wanted, workers)
        if failure is not None:
            raise failure

    # -- asking users --------------------------------------------------------------------------------------------

    def _collect_users(self, repositories: Sequence[RepositoryRef]) -> None:
        states = self.state.load()
        pending = self._select_users(self.seeds(repositories), states)
        self.report.known, self.report.total = len(states), len(pending)
        if self.progress is not None and pending:
            self.progress(self.report)
        self._read(pending, states)
        # Most faults are bad moments: failed users are asked once more after all others.
        states = self.state.load()
        unread = _unread(pending, states)
        self.report.total += len(unread)
        self._read(unread, states)
        self.report.unread = len(_unread(unread, self.state.load()))
        self._sweep()

    def _read(self, seeds: Sequence[SeedUser], states: Mapping[int | str, UserState]) -> None:
        """Read the lists of users, and keep them."""
        previous = _Previous(self.segments)

        done: set[int | str] = set()

        def tasks() -> Iterator[tuple[StarredListTask, bool]]:
            for seed in seeds:
                if _key(seed) in done:
                    continue
                state = states.get(_key(seed))
                if state is None:
                    yield StarredListTask(seed), False
                    continue
                # A list that was cut at fewer pages ends where this one has to go on.
                shorter = not state.complete and state.max_pages < self.max_pages
                refresh = state.proven and not shorter and not self.full
                known = previous.of(state)
                counts = state.entries, state.null_entries, state.failed_entries
                yield StarredListTask(seed, state.etag, known, refresh and known is not None, *counts), state.complete

        if not seeds:
            return
        try:
            self._keep(self.reader.read(tasks(), self._workers), states, done)
        except GraphQLUnavailableError:
            if self.fallback is None:
                raise
            self._keep(self.fallback.read(tasks(), self._workers), states, done)

    def _select_users(self, seeds: Iterable[SeedUser], states: Mapping[int | str, UserState]) -> list[SeedUser]:
        """Those never asked first, the most promising of them first; then the stalest."""
        now = dt.datetime.now(dt.UTC)
        seeds = list(seeds)
        ids = {seed.login.lower(): seed.user_id for seed in seeds if seed.user_id is not None and seed.user_id > 0}
        ids |= {state.login.lower(): state.user_id for state in states.values() if isinstance(state.user_id, int)}
        merged: dict[int | str, SeedUser] = {}
        for seed in seeds:
            # Users of old events have no id of GitHub's, those of files may have none at all.
            known_id = seed.user_id if seed.user_id is not None and seed.user_id > 0 else ids.get(seed.login.lower())
            entry = SeedUser(seed.login, known_id, seed.weight)
            other = merged.get(_key(entry))
            if other is None or other.weight < entry.weight:
                merged[_key(entry)] = entry
        for key, state in states.items():
            merged.setdefault(key, SeedUser(state.login, key if isinstance(key, int) else None, 0))
        new = [seed for key, seed in merged.items() if key not in states]
        new.sort(key=lambda seed: (-seed.weight, seed.user_id or 0, seed.login))
        new = new[: max(0, self.max_users - len(states))]

        def stale(state: UserState) -> bool:
            shorter = state.outcome is Outcome.OK and not state.complete and state.max_pages < self.max_pages
            fresh = state.asked_at is not None and now - state.asked_at < STARRED_LIST_TTL
            unproven = state.outcome is Outcome.OK and not state.proven
            return self.full or shorter or unproven or not fresh or state.outcome is Outcome.UNKNOWN

        refreshed = [key for key in merged if key in states and stale(states[key])]
        # Users of one segment together: it is read once.
        refreshed.sort(key=lambda key: (states[key].asked_at or now, states[key].segment or ""))
        return [*new, *(merged[key] for key in refreshed)]

    def _keep(self, found: Iterable[UserList], states: Mapping[int | str, UserState], done: set[int | str]) -> None:
        """Write lists as they come: a segment first, the states that name it second; `done` gets whose they are."""
        lists: list[UserList] = []
        try:
            for entry in found:
                lists.append(entry)
                done.add(_key(entry.seed))
                self.report.asked += 1
                self.report.unchanged += entry.unchanged
                self.report.stars += entry.rows.height if entry.rows is not None else 0
                self.report.outcomes[entry.outcome.value] = self.report.outcomes.get(entry.outcome.value, 0) + 1
                if self.progress is not None:
                    self.progress(self.report)
                rows = sum(e.rows.height for e in lists if e.rows is not None and not e.unchanged)
                if len(lists) >= SEGMENT_USERS or rows >= SEGMENT_ROWS:
                    self._write(lists, states)
                    lists = []
        finally:
            self._write(lists, states)

    def _write(self, lists: Sequence[UserList], states: Mapping[int | str, UserState]) -> None:
        now = as_stored(dt.datetime.now(dt.UTC))
        fresh = [entry.rows for entry in lists if entry.rows is not None and not entry.unchanged]
        segment = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"
        if any(rows.height for rows in fresh):
            self.segments.write(segment, pl.concat(fresh))
        saved = []
        for entry in lists:
            key = entry.user_id if entry.user_id is not None else _key(entry.seed)
            before = states.get(key)
            if entry.rows is None:
                kept = before or UserState(key, entry.login or entry.seed.login, entry.outcome)
                saved.append(replace(kept, outcome=entry.outcome, reason=entry.reason, asked_at=now))
                continue
            if entry.unchanged:
                holder = before.segment if before is not None else None
            else:
                holder = segment if entry.rows.height else None
            saved.append(
                UserState(
                    key, entry.login, entry.outcome, None, holder,
                    entry.rows.height, entry.complete, self.max_pages, entry.etag, now, now,
                    entry.proven, entry.entries, entry.null_entries, entry.failed_entries,
                )
            )  # fmt: skip
        self.state.save(saved)

    def _sweep(self) -> None:
        """Delete old segments that no state names any more."""
        named = {state.segment for state in self.state.load().values()}
        oldest = dt.datetime.now(dt.UTC) - ORPHAN_AGE
        for name in list(self.segments.names()):
            if name not in named and _written_at(name) < oldest:
                self.segments.delete(name)

    # -- turning around ------------------------------------------------------------------------------------------

    def _stars_of(
        self, wanted: set[int], states: Mapping[int | str, UserState]
    ) -> tuple[dict[int, pl.DataFrame], set[str]]:
        """Rows of schema `STARGAZERS` by repository, of all users whose lists are known; and damaged segments."""
        damaged: set[str] = set()
        in_segment: dict[str, list[int]] = {}
        known = {user: state for user, state in states.items() if isinstance(user, int) and state.segment is not None}
        for user_id, state in known.items():
            in_segment.setdefault(str(state.segment), []).append(user_id)
        logins = pl.DataFrame(
            {"user_id": list(known), "now": [state.login for state in known.values()]},
            schema={"user_id": pl.Int64, "now": pl.String},
        )
        ids = pl.Series(sorted(wanted), dtype=pl.Int64)

        def read(segment: str) -> pl.DataFrame:
            mine = pl.Series(in_segment[segment], dtype=pl.Int64)
            try:
                stored = self.segments.read(segment)
            except StoredDataError as error:
                logger.warning("%s The lists of its %d users are read again by the next run.", error, len(mine))
                damaged.add(segment)
                stored = STARRED.empty()
            return stored.filter(pl.col("user_id").is_in(mine.implode()) & pl.col("repo_id").is_in(ids.implode())).drop(
                "full_name"
            )

        parts = list(map_bounded(read, sorted(in_segment), 4))
        lost = [state for state in known.values() if state.segment in damaged]
        self.state.save(replace(state, segment=None, etag=None, proven=False, collected_at=None,
                                asked_at=as_stored(dt.datetime.now(dt.UTC))) for state in lost)  # fmt: skip
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


def _unread(seeds: Iterable[SeedUser], states: Mapping[int | str, UserState]) -> list[SeedUser]:
    """Users whose lists could not be read, or not be proven to be whole."""
    by_login = {state.login.lower(): state for state in states.values()}
    unread = []
    for seed in seeds:
        # Of a user who was named by login alone the id is known by now.
        state = states.get(_key(seed)) or by_login.get(seed.login.lower())
        if state is None or state.outcome is Outcome.UNKNOWN or (state.outcome is Outcome.OK and not state.proven):
            unread.append(seed)
    return unread


def _key(seed: SeedUser) -> int | str:
    return seed.user_id if seed.user_id is not None else f"login:{seed.login.lower()}"


class _Previous:
    """Lists as they were read last; segments are read once for all their users."""

    def __init__(self, segments: SegmentStore) -> None:
        self.segments = segments
        self._name: str | None = None
        self._lists: dict[int, pl.DataFrame] = {}

    def of(self, state: UserState) -> pl.DataFrame | None:
        if state.collected_at is None:
            return None
        if state.segment is None:
            return STARRED.empty()
        if state.segment != self._name:
            try:
                stored = self.segments.read(state.segment)
            except StoredDataError as error:
                logger.warning("%s The lists of its users are read anew.", error)
                stored = STARRED.empty()
            parts = stored.partition_by("user_id", as_dict=True, maintain_order=True)
            self._lists = {int(key[0]): rows for key, rows in parts.items()}
            self._name = state.segment
        return self._lists.get(state.user_id) if isinstance(state.user_id, int) else None


def collection_from_users(
    repository: RepositoryRef,
    rows: pl.DataFrame | None,
    before: PreviousStars | None,
    read_whole: Mapping[int, dt.datetime],
    nothing: str,
) -> StarCollection:
    """A collection of stars that were not learned from the repository itself; `nothing` says why there are none."""
    table, unstarred = merge_stars(rows if rows is not None else STARGAZERS.empty(), before, read_whole)
    if table.is_empty() and (before is None or before.table.is_empty()) and repository.stargazer_count != 0:
        return StarCollection(repository, Outcome.UNKNOWN, nothing)
    unchanged = before is not None and table.equals(before.table)
    return StarCollection(
        repository, Outcome.OK, None, table, complete=False, unchanged=unchanged, unstarred=unstarred, proven=True
    )


def _written_at(name: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(name.split("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=dt.UTC)
    except ValueError:
        return dt.datetime.now(dt.UTC)
