"""GitHub's times: ISO 8601 in UTC, whole seconds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl

GITHUB_BEGAN = dt.datetime(2008, 1, 1, tzinfo=dt.UTC)
"""A time before it stands for one that is not known: some fields of GraphQL's may not be null."""


def parse_time(text: str | None) -> dt.datetime | None:
    """A time with its zone; None if it is none."""
    time = dt.datetime.fromisoformat(text) if text else None
    return time if time is not None and time >= GITHUB_BEGAN else None


def parse_times(texts: Sequence[str | None]) -> pl.Series:
    """Many times at once; null where they are none."""
    times = pl.Series(texts, dtype=pl.String)
    parsed = times.str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC", strict=False)
    return pl.select(pl.when(parsed >= GITHUB_BEGAN).then(parsed)).to_series()
