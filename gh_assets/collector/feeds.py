"""What is known of the event feed of a repository, and when the next look at it is due. Sends nothing.

A feed holds the newest `FEED_EVENTS` events of all kinds, and none older than `FEED_AGE`
(docs.github.com/rest/activity/events). Stars are washed out of it by whatever else happens in the repository, so all
kinds of events determine how often it has to be looked at.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

FEED_EVENTS = 300
"""Number of events of all kinds that a feed holds."""

FEED_AGE = dt.timedelta(days=30)
"""Age at which events leave a feed."""

MAX_DELAY = dt.timedelta(hours=6)
"""Time after which an event is in the feed at the latest."""

POLL_SECONDS = 60
"""Shortest time between two looks where GitHub names none (``X-Poll-Interval``)."""

MAX_WAIT = dt.timedelta(days=1)
"""Longest time between two looks."""

SURGE_FACTOR, SURGE_EVENTS = 4.0, 500.0
"""A look is due before a feed is full even if its rate grows by this factor and this number of events a day: most
repositories get their stars in surges, when a front page names them. A look that finds nothing new is free."""

RETRY_AFTER = dt.timedelta(hours=1)
"""Time until a feed that could not be read is requested again."""

MAX_DOUBTS = 1
"""Looks after which a feed without the newest known event is believed: accounts are deleted with their events."""

MAX_GAPS = 20
"""Number of gaps that are kept, the newest ones; all are counted."""

RATE_WINDOWS = (25, 50, 100)
"""Numbers of newest events of which the rate is taken: the highest counts, so that a surge shows at once."""

UNKNOWN_EVENTS, UNKNOWN_DAYS = 10.0, 1.0
"""Events a day of a feed that was never read, and days since its last look, by which it is ranked: before feeds that
are just due, and behind those that are about to be full."""

DAY = 86_400.0


class Gap(BaseModel):
    """A time from which a feed may have held events that no look has seen.

    Attributes
    ----------
    after, before : datetime
        The newest event that is known, and the oldest event of the feed that did not hold it any more (UTC).
    """

    model_config = ConfigDict(frozen=True)

    after: dt.datetime
    before: dt.datetime

    def sentence(self) -> str:
        """Describe the gap in a sentence's part."""
        after, before = (f"{moment:%Y-%m-%d %H:%M}" for moment in (self.after, self.before))
        return f"its feed was full: stars from {after} to {before} UTC may be missing"


class FeedState(BaseModel):
    """What is known of a feed. It is stored with the state of the repository's stars, after their table.

    Attributes
    ----------
    looked_at : datetime or None
        When it was last answered (UTC); None if it never was.
    next_look_at : datetime
        When the next look is due (UTC); see `look_interval`.
    etag : str or None
        Of its first page.
    newest_at : datetime or None
        Time of the newest event that is known.
    newest_id : int
        Id of that event.
    stars : int
        Stars that were stored after the last look; 0 if there was no table.
    poll_seconds : int
        Shortest time between two looks that GitHub allows.
    events_a_day, stars_a_day : float
        Rates at the last look.
    gaps : list of Gap
    gap_count : int
    has_new_gap : bool
        Whether the last look that was answered found a gap.
    doubts : int
        Number of the last looks that did not find the newest known event where it had to be.
    """

    model_config = ConfigDict(frozen=True)

    looked_at: dt.datetime | None = None
    next_look_at: dt.datetime
    etag: str | None = None
    newest_at: dt.datetime | None = None
    newest_id: int = 0
    stars: int = 0
    poll_seconds: int = POLL_SECONDS
    events_a_day: float = 0.0
    stars_a_day: float = 0.0
    gaps: list[Gap] = Field(default_factory=list)
    gap_count: int = 0
    has_new_gap: bool = False
    doubts: int = 0

    @property
    def newest(self) -> tuple[dt.datetime, int] | None:
        """Time and id of the newest event that is known, by which events are ordered."""
        return None if self.newest_at is None else (self.newest_at, self.newest_id)

    @property
    def horizon(self) -> dt.datetime | None:
        """Time before which all events were in the feed at an earlier look, however late they came."""
        return None if self.newest_at is None else self.newest_at - MAX_DELAY

    def may_be_requested(self, now: dt.datetime) -> bool:
        """Return whether GitHub's interval between two looks is over."""
        return self.looked_at is None or now >= self.looked_at + dt.timedelta(seconds=self.poll_seconds)


def rates(times: Sequence[dt.datetime], stars: int, now: dt.datetime) -> tuple[float, float]:
    """Return the events and the stars a day by the newest events of a feed.

    Parameters
    ----------
    times : sequence of datetime
        Times of the events on its first page; fewer than `RATE_WINDOWS[-1]` are all there are.
    stars : int
        Number of stars among them.
    now : datetime
    """
    newest = sorted(times, reverse=True)
    if not newest:
        return 0.0, 0.0
    spans = [(number, now - newest[number - 1]) for number in RATE_WINDOWS if number <= len(newest)]
    if len(newest) < RATE_WINDOWS[-1]:
        spans.append((len(newest), FEED_AGE))
    # An hour at least: the spans of a few events that came together say nothing.
    events = max(number / max(span.total_seconds() / DAY, 1 / 24) for number, span in spans)
    return events, events * stars / len(newest)


def look_interval(events_a_day: float, poll_seconds: int = POLL_SECONDS) -> dt.timedelta:
    """Return the time from one look at a feed to the next.

    It is the time in which the feed would fill up at a rate of ``SURGE_FACTOR × events_a_day + SURGE_EVENTS``, at least
    the interval that GitHub asks for, and at most `MAX_WAIT`.
    """
    days = FEED_EVENTS / (SURGE_FACTOR * events_a_day + SURGE_EVENTS)
    return max(dt.timedelta(seconds=poll_seconds), min(MAX_WAIT, dt.timedelta(days=days)))


def expected_requests(days: pl.Expr, events_a_day: pl.Expr) -> pl.Expr:
    """Return the requests that a look is expected to cost `days` after the last: a page of 100 each, none for a 304.

    Pages are read back to the newest known event, and further by `MAX_DELAY` because of events that came late.
    """
    unseen = events_a_day * days
    pages = ((unseen + events_a_day * (MAX_DELAY / dt.timedelta(days=1))) / RATE_WINDOWS[-1]).ceil().clip(1, 3)
    return pages * (1 - (-unseen).exp())


def lateness(days: pl.Expr, events_a_day: pl.Expr) -> pl.Expr:
    """Return how many times a surge would have filled a feed since the last look: above 1 it is due.

    Looks that the quota does not allow at once are ranked by it. Weights by the stars among a feed's events save fewer
    stars: what a feed held before a surge says little about what it holds in it (``benchmarks/events.py``).
    """
    return days * (SURGE_FACTOR * events_a_day + SURGE_EVENTS) / FEED_EVENTS
