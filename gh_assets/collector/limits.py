"""Tokens, their quota, and when to try again. The one place for retry and rate-limit policy.

GitHub counts requests per user or app installation, not per token, and forbids sharing tokens to exceed the limits:
a pool may hold only the operator's own distinct users or apps.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from gh_assets.errors import AuthenticationError, RateLimitedError


class Clock(Protocol):
    """Time as the collector sees it; tests and simulations bring their own."""

    def now(self) -> float:
        """Seconds since 1970."""

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        """Let `seconds` pass, or less if `cancelled` is set meanwhile."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        cancelled.wait(seconds)


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed request is tried again.

    Parameters
    ----------
    attempts : int
        Tries in all for network faults and answers 500, 502, 503, 504.
    first_wait, longest_wait : float
        Seconds; the wait doubles from the first to the longest, with full jitter.
    secondary_wait : float
        Seconds to wait on a secondary limit that names no time (GitHub asks for at least 60).
    longest_quota_wait : float
        Seconds that a caller is ready to wait for a new quota; more raises `RateLimitedError`.
    """

    attempts: int = 6
    first_wait: float = 0.5
    longest_wait: float = 30.0
    secondary_wait: float = 60.0
    longest_quota_wait: float = 3700.0

    def wait_before(self, attempt: int) -> float:
        """Seconds before try number `attempt` (1 is the first repetition)."""
        # Full jitter keeps many workers from coming back at the same moment.
        ceiling = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1))
        return random.uniform(ceiling / 2, ceiling)  # noqa: S311 - no secret depends on it


class Token:
    """A token and what is known of its quota. Never prints the token."""

    def __init__(self, secret: SecretStr) -> None:
        self.secret = secret
        self.remaining: int | None = None
        self.limit: int | None = None
        self.reset: float = 0.0
        self.retired = False

    def __repr__(self) -> str:
        return f"Token({self.label}, remaining={self.remaining})"

    @property
    def label(self) -> str:
        """What messages call it: its last four characters."""
        return f"…{self.secret.get_secret_value()[-4:]}"


class TokenPool:
    """Tokens used in turn: another one when the quota of one is spent, waiting only when all are.

    Parameters
    ----------
    secrets : sequence of SecretStr
    policy : RetryPolicy
    clock : Clock
    """

    def __init__(
        self, secrets: Sequence[SecretStr], policy: RetryPolicy | None = None, clock: Clock | None = None
    ) -> None:
        self.tokens = [Token(secret) for secret in secrets]
        self.policy = policy or RetryPolicy()
        self.clock = clock or SystemClock()
        self.cancelled = threading.Event()
        self._paused_until = 0.0
        self._lock = threading.Lock()
        self._in_flight: dict[int, int] = {}

    def acquire(self) -> Token:
        """A token to ask with, waiting for quota if all have spent theirs.

        Raises
        ------
        AuthenticationError
            If GitHub has refused every token.
        RateLimitedError
            If the wait for new quota is longer than the policy allows, or the collector was cancelled.
        """
        while True:
            if self.cancelled.is_set():
                raise RateLimitedError("Collecting was cancelled.")
            with self._lock:
                token, wait = self._choose()
                if token is not None:
                    self._in_flight[id(token)] = self._in_flight.get(id(token), 0) + 1
                    return token
            if wait > self.policy.longest_quota_wait:
                raise RateLimitedError(
                    f"GitHub lets no token ask for another {math.ceil(wait / 60)} minutes: the quota is spent, or it "
                    "asked us to wait. Run again then: what was collected is kept."
                )
            self.clock.wait(wait, self.cancelled)

    def _choose(self) -> tuple[Token | None, float]:
        alive = [token for token in self.tokens if not token.retired]
        if not alive:
            labels = ", ".join(token.label for token in self.tokens)
            raise AuthenticationError(
                f"GitHub refused the token{'s' if len(self.tokens) > 1 else ''} ending in {labels} (401 Bad "
                "credentials). Give valid ones in GITHUB_TOKENS."
            )
        now = self.clock.now()
        if now < self._paused_until:
            return None, self._paused_until - now
        for token in alive:
            if token.remaining is None or now >= token.reset:
                return token, 0.0
            if token.remaining - self._in_flight.get(id(token), 0) > 0:
                return token, 0.0
        # One second more: the reset time is given in whole seconds.
        return None, max(1.0, min(token.reset for token in alive) - now + 1.0)

    def release(self, token: Token, headers: Mapping[str, str] | None) -> None:
        """Give a token back, with the headers of the answer that it got."""
        with self._lock:
            self._in_flight[id(token)] -= 1
            if headers is None or headers.get("x-ratelimit-resource", "core") != "core":
                return
            try:
                remaining = int(headers["x-ratelimit-remaining"])
                reset = float(headers["x-ratelimit-reset"])
                token.limit = int(headers["x-ratelimit-limit"])
            except (KeyError, ValueError):
                return
            # Answers overtake each other: within one window the smallest number is the newest.
            if token.remaining is None or reset > token.reset or remaining < token.remaining:
                token.remaining, token.reset = remaining, max(reset, token.reset)

    def retire(self, token: Token) -> None:
        """Never use a token again that GitHub refused."""
        with self._lock:
            token.retired = True

    def pause(self, seconds: float) -> None:
        """Let nobody ask for a while: a secondary limit, which other tokens must not be used to get around."""
        with self._lock:
            self._paused_until = max(self._paused_until, self.clock.now() + seconds)

    @property
    def remaining(self) -> int | None:
        """Requests left over all tokens, as far as GitHub has told; None before the first answer."""
        known = [token.remaining for token in self.tokens if not token.retired and token.remaining is not None]
        return sum(known) if known else None
