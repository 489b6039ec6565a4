"""Stargazers by GraphQL: many repositories a query, newest first, so that a refresh reads only what is new.

A hundred connections of a hundred stars cost one point, as a single one does: queries are filled up, with the next
pages of different repositories, as far as GitHub's limit on a query's resources lets them be. Where that is, is
learned: a query that was too heavy is halved, and the size that fitted is remembered.

Source: docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api.
"""

from __future__ import annotations

import base64
import heapq
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gh_assets.collector.client import GitHubClient, GraphQLAnswer
from gh_assets.collector.outcomes import Outcome
from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.sources import (
    PER_PAGE,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    Work,
    stars_table,
)
from gh_assets.errors import (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    GitHubError,
    QueryTooHeavyError,
    RateLimitedError,
    ServiceUnavailableError,
)

MOST = 100
"""Connections a query: so many cost one point."""

SAMPLE = 12
"""Answers of a size after which a larger one is tried again: what GitHub bears changes."""

_STOPPING = (AuthenticationError, BudgetSpentError, CancelledError, RateLimitedError)


class BatchSize:
    """The size of queries that GitHub bears, found by bisection and remembered.

    Parameters
    ----------
    start : int
        What fitted last time.
    """

    def __init__(self, start: int = MOST) -> None:
        self._fits = 0
        self._fails = MOST + 1
        self._size = max(1, min(MOST, start))
        self._answers = 0
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._size

    def fitted(self, size: int) -> None:
        """A query of so many connections was answered."""
        with self._lock:
            self._fits = max(self._fits, size)
            if size < self._size:
                return
            self._answers += 1
            if self._fails - self._fits > max(1, self._fits // 16) and self._answers >= 2:
                self._size, self._answers = min(MOST, (self._fits + self._fails) // 2), 0
            elif self._answers >= SAMPLE * 8 and self._fails <= MOST:
                self._fails, self._answers = min(MOST + 1, self._fails + max(1, self._fails // 8)), 0

    def failed(self, size: int) -> None:
        """A query of so many connections was too heavy."""
        with self._lock:
            self._fails = min(self._fails, max(2, size))
            if self._fits >= self._fails:
                self._fits = 0  # it bears less than it did
            middle = (self._fits + self._fails) // 2 if self._fits else size // 2
            self._size, self._answers = max(1, min(self._size, middle)), 0


@dataclass
class _Open:
    """A repository whose pages are being read, newest star first."""

    work: Work
    previous: PreviousStars | None
    known: frozenset[tuple[int, Any]]
    tables: list[pl.DataFrame] = field(default_factory=list)
    cursor: str | None = None
    read: int = 0
    requests: int = 0
    failures: int = 0

    @property
    def repository(self) -> RepositoryRef:
        return self.work.repository

    def left(self, max_pages: int) -> int:
        """Pages that it may still need: the longest have to go on first, since a list is read page after page."""
        pages = -(-(self.repository.stargazer_count or 0) // PER_PAGE)
        return min(max_pages, pages) - self.read


@dataclass(frozen=True)
class _Asked:
    """A query that was sent, and what came of it."""

    batch: Sequence[_Open]
    answer: GraphQLAnswer | None
    too_heavy: bool = False
    problem: str = ""


class GraphQLStargazers:
    """GitHub's list of stargazers by GraphQL.

    Parameters
    ----------
    client : GitHubClient
    max_pages : int
        At most this many pages of 100 a repository, the newest.
    batch : BatchSize, optional
        What is known of the size of queries that GitHub bears.
    in_flight : int
        Queries at once: GitHub allows a minute of computing a minute.
    """

    name = "graphql"

    def __init__(
        self, client: GitHubClient, max_pages: int, *, batch: BatchSize | None = None, in_flight: int = 4
    ) -> None:
        self.client = client
        self.max_pages = max_pages
        self.batch = batch or BatchSize()
        self.in_flight = in_flight
        self._gateway_faults = 0

    def collect(self, works: Iterable[Work], workers: int) -> Iterator[StarCollection]:
        """Fill queries with the next pages of several repositories, those with the most pages left first."""
        source = iter(works)
        exhausted = False
        ready: list[tuple[int, int, _Open]] = []
        pending: set[Future[_Asked]] = set()
        failure: BaseException | None = None
        slots = min(workers, self.in_flight)

        def push(entry: _Open) -> None:
            heapq.heappush(ready, (-entry.left(self.max_pages), entry.repository.repo_id, entry))

        with ThreadPoolExecutor(slots, thread_name_prefix="gh-assets-graphql") as executor:
            while True:
                while failure is None and len(pending) < slots:
                    while not exhausted and len(ready) < 2 * MOST:
                        work = next(source, None)
                        exhausted = work is None
                        if work is not None:
                            push(self._opened(work))
                    size = self.batch.size
                    # A query that is not full is only worth its point when nothing in flight can fill it.
                    if not ready or (len(ready) < size and pending):
                        break
                    batch = [heapq.heappop(ready)[2] for _ in range(min(size, len(ready)))]
                    pending.add(executor.submit(self._ask, batch))
                if not pending:
                    break
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if error is not None:
                        failure = failure or error
                        continue
                    for entry, collected in self._understood(future.result()):
                        if collected is not None:
                            yield collected
                        else:
                            push(entry)
        if failure is not None:
            raise failure

    def _opened(self, work: Work) -> _Open:
        previous = work.load_previous()
        if previous is not None and not previous.complete and previous.max_pages < self.max_pages:
            previous = None  # it ends where we have to go on
        known = frozenset[tuple[int, Any]]()
        if previous is not None:
            known = frozenset(previous.table.select("user_id", "starred_at").rows())
        entry = _Open(work, previous, known)
        for page, rows in work.checkpoint.pages()[: self.max_pages]:
            entry.tables.append(rows)
            entry.cursor = page.etag
            entry.read += 1
        return entry

    # -- asking --------------------------------------------------------------------------------------------------

    def _ask(self, batch: Sequence[_Open]) -> _Asked:
        variables: dict[str, Any] = {}
        for number, entry in enumerate(batch):
            variables[f"i{number}"] = node_id_of(entry.repository)
            variables[f"c{number}"] = entry.cursor
        try:
            return _Asked(batch, self.client.graphql(stargazers_query(len(batch)), variables))
        except QueryTooHeavyError as error:
            return _Asked(batch, None, True, str(error))
        except _STOPPING:
            raise
        except (ServiceUnavailableError, GitHubError) as error:
            return _Asked(batch, None, False, str(error))

    def _understood(self, asked: _Asked) -> Iterator[tuple[_Open, StarCollection | None]]:
        """For each repository of a query: its collection if it is done, else None: it has to be asked again."""
        size = len(asked.batch)
        if asked.answer is None:
            self._too_heavy(asked)
            for entry in asked.batch:
                entry.failures += 1
                hopeless = entry.failures >= (3 if size == 1 else 12)
                yield entry, self._given_up(entry, asked.problem) if hopeless else None
            return
        errors: dict[str, Mapping[str, Any]] = {}
        for error in asked.answer.errors:
            path = error.get("path") or [None]
            errors.setdefault(str(path[0]), error)
        limited = any(error.get("type") == "RESOURCE_LIMITS_EXCEEDED" for error in asked.answer.errors)
        if limited:
            self.batch.failed(size)
        else:
            self._gateway_faults = 0
            self.batch.fitted(size)
        for number, entry in enumerate(asked.batch):
            entry.requests += 1
            node = asked.answer.data.get(f"r{number}")
            if node:
                yield entry, self._page(entry, node)
            else:
                yield entry, self._refused(entry, errors.get(f"r{number}") or errors.get("None") or {}, size)

    def _too_heavy(self, asked: _Asked) -> None:
        """A gateway's error may be the size of the query, or a bad moment: several in a row are the size."""
        if not asked.too_heavy:
            return
        self._gateway_faults += 1
        if "resource limits" in asked.problem or self._gateway_faults >= 2:
            self.batch.failed(len(asked.batch))

    # -- understanding -------------------------------------------------------------------------------------------

    def _page(self, entry: _Open, node: Mapping[str, Any]) -> StarCollection | None:
        stars = node["stargazers"]
        entry.failures = 0
        users: list[tuple[int, str]] = []
        times: list[str | None] = []
        for edge in stars.get("edges") or []:
            user = (edge or {}).get("node") or {}
            # Edges and nodes may be null, and so may be the id of a deleted account.
            if isinstance(user.get("databaseId"), int) and isinstance(user.get("login"), str):
                users.append((user["databaseId"], user["login"]))
                times.append(edge.get("starredAt"))
        rows = stars_table(entry.repository.repo_id, users, times, self.name)
        entry.tables.append(rows)
        entry.read += 1
        entry.cursor = stars["pageInfo"]["endCursor"]
        met = bool(entry.known) and not entry.known.isdisjoint(rows.select("user_id", "starred_at").rows())
        more = bool(stars["pageInfo"]["hasNextPage"]) and entry.cursor is not None
        if more and not met and entry.read < self.max_pages:
            full = len(stars.get("edges") or []) == PER_PAGE
            entry.work.checkpoint.add(entry.read, Page(entry.cursor, rows.height, full), rows)
            return None
        return self._done(entry, met, more, stars.get("totalCount"))

    def _done(self, entry: _Open, met: bool, more: bool, total: int | None) -> StarCollection:
        repository = entry.repository
        fresh = pl.concat(entry.tables).reverse()  # oldest first, as REST lists them
        previous = entry.previous if met else None
        table = pl.concat([previous.table, fresh]) if previous is not None else fresh
        # Whoever starred again is listed with the newer time; pages that shift bring some stars twice.
        table = table.unique("user_id", keep="last", maintain_order=True)
        if table.is_empty() and (repository.stargazer_count or 0) > 0:
            reason = f"the list is empty, though GitHub counts {repository.stargazer_count} stars"
            return StarCollection(repository, Outcome.RESTRICTED, reason, requests=entry.requests)
        complete = previous.complete if previous is not None else not more
        unchanged = entry.previous is not None and table.equals(entry.previous.table)
        return StarCollection(repository, Outcome.OK, None, table, [], complete, entry.requests, unchanged=unchanged)

    def _refused(self, entry: _Open, error: Mapping[str, Any], size: int) -> StarCollection | None:
        kind, message = error.get("type"), str(error.get("message", "no data"))
        if kind == "FORBIDDEN":
            return StarCollection(entry.repository, Outcome.RESTRICTED, message, requests=entry.requests)
        if kind == "NOT_FOUND":
            return self._told_apart(entry, message)
        if kind != "RESOURCE_LIMITS_EXCEEDED" or size == 1:
            entry.failures += 1
            if entry.failures >= 5:
                return self._given_up(entry, message)
        return None

    def _told_apart(self, entry: _Open, message: str) -> StarCollection:
        """Gone, blocked, or only not for us: its metadata tell, by REST."""
        repository, requests = entry.repository, entry.requests + 1
        try:
            answer = self.client.get(f"/repositories/{repository.repo_id}")
        except (ServiceUnavailableError, GitHubError, *_STOPPING) as error:
            # It is asked again next time; the others of its query are not to suffer.
            return StarCollection(repository, Outcome.UNKNOWN, str(error), requests=requests)
        if answer.status == 200:
            return StarCollection(repository, Outcome.RESTRICTED, message, requests=requests)
        outcome, reason = classify_refusal(answer)
        return StarCollection(repository, outcome, reason, requests=requests)

    @staticmethod
    def _given_up(entry: _Open, reason: str) -> StarCollection:
        return StarCollection(entry.repository, Outcome.UNKNOWN, reason, requests=entry.requests)


def stargazers_query(size: int) -> str:
    """The query for a page of each of `size` repositories: variables ``i0…`` are their ids, ``c0…`` cursors."""
    declared = ", ".join(f"$i{n}: ID!, $c{n}: String" for n in range(size))
    asked = "\n".join(
        f"r{n}: node(id: $i{n}) {{ ... on Repository {{ "
        f"stargazers(first: {PER_PAGE}, after: $c{n}, orderBy: {{field: STARRED_AT, direction: DESC}}) {{ "
        "totalCount pageInfo { hasNextPage endCursor } edges { starredAt node { databaseId login } } } } }"
        for n in range(size)
    )
    return f"query({declared}) {{\n{asked}\nrateLimit {{ cost limit remaining resetAt }}\n}}"


def node_id_of(repository: RepositoryRef) -> str:
    """GitHub's global id; made from the database id, in GitHub's older form, where it is not known."""
    if repository.node_id is not None:
        return repository.node_id
    return base64.b64encode(f"010:Repository{repository.repo_id}".encode()).decode()
