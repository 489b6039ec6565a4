"""Live lookups: stars of users who were not collected, read from their public starred lists while they wait.

Nothing is stored. What was read stays in memory for a configured time, and the requests have a small budget of their
own, so that visitors cannot use up the quota of the collection.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.starred_lists import RestStarred, StarredListTask
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.errors import GhAssetsError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.responses import GitHubResponse
from gh_assets.github.retries import RetryPolicy
from gh_assets.local.token_bucket import TokenBucket
from gh_assets.serving.catalogue import Description

HOUR = 3600.0

INTERACTIVE_RETRY = RetryPolicy(
    attempts=2, first_wait=0.2, longest_wait=1.0, longest_quota_wait=2.0, confirmation_wait=0.5, in_flight=4
)
"""Short waits, because a user is waiting."""

MAX_CONCURRENT = 4

MAX_PENDING = 100
"""Lookups in progress or waiting; further ones are refused."""

MAX_KEPT = 2000
"""Users, and repositories, that are kept in memory."""

KEEP_FAILURE = 10.0
"""Seconds for which a failed lookup is kept."""

REPOSITORY_REQUESTS = 2
"""Requests that a repository may take: one more if it was renamed."""

log = logging.getLogger(__name__)


class LookupOutcome(StrEnum):
    """The outcome of a lookup."""

    READING = "reading"
    OK = "ok"
    NOT_FOUND = "nobody"
    ORGANIZATION = "organization"
    STARLESS = "starless"
    BLOCKED = "blocked"
    BUDGET_SPENT = "budget_spent"
    UNAVAILABLE = "unavailable"


@dataclass
class Lookup:
    """A lookup of a user, whose fields change while it is in progress.

    Attributes
    ----------
    login : str
        Login with GitHub's capitalization, once it is known.
    outcome : LookupOutcome
    pages, stars_read : int
        Numbers of pages and stars read so far.
    stars : sequence of int
        Ids of the starred repositories, newest first.
    complete : bool
        Whether the list was read to its end.
    user_id : int or None
    done : threading.Event
    expires : float
        When it is forgotten, in seconds of the clock.
    """

    login: str
    outcome: LookupOutcome = LookupOutcome.READING
    pages: int = 0
    stars_read: int = 0
    stars: Sequence[int] = ()
    complete: bool = False
    user_id: int | None = None
    done: threading.Event = field(default_factory=threading.Event)
    expires: float = float("inf")


class LiveLookups:
    """Looks up users and repositories on GitHub, each once at a time, and keeps them for a while.

    Parameters
    ----------
    connect : callable
        Returns a GitHub client; called for the first lookup, and again after a client failed.
    requests_an_hour : int
        The budget; 0 disables lookups.
    pages : int
        Maximum number of pages of 100 stars per user.
    keep : float
        Seconds for which users are kept.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        connect: Callable[[], GitHubClient],
        *,
        requests_an_hour: int,
        pages: int,
        keep: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.budget = TokenBucket(requests_an_hour, requests_an_hour / HOUR, clock)
        self.pages, self.keep = pages, keep
        self._connect, self._clock = connect, clock
        self._client: GitHubClient | None = None
        self._users: OrderedDict[str, Lookup] = OrderedDict()
        self._repositories: OrderedDict[str, tuple[float, tuple[int, Description] | LookupOutcome]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="live")
        self._closed = False

    def close(self) -> None:
        """Cancel all lookups."""
        self._closed = True
        self._drop_client()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def forget(self) -> None:
        """Forget users and repositories that have expired."""
        now = self._clock()
        with self._lock:
            for kept in (self._users, self._repositories):
                while len(kept) > MAX_KEPT:
                    kept.popitem(last=False)
            for login in [login for login, lookup in self._users.items() if lookup.expires <= now]:
                del self._users[login]
            for name in [name for name, (expires, _) in self._repositories.items() if expires <= now]:
                del self._repositories[name]

    # -- users -----------------------------------------------------------------------------------------------------

    def look_up(self, login: str) -> Lookup:
        """Return the lookup of a user, which may be in progress; start one if there is none.

        Parameters
        ----------
        login : str
            A valid login; see `is_login`.
        """
        self.forget()
        key = login.lower()
        with self._lock:
            known = self._users.get(key)
            if known is not None:
                return known
            lookup, requests = Lookup(login), self.pages + 1
            pending = sum(not other.done.is_set() for other in self._users.values())
            if self._closed or pending >= MAX_PENDING or self.budget.take(requests):
                lookup.outcome = LookupOutcome.BUDGET_SPENT
                lookup.done.set()
                return lookup  # not kept: the next attempt may succeed
            self._users[key] = lookup
            self._pool.submit(self._run, key, lookup, requests)
            return lookup

    def _run(self, key: str, lookup: Lookup, requests: int) -> None:
        """Carry out a lookup, for which `requests` were taken from the budget."""
        outcome = LookupOutcome.UNAVAILABLE
        try:
            with suppress(GhAssetsError), self._spending(requests) as usage:
                outcome = self._read(lookup, usage)
        finally:
            keep = KEEP_FAILURE if outcome is LookupOutcome.UNAVAILABLE else self.keep
            lookup.outcome, lookup.expires = outcome, self._clock() + keep
            if keep == 0:
                with self._lock:
                    self._users.pop(key, None)
            lookup.done.set()

    def _read(self, lookup: Lookup, usage: _Usage) -> LookupOutcome:
        client = self._connected()
        usage.requests = 1
        response = client.get(f"/users/{lookup.login}")
        payload = response.document
        if response.status != 200 or not isinstance(payload.get("id"), int):
            return _refusal(response)
        lookup.user_id, lookup.login = payload["id"], str(payload["login"])
        if payload.get("type") == "Organization":
            return LookupOutcome.ORGANIZATION

        def on_progress(pages: int, stars: int) -> None:
            lookup.pages, lookup.stars_read = pages, stars

        # Nothing is stored, so the list need not be proven complete.
        reader = RestStarred(client, self.pages, on_progress, prove=False)
        (result,) = reader.read([StarredListTask(SeedUser(lookup.login, lookup.user_id))], 1)
        usage.requests += result.requests
        if result.rows is None:
            return LookupOutcome.BLOCKED if result.outcome is Outcome.BLOCKED else LookupOutcome.UNAVAILABLE
        lookup.stars, lookup.complete = result.rows["repo_id"].to_list(), result.complete
        return LookupOutcome.OK if lookup.stars else LookupOutcome.STARLESS

    # -- repositories ------------------------------------------------------------------------------------------------

    def describe(self, full_name: str) -> tuple[int, Description] | LookupOutcome:
        """Return the id and metadata of a repository that was not collected, or why there are none.

        Waits for GitHub's response.
        """
        self.forget()
        key = full_name.lower()
        with self._lock:
            known = self._repositories.get(key)
        if known is not None:
            return known[1]
        if self._closed or self.budget.take(REPOSITORY_REQUESTS):
            return LookupOutcome.BUDGET_SPENT
        try:
            with self._spending(REPOSITORY_REQUESTS) as usage:
                result = self._read_repository(full_name, usage)
        except GhAssetsError:
            return LookupOutcome.UNAVAILABLE
        with self._lock:
            self._repositories[key] = self._clock() + HOUR, result
        return result

    def _read_repository(self, full_name: str, usage: _Usage) -> tuple[int, Description] | LookupOutcome:
        client = self._connected()
        usage.requests = 1
        response = client.get(f"/repos/{full_name}", redirects=REPOSITORY_REQUESTS - 1)
        usage.requests += response.moved
        payload = response.document
        if response.status == 200 and isinstance(payload.get("id"), int):
            return payload["id"], _description(payload)
        return _refusal(response)

    # -- GitHub --------------------------------------------------------------------------------------------------------

    def check(self) -> bool:
        """Whether GitHub responds; the request costs no quota."""
        try:
            with self._spending(0):
                response = self._connected().get("/rate_limit")
        except GhAssetsError:
            return False
        return response.status in (200, 404)  # an Enterprise server without limits has no such page

    @contextmanager
    def _spending(self, requests: int) -> Iterator[_Usage]:
        """Count the requests of a block, for which `requests` were taken from the budget; give the others back."""
        usage = _Usage()
        try:
            yield usage
        except Exception as error:
            log.warning("GitHub is unavailable", extra={"fields": {"error": type(error).__name__}})
            self._drop_client()
            raise
        finally:
            self.budget.give_back(max(requests - usage.requests, 0))

    def _connected(self) -> GitHubClient:
        with self._lock:
            if self._client is not None:
                return self._client
        client = self._connect()
        with self._lock:
            if self._client is None:
                self._client = client
                return client
            known = self._client
        client.close()
        return known

    def _drop_client(self) -> None:
        """Close the client: the next lookup connects again, and the server may have another address by then."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


@dataclass
class _Usage:
    """Requests that a lookup has used."""

    requests: int = 0


def _refusal(response: GitHubResponse) -> LookupOutcome:
    outcome, _ = classify_refusal(response)
    return LookupOutcome.BLOCKED if outcome is Outcome.BLOCKED else LookupOutcome.NOT_FOUND


def _description(payload: dict[str, Any]) -> Description:
    topics, stars = payload.get("topics"), payload.get("stargazers_count")
    description, language = payload.get("description"), payload.get("language")
    return Description(
        str(payload.get("full_name")),
        description if isinstance(description, str) else None,
        language if isinstance(language, str) else None,
        tuple(str(topic) for topic in topics) if isinstance(topics, list) else (),
        stars if isinstance(stars, int) else None,
        bool(payload.get("archived")),
    )
