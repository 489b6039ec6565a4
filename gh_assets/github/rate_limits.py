"""Rate limits as GitHub's responses describe them: budgets in headers, waits, and the texts of secondary limits.

Source: docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api and
docs.github.com/graphql/overview/rate-limits-and-query-limits-for-the-graphql-api.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

WINDOW_SLACK = 5.0
"""Seconds by which the reset times of one window may differ between responses."""

LONGEST_WINDOW = 7200.0
"""Seconds. GitHub's windows last an hour: a reset much later than that is not believed."""

_LIMIT_PHRASES = (b"secondary rate limit", b"abuse detection", b"rate limit exceeded", b"secondary-rate-limit",
                b"abuse-rate-limit")  # fmt: skip
"""GitHub's names for its limits over the years, in messages and in the addresses of its documentation."""


class Resource(StrEnum):
    """What GitHub budgets separately, by its name in ``x-ratelimit-resource``."""

    REST = "core"
    GRAPHQL = "graphql"


@dataclass(frozen=True)
class Observation:
    """A budget as a response describes it.

    Attributes
    ----------
    limit, remaining : int
        Points of the window, and those that are left.
    reset, at : float
        End of the window, and time of the response, in seconds since 1970 by this machine's clock.
    """

    limit: int
    remaining: int
    reset: float
    at: float


def observation_of(
    limit: object, remaining: object, reset: object, now: float, skew: float = 0.0
) -> Observation | None:
    """Return the budget that a response describes, or None if its values are missing or impossible.

    Parameters
    ----------
    limit, remaining, reset : object
        Numbers or texts as GitHub gave them; `reset` in seconds since 1970 by the server's clock.
    now : float
        Time of the response, by this machine's clock.
    skew : float
        Seconds by which the server's clock is ahead.
    """
    try:
        points, left, end = int(str(limit)), int(str(remaining)), float(str(reset)) - skew
    except ValueError:
        return None
    if points < 1 or left < 0 or not end <= now + LONGEST_WINDOW:
        return None
    if left == 0 and end <= now - WINDOW_SLACK:
        return None  # nothing is left in a window that is over
    return Observation(points, min(left, points), end, now)


def observed_in(headers: Mapping[str, str], sent: float, now: float) -> Observation | None:
    """Return the budget that a response's headers describe, or None if they cannot be used.

    The reset is by GitHub's clock, which may differ from this machine's: see `skew_of` for `sent` and `now`.
    """
    limit, remaining, reset = (headers.get(f"x-ratelimit-{name}") for name in ("limit", "remaining", "reset"))
    return observation_of(limit, remaining, reset, now, skew_of(headers, sent, now))


def skew_of(headers: Mapping[str, str], sent: float, now: float) -> float:
    """Return the seconds by which the server's clock is ahead; 0 if no difference can be told.

    Parameters
    ----------
    headers : mapping
        The server wrote ``date`` between `sent` and `now`: a slow response is no sign of a wrong clock.
    sent, now : float
        Times of the request and of its response, by this machine's clock.
    """
    try:
        written = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return 0.0
    # The header has whole seconds.
    if written > now + 2.0:
        return written - now
    return written - sent if written < sent - 2.0 else 0.0


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a response asks to wait, given as such or as a date; None if it asks for no wait."""
    text = headers.get("retry-after", "").strip()
    try:
        digits = text.isascii() and text.isdigit()
        seconds = float(text) if digits else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), LONGEST_WINDOW)


def graphql_limit_headers(rate_limit: Mapping[str, object], headers: Mapping[str, str]) -> dict[str, str]:
    """Return the field ``rateLimit`` of a GraphQL response as the headers of a REST response; empty if unusable."""
    try:
        reset = dt.datetime.fromisoformat(str(rate_limit.get("resetAt"))).timestamp()
    except (ValueError, OverflowError):
        return {}
    return {
        "x-ratelimit-limit": str(rate_limit.get("limit", headers.get("x-ratelimit-limit", 0))),
        "x-ratelimit-remaining": str(rate_limit.get("remaining")),
        "x-ratelimit-reset": str(int(reset)),
        "x-ratelimit-resource": Resource.GRAPHQL.value,
    }


def names_a_limit(content: bytes) -> bool:
    """Whether a refusal is a rate limit's, by its text."""
    text = content[:10_000].lower()
    return any(phrase in text for phrase in _LIMIT_PHRASES)
