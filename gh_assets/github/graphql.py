"""Reading many of GitHub's lists by GraphQL, page after page, in filled queries.

A hundred connections of a hundred nodes cost one point, as a single one does. Queries are therefore filled with the
next pages of different lists, up to GitHub's limit on the resources of a query. That limit is learned: a query that was
too heavy is halved, and the size that fits is stored.

A response can lack some lists, or parts of a list: errors name paths of any depth under status 200. A page counts as
read only if nothing in it failed. Anything else is requested again, in smaller queries.

Source: docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api;
spec.graphql.org/October2021/#sec-Errors.
"""

from __future__ import annotations

import heapq
import logging
import re
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain, count
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
    ResourceLimitsError,
    ServiceUnavailableError,
)
from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import CONNECTIONS_A_POINT, RESOURCE_LIMITS
from gh_assets.github.responses import GraphQLResponse
from gh_assets.local.concurrency import workers_of

FIRST_PROBE_AFTER, LONGEST_PROBE_AFTER = 12, 96
"""Responses of one size after which a larger one is tried; the number doubles with each trial, up to the second."""

ATTEMPTS, ATTEMPTS_ALONE = 16, 5
"""Failed attempts after which a list is given up: in queries with others, and alone."""

PERSISTENT = 3
"""Consecutive failures that are no passing fault: queries are too large, or GitHub cannot read an entry."""

LIGHT_PAGE = 25
"""Entries of a page of a list that takes GitHub too long with a hundred."""

IN_FLIGHT = 4
"""Number of concurrent queries: GitHub allows a minute of computing per minute."""

OUTAGE_AFTER = 60
"""Consecutive failed queries after which the collection ends."""

OPTIONAL = frozenset({"endCursor", "description", "primaryLanguage", "parent", "pushedAt"})
"""Fields that may be null in a complete page."""

FATAL_ERRORS = (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    GraphQLUnavailableError,
    OutageError,
    RateLimitedError,
)
"""Errors after which other requests would fail, too."""

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")


