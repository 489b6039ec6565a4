"""Weeks of star histories: what is a page, how pages are combined, and what follows from them."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.star_history import (
    DAY,
    RECENT_DAYS,
    WEEK,
    Trend,
    Weeks,
    agrees,
    gained_since,
    gap_is_plausible,
    joined,
    last_day,
    parse_weeks,
    recent_days,
    stars_of,
    sum_is_plausible,
    table_of,
    trend_of,
    weeks_before,
    weeks_of,
)
from gh_assets.errors import GitHubError

SUNDAY = dt.date(2026, 9, 6)
SECONDS = int(dt.datetime(2026, 9, 6, tzinfo=dt.UTC).timestamp())


def row(weeks_ago: int = 0, days: Any = (0, 1, 0, 2, 0, 0, 0)) -> dict[str, Any]:
    days = list(days)
    return {"week": SECONDS - weeks_ago * 7 * 86_400, "total": 0, "days": days}


def weeks(*stars: int, newest: dt.date = SUNDAY) -> dict[dt.date, tuple[int, ...]]:
    """Return weeks, newest first, with these stars on their Mondays."""
    return {newest - number * WEEK: (0, count, 0, 0, 0, 0, 0) for number, count in enumerate(stars)}


def test_a_page_is_read_by_its_sundays() -> None:
    assert parse_weeks([row(), row(1, [7] * 7)]) == {SUNDAY: (0, 1, 0, 2, 0, 0, 0), dt.date(2026, 8, 30): (7,) * 7}
    assert parse_weeks([]) == {}


@pytest.mark.parametrize(
    "payload",
    [
        {"message": "no"},
        ["week"],
        [row() | {"week": SECONDS + 1}],
        [row() | {"week": SECONDS + 86_400}],
        [row() | {"week": None}],
        [row() | {"week": 10**18}],
        [row(days=[1] * 6)],
        [row(days=[1] * 6 + [-1])],
        [row(days=[1] * 6 + ["1"])],
        [row(days=[1] * 6 + [True])],
        [row() | {"days": None}],
        [row(), row()],
        [row(), row(2)],
        [row(1), row(0)],
    ],
)
def test_what_is_no_page_is_refused_instead_of_read_as_empty(payload: Any) -> None:
    with pytest.raises(GitHubError, match="star history"):
        parse_weeks(payload)


def test_pages_are_joined_without_gaps() -> None:
    assert joined(weeks(1, 2), weeks(9, 3, newest=SUNDAY - WEEK)) == weeks(1, 9, 3)
    assert joined(weeks(1), {}) == weeks(1)
    with pytest.raises(GitHubError, match="lacks weeks"):
        joined(weeks(1), weeks(2, newest=SUNDAY - 2 * WEEK))


def test_a_page_agrees_by_its_oldest_weeks() -> None:
    known = weeks(1, 2, 3, 4, 5, 6)
    assert agrees(weeks(9, 9, 3, 4, 5, 6), known)
    assert not agrees(weeks(9, 9, 9, 4, 5, 6), known)
    assert not agrees(weeks(1, 2, 3, 4, 5, 6, 7), known)
    assert not agrees(weeks(0), {})
    assert weeks_before(known, SUNDAY - 3 * WEEK) == weeks(5, 6, newest=SUNDAY - 4 * WEEK)


def test_the_gap_to_the_count_may_move_a_little_and_the_sum_is_not_above_it() -> None:
    assert gap_is_plausible(5, None, 100)
    assert not gap_is_plausible(6, None, 100)
    assert gap_is_plausible(1040, 1000, 10_000)
    assert not gap_is_plausible(1060, 1000, 10_000)
    assert sum_is_plausible(95, 100)
    assert sum_is_plausible(9_000, 10_000)
    assert not sum_is_plausible(8_990, 10_000)
    assert not sum_is_plausible(106, 100)


def test_the_last_day_is_today_unless_later_stars_were_counted() -> None:
    known = {SUNDAY: (0, 1, 0, 2, 0, 0, 0)}
    assert last_day(known, SUNDAY + 5 * DAY) == SUNDAY + 5 * DAY
    assert last_day(known, SUNDAY + 1 * DAY) == SUNDAY + 3 * DAY, "this machine's clock is slow"
    assert last_day(known, SUNDAY + 9 * DAY) == SUNDAY + 6 * DAY


counts = st.tuples(*[st.integers(0, 3)] * 7)
histories = st.lists(counts, min_size=1, max_size=80).map(
    lambda rows: {SUNDAY - number * WEEK: days for number, days in enumerate(rows)}
)


@given(histories, st.integers(0, 6))
def test_a_table_holds_every_day_until_the_last_and_gives_the_weeks_back(known: Weeks, weekday: int) -> None:
    until = SUNDAY + weekday * DAY
    table = table_of(1, known, until)
    days = table["day"].to_list()
    assert days == [min(known) + number * DAY for number in range((until - min(known)).days + 1)]
    to_come = dict.fromkeys(range(weekday + 1, 7), 0)
    present = tuple(to_come.get(day, stars) for day, stars in enumerate(known[SUNDAY]))
    assert weeks_of(table) == {**known, SUNDAY: present}
    assert table["stars"].sum() == stars_of({**known, SUNDAY: present})
    recent = recent_days(known, until)
    assert recent == table["stars"].tail(RECENT_DAYS).to_list()


def test_a_trend_compares_whole_days_with_the_median_of_the_months_before() -> None:
    quiet, viral, rising = [1] * 30, [50] * 30, [2] * 30
    assert trend_of([*quiet * 3, *viral, *quiet * 2, *rising, 999]) == Trend(60, 30.0)
    assert trend_of([*quiet * 3, *rising, 0]) == Trend(60, 30.0)
    assert trend_of([*quiet * 2, *rising, 0]) == Trend(60, None), "two months are too few to compare with"
    assert trend_of([1] * 29 + [0]) is None


@pytest.mark.parametrize(
    ("trend", "rising"),
    [
        (Trend(60, 30.0), True),
        (Trend(40, 30.0), False),
        (Trend(9, 0.0), False),
        (Trend(10, 0.0), True),
        (Trend(10, 5.0), True),
        (Trend(10, 6.0), False),
        (Trend(1000, None), False),
    ],
)
def test_rising_needs_some_stars_and_half_as_many_again_as_usual(trend: Trend, *, rising: bool) -> None:
    assert trend.is_rising is rising


def test_stars_gained_are_those_of_later_days_if_all_are_known() -> None:
    until = dt.date(2026, 9, 9)
    assert gained_since([1, 2, 3], until, dt.date(2026, 9, 9)) is None
    assert gained_since([1, 2, 3], until, dt.date(2026, 9, 10)) is None
    assert gained_since([1, 2, 3], until, dt.date(2026, 9, 8)) == 3
    assert gained_since([1, 2, 3], until, dt.date(2026, 9, 7)) == 5
    assert gained_since([1, 2, 3], until, dt.date(2026, 9, 6)) == 6
    assert gained_since([1, 2, 3], until, dt.date(2026, 9, 5)) is None
