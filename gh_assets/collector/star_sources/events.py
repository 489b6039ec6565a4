"""The source of stars in the event feeds of repositories, which are open where lists of stargazers are closed.

Source: docs.github.com/rest/activity/events (``GET /repositories/{id}/events``).

A feed shows the newest events alone, so it never proves that stars are complete: stars are added, and none is taken
back. The state of a feed (`gh_assets.collector.feeds`) is stored after the table with its stars; a killed run reads the
same events again.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import polars as pl

from gh_assets.collector.feeds import (
    FEED_AGE,
    FEED_EVENTS,
    MAX_DELAY,
    MAX_DOUBTS,
    MAX_GAPS,
    MAX_WAIT,
    POLL_SECONDS,
    RETRY_AFTER,
    FeedState,
    Gap,
    look_interval,
    rates,
)
from gh_assets.collector.repositories import classify_refusal
from gh_assets.collector.star_sources.base import (
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    stars_table,
)
from gh_assets.collector.star_sources.merging import collection_from_users
from gh_assets.collector.users import identified, ids_of_logins
from gh_assets.errors import BudgetSpentError, GitHubError, RateLimitedError, ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import number_of
from gh_assets.github.outcomes import Outcome
from gh_assets.github.rate_limits import Resource
from gh_assets.github.responses import GitHubResponse
from gh_assets.github.times import parse_time
from gh_assets.github.token_pool import TokenPool
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STARGAZERS

LACKS_EVENTS = "its feed lacks the events that it held at the last look"

MAX_PAGES = FEED_EVENTS // PAGE_SIZE

STAR = "WatchEvent"
"""Type of the event of a star; its name is older than stars."""

MIN_OLD_EVENTS = 10
"""Number of events at the end of a page that have to be old before the next page is left out: single old events may be
repeated among new ones."""


@dataclass
class EventFeeds:
    """Source of the stars in repositories' event feeds.

    Parameters
    ----------
    client : GitHubClient
        Its clock is the source's.
    feeds : mapping of int to FeedState
        What is known of feeds, by repository id.
    closed : mapping of int to datetime
        When repositories' own lists were found closed.
    """

    client: GitHubClient
    feeds: Mapping[int, FeedState] = field(default_factory=dict)
    closed: Mapping[int, dt.datetime] = field(default_factory=dict)
    name = "events"

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Look at each feed once, unless GitHub's interval since the last look is not over."""
        return map_bounded(self._collect, tasks, workers)

    def _collect(self, task: CollectionTask) -> StarCollection:
        stored = task.load_previous()
        return self.collection(self.look(replace(task, load_previous=lambda: stored)), stored)

    def look(self, task: CollectionTask, *, send: bool = True) -> "FeedLook":
        """Read what a feed holds.

        Parameters
        ----------
        task : CollectionTask
        send : bool
            Whether a request may be sent; otherwise the feed counts as it was at the last look.
        """
        feed = self.feeds.get(task.repository.repo_id)
        # If the stored table is not the one that the last look wrote, what the feed still has is read again.
        again = feed is not None and feed.stars > 0 and not _is_described(task.load_previous())
        moment = dt.datetime.fromtimestamp(int(self.client.pool.clock.now()), dt.UTC)
        look = FeedLook(self.client, task.repository, feed, moment, again=again)
        look.is_skipped = look.is_skipped or not send
        look.read()
        return look

    def collection(self, look: "FeedLook", stored: PreviousStars | None) -> StarCollection:
        """Return the stored stars with those of a look."""
        repository = look.repository
        base = StarCollection(
            repository,
            Outcome.UNKNOWN,
            requests=look.requests,
            not_modified=look.not_modified,
            closed_at=self.closed.get(repository.repo_id),
            gap=look.gap,
        )
        if look.is_skipped and look.again:
            return replace(base, reason="its feed of events was read lately and is not requested again yet")
        if look.refusal is not None:
            outcome, reason = look.refusal
            return replace(base, outcome=outcome, reason=reason, feed=look.state_after(0))
        rows, before = _new_stars(look.stars(), stored)
        merged = collection_from_users(repository, rows, before, {}, "its feed of events has shown no star yet")
        reasons = [merged.reason, None if look.gap is None else look.gap.sentence(), look.problem]
        return replace(
            base,
            outcome=merged.outcome,
            reason="; ".join(reason for reason in reasons if reason is not None) or None,
            table=merged.table,
            proven=merged.proven and look.problem is None,
            unchanged=merged.table is not None and stored is not None and merged.table.equals(stored.table),
            feed=look.state_after(0 if merged.table is None else merged.table.height),
        )


