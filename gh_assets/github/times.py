"""Times as GitHub writes them (ISO 8601 in UTC, whole seconds), and the days by which it counts stars."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import polars as pl

GITHUB_BEGAN = dt.datetime(2008, 1, 1, tzinfo=dt.UTC)
"""Earlier times mean that the time is unknown, in GraphQL fields that cannot be null."""

STAR_DAYS_ZONE = "America/Los_Angeles"
"""Time zone of the days by which GitHub counts stars: measured, not documented."""


def parse_time(text: Any) -> dt.datetime | None:
    """Parse a time, in UTC by default; None if it is invalid or unknown."""
    try:
        time = dt.datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    time = time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
    return time if time >= GITHUB_BEGAN else None


def parse_times(texts: Sequence[object]) -> pl.Series:
    """Parse many times; null where one is invalid or unknown."""
    times = pl.Series([text if isinstance(text, str) else None for text in texts], dtype=pl.String)
    parsed = times.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False)
    earliest = parsed.min()
    if not isinstance(earliest, dt.datetime) or earliest >= GITHUB_BEGAN:
        return parsed  # almost always
    return pl.select(pl.when(parsed >= GITHUB_BEGAN).then(parsed)).to_series()


def star_days(times: pl.Series) -> pl.Series:
    """Return the days, in `STAR_DAYS_ZONE`, of times in UTC."""
    return times.dt.convert_time_zone(STAR_DAYS_ZONE).dt.date()


def star_day(seconds: float) -> dt.date:
    """Return the day, in `STAR_DAYS_ZONE`, of a time in seconds since 1970."""
    moment = pl.Series([dt.datetime.fromtimestamp(seconds, dt.UTC)], dtype=pl.Datetime("us", "UTC"))
    day: dt.date = star_days(moment)[0]
    return day
