"""Many lists of GitHub's read by GraphQL, page after page, in filled queries.

A hundred connections of a hundred nodes cost one point, as a single one does: queries are filled up, with the next
pages of different lists, as far as GitHub's limit on a query's resources lets them be. Where that is, is learned: a
query that was too heavy is halved, and the size that fitted is remembered.

An answer can hold some lists and not others, and a list only in part: errors name paths of any depth under HTTP 200.
A page counts as read only if nothing in it failed; anything else is asked again, in smaller queries.

Source: docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api;
spec.graphql.org/October2021/#sec-Errors.
"""

from __future__ import annotations

import heapq
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gh_assets.errors import (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    GitHubError,
    GraphQLUnavailableError,
    OutageError,
    QueryTooHeavyError,
    RateLimitedError,
    ServiceUnavailableError,
)
from gh_assets.github.client import GitHubClient
from gh_assets.github.list_reading import number_of
from gh_assets.github.responses import GraphQLResponse
from gh_assets.local.concurrency import workers_of

MAX_CONNECTIONS = 100
"""Connections a query: so many cost one point."""

FIRST_PROBE_AFTER, LONGEST_PROBE_AFTER = 12, 96
"""Answers of a size after which a larger one is tried again; twice as many each time, up to the second number."""

RESOURCE_LIMITS = "RESOURCE_LIMITS_EXCEEDED"

ATTEMPTS, ATTEMPTS_ALONE = 16, 5
"""How often a list is asked for in vain, in queries with others and alone, before it is given up."""

PERSISTENT = 3
"""Failures in a row that are more than a bad moment: queries are too large, or GitHub cannot give an entry."""

LIGHT_PAGE = 25
"""Some lists take GitHub longer than it allows itself, a hundred entries at once."""

FAILED = "failed entries"
"""Key of a node that `page_without` made: the places of the entries."""

OUTAGE_AFTER = 60
"""Failed queries in a row after which the collection ends."""

OPTIONAL = frozenset({"endCursor", "description", "primaryLanguage", "parent", "pushedAt"})
"""Fields that are null on whole pages, too."""

FATAL_ERRORS = (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    GraphQLUnavailableError,
    OutageError,
    RateLimitedError,
)
"""After these nobody else can be asked either."""

Result = TypeVar("Result")


