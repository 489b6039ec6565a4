"""GitHub's primary and secondary rate limits in the stand-in, and the requests that exceeded them."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any

REST, GRAPHQL = "core", "graphql"


@dataclass
class Limits:
    """Limits per user; None for no limit.

    Parameters
    ----------
    requests, graphql_points : int
        Primary limits per window, which begins with a user's first request.
    window_seconds : float
    requests_a_minute, queries_a_minute : int or None
        Secondary limits; GitHub's are 900 and 2,000.
    concurrent : int or None
        Secondary limit of requests in flight; GitHub's is 100.
    retry_after : int or None
        Seconds in the ``retry-after`` header of secondary limits; None for no header.
    query_budget : int or None
        Number of nodes after which further parts of a GraphQL query fail with ``RESOURCE_LIMITS_EXCEEDED``.
    """

    requests: int = 5_000_000
    window_seconds: float = 3600.0
    graphql_points: int = 5_000_000
    requests_a_minute: int | None = None
    queries_a_minute: int | None = None
    concurrent: int | None = None
    retry_after: int | None = 60
    query_budget: int | None = None

    @classmethod
    def of_github(cls, **changes: Any) -> Limits:
        """Return GitHub's limits, with changes."""
        github = cls(5000, 3600.0, 5000, requests_a_minute=900, queries_a_minute=2000, concurrent=100)
        return replace(github, **changes)

    def of(self, resource: str) -> int:
        return self.requests if resource == REST else self.graphql_points

    def a_minute(self, resource: str) -> int | None:
        return self.requests_a_minute if resource == REST else self.queries_a_minute


@dataclass
class Window:
    """A user's usage of one resource until its reset."""

    reset: float
    used: int = 0


@dataclass
class Quota:
    """The usage of all users, and counts of the requests beyond a limit."""

    limits: Limits
    windows: dict[tuple[int, str], Window] = field(default_factory=dict)
    recent: dict[tuple[int, str], deque[float]] = field(default_factory=dict)
    in_flight: int = 0
    violations: Counter[str] = field(default_factory=Counter)
    spent: Counter[str] = field(default_factory=Counter)

    def window(self, user: int, resource: str, now: float) -> Window:
        """Return the user's current window; a new one begins when points are spent."""
        window = self.windows.get((user, resource))
        if window is None or now >= window.reset:
            # Like GitHub's, windows end at a whole second.
            window = Window(float(int(now + self.limits.window_seconds)))
        return window

    def exceeded(self, user: int, resource: str, now: float) -> str | None:
        """Return the kind of limit that a request exceeds, ``primary`` or ``secondary``, and count the violation."""
        if self.limits.concurrent is not None and self.in_flight > self.limits.concurrent:
            self.violations["concurrent"] += 1
            return "secondary"
        limit = self.limits.a_minute(resource)
        if limit is not None:
            recent = self.recent.setdefault((user, resource), deque())
            while recent and recent[0] <= now - 60.0:
                recent.popleft()
            recent.append(now)
            if len(recent) > limit:
                self.violations["secondary"] += 1
                return "secondary"
        if self.window(user, resource, now).used >= self.limits.of(resource):
            self.violations["primary"] += 1
            return "primary"
        return None

    def spend(self, user: int, resource: str, points: int, now: float) -> None:
        window = self.windows[user, resource] = self.window(user, resource, now)
        window.used += points
        self.spent[resource] += points

    def usage(self, user: int, resource: str, now: float) -> dict[str, int]:
        """Return limit, used and remaining points, and the second of the reset."""
        window, limit = self.window(user, resource, now), self.limits.of(resource)
        remaining = max(0, limit - window.used)
        return {"limit": limit, "used": window.used, "remaining": remaining, "reset": int(window.reset)}
