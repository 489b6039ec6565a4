"""Many lists of GitHub's read by GraphQL, page after page, in filled queries.

A hundred connections of a hundred nodes cost one point, as a single one does: queries are filled up, with the next
pages of different lists, as far as GitHub's limit on a query's resources lets them be. Where that is, is learned: a
query that was too heavy is halved, and the size that fitted is remembered.

Source: docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api.
"""

from __future__ import annotations

import heapq
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gh_assets.collector.client import GitHubClient, GraphQLAnswer
from gh_assets.collector.concurrency import workers_of
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

MOST = 100
"""Connections a query: so many cost one point."""

SAMPLE = 12
"""Answers of a size after which a larger one is tried again: what GitHub bears changes."""

STOPPING = (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    GraphQLUnavailableError,
    OutageError,
    RateLimitedError,
)
"""After these nobody else can be asked either."""

Result = TypeVar("Result")


class BatchSize:
    """The size of queries that GitHub bears, found by bisection and remembered.

    Parameters
    ----------
    start : int
        What fitted last time.
    most : int
        Larger queries are never worth it.
    """

    def __init__(self, start: int = MOST, most: int = MOST) -> None:
        self._most = most
        self._fits = 0
        self._fails = most + 1
        self._size = max(1, min(most, start))
        self._answers = 0
        self._lock = threading.Lock()

    @classmethod
    def remembered(cls, size: int) -> BatchSize:
        """To begin with what fitted last time; larger ones are tried only after a while."""
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
            self._fits = max(self._fits, size)
            if size < self._size:
                return
            self._answers += 1
            if self._fails - self._fits > max(1, self._fits // 16) and self._answers >= 2:
                self._size, self._answers = min(self._most, (self._fits + self._fails) // 2), 0
            elif self._answers >= SAMPLE * 8 and self._fails <= self._most:
                self._fails, self._answers = min(self._most + 1, self._fails + max(1, self._fails // 8)), 0

    def failed(self, size: int) -> None:
        """A query of so many connections was too heavy."""
        with self._lock:
            self._fails = min(self._fails, max(2, size))
            if self._fits >= self._fails:
                self._fits = 0  # it bears less than it did
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
    """

    def __init__(self, key: int) -> None:
        self.key = key
        self.requests = 0
        self.failures = 0

    @abstractmethod
    def pages_left(self) -> int:
        """Pages that it may still need: the longest go on first, since a list is read page after page."""

    @abstractmethod
    def variables(self) -> Mapping[str, Any]:
        """Values of the query's variables for the next page; the engine adds the list's number to their names."""

    @abstractmethod
    def take(self, node: Mapping[str, Any]) -> Result | None:
        """Understand a page. None: there are more."""

    @abstractmethod
    def refuse(self, kind: str, message: str) -> Result | None:
        """Understand an error of GraphQL about this list. None: it is no answer, to be asked again."""

    @abstractmethod
    def give_up(self, reason: str) -> Result:
        """What to say when it could not be asked."""

    def lighten(self) -> bool:
        """Ask for less a page, where a page of this very list is too heavy. False if that cannot be."""
        return False


@dataclass(frozen=True)
class _Asked(Generic[Result]):
    """A query that was sent, and what came of it."""

    batch: Sequence[Listing[Result]]
    answer: GraphQLAnswer | None
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
    batch : BatchSize, optional
        What is known of the size of queries that GitHub bears.
    in_flight : int
        Queries at once: GitHub allows a minute of computing a minute.
    """

    def __init__(
        self,
        client: GitHubClient,
        query: Callable[[int], str],
        *,
        batch: BatchSize | None = None,
        in_flight: int = 4,
    ) -> None:
        self.client = client
        self.query = query
        self.batch = batch or BatchSize()
        self.in_flight = in_flight
        self._gateway_faults = 0

    def read(self, listings: Iterable[Listing[Result]], workers: int) -> Iterator[Result]:
        """Read lists, taking them from `listings` as it goes on; yields each result when it is known."""
        source = iter(listings)
        exhausted = False
        ready: list[tuple[int, int, Listing[Result]]] = []
        # Queries that failed are asked again in halves, until what makes them heavy stands alone.
        suspects: deque[Sequence[Listing[Result]]] = deque()
        pending: set[Future[_Asked[Result]]] = set()
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
                    if asked.answer is None:
                        yield from self._unanswered(asked, suspects)
                        continue
                    for entry, found in self._understood(asked, asked.answer):
                        if found is not None:
                            yield found
                        else:
                            push(entry)
        if failure is not None:
            raise failure

    def _ask(self, batch: Sequence[Listing[Result]]) -> _Asked[Result]:
        variables = {f"{name}{number}": value for number, entry in enumerate(batch)
                     for name, value in entry.variables().items()}  # fmt: skip
        try:
            return _Asked(batch, self.client.graphql(self.query(len(batch)), variables))
        except QueryTooHeavyError as error:
            return _Asked(batch, None, True, str(error))
        except STOPPING:
            raise
        except (ServiceUnavailableError, GitHubError) as error:
            return _Asked(batch, None, False, str(error))

    def _unanswered(self, asked: _Asked[Result], suspects: deque[Sequence[Listing[Result]]]) -> Iterator[Result]:
        batch, size = asked.batch, len(asked.batch)
        if asked.too_heavy:
            # A gateway's error may be the size of the query, or a bad moment: several in a row are the size.
            self._gateway_faults += 1
            if size > 1 and ("resource limits" in asked.problem or self._gateway_faults >= 2):
                self.batch.failed(size)
        again = []
        for entry in batch:
            entry.failures += 1
            if size == 1 and asked.too_heavy and entry.lighten():
                entry.failures = 0
            if entry.failures >= (5 if size == 1 else 16):
                yield entry.give_up(asked.problem)
            else:
                again.append(entry)
        # Once whole: most faults are bad moments.
        if len(again) > 1 and any(entry.failures > 1 for entry in again):
            suspects.append(again[: len(again) // 2])
            suspects.append(again[len(again) // 2 :])
        elif again:
            suspects.append(again)

    def _understood(
        self, asked: _Asked[Result], answer: GraphQLAnswer
    ) -> Iterator[tuple[Listing[Result], Result | None]]:
        """For each list of a query: its result if it is done, else None: it has to be asked again."""
        size = len(asked.batch)
        errors: dict[str, Mapping[str, Any]] = {}
        for error in answer.errors:
            path = error.get("path") or [None]
            errors.setdefault(str(path[0]), error)
        limited = any(error.get("type") == "RESOURCE_LIMITS_EXCEEDED" for error in answer.errors)
        if limited:
            self.batch.failed(size)
        else:
            self._gateway_faults = 0
            self.batch.fitted(size)
        for number, entry in enumerate(asked.batch):
            entry.requests += 1
            node = answer.data.get(f"r{number}")
            # What may not be seen can be null as a whole, or only the field in it.
            hole = f"r{number}" in errors and isinstance(node, dict) and None in node.values()
            if node and not hole:
                entry.failures = 0
                yield entry, entry.take(node)
                continue
            error = errors.get(f"r{number}") or errors.get("None") or {}
            kind, message = str(error.get("type") or ""), str(error.get("message", "no data"))
            found = None if kind == "RESOURCE_LIMITS_EXCEEDED" else entry.refuse(kind, message)
            if found is None and (kind != "RESOURCE_LIMITS_EXCEEDED" or size == 1):
                entry.failures = 0 if kind and entry.lighten() else entry.failures + 1
                if entry.failures >= 5:
                    found = entry.give_up(message)
            yield entry, found