class QuerySize:
    """The size of queries that GitHub bears, found by bisection and remembered.

    What GitHub bears changes: after a while a larger size is tried again, later each time that it fails.

    Parameters
    ----------
    start : int
        What fitted last time.
    most : int
        Larger queries are never worth it.
    """

    def __init__(self, start: int = MAX_CONNECTIONS, most: int = MAX_CONNECTIONS) -> None:
        self._most = most
        self._fits = 0
        self._fails = most + 1
        self._size = max(1, min(most, start))
        self._answers = 0
        self._patience = FIRST_PROBE_AFTER
        self._doubted: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def remembered(cls, size: int) -> QuerySize:
        """Begin with what fitted last time; larger ones are tried only after a while."""
        batch = cls(size)
        if batch._size < batch._most:
            batch._fits, batch._fails = batch._size, batch._size + 1
        return batch

    @property
    def size(self) -> int:
        return self._size

    @property
    def limit(self) -> int | None:
        """The largest that is known to fit, if a larger one is known not to; else there is no limit to remember."""
        return self._fits if self._fits and self._fails <= self._most else None

    def fitted(self, size: int) -> None:
        """A query of so many connections was answered."""
        with self._lock:
            self._fits, self._doubted = max(self._fits, size), None
            if self._fits >= self._fails:
                self._fails = self._most + 1  # it failed for another reason
            if size < self._size:
                return
            self._answers += 1
            if self._fails - self._fits > max(1, self._fits // 16) and self._answers >= 2:
                self._size, self._answers = min(self._most, (self._fits + self._fails) // 2), 0
            elif self._fails <= self._most and self._answers >= self._patience:
                self._fails = min(self._most + 1, self._fails + max(2, self._fails // 8))
                self._patience, self._answers = min(LONGEST_PROBE_AFTER, 2 * self._patience), 0

    def failed(self, size: int) -> None:
        """A query of so many connections was too heavy."""
        with self._lock:
            if size <= self._fits:
                # As many were answered before: once, that is a bad moment and not the size.
                if self._doubted is None:
                    self._doubted = size
                    return
                size = max(size, self._doubted)
                self._fits, self._doubted, self._patience = 0, None, FIRST_PROBE_AFTER
            self._fails = min(self._fails, max(2, size))
            middle = (self._fits + self._fails) // 2 if self._fits else size // 2
            self._size, self._answers = max(1, min(self._size, middle)), 0


class Listing(ABC, Generic[Result]):
    """A list that is being read, a page a query.

    Attributes
    ----------
    key : int
        Orders lists that are equally long.
    requests : int
        How often it was asked for.
    failures : int
        Since the last page.
    persistent : list of set of int
        Places of the entries that GitHub failed on, in each of these answers that had a page.
    """

    def __init__(self, key: int) -> None:
        self.key = key
        self.requests = 0
        self.failures = 0
        self.persistent: list[set[int]] = []

    @abstractmethod
    def pages_left(self) -> int:
        """Pages that it may still need: the longest go on first, since a list is read page after page."""

    @abstractmethod
    def variables(self) -> Mapping[str, Any]:
        """Values of the query's variables for the next page; the engine adds the list's number to their names."""

    @abstractmethod
    def is_whole(self, node: Any) -> bool:
        """Whether a page has all the parts that were asked for, each of its kind; no error is about it."""

    @abstractmethod
    def parse_page(self, node: Any) -> Result | None:
        """Understand a page that is whole. None: there are more."""

    @abstractmethod
    def parse_refusal(self, kind: str, message: str) -> Result | None:
        """Understand GitHub's refusal of this list. None: it is no answer, to be asked again."""

    @abstractmethod
    def give_up(self, reason: str) -> Result:
        """What to say when it could not be asked."""

    def shrink_page(self) -> bool:
        """Ask for less a page, where a page of this very list is too heavy. False if that cannot be."""
        return False

    def expects(self, error: Mapping[str, Any]) -> bool:
        """Whether an error belongs to a good answer: it says that something is not there."""
        return False

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        """The page without single entries that GitHub fails on whenever it is asked; None if it is of no use then."""
        return None


@dataclass(frozen=True)
class _QueryResult(Generic[Result]):
    """A query that was sent, and what came of it."""

    batch: Sequence[Listing[Result]]
    response: GraphQLResponse | None
    too_heavy: bool = False
    problem: str = ""


class GraphQLLists(Generic[Result]):
    """Reads lists.

    Parameters
    ----------
    client : GitHubClient
    query : callable
        The query for a page of each of so many lists: aliases ``r0…``; variables as `Listing.variables` names them,
        with the list's number.
    batch : QuerySize, optional
        What is known of the size of queries that GitHub bears.
    in_flight : int
        Queries at once: GitHub allows a minute of computing a minute.
    """

    def __init__(
        self,
        client: GitHubClient,
        query: Callable[[int], str],
        *,
        batch: QuerySize | None = None,
        in_flight: int = 4,
    ) -> None:
        self.client = client
        self.query = query
        self.batch = batch or QuerySize()
        self.in_flight = in_flight
        self._faults = 0

    def read(self, listings: Iterable[Listing[Result]], workers: int) -> Iterator[Result]:
        """Read lists, taking them from `listings` as it goes on; yields each result when it is known."""
        source = iter(listings)
        exhausted = False
        ready: list[tuple[int, int, Listing[Result]]] = []
        # Queries that failed are asked again in halves, until what makes them heavy stands alone.
        suspects: deque[Sequence[Listing[Result]]] = deque()
        pending: set[Future[_QueryResult[Result]]] = set()
        failure: BaseException | None = None
        slots = max(1, min(workers, self.in_flight))

        def push(entry: Listing[Result]) -> None:
            heapq.heappush(ready, (-entry.pages_left(), entry.key, entry))

        with workers_of(slots, "gh-assets-graphql") as executor:
            while True:
                while failure is None and len(pending) < slots:
                    if suspects:
                        pending.add(executor.submit(self._ask, suspects.popleft()))
                        continue
                    try:
                        while not exhausted and len(ready) < 2 * self.batch.size:
                            listing = next(source, None)
                            exhausted = listing is None
                            if listing is not None:
                                push(listing)
                    except Exception as error:  # noqa: BLE001 - raised below, when what had begun is out
                        failure = error
                        break
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
                    fault = future.exception()
                    if fault is not None:
                        failure = failure or fault
                        continue
                    asked = future.result()
                    try:
                        if asked.response is None:
                            yield from self._unanswered(asked, suspects)
                            continue
                        for entry, found in self._understood(asked, asked.response, suspects):
                            if found is not None:
                                yield found
                            else:
                                push(entry)
                    except OutageError as error:
                        failure = failure or error
        if failure is not None:
            raise failure

    def _ask(self, batch: Sequence[Listing[Result]]) -> _QueryResult[Result]:
        again = max(entry.failures for entry in batch)
        if again:
            # What GitHub has just failed on is not asked again in the same second.
            pool = self.client.pool
            pool.clock.wait(pool.policy.wait_before(again), pool.cancelled)
        variables = {f"{name}{number}": value for number, entry in enumerate(batch)
                     for name, value in entry.variables().items()}  # fmt: skip
        try:
            return _QueryResult(batch, self.client.graphql(self.query(len(batch)), variables))
        except QueryTooHeavyError as error:
            return _QueryResult(batch, None, True, str(error))
        except FATAL_ERRORS:
            raise
        except (ServiceUnavailableError, GitHubError) as error:
            return _QueryResult(batch, None, False, str(error))

    def _unanswered(self, asked: _QueryResult[Result], suspects: deque[Sequence[Listing[Result]]]) -> Iterator[Result]:
        batch, size = asked.batch, len(asked.batch)
        limited = "resource limits" in asked.problem
        if limited and size > 1:
            self.batch.failed(size)
        self._count_fault(size, shrinks=asked.too_heavy and not limited)
        again = []
        for entry in batch:
            entry.failures += 1
            if size == 1 and asked.too_heavy and entry.shrink_page():
                entry.failures = 1
            if entry.failures >= (ATTEMPTS_ALONE if size == 1 else ATTEMPTS):
                yield entry.give_up(asked.problem)
            else:
                again.append(entry)
        _requeue(again, suspects)

    def _count_fault(self, size: int, *, shrinks: bool) -> None:
        """Count a query that brought nothing: several in a row are too large, and many are an outage."""
        self._faults += 1
        if shrinks and size > 1 and self._faults >= PERSISTENT:
            self.batch.failed(size)
        if self._faults >= OUTAGE_AFTER:
            raise OutageError(
                f"GitHub at {self.client.api_url} has failed on {OUTAGE_AFTER} GraphQL queries in a row. "
                "What was collected is kept: run again later."
            )

    def _understood(
        self, asked: _QueryResult[Result], response: GraphQLResponse, suspects: deque[Sequence[Listing[Result]]]
    ) -> Iterator[tuple[Listing[Result], Result | None]]:
        """Lists of a query, each with its result if it is done, else None: it has to be asked again.

        Those that failed before go to `suspects` instead, to be asked alone.
        """
        size = len(asked.batch)
        errors = _by_alias(response.errors, size)
        limited = any(error.get("type") == RESOURCE_LIMITS for error in response.errors)
        again: list[Listing[Result]] = []
        pages = 0
        for number, entry in enumerate(asked.batch):
            entry.requests += 1
            node = response.data.get(f"r{number}")
            mine = [error for error in errors.get(f"r{number}", []) if not entry.expects(error)]
            # An error without a path may be about any list that has a hole.
            if not mine and entry.is_whole(node) and not ("" in errors and _has_hole(node)):
                try:
                    found = entry.parse_page(node)
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
                    mine = [{"message": f"an answer that cannot be understood ({type(error).__name__})"}]
                else:
                    entry.failures, entry.persistent, pages = 0, [], pages + 1
                    yield entry, found
                    continue
            mine = mine or errors.get("") or [{"message": "a part of the answer is missing"}]
            if size > 1 and any(error.get("type") == RESOURCE_LIMITS for error in mine):
                yield entry, None  # it was the query that was too large
                continue
            refused, done = self._failed(entry, node, mine, size)
            pages += done
            if done or entry.failures < 2:
                yield entry, refused
            else:
                again.append(entry)
        _requeue(again, suspects)
        if limited:
            self.batch.failed(size)
        if pages == 0 or ("" in errors and pages < size):
            self._count_fault(size, shrinks=not limited)
        else:
            self._faults = 0
            if not limited:
                self.batch.fitted(size)

    def _failed(
        self, entry: Listing[Result], node: Any, errors: Sequence[Mapping[str, Any]], size: int
    ) -> tuple[Result | None, bool]:
        """Understand errors about a list; gives its result, and whether it has its page now or is given up."""
        for error in errors:
            # Only what is said of the list as a whole is a refusal; below it, an entry failed.
            if 1 <= len(_path_of(error)) <= 2:
                found = entry.parse_refusal(str(error.get("type") or ""), str(error.get("message", "no data")))
                if found is not None:
                    return found, True
        entry.failures += 1
        limited = any(error.get("type") == RESOURCE_LIMITS for error in errors)
        places = [_entry_of(_path_of(error)) for error in errors]
        failed = {place for place in places if place is not None}
        if failed and not limited and None not in places:
            entry.persistent.append(failed)
            # Entries that fail now and then are not given up: only those that failed each time.
            each_time = len(entry.persistent) >= PERSISTENT and all(one == failed for one in entry.persistent)
            rest = entry.without(node, failed) if size == 1 and each_time else None
            if rest is not None:
                entry.failures, entry.persistent = 0, []
                return entry.parse_page(rest), True
        if entry.failures >= (ATTEMPTS_ALONE if size == 1 else ATTEMPTS):
            return entry.give_up(str(errors[0].get("message", "no data"))), True
        if size == 1 and limited and entry.shrink_page():
            entry.failures, entry.persistent = 1, []
        return None, False


def is_page(node: Any, connection: str, name: str, seen: Collection[str]) -> bool:
    """Whether a node has a whole page of a connection of stars: its entries, its count, and where to go on.

    Parameters
    ----------
    node : object
        What GitHub gave for the alias.
    connection, name : str
        The connection's field (``stargazers``), and the field of its nodes that names them (``login``).
    seen : collection of str
        Cursors of the pages before: one that leads back to them would be read for ever.
    """
    page = node.get(connection) if isinstance(node, Mapping) else None
    if not isinstance(page, Mapping):
        return False
    edges, info, total = page.get("edges"), page.get("pageInfo"), page.get("totalCount")
    if not isinstance(edges, list) or not isinstance(info, Mapping) or isinstance(total, bool):
        return False
    if not isinstance(total, int) or total < 0 or not all(_is_edge(edge, name) for edge in edges):
        return False
    if info.get("hasNextPage") is False:
        return True
    cursor = info.get("endCursor")
    return info.get("hasNextPage") is True and isinstance(cursor, str) and cursor not in seen and bool(edges)


def _is_edge(edge: Any, name: str) -> bool:
    """Whether an entry is one: null where the account is deleted, but not of another kind."""
    if edge is None:
        return True
    if not isinstance(edge, Mapping) or not isinstance(edge.get("starredAt"), str | None):
        return False
    node = edge.get("node")
    if node is None:
        return True
    if not isinstance(node, Mapping) or not isinstance(node.get(name), str | None):
        return False
    return node.get("databaseId") is None or number_of(node["databaseId"]) is not None


def page_without(node: Any, connection: str, name: str, failed: Collection[int], seen: Collection[str]) -> Any | None:
    """A node whose page lacks a few entries that GitHub fails on; their places are in its field `FAILED`.

    None if the page is broken beside these, or has lost the half of its entries.
    """
    if not is_page(node, connection, name, seen):
        return None
    edges = node[connection]["edges"]
    if not all(place < len(edges) for place in failed) or 2 * len(failed) > len(edges):
        return None
    rest = [None if place in failed else edge for place, edge in enumerate(edges)]
    return {**node, connection: {**node[connection], "edges": rest}, FAILED: sorted(failed)}


def _requeue(entries: Sequence[Listing[Result]], suspects: deque[Sequence[Listing[Result]]]) -> None:
    """Ask once more together, since most faults are bad moments; then in halves, until what is at fault is alone."""
    if len(entries) > 1 and any(entry.failures > 1 for entry in entries):
        suspects.append(entries[: len(entries) // 2])
        suspects.append(entries[len(entries) // 2 :])
    elif entries:
        suspects.append(entries)


def _path_of(error: Mapping[str, Any]) -> Sequence[Any]:
    path = error.get("path")
    return path if isinstance(path, list) else []


def _by_alias(errors: Sequence[Mapping[str, Any]], size: int) -> dict[str, list[Mapping[str, Any]]]:
    """Errors by the alias that their path begins with; under ``""`` those that do not say whom they are about."""
    aliases = {f"r{number}" for number in range(size)}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        path = _path_of(error)
        if path and path[0] == "rateLimit":
            continue
        found.setdefault(str(path[0]) if path and path[0] in aliases else "", []).append(error)
    return found


def _entry_of(path: Sequence[Any]) -> int | None:
    """The place of the entry that a path leads to (``["r0", "stargazers", "edges", 57, "node"]``), if it is one."""
    places = (part for part in path[2:] if isinstance(part, int) and not isinstance(part, bool))
    return next((place for place in places if place >= 0), None)


def _has_hole(value: Any) -> bool:
    """Whether anything in a page that GitHub would have to give is null."""
    if isinstance(value, Mapping):
        return any(_has_hole(part) for name, part in value.items() if name not in OPTIONAL)
    if isinstance(value, list):
        return any(_has_hole(part) for part in value)
    return value is None
