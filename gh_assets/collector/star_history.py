"""A repository's star history: how many of today's stargazers starred it on each day, by GitHub's own count.

Weeks as GitHub sends them, their combination with stored ones, and what follows from them. Sends and stores nothing:
`gh_assets.collector.history_reader` reads histories, `gh_assets.collector.history_state` stores what is known of them.

Source: GitHub's changelog of 2026-09-04, ``GET /repos/{owner}/{repo}/stargazers/history``.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import polars as pl

from gh_assets.errors import GitHubError
from gh_assets.schemas import STAR_HISTORY

HISTORY_VERSION = "2026-03-10"
"""Version of the API that has star histories."""

WEEKS_A_PAGE = 30
"""Maximum, and default, of GitHub."""

WEEK = dt.timedelta(days=7)
DAY = dt.timedelta(days=1)
SUNDAY = 7
"""Of `datetime.date.isoweekday`."""

LAST_DAY = 100_000
"""Days since 1970 until the year 2243: a later week is a mistake."""

Weeks = Mapping[dt.date, tuple[int, ...]]
"""Stars of the seven days of each week, by the Sunday on which it begins."""

AGREEING_WEEKS = 4
"""A page agrees with what is stored if this many of its oldest weeks do: the weeks before them are not read again."""

MIN_GAP, GAP_SHARE = 5, 0.005
"""Stars, or share of GitHub's count, by which the gap between this count and the sum of the days may move before the
whole history is read again. Only stars that are taken back on days that are not read again, and new stars since the
count, move it."""

PLAUSIBLE_GAP = 0.1
"""Share of GitHub's count that the days of a complete history may lack."""

MONTH = 30
"""Days of a month."""

MONTHS_BEFORE, MIN_MONTHS = 6, 3
"""Maximum and minimum number of months that the last 30 days are compared with."""

RECENT_DAYS = MONTH * (MONTHS_BEFORE + 1) + 1
"""Days of all these months, and the present one."""

MIN_RISING, RISING_RATIO, DAMPING = 10, 1.5, 5.0
"""A repository is rising if it has at least `MIN_RISING` stars of the last 30 days, and `RISING_RATIO` times as many as
in a usual month. `DAMPING` is added to both numbers, so that small ones do not make large ratios."""


def parse_weeks(payload: Any) -> dict[dt.date, tuple[int, ...]]:
    """Return the weeks of a page in the order of GitHub, newest first.

    Raises
    ------
    GitHubError
        If it is not a page of weeks, or weeks are missing between them.
    """
    if not isinstance(payload, list):
        raise GitHubError("GitHub's star history is not a list.")
    weeks: dict[dt.date, tuple[int, ...]] = {}
    for row in payload:
        begin, days = (row.get("week"), row.get("days")) if isinstance(row, dict) else (None, None)
        week = _sunday(begin)
        counts = tuple(days) if isinstance(days, list) else ()
        if week is None or len(counts) != WEEK.days or not all(_is_count(stars) for stars in counts):
            raise GitHubError("GitHub's star history has an entry that is not a week.")
        weeks[week] = counts
    if len(weeks) != len(payload) or any(newer - older != WEEK for newer, older in pairwise(weeks)):
        raise GitHubError("GitHub's star history lacks weeks.")
    return weeks


def _sunday(seconds: Any) -> dt.date | None:
    """Return the Sunday that begins at a time in seconds since 1970; None if there is none."""
    days, rest = divmod(seconds, 86_400) if _is_count(seconds) else (0, 0)
    day = dt.date(1970, 1, 1) + days * DAY if days < LAST_DAY else None
    return day if rest == 0 and day is not None and day.isoweekday() == SUNDAY else None


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def joined(newer: Weeks, older: Weeks) -> dict[dt.date, tuple[int, ...]]:
    """Return the weeks of a page and of the page that follows it; where both have a week, the latter is read later.

    Raises
    ------
    GitHubError
        If weeks are missing between them.
    """
    if newer and older and max(older) < min(newer) - WEEK:
        raise GitHubError("GitHub's star history lacks weeks between two pages.")
    return {**newer, **older}


def agrees(page: Weeks, known: Weeks) -> bool:
    """Return whether the oldest weeks of a page are stored, and have the same stars."""
    oldest = sorted(page)[:AGREEING_WEEKS]
    return all(known.get(week) == page[week] for week in oldest)


