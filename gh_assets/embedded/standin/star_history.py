"""The stand-in's star histories: how many of today's stargazers starred a repository on each day, in weekly rows.

Source: GitHub's changelog of 2026-09-04, ``GET /repos/{owner}/{repo}/stargazers/history``.
"""

import datetime as dt
from typing import Any

import numpy as np
import polars as pl

from gh_assets.embedded.standin.world import NO_TIME, Repository
from gh_assets.github.times import star_day, star_days

HISTORY_VERSION = "2026-03-10"
"""Version of the API that has the path; with another one, the stand-in answers 404."""

MAX_WEEKS = 30
"""Default and maximum number of weeks a page."""

_SECONDS_A_DAY = 86_400


def weekly_rows(repository: Repository, now: float) -> list[dict[str, Any]]:
    """Return the weeks of a repository, newest first, from the present one to that of its creation.

    Days are those of `gh_assets.github.times.STAR_DAYS_ZONE`; those to come are 0. Stars of an unknown time are not
    counted, so the sum may be below the number of stars.

    Parameters
    ----------
    repository : Repository
    now : float
        Seconds since 1970. Later stars are not counted.
    """
    times = repository.starred_at[(repository.starred_at != NO_TIME) & (repository.starred_at <= now)]
    moments = pl.from_epoch(pl.Series(times, dtype=pl.Int64), time_unit="s").dt.replace_time_zone("UTC")
    days = star_days(moments).to_physical().cast(pl.Int64).to_numpy()
    today = _number(star_day(now))
    begin = int(days.min(initial=today))
    if repository.created_at is not None:
        begin = min(begin, _number(star_day(dt.datetime.fromisoformat(repository.created_at).timestamp())))
    first, last = _sunday_before(begin), _sunday_before(today)
    counts = np.bincount(days - first, minlength=last + 7 - first).reshape(-1, 7)
    return [
        {"week": (first + 7 * number) * _SECONDS_A_DAY, "total": int(week.sum()), "days": week.tolist()}
        for number, week in reversed(list(enumerate(counts)))
    ]


def _number(day: dt.date) -> int:
    """Return the days since 1970."""
    return (day - dt.date(1970, 1, 1)).days


def _sunday_before(day: int) -> int:
    """Return the last Sunday until a day, both in days since 1970, which began with a Thursday."""
    return day - (day + 4) % 7
