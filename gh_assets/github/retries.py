"""Retries: when a request is sent again, and after which wait. The one place for this policy and for the loop."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TypeVar
from urllib.parse import urlsplit

import requests

from gh_assets.errors import GhAssetsError, GraphQLUnavailableError, OutageError, ServiceUnavailableError
from gh_assets.github.rate_limits import Resource
from gh_assets.github.transport import Transport
from gh_assets.local.backoff import Backoff

OUTAGE_AFTER = 20
"""Consecutive unanswered requests, each with all its retries, after which no more are sent."""

MAX_LIMIT_RETRIES = 50
"""Consecutive rate limits after which a request counts as failed: waiting did not help."""

Result = TypeVar("Result")


class Clock:
    """The machine's time; tests and simulations have others."""

    def now(self) -> float:
        """Return the seconds since 1970."""
        return time.time()

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        """Wait for `seconds`, or until `cancelled` is set."""
        cancelled.wait(seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a request is retried, and how fast requests may follow each other.

    Parameters
    ----------
    attempts : int
        Maximum number of attempts on network faults and on status 500, 502, 503 and 504.
    first_wait, longest_wait : float
        Seconds; the wait doubles from the first to the longest, with jitter.
    secondary_wait : float
        Seconds to wait on a secondary limit that names no time (GitHub asks for at least 60). The wait doubles while
        the limit lasts.
    longest_secondary_wait : float
        Seconds; upper limit of that wait.
    longest_quota_wait : float
        Seconds that a caller accepts to wait for new quota or for the end of a secondary limit. A longer wait raises
        `RateLimitedError`.
    confirmation_wait : float
        Seconds before a refused token is checked for the last time.
    points_a_minute : mapping of Resource to int
        Requests (REST) or queries (GraphQL) a minute and account. GitHub's secondary limits are 900 and 2,000; the
        difference is left to other programs of the same user. A resource without an entry is not paced.
    in_flight : int
        Maximum number of concurrent requests; GitHub's limit is 100.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    secondary_wait: float = 60.0
    longest_secondary_wait: float = 960.0
    longest_quota_wait: float = 3700.0
    confirmation_wait: float = 5.0
    points_a_minute: Mapping[Resource, int] = field(
        default_factory=lambda: {Resource.REST: 800, Resource.GRAPHQL: 1800}
    )
    in_flight: int = 80

    def wait_before(self, attempt: int) -> float:
        """Return the seconds to wait before retry number `attempt` (from 1)."""
        return Backoff(self.first_wait, self.longest_wait, jitter=(0.5, 1.0)).wait(attempt)

    def secondary_wait_before(self, attempt: int) -> float:
        """Return the seconds to wait on the secondary limit number `attempt` in a row."""
        # GitHub's minimum is kept: jitter only adds to it.
        return Backoff(self.secondary_wait, self.longest_secondary_wait, jitter=(1.0, 1.1)).wait(attempt)


class RetryCause(Enum):
    """Why a response is no result."""

    FAILURE = auto()
    """It counts as one of the policy's attempts; the other causes do not."""
    TOKEN_RENEWED = auto()
    """The token was refused, and has been replaced."""
    QUOTA_SPENT = auto()
    """The account has no points left."""
    SECONDARY_LIMIT = auto()
    """Requests come too fast: GitHub asks for a pause."""


@dataclass(frozen=True)
class Retry:
    """The request has to be sent again; `reason` is what an error message says if all attempts are in vain."""

    reason: str
    cause: RetryCause = RetryCause.FAILURE


class RetryLoop:
    """Repeats requests until they have a result, and recognizes an outage.

    Parameters
    ----------
    transport : Transport
    policy : RetryPolicy
    wait : callable
        Waits the given seconds.
    """

    def __init__(self, transport: Transport, policy: RetryPolicy, wait: Callable[[float], None]) -> None:
        self._transport = transport
        self._policy = policy
        self._wait = wait
        self._unanswered = 0
        self._lock = threading.Lock()

    def run(self, path: str, attempt: Callable[[], Result | Retry]) -> Result:
        """Call `attempt` until it returns a result.

        Parameters
        ----------
        path : str
            What is requested, for messages.
        attempt : callable
            Sends the request once. A `requests.RequestException` counts as a failure.

        Raises
        ------
        ServiceUnavailableError
            If all attempts failed.
        OutageError
            If this was the case for `OUTAGE_AFTER` requests in a row.
        GraphQLUnavailableError
            If GraphQL refuses a token that REST accepts.
        """
        failures = limits = 0
        reason = ""
        while failures < self._policy.attempts:
            if failures:
                self._wait(self._policy.wait_before(failures))
            try:
                outcome = attempt()
            except requests.RequestException as error:
                # The library's own message repeats addresses and more.
                outcome = Retry(type(error).__name__)
            if not isinstance(outcome, Retry):
                self._unanswered = 0
                return outcome
            reason = outcome.reason
            limits = limits + 1 if outcome.cause is not RetryCause.FAILURE else 0
            failures += limits == 0 or limits >= MAX_LIMIT_RETRIES
            self._transport.usage.add(retries=1)
        raise self._error(path, reason)

    def _error(self, path: str, reason: str) -> GhAssetsError:
        server = self._transport.api_url
        if path == urlsplit(self._transport.graphql_url).path and reason == "status 401":
            return GraphQLUnavailableError(
                f"GitHub at {server} refuses GraphQL to a token that REST accepts. Use a source that reads by REST."
            )
        with self._lock:
            self._unanswered += 1
            outage = self._unanswered >= OUTAGE_AFTER
        advice = "Check GITHUB_API_URL and the network, then run again: what was collected is kept."
        if outage:
            # To try each of ten thousand repositories in vain would take a day.
            return OutageError(
                f"GitHub at {server} has not answered {OUTAGE_AFTER} requests in a row ({reason}). {advice}"
            )
        return ServiceUnavailableError(
            f"GitHub at {server} did not answer {path} in {self._policy.attempts} tries ({reason}). {advice}"
        )
