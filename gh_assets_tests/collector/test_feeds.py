"""What is known of event feeds: rates, the time of the next look, and which looks go first."""

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.feeds import (
    FEED_AGE,
    FEED_EVENTS,
    MAX_WAIT,
    FeedState,
    expected_requests,
    lateness,
    look_interval,
    rates,
)
from gh_assets.storage.documents import as_stored

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)


def test_rates_are_those_of_the_newest_events_whatever_their_order() -> None:
    steady = [NOW - n * HOUR for n in range(1, 101)]
    forward, backward = rates(steady, 25, NOW), rates(steady[::-1], 25, NOW)
    assert forward == backward
    assert forward == pytest.approx((24, 6))
    assert rates([], 0, NOW) == (0, 0)
    assert rates([NOW - n * DAY for n in range(1, 16)], 15, NOW) == (0.5, 0.5), "a feed of fifteen events has no more"
    surge = [*(NOW - n * HOUR / 60 for n in range(1, 26)), *(NOW - n * DAY / 4 for n in range(1, 76))]
    assert rates(surge, 100, NOW)[0] >= 25 * 24, "the newest events count"
    assert rates([NOW + DAY] * 30, 30, NOW)[0] == 25 * 24, "a time in the future counts as an hour ago"


@given(st.floats(0, 1e7), st.integers(1, 10**6))
def test_a_look_is_due_before_the_feed_is_full(events_a_day: float, poll_seconds: int) -> None:
    wait = look_interval(events_a_day, poll_seconds)
    assert wait >= dt.timedelta(seconds=poll_seconds)
    assert wait <= max(MAX_WAIT, dt.timedelta(seconds=poll_seconds))
    if wait > dt.timedelta(seconds=poll_seconds):
        assert wait / DAY * events_a_day < FEED_EVENTS
    assert look_interval(2 * events_a_day, poll_seconds) <= wait


def value(expression: pl.Expr) -> float:
    return float(pl.select(expression).item())


def test_a_look_costs_the_pages_that_may_hold_new_events() -> None:
    def requests(days: float, events: float) -> float:
        return value(expected_requests(pl.lit(days), pl.lit(events)))

    assert requests(1.0, 0.0) == 0, "an unchanged feed is free"
    assert requests(0.25, 4.0) == pytest.approx(1 - 2.718281828**-1)
    assert [round(requests(1.0, events)) for events in (10, 79, 81, 200, 5000)] == [1, 1, 2, 3, 3]


@given(st.floats(0, 1e4))
def test_a_feed_is_late_from_the_time_when_it_is_due(events_a_day: float) -> None:
    days = look_interval(events_a_day) / DAY
    assert value(lateness(pl.lit(days), pl.lit(events_a_day))) == pytest.approx(1, rel=1e-3)
    assert value(lateness(pl.lit(3 * days), pl.lit(events_a_day))) == pytest.approx(3, rel=1e-3)


def test_a_feed_is_stored_and_loaded() -> None:
    feed = FeedState(next_look_at=NOW, looked_at=NOW - HOUR, newest_at=NOW - DAY, newest_id=7, stars=3, gap_count=0)
    assert FeedState.model_validate(as_stored(feed.model_dump())) == feed
    assert feed.horizon == NOW - DAY - dt.timedelta(hours=6)
    assert FeedState(next_look_at=NOW).horizon is None
    assert FEED_AGE > MAX_WAIT