class QuerySize:
    """The number of lists in a query that GitHub can process, found by bisection.

    It changes: after a while a larger size is tried again, later each time that it fails.

    Parameters
    ----------
    start : int
        Initial size.
    most : int
        Maximum size.
    """

    def __init__(self, start: int = CONNECTIONS_A_POINT, most: int = CONNECTIONS_A_POINT) -> None:
        self._most = most
        self._fits = 0
        self._fails = most + 1
        self._size = max(1, min(most, start))
        self._answers = 0
        self._probe_after = FIRST_PROBE_AFTER
        self._doubted: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def resumed(cls, size: int) -> QuerySize:
        """Begin with the size that fitted in the last run; larger ones are tried only after a while."""
        resumed = cls(size)
        if resumed._size < resumed._most:
            resumed._fits, resumed._fails = resumed._size, resumed._size + 1
        return resumed

    @property
    def size(self) -> int:
        return self._size

    @property
    def limit(self) -> int | None:
        """Largest size that fits, if a larger one is known not to; None if no limit is known."""
        return self._fits if self._fits and self._fails <= self._most else None

    def fitted(self, size: int) -> None:
        """Record that a query of a size had a response."""
        with self._lock:
            self._fits, self._doubted = max(self._fits, size), None
            if self._fits >= self._fails:
                self._fails = self._most + 1  # the failure had another reason
            if size < self._size:
                return
            self._answers += 1
            if self._fails - self._fits > max(1, self._fits // 16) and self._answers >= 2:
                self._size, self._answers = min(self._most, (self._fits + self._fails) // 2), 0
            elif self._fails <= self._most and self._answers >= self._probe_after:
                self._fails = min(self._most + 1, self._fails + max(2, self._fails // 8))
                self._probe_after, self._answers = min(LONGEST_PROBE_AFTER, 2 * self._probe_after), 0

    def failed(self, size: int) -> None:
        """Record that a query of a size was too heavy."""
        with self._lock:
            if size <= self._fits:
                # The same size succeeded before: a single failure is a passing fault.
                if self._doubted is None:
                    self._doubted = size
                    return
                size = max(size, self._doubted)
                self._fits, self._doubted, self._probe_after = 0, None, FIRST_PROBE_AFTER
            self._fails = min(self._fails, max(2, size))
            middle = (self._fits + self._fails) // 2 if self._fits else size // 2
            self._size, self._answers = max(1, min(self._size, middle)), 0


class Listing(ABC, Generic[Task, Result]):
    """A list that is being read, one page per query.

    Attributes
    ----------
    key : int
        Orders lists of equal length.
    task : Task
        What is to be read.
    requests : int
        Number of queries that included it.
    failures : int
        Failures since the last page.
    persistent : list of set of int
        For each response with a damaged page since then: the positions of the entries that GitHub failed on.
    """

    def __init__(self, key: int, task: Task) -> None:
        self.key, self.task = key, task
        self.requests = 0
        self.failures = 0
        self.persistent: list[set[int]] = []

    def pages_left(self) -> int:
        """Return how many pages it may still need, 1 unless overridden.

        The longest list comes first, since its pages are read in turn.
        """
        return 1

    @abstractmethod
    def variables(self) -> Mapping[str, Any]:
        """Return the variables of the next page; the number of the list in the query is added to their names."""

    @abstractmethod
    def is_whole(self, node: Any) -> bool:
        """Whether a page without errors has all requested parts, each of the right type."""

    @abstractmethod
    def parse_page(self, node: Any) -> Result | None:
        """Parse a complete page; return the list's result, or None if more pages follow."""

    @abstractmethod
    def parse_refusal(self, kind: str, message: str) -> Result | None:
        """Return the result of a list that GitHub refuses; None if the error is no refusal, so that it is retried."""

    @abstractmethod
    def give_up(self, reason: str) -> Result:
        """Return the result of a list that cannot be read."""

    def shrink_page(self) -> bool:
        """Request fewer entries per page, since a page of this list alone is too heavy; False if that is impossible."""
        return False

    def expects(self, error: Mapping[str, Any]) -> bool:
        """Whether an error belongs to a valid response: it says that something does not exist."""
        return False

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        """Return the page without entries that GitHub keeps failing on; None if it is of no use then."""
        return None


class _Queue(Generic[Task, Result]):
    """Lists that wait for their next query.

    Lists of failed queries are kept apart, and are requested again in halves until the one at fault is alone.

    Parameters
    ----------
    tasks : iterable
    listing : callable
        Returns the list of a task, given a number and the task.
    size : QuerySize
    """

    def __init__(
        self, tasks: Iterable[Task], listing: Callable[[int, Task], Listing[Task, Result]], size: QuerySize
    ) -> None:
        self._tasks = iter(tasks)
        self._source = map(listing, count(), self._tasks)
        self._size = size
        self._ready: list[tuple[int, int, Listing[Task, Result]]] = []
        self._suspects: deque[Sequence[Listing[Task, Result]]] = deque()

    def push(self, entry: Listing[Task, Result]) -> None:
        """Add a list that has more pages."""
        heapq.heappush(self._ready, (-entry.pages_left(), entry.key, entry))

    def suspect(self, entries: Sequence[Listing[Task, Result]]) -> None:
        """Add lists of a failed query: once more together, since most faults pass, and then in halves."""
        if len(entries) > 1 and any(entry.failures > 1 for entry in entries):
            self._suspects.append(entries[: len(entries) // 2])
            self._suspects.append(entries[len(entries) // 2 :])
        elif entries:
            self._suspects.append(entries)

    def next_batch(self, *, idle: bool) -> Sequence[Listing[Task, Result]]:
        """Return the lists of the next query; none if there are too few for a full one, unless `idle`."""
        if self._suspects:
            return self._suspects.popleft()
        size = self._size.size
        while len(self._ready) < 2 * size and (entry := next(self._source, None)) is not None:
            self.push(entry)
        # A query that is not full is worth its point only if no query in flight can fill it.
        if len(self._ready) < size and not idle:
            return ()
        return [heapq.heappop(self._ready)[2] for _ in range(min(size, len(self._ready)))]

    def tasks(self) -> Iterator[Task]:
        """Return the tasks of all lists in the queue, then the tasks that were not taken yet."""
        waiting = chain((entry for *_, entry in self._ready), *self._suspects)
        return chain((entry.task for entry in waiting), self._tasks)


class GraphQLLists(Generic[Task, Result]):
    """Reads lists.

    Parameters
    ----------
    client : GitHubClient
    query : callable
        Returns the query for a page of each of the given number of lists: aliases ``r0…``; variables as
        `Listing.variables` names them, with the number of the list (see `batched_query`).
    listing : callable
        Returns the list of a task, given a number and the task.
    batch : QuerySize, optional
        What is known of the size of queries that GitHub can process.
    """

    def __init__(
        self,
        client: GitHubClient,
        query: Callable[[int], str],
        listing: Callable[[int, Task], Listing[Task, Result]],
        batch: QuerySize | None = None,
    ) -> None:
        self.client, self.query, self.listing = client, query, listing
        self.batch = batch or QuerySize()
        self._faults = 0

    def read(
        self, tasks: Iterable[Task], workers: int, by_rest: Callable[[Iterator[Task]], Iterable[Result]] | None = None
    ) -> Iterator[Result]:
        """Read the lists of tasks, which are taken as needed; yield each result as soon as it is known.

        After an exception no query is begun; the results of queries in flight are yielded before it is raised.

        Parameters
        ----------
        tasks : iterable
        workers : int
            Maximum number of concurrent queries, up to `IN_FLIGHT`.
        by_rest : callable, optional
            Given tasks, yields their results in any order: of those that are left if GraphQL proves to be unavailable.
        """
        queue = _Queue(tasks, self.listing, self.batch)
        pending: dict[Future[GraphQLResponse | Exception], Sequence[Listing[Task, Result]]] = {}
        failure: BaseException | None = None
        slots = max(1, min(workers, IN_FLIGHT))
        with workers_of(slots, "gh-assets-graphql") as executor:
            while True:
                try:
                    while failure is None and len(pending) < slots and (batch := queue.next_batch(idle=not pending)):
                        pending[executor.submit(self._send, batch)] = batch
                except Exception as error:  # noqa: BLE001 - of `tasks`; raised below
                    failure = error
                if not pending:
                    break
                done, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    batch = pending.pop(future)
                    fault = future.exception()
                    if fault is None:
                        try:
                            yield from self._results(batch, future.result(), queue)
                        except OutageError as error:
                            fault = error
                    else:
                        queue.suspect(batch)
                    failure = failure or fault
        if isinstance(failure, GraphQLUnavailableError) and by_rest is not None:
            logger.warning("%s The REST API is used instead.", failure)
            yield from by_rest(queue.tasks())
        elif failure is not None:
            raise failure

    def _results(
        self, batch: Sequence[Listing[Task, Result]], response: GraphQLResponse | Exception, queue: _Queue[Task, Result]
    ) -> Iterator[Result]:
        """Yield the results of lists that are done; the others go back to the queue."""
        if isinstance(response, Exception):
            yield from self._without_response(batch, response, queue)
            return
        for entry, outcome in self._parsed(batch, response, queue):
            if outcome is not None:
                yield outcome
            else:
                queue.push(entry)

    def _send(self, batch: Sequence[Listing[Task, Result]]) -> GraphQLResponse | Exception:
        """Send a query; return the response, or why there is none."""
        failures = max(entry.failures for entry in batch)
        if failures:
            pool = self.client.pool
            pool.wait(pool.policy.wait_before(failures))
        variables = {f"{name}{number}": value for number, entry in enumerate(batch)
                     for name, value in entry.variables().items()}  # fmt: skip
        try:
            return self.client.graphql(self.query(len(batch)), variables)
        except FATAL_ERRORS:
            raise
        except (ServiceUnavailableError, GitHubError) as error:
            return error

    def _without_response(
        self, batch: Sequence[Listing[Task, Result]], error: Exception, queue: _Queue[Task, Result]
    ) -> Iterator[Result]:
        size, too_heavy = len(batch), isinstance(error, QueryTooHeavyError)
        limited = isinstance(error, ResourceLimitsError)
        if limited and size > 1:
            self.batch.failed(size)
        self._count_fault(size, shrinks=too_heavy and not limited)
        suspects = []
        for entry in batch:
            entry.failures += 1
            if size == 1 and too_heavy and entry.shrink_page():
                entry.failures = 1
            if entry.failures >= (ATTEMPTS_ALONE if size == 1 else ATTEMPTS):
                yield entry.give_up(str(error))
            else:
                suspects.append(entry)
        queue.suspect(suspects)

    def _count_fault(self, size: int, *, shrinks: bool) -> None:
        """Count a query without result: several in a row are too large, and many are an outage."""
        self._faults += 1
        if shrinks and size > 1 and self._faults >= PERSISTENT:
            self.batch.failed(size)
        if self._faults >= OUTAGE_AFTER:
            raise OutageError(
                f"GitHub at {self.client.api_url} has failed on {OUTAGE_AFTER} GraphQL queries in a row. "
                "What was collected is kept: run again later."
            )

    def _parsed(
        self, batch: Sequence[Listing[Task, Result]], response: GraphQLResponse, queue: _Queue[Task, Result]
    ) -> Iterator[tuple[Listing[Task, Result], Result | None]]:
        """Yield the lists of a query, each with its result, or None if it has more pages or is to be requested again.

        Lists that failed repeatedly become suspects of the queue instead.
        """
        size = len(batch)
        errors = _by_alias(response.errors, size)
        limited = _exceeds_resources(response.errors)
        suspects: list[Listing[Task, Result]] = []
        pages = 0
        for number, entry in enumerate(batch):
            entry.requests += 1
            node = response.data.get(f"r{number}")
            own = [error for error in errors.get(f"r{number}", []) if not entry.expects(error)]
            # An error without a path may be about any list that has a hole.
            if not own and entry.is_whole(node) and not ("" in errors and _has_hole(node)):
                try:
                    outcome = entry.parse_page(node)
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
                    own = [{"message": f"a malformed response ({type(error).__name__})"}]
                else:
                    entry.failures, entry.persistent, pages = 0, [], pages + 1
                    yield entry, outcome
                    continue
            own = own or errors.get("") or [{"message": "a part of the response is missing"}]
            if size > 1 and _exceeds_resources(own):
                yield entry, None  # the query was too large, not the list
                continue
            refused, done = self._failed(entry, node, own, size)
            pages += done
            if done or entry.failures < 2:
                yield entry, refused
            else:
                suspects.append(entry)
        queue.suspect(suspects)
        if limited:
            self.batch.failed(size)
        if pages == 0 or ("" in errors and pages < size):
            self._count_fault(size, shrinks=not limited)
        else:
            self._faults = 0
            if not limited:
                self.batch.fitted(size)

    def _failed(
        self, entry: Listing[Task, Result], node: Any, errors: Sequence[Mapping[str, Any]], size: int
    ) -> tuple[Result | None, bool]:
        """Handle errors about a list; return its result, and whether it has its page now or is given up."""
        for error in errors:
            # Only an error about the list as a whole is a refusal; below it, an entry failed.
            if 1 <= len(_path_of(error)) <= 2:
                refused = entry.parse_refusal(str(error.get("type") or ""), str(error.get("message", "no data")))
                if refused is not None:
                    return refused, True
        entry.failures += 1
        limited = _exceeds_resources(errors)
        places = [_entry_of(_path_of(error)) for error in errors]
        failed = {place for place in places if place is not None}
        if failed and not limited and None not in places:
            entry.persistent.append(failed)
            # Only entries that failed each time are given up.
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


def batched_query(size: int, variables: Mapping[str, str], field: str) -> str:
    """Return a query that selects a field once for each of `size` lists, with the aliases ``r0…``.

    Parameters
    ----------
    size : int
    variables : mapping of str to str
        Types of the field's variables by name; the number of the list is added to each name.
    field : str
        A field with its arguments and selection.
    """
    declared = ", ".join(f"${name}{number}: {kind}" for number in range(size) for name, kind in variables.items())
    selected = "\n".join(f"r{number}: " + re.sub(r"\$\w+", rf"\g<0>{number}", field) for number in range(size))
    return f"query({declared}) {{\n{selected}\nrateLimit {{ cost limit remaining resetAt }}\n}}"


def _exceeds_resources(errors: Iterable[Mapping[str, Any]]) -> bool:
    return any(error.get("type") == RESOURCE_LIMITS for error in errors)


def _path_of(error: Mapping[str, Any]) -> Sequence[Any]:
    path = error.get("path")
    return path if isinstance(path, list) else []


def _by_alias(errors: Sequence[Mapping[str, Any]], size: int) -> dict[str, list[Mapping[str, Any]]]:
    """Return errors by the alias that their path begins with; under ``""`` those without one."""
    aliases = {f"r{number}" for number in range(size)}
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors:
        path = _path_of(error)
        if path and path[0] == "rateLimit":
            continue
        grouped.setdefault(str(path[0]) if path and path[0] in aliases else "", []).append(error)
    return grouped


def _entry_of(path: Sequence[Any]) -> int | None:
    """Return the position of the entry that a path (``["r0", "stargazers", "edges", 57, "node"]``) leads to, if any."""
    places = (part for part in path[2:] if isinstance(part, int) and not isinstance(part, bool))
    return next((place for place in places if place >= 0), None)


def _has_hole(value: Any) -> bool:
    """Whether a required field in a page is null."""
    if isinstance(value, Mapping):
        return any(_has_hole(part) for name, part in value.items() if name not in OPTIONAL)
    if isinstance(value, list):
        return any(_has_hole(part) for part in value)
    return value is None
