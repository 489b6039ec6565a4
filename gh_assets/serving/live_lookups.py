"""Stars of people who were not collected: read from their own starred lists, which are open to all, while they wait.

Nothing of it is written anywhere. What was read stays in memory for as long as a setting says and is then forgotten,
and the requests that it takes come out of a small budget of its own, so that visitors cannot use up what collecting
needs.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum

from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.starred_lists import RestStarred, StarredListTask
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.errors import GhAssetsError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.retries import RetryPolicy
from gh_assets.serving.catalogue import Description

HOUR = 3600.0

INTERACTIVE_RETRY = RetryPolicy(
    attempts=2, first_wait=0.2, longest_wait=1.0, longest_quota_wait=2.0, confirmation_wait=0.5, in_flight=4
)
"""Somebody waits: a plain answer now is better than the list in a quarter of an hour."""

MAX_CONCURRENT = 4
WAITING = 100
"""Lookups that may be under way or waiting; more are told to come back."""

MAX_KEPT = 2000
"""People and repositories that are remembered at most."""

LOGIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9_])?")
"""What a login can be; Enterprise servers add ``_``."""

log = logging.getLogger(__name__)


def is_login(text: str) -> bool:
    """Whether GitHub could know somebody by this."""
    return LOGIN.fullmatch(text) is not None


class LookupOutcome(StrEnum):
    """What became of looking somebody or something up."""

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
    """A login that is looked up; fields change while it is.

    Attributes
    ----------
    login : str
        As GitHub writes it, once that is known.
    found : Found
    pages, stars_read : int
        Read so far.
    stars : sequence of int
        Ids of the repositories that the person starred, newest first.
    complete : bool
        Whether that is all of the list.
    user_id : int or None
    done : threading.Event
    expires : float
        When it is forgotten, in seconds of the monotonic clock.
    """

    login: str
    found: LookupOutcome = LookupOutcome.READING
    pages: int = 0
    stars_read: int = 0
    stars: Sequence[int] = ()
    complete: bool = False
    user_id: int | None = None
    done: threading.Event = field(default_factory=threading.Event)
    expires: float = float("inf")


class Budget:
    """Requests that may be sent within an hour; used ones come back evenly.

    Parameters
    ----------
    an_hour : int
    clock : callable
        Seconds that only go forward.
    """

    def __init__(self, an_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.an_hour, self._clock = an_hour, clock
        self._left, self._at = float(an_hour), clock()
        self._lock = threading.Lock()

    def take(self, requests: int) -> bool:
        """Take so many, or none."""
        with self._lock:
            now = self._clock()
            self._left = min(float(self.an_hour), self._left + (now - self._at) * self.an_hour / HOUR)
            self._at = now
            if self._left < requests:
                return False
            self._left -= requests
            return True

    def give_back(self, requests: int) -> None:
        """What was taken and not used."""
        with self._lock:
            self._left = min(float(self.an_hour), self._left + requests)


class LiveLookups:
    """Looks people and repositories up, each once at a time, and remembers them for a while.

    Parameters
    ----------
    connect : callable
        Gives a client of GitHub; called when one is needed, and again after one failed.
    requests_an_hour : int
        The budget. 0: nobody is looked up.
    pages : int
        At most so many pages of 100 stars a person.
    keep : float
        Seconds after which what was read is forgotten.
    clock : callable
        Seconds that only go forward.
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
        self.budget = Budget(requests_an_hour, clock)
        self.pages, self.keep = pages, keep
        self.failing_since: float | None = None
        self._connect, self._clock = connect, clock
        self._client: GitHubClient | None = None
        self._kept: OrderedDict[str, Lookup] = OrderedDict()
        self._repositories: OrderedDict[str, tuple[float, tuple[int, Description] | LookupOutcome]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="live")
        self._closed = False

    def close(self) -> None:
        """Let nobody wait any more."""
        self._closed = True
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.cancel()
            client.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- people ----------------------------------------------------------------------------------------------------

    def look_up(self, login: str) -> Lookup:
        """What is known of a login now; starts to read if that is nothing.

        Parameters
        ----------
        login : str
            One that `is_login`.
        """
        self.forget()
        key = login.lower()
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                return known
            lookup = Lookup(login)
            waiting = sum(not other.done.is_set() for other in self._kept.values())
            most = self.pages + 1
            if self._closed or waiting >= WAITING or not self.budget.take(most):
                lookup.found = LookupOutcome.BUDGET_SPENT
                lookup.done.set()
                return lookup  # not kept: the next try may find some budget
            self._kept[key] = lookup
            self._pool.submit(self._read, key, lookup, most)
            return lookup

    def forget(self) -> None:
        """Forget whoever was read too long ago."""
        now = self._clock()
        with self._lock:
            for kept in (self._kept, self._repositories):
                while len(kept) > MAX_KEPT:
                    kept.popitem(last=False)
            for key in [key for key, lookup in self._kept.items() if lookup.expires <= now]:
                del self._kept[key]
            for key in [key for key, (expires, _) in self._repositories.items() if expires <= now]:
                del self._repositories[key]

    def _read(self, key: str, lookup: Lookup, taken: int) -> None:
        used = 0
        try:
            client = self._connected()
            used = 1
            answer = client.get(f"/users/{lookup.login}")
            self.failing_since = None
            payload = answer.payload if isinstance(answer.payload, dict) else {}
            if answer.status != 200 or not isinstance(payload.get("id"), int):
                lookup.found = (
                    LookupOutcome.BLOCKED if classify_refusal(answer)[0] is Outcome.BLOCKED else LookupOutcome.NOT_FOUND
                )
                return
            lookup.user_id, lookup.login = payload["id"], str(payload["login"])
            if payload.get("type") == "Organization":
                lookup.found = LookupOutcome.ORGANIZATION
                return

            def tell(pages: int, stars: int) -> None:
                lookup.pages, lookup.stars_read = pages, stars

            reader = RestStarred(client, self.pages, tell, prove=False)  # somebody waits, and nothing is stored
            seed = SeedUser(lookup.login, lookup.user_id)
            (read,) = reader.read([StarredListTask(seed)], 1)
            used += read.requests
            if read.rows is None:
                lookup.found = LookupOutcome.BLOCKED if read.outcome is Outcome.BLOCKED else LookupOutcome.UNAVAILABLE
                return
            lookup.stars, lookup.complete = read.rows["repo_id"].to_list(), read.complete
            lookup.found = LookupOutcome.OK if lookup.stars else LookupOutcome.STARLESS
        except GhAssetsError as error:
            lookup.found = LookupOutcome.UNAVAILABLE
            self._failed(error)
        except Exception as error:
            lookup.found = LookupOutcome.UNAVAILABLE
            self._failed(error)
            raise
        finally:
            self.budget.give_back(max(taken - used, 0))
            # Failures are not held against anybody for long.
            keep = 10.0 if lookup.found is LookupOutcome.UNAVAILABLE else self.keep
            lookup.expires = self._clock() + keep
            if keep == 0:
                with self._lock:
                    self._kept.pop(key, None)
            lookup.done.set()

    # -- repositories ------------------------------------------------------------------------------------------------

    def describe(self, full_name: str) -> tuple[int, Description] | LookupOutcome:
        """Id and description of a repository that was not collected; waits for GitHub.

        Returns
        -------
        (int, Description), or Found
            Why there is none.
        """
        self.forget()
        key = full_name.lower()
        with self._lock:
            known = self._repositories.get(key)
        if known is not None:
            return known[1]
        if self._closed or not self.budget.take(2):  # a renamed one takes two
            return LookupOutcome.BUDGET_SPENT
        used = 0
        found: tuple[int, Description] | LookupOutcome = LookupOutcome.UNAVAILABLE
        try:
            client = self._connected()
            used = 1
            answer = client.get(f"/repos/{full_name}")
            if answer.status in (301, 302, 307, 308) and answer.headers.get("location"):
                used = 2
                answer = client.get(answer.headers["location"])
            payload = answer.payload if isinstance(answer.payload, dict) else {}
            if answer.status == 200 and isinstance(payload.get("id"), int):
                found = payload["id"], _described(payload)
            else:
                found = (
                    LookupOutcome.BLOCKED if classify_refusal(answer)[0] is Outcome.BLOCKED else LookupOutcome.NOT_FOUND
                )
            self.failing_since = None
        except GhAssetsError as error:
            self._failed(error)
        finally:
            self.budget.give_back(2 - used)
        if found is not LookupOutcome.UNAVAILABLE:
            with self._lock:
                # A repository is nobody's private matter: it may be remembered for an hour.
                self._repositories[key] = self._clock() + HOUR, found
        return found

    # -- GitHub --------------------------------------------------------------------------------------------------------

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

    def check(self) -> bool:
        """Whether GitHub answers; asks for what costs no quota."""
        try:
            answer = self._connected().get("/rate_limit")
        except Exception as error:
            self._failed(error)
            if not isinstance(error, GhAssetsError):
                raise
            return False
        ok = answer.status in (200, 404)  # an Enterprise server without limits has no such page
        if ok:
            self.failing_since = None
        return ok

    def _failed(self, error: BaseException) -> None:
        """The next lookup connects anew: the server may be another one by then."""
        log.warning("GitHub cannot be asked", extra={"fields": {"error": type(error).__name__}})
        if self.failing_since is None:
            self.failing_since = time.time()
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _described(payload: dict[str, object]) -> Description:
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
