"""Forecasts: what a collection will cost, and how long it takes with the quota of a pool."""

import datetime as dt
import math
from collections.abc import Iterable
from dataclasses import dataclass

from gh_assets.github.limits import CONNECTIONS_A_POINT, PAGE_SIZE
from gh_assets.github.rate_limits import Resource
from gh_assets.github.token_pool import TokenPool


@dataclass(frozen=True)
class Forecast:
    """Expected cost of a collection.

    Attributes
    ----------
    resource : Resource or None
        What is spent; None if nothing is counted.
    cost : int
        REST requests or GraphQL points.
    seconds : float
        Duration, as far as the quota determines it.
    left : int or None
        Points left now; None without a limit.
    """

    resource: Resource | None = None
    cost: int = 0
    seconds: float = 0.0
    left: int | None = None

    def summary(self) -> str:
        """Describe cost and duration in a sentence's part."""
        if self.resource is None:
            return "costs no quota"
        unit = "GraphQL points" if self.resource is Resource.GRAPHQL else "requests"
        left = "" if self.left is None else f" of {self.left:,} left now"
        return f"about {self.cost:,} {unit}{left}, {duration(self.seconds)}"


def expected_pages(wanted: Iterable[tuple[int | None, int | None, int | None]], max_pages: int) -> int:
    """Return the number of pages of 100 stars that have to be read.

    Parameters
    ----------
    wanted : iterable of tuple
        For each repository: GitHub's count now, its count when the stars were read, and the number of stored stars,
        which is None if it was never collected.
    max_pages : int
        Maximum number of pages per repository.
    """
    pages = 0
    for count, before, known in wanted:
        new = (count or 0) if known is None else max(0, (count or 0) - (before or 0))
        pages += min(max_pages, max(1, math.ceil(new / PAGE_SIZE)))
    return pages


def forecast(pool: TokenPool | None, resource: Resource | None, pages: int) -> Forecast:
    """Return the expected cost of reading pages.

    Parameters
    ----------
    pool : TokenPool or None
        None if no requests are sent.
    resource : Resource or None
    pages : int
        Each costs one request, or a hundredth of a GraphQL point.
    """
    if pool is None or resource is None:
        return Forecast()
    cost = pages if resource is Resource.REST else math.ceil(pages / CONNECTIONS_A_POINT)
    return Forecast(resource, cost, seconds_for(pool, resource, cost), pool.remaining(resource))


def seconds_for(pool: TokenPool, resource: Resource, cost: int) -> float:
    """Return the seconds in which a pool may spend points: those left now, then a window's worth each hour."""
    accounts = max(1, len(pool.directory.accounts))
    pace = pool.policy.points_a_minute.get(resource)
    rate = math.inf if pace is None else accounts * pace / 60.0
    left, limit, reset = pool.remaining(resource), pool.limit(resource), pool.next_reset(resource)
    if left is None or limit is None or cost <= left:
        return cost / rate
    now = pool.clock.now()
    until_reset = max(0.0, (reset or now) - now)
    beyond = cost - left
    windows = max(0, math.ceil(beyond / limit) - 1)
    return max(until_reset, left / rate) + windows * 3600.0 + (beyond - windows * limit) / rate


def duration(seconds: float) -> str:
    """Format a duration: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if not math.isfinite(seconds):
        return "for ever"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock_time(seconds: float) -> str:
    """Format a time given in seconds since 1970: ``22:31 UTC``."""
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%H:%M} UTC"