def weeks_before(known: Weeks, week: dt.date) -> dict[dt.date, tuple[int, ...]]:
    """Return the stored weeks before a week, as far as none is missing between them."""
    kept: dict[dt.date, tuple[int, ...]] = {}
    while (week := week - WEEK) in known:
        kept[week] = known[week]
    return kept


def gap_is_plausible(gap: int, before: int | None, count: int) -> bool:
    """Return whether the gap between GitHub's count and the sum of the days is about what it was.

    Parameters
    ----------
    gap : int
        GitHub's count minus the sum.
    before : int or None
        The same when the whole history was read; None before that: then nearly none is expected.
    count : int
    """
    return abs(gap - (before or 0)) <= max(MIN_GAP, GAP_SHARE * count)


def sum_is_plausible(total: int, count: int) -> bool:
    """Return whether the days of a complete history may add up to `total`: it is GitHub's count, or a little below."""
    return total - count <= max(MIN_GAP, GAP_SHARE * count) and count - total <= max(MIN_GAP, PLAUSIBLE_GAP * count)


def stars_of(weeks: Weeks) -> int:
    """Return the sum of all days."""
    return sum(sum(days) for days in weeks.values())


def last_day(weeks: Weeks, today: dt.date) -> dt.date:
    """Return the last day that was counted: today, or a later one with stars if the clock of this machine is slow."""
    newest = max(weeks)
    counted = [newest + number * DAY for number, stars in enumerate(weeks[newest]) if stars]
    return max([min(today, newest + 6 * DAY), *counted[-1:]])


def table_of(repo_id: int, weeks: Weeks, until: dt.date) -> pl.DataFrame:
    """Return a row of schema `STAR_HISTORY` for each day to `until`, oldest first."""
    days = [week + number * DAY for week in sorted(weeks) for number in range(WEEK.days)]
    stars = [count for week in sorted(weeks) for count in weeks[week]]
    frame = pl.DataFrame({"repo_id": repo_id, "day": days, "stars": stars}, schema=STAR_HISTORY.dtypes)
    return frame.filter(pl.col("day") <= until)


def weeks_of(table: pl.DataFrame) -> dict[dt.date, tuple[int, ...]]:
    """Return the weeks of a table of `table_of`; days after it are 0, as GitHub has those to come."""
    days, stars = table["day"].to_list(), table["stars"].to_list()
    counts = {day: tuple(stars[start : start + WEEK.days]) for start, day in enumerate(days) if start % WEEK.days == 0}
    return {week: (*found, *[0] * (WEEK.days - len(found))) for week, found in counts.items()}


def recent_days(weeks: Weeks, until: dt.date) -> list[int]:
    """Return the stars of at most the last `RECENT_DAYS` days to `until`, oldest first."""
    recent: list[int] = []
    for number in range(RECENT_DAYS):
        day = until - number * DAY
        week = day - DAY * ((day.weekday() + 1) % WEEK.days)
        if week not in weeks:
            break
        recent.append(weeks[week][(day - week).days])
    return recent[::-1]


@dataclass(frozen=True)
class Trend:
    """The stars of the last 30 whole days, and of a usual month before.

    Attributes
    ----------
    recent : int
    usual : float or None
        Median of the months before, at most `MONTHS_BEFORE`; None of fewer than `MIN_MONTHS`. The median ignores a
        single month with very many stars.
    """

    recent: int
    usual: float | None

    @property
    def ratio(self) -> float | None:
        """How many times as many as usual, damped; None if that is unknown."""
        return None if self.usual is None else (self.recent + DAMPING) / (self.usual + DAMPING)

    @property
    def is_rising(self) -> bool:
        return self.recent >= MIN_RISING and (self.ratio or 0.0) >= RISING_RATIO


def trend_of(recent: Sequence[int]) -> Trend | None:
    """Return the trend of `recent_days`, whose last day is not over; None of less than a month."""
    days = recent[:-1]
    if len(days) < MONTH:
        return None
    months = [sum(days[end - MONTH : end]) for end in range(len(days), MONTH - 1, -MONTH)]
    earlier = months[1 : MONTHS_BEFORE + 1]
    return Trend(months[0], float(median(earlier)) if len(earlier) >= MIN_MONTHS else None)


def gained_since(recent: Sequence[int], until: dt.date, since: dt.date) -> int | None:
    """Return the stars of the days after `since`; None if there are none yet, or not all of them are known."""
    days = (until - since).days
    return sum(recent[-days:]) if 0 < days <= len(recent) else None
