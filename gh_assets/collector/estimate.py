"""What a collection would cost by each source of stars, before any token is spent."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gh_assets.github.limits import CONNECTIONS_A_POINT, IDS_A_FIELD, PAGE_SIZE
from gh_assets.github.rate_limits import Resource
from gh_assets.github.retries import RetryPolicy

POINTS_AN_HOUR = 5_000
"""GitHub's primary limit per user or app, by REST and by GraphQL."""

TOKENS = (1, 4)
"""Numbers of tokens for which hours are given."""

STARS_A_REPOSITORY = 500
"""Assumed stars of a repository whose count is not known: the mean of the 4,761 repositories of a crawl of 2022."""

STARS_A_USER = 9.0
"""Assumed stars of a user on the wanted repositories: the mean of 304,385 stargazers of 10,000 repositories."""

PAGES_A_USER = 2.0
"""Assumed pages of a user's list of all starred repositories."""

SECONDS_A_POINT = 5
"""Assumed computing time of a GraphQL query of 100 lists, of which GitHub allows each account 60 s a minute."""

LOOKS_A_DAY = 3.0
"""Requests a day and repository that looks at event feeds cost (``benchmarks/events.py``)."""

GROWTH_A_DAY = 0.0005
"""Assumed new stars a day, as a share of a repository's stars: a fifth a year."""


@dataclass(frozen=True)
class Assumptions:
    """What is known or assumed of the repositories and users.

    Attributes
    ----------
    counts : sequence of int or None
        Stars of each repository; None if they are not known.
    max_pages : int
        Maximum number of pages of 100 stars that are read of a repository or user.
    max_users : int
        Maximum number of users whose lists are read.
    pages_a_user, stars_a_user : float
        Pages of a user's list, and its stars on wanted repositories.
    """

    counts: Sequence[int | None]
    max_pages: int
    max_users: int
    pages_a_user: float = PAGES_A_USER
    stars_a_user: float = STARS_A_USER

    @property
    def known_counts(self) -> list[int]:
        """The stars of each repository, with the assumed number where it is not known."""
        return [STARS_A_REPOSITORY if count is None else count for count in self.counts]


@dataclass(frozen=True)
class Way:
    """The cost of one way to collect.

    Attributes
    ----------
    source : str
        Name of the source.
    open_to : str
    requests, points : int
        REST requests and GraphQL points.
    users, stars : int
        That are expected.
    a_day : bool
        Whether the numbers are of each day, not of a whole collection.
    """

    source: str
    open_to: str
    requests: int
    points: int
    users: int
    stars: int
    a_day: bool = False

    def hours(self, tokens: int) -> float:
        """Return the hours that it takes with a number of tokens of different users, whose quota is unspent."""
        return max(hours_for(self.requests, Resource.REST, tokens), hours_for(self.points, Resource.GRAPHQL, tokens))

    def to_json(self) -> dict[str, Any]:
        """Return the fields, and the hours by number of tokens."""
        hours = {str(tokens): round(self.hours(tokens), 2) for tokens in TOKENS}
        return {
            "source": self.source, "open_to": self.open_to, "requests": self.requests, "points": self.points,
            "hours": hours, "users": self.users, "stars": self.stars, "a_day": self.a_day,
        }  # fmt: skip


def hours_for(cost: int, resource: Resource, tokens: int) -> float:
    """Return the hours in which tokens may spend points: a window's worth each hour, at the pace that is possible."""
    an_hour = tokens * POINTS_AN_HOUR
    a_minute = RetryPolicy().points_a_minute[resource]
    if resource is Resource.GRAPHQL:
        a_minute = min(a_minute, 60 // SECONDS_A_POINT)
    pace = 60 * tokens * a_minute
    if pace <= an_hour:
        return cost / pace
    whole = max(0, math.ceil(cost / an_hour) - 1)
    return whole + (cost - whole * an_hour) / pace


def ways_to_collect(assumed: Assumptions) -> Iterator[Way]:
    """Yield the cost of each source of stars, those that are open to fewest people first."""
    counts = assumed.known_counts
    pages = sum(min(assumed.max_pages, max(1, math.ceil(count / PAGE_SIZE))) for count in counts)
    stars = sum(min(assumed.max_pages * PAGE_SIZE, count) for count in counts)
    metadata = math.ceil(len(counts) / IDS_A_FIELD)
    users = math.ceil(stars / assumed.stars_a_user)
    own = "administrators of the repositories, and all users of GitHub Enterprise"
    yield Way("graphql", own, 0, metadata + math.ceil(pages / CONNECTIONS_A_POINT), users, stars)
    yield Way("stargazers", own, pages, metadata, users, stars)
    asked = min(assumed.max_users, users)
    lists = math.ceil(asked * min(assumed.pages_a_user, assumed.max_pages) / CONNECTIONS_A_POINT)
    forks = math.ceil(len(counts) / CONNECTIONS_A_POINT)
    found = min(stars, round(asked * assumed.stars_a_user))
    yield Way("starred", "all users", 0, metadata + forks + lists, asked, found)
    new = round(sum(counts) * GROWTH_A_DAY)
    looks = math.ceil(len(counts) * LOOKS_A_DAY)
    yield Way("events", "all users", looks, 0, new, new, a_day=True)
    yield Way("gharchive", "all users, complete until May 2025", 0, metadata, users, stars)
