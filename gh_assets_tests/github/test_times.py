"""Times and days of GitHub."""

import datetime as dt

import polars as pl
import pytest

from gh_assets.github.times import star_day, star_days


@pytest.mark.parametrize(
    ("time", "day"),
    [
        ("2026-07-01T06:59:59+00:00", dt.date(2026, 6, 30)),
        ("2026-07-01T07:00:00+00:00", dt.date(2026, 7, 1)),
        ("2026-12-01T07:59:59+00:00", dt.date(2026, 11, 30)),
        ("2026-12-01T08:00:00+00:00", dt.date(2026, 12, 1)),
    ],
)
def test_stars_count_for_the_day_of_los_angeles(time: str, day: dt.date) -> None:
    moment = dt.datetime.fromisoformat(time)
    assert star_day(moment.timestamp()) == day
    assert star_days(pl.Series([moment, None], dtype=pl.Datetime("us", "UTC"))).to_list() == [day, None]