class LookAllowance:
    """Allows looks at feeds as long as the REST quota has more than a reserve; many threads may share it.

    A look that is under way counts with all requests that it may still send, so that workers together do not overdraw.

    Parameters
    ----------
    pool : TokenPool
    reserve : float
        Share of the quota that is left.
    """

    def __init__(self, pool: TokenPool, reserve: float) -> None:
        self._pool, self._reserve = pool, reserve
        self._lock, self._running = Lock(), 0

    @contextmanager
    def look(self) -> Iterator[bool]:
        """Return whether the look of the block may send requests."""
        with self._lock:
            self._pool.refresh_budgets(Resource.REST)
            left, limit = self._pool.remaining(Resource.REST), self._pool.limit(Resource.REST)
            needed = MAX_PAGES * (self._running + 1)
            is_allowed = left is None or limit is None or left - needed >= self._reserve * limit
            self._running += is_allowed
        try:
            yield is_allowed
        finally:
            with self._lock:
                self._running -= is_allowed


def _is_described(stored: PreviousStars | None) -> bool:
    """Return whether the state of stored stars is known."""
    return stored is not None and stored.source is not None


class FeedLook:
    """One look at a feed: its pages, from the newest to the first that can hold nothing new.

    Parameters
    ----------
    client : GitHubClient
    repository : RepositoryRef
    feed : FeedState or None
        After the last look.
    at : datetime
        Now.
    again : bool
        Read all that the feed holds, also if it is unchanged.

    Attributes
    ----------
    is_skipped : bool
        Whether no request is sent.
    refusal : tuple of Outcome and str, or None
        Why nothing could be read.
    problem : str or None
        Why a part could not be read: then the next look reads the same events again.
    gap : Gap or None
        If events may have been washed out since the last look.
    """

    def __init__(
        self,
        client: GitHubClient,
        repository: RepositoryRef,
        feed: FeedState | None,
        at: dt.datetime,
        *,
        again: bool = False,
    ) -> None:
        self.client, self.repository, self.feed, self.at, self.again = client, repository, feed, at, again
        self.requests = self.not_modified = self.entries = self.malformed = 0
        self.refusal: tuple[Outcome, str] | None = None
        self.problem: str | None = None
        self.gap: Gap | None = None
        self.is_skipped = feed is not None and not feed.may_be_requested(self.at)
        self.etag: str | None = None
        self.poll_seconds = POLL_SECONDS if feed is None else feed.poll_seconds
        self.keys: list[tuple[dt.datetime, int]] = []
        self.rates = (0.0, 0.0)
        self._users: list[tuple[int, str]] = []
        self._times: list[str] = []

    def read(self) -> None:
        """Read as many pages as may hold new events."""
        if self.is_skipped:
            return
        for number in range(1, MAX_PAGES + 1):
            try:
                goes_on = self._read_page(number)
            except (ServiceUnavailableError, GitHubError) as error:
                self._fail(number, Outcome.UNKNOWN, str(error))
                return
            except (BudgetSpentError, RateLimitedError) as error:
                if number == 1:
                    raise
                # What was read is kept; the next request of the source ends the run.
                self._fail(number, Outcome.UNKNOWN, str(error))
                return
            if not goes_on:
                break
        if self.refusal is None and self.problem is None and not self.not_modified:
            if self.malformed:
                self.problem = f"{self.malformed:,} of its {self.entries:,} events could not be understood"
            else:
                self._find_gap()

    def _read_page(self, number: int) -> bool:
        """Read a page; return whether the next one may hold something new."""
        etag = self.feed.etag if self.feed is not None and number == 1 and not self.again else None
        self.requests += 1
        parameters: dict[str, str | int] = {"per_page": PAGE_SIZE, "page": number}
        # By id, so that a rename changes nothing.
        path = f"/repositories/{self.repository.repo_id}/events"
        response = self.client.get(path, parameters=parameters, etag=etag, redirects=1)
        interval = response.headers.get("x-poll-interval", "")
        self.poll_seconds = int(interval) if interval.isascii() and interval.isdigit() else self.poll_seconds
        if response.status == 304 and etag is not None:
            self.not_modified += 1
            return False
        if response.status == 422 and number > 1:
            return False
        if response.status != 200 or not isinstance(response.payload, list):
            self._fail(number, *self._refusal(response))
            return False
        if number == 1:
            self.etag = response.etag
        before = len(self.keys), len(self._users)
        for entry in response.payload:
            self._add(entry)
        self.entries += len(response.payload)
        keys = self.keys[before[0] :]
        if number == 1:
            self.rates = rates([key[0] for key in keys], len(self._users), self.at)
        horizon = self.feed.horizon if self.feed is not None and not self.again else None
        end = keys[-MIN_OLD_EVENTS:]
        if horizon is not None and end and all(time < horizon for time, _ in end):
            return False
        return response.has_next_page or len(response.payload) >= PAGE_SIZE

    def _refusal(self, response: GitHubResponse) -> tuple[Outcome, str]:
        outcome, reason = classify_refusal(response)
        if outcome is Outcome.GONE:
            # A feed that is closed may look like a missing repository: the metadata distinguish them.
            self.requests += 1
            if self.client.get(f"/repositories/{self.repository.repo_id}").status == 200:
                outcome = Outcome.UNKNOWN
        elif outcome is Outcome.RESTRICTED:
            outcome = Outcome.UNKNOWN
        return outcome, f"its feed of events could not be read: {reason}"

    def _fail(self, number: int, outcome: Outcome, reason: str) -> None:
        if number == 1:
            self.refusal = outcome, reason
        else:
            self.problem = f"page {number} of its feed could not be read: {reason}"

    def _add(self, entry: Any) -> None:
        """Add an event. Those of deleted accounts, whose actor is null, are no stars that can be used."""
        described = entry if isinstance(entry, dict) else {}
        time, kind = parse_time(described.get("created_at")), described.get("type")
        if time is None or not isinstance(kind, str):
            self.malformed += 1
            return
        text = str(described.get("id"))
        self.keys.append((time, int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0))
        actor, place = described.get("actor"), described.get("repo")
        if kind != STAR or actor is None:
            return
        if isinstance(place, dict) and number_of(place.get("id")) not in (None, self.repository.repo_id):
            return  # an event of another repository: only its name is the same
        user_id = number_of(actor.get("id")) if isinstance(actor, dict) else None
        if user_id is None or not isinstance(actor.get("login"), str):
            self.malformed += 1
            return
        self._users.append((user_id, actor["login"]))
        self._times.append(f"{time.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}")

    def _find_gap(self) -> None:
        """Find whether events were washed out that no look has seen: the newest known one is not in the feed."""
        if self.feed is None or self.feed.looked_at is None:
            return
        oldest, known = min(self.keys, default=None), self.feed.newest
        if known is not None and oldest is not None and self.entries >= FEED_EVENTS and oldest > known:
            self.gap = Gap(after=known[0], before=oldest[0])
        elif known is None and oldest is not None and self.entries >= FEED_EVENTS:
            self.gap = Gap(after=self.feed.looked_at, before=oldest[0])
        elif known is not None and (oldest is None or oldest > known) and known[0] > self.at - FEED_AGE + MAX_DELAY:
            # A feed that is not full holds all events of its time.
            if self.feed.doubts < MAX_DOUBTS:
                self.problem = LACKS_EVENTS
            else:
                self.gap = Gap(after=known[0], before=self.at if oldest is None else oldest[0])
        elif self.at - self.feed.looked_at > FEED_AGE:
            self.gap = Gap(after=self.feed.looked_at, before=self.at - FEED_AGE)

    def stars(self) -> pl.DataFrame:
        """Return the stars that were read, of schema `STARGAZERS`, the latest of each user."""
        rows = stars_table(self.repository.repo_id, self._users, self._times, EventFeeds.name)
        return rows.sort("starred_at", "user_id").unique("user_id", keep="last", maintain_order=True)

    def state_after(self, stars: int) -> FeedState:
        """Return what is known of the feed now.

        Parameters
        ----------
        stars : int
            Stars that are stored.
        """
        before = self.feed or FeedState(next_look_at=self.at)
        if self.is_skipped:
            return before.model_copy(update={"stars": stars})
        if self.refusal is not None:
            is_final = self.refusal[0] is not Outcome.UNKNOWN
            return before.model_copy(update={"next_look_at": self.at + (MAX_WAIT if is_final else RETRY_AFTER)})
        changes: dict[str, Any] = {"poll_seconds": self.poll_seconds, "stars": stars}
        if self.problem is not None:
            doubts = before.doubts + (self.problem == LACKS_EVENTS)
            return before.model_copy(update=changes | {"next_look_at": self.at + RETRY_AFTER, "doubts": doubts})
        if not self.not_modified:
            # Between the rate now and the one before, unless it grew: a surge may go on after a pause.
            events = max(self.rates[0], (self.rates[0] + before.events_a_day) / 2)
            # What a feed has lost is not looked for again.
            unseen = before.newest if self.gap is None else None
            newest = max((key for key in self.keys if key[0] <= self.at), default=unseen)
            gaps = [*before.gaps, *([] if self.gap is None else [self.gap])]
            changes |= {
                "etag": self.etag,
                "newest_at": None if newest is None else newest[0],
                "newest_id": 0 if newest is None else newest[1],
                "events_a_day": events,
                "stars_a_day": self.rates[1],
                "gaps": gaps[-MAX_GAPS:],
                "gap_count": before.gap_count + (self.gap is not None),
                "doubts": 0,
            }
        rate = float(changes.get("events_a_day", before.events_a_day))
        changes["has_new_gap"] = self.gap is not None
        changes |= {"looked_at": self.at, "next_look_at": self.at + look_interval(rate, self.poll_seconds)}
        return before.model_copy(update=changes)


def _new_stars(rows: pl.DataFrame, stored: PreviousStars | None) -> tuple[pl.DataFrame, PreviousStars | None]:
    """Return the stars that are not stored, or only with an earlier time, and the stored ones with present logins.

    An event that came late, or was repeated, never replaces a later star.
    """
    if stored is None:
        return rows, None
    known = identified(stored.table, ids_of_logins(rows)).unique("user_id", keep="last", maintain_order=True)
    times = known.select("user_id", known_at="starred_at")
    is_later = pl.col("known_at").is_null() | (pl.col("starred_at") > pl.col("known_at"))
    fresh = rows.join(times, on="user_id", how="left", maintain_order="left").filter(is_later)
    logins = rows.select("user_id", now="login")
    renamed = known.join(logins, on="user_id", how="left", maintain_order="left")
    renamed = renamed.with_columns(login=pl.coalesce("now", "login")).select(STARGAZERS.columns.keys())
    return fresh.select(rows.columns), replace(stored, table=renamed)
