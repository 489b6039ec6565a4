"""The collection plan: what is known of each repository, which ones are due, and which of them the quota pays for.

A plan holds facts alone, so that it stays valid while time passes; what is due follows from it and the clock. It is a
table in the bucket and not a query, because sensors read it every minute: fifty thousand repositories take hundredths
of a second there, and three seconds in Mongo.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import polars as pl

from gh_assets.collector.feeds import FEED_EVENTS, UNKNOWN_DAYS, UNKNOWN_EVENTS, expected_requests, lateness
from gh_assets.collector.history_state import HistoryState, HistoryStates
from gh_assets.collector.quota import QuotaSample, quota_samples
from gh_assets.collector.star_sources.auto import CLOSED_FOR
from gh_assets.collector.state import CollectionState, RepositoryState
from gh_assets.errors import InputError, StoredDataError
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.github.times import star_days
from gh_assets.schemas import COLLECTION_PLAN, UTC_TIME
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase

PLAN = COLLECTION_PLAN.name

CHURN_A_DAY = 1e-4
"""Assumed share of a repository's stars that change in a day without changing their count."""

CHANCE_OF_OPENING = 0.01
"""Assumed probability that a closed list has been opened."""


class DueReason(StrEnum):
    """Why a repository is due, in the order in which the rules are applied."""

    NEW = "new"
    """It was never requested."""
    FAILED = "failed"
    """It could not be read."""
    RESTRICTED = "restricted"
    """Its list was closed; it may have been opened, or more users' lists may be known."""
    MOVED = "moved"
    """GitHub's count of its stars has changed since they were read, or its history has newer ones."""
    INCOMPLETE = "incomplete"
    """What is stored is not proven: a part of a response failed, or an earlier version read it."""
    OLD = "old"
    """Its count is unchanged, but it was read long ago."""
    FEED = "feed"
    """Its list is closed, and stars may be washed out of its event feed."""
    NAMED = "named"
    """A person named it."""


ALL_REASONS = tuple(reason for reason in DueReason if reason not in (DueReason.FEED, DueReason.NAMED))
"""The reasons to collect all stars of a repository that can be read."""


@dataclass(frozen=True)
class RefreshPolicy:
    """How long a repository is left alone after it was requested.

    Attributes
    ----------
    refresh_after : timedelta
        With any count.
    moved_after : timedelta
        If its count changed, or what is stored may be incomplete.
    retry_after : timedelta
        If it could not be read.
    closed_for : timedelta
        If its list is closed.
    least_news : int
        Smallest change of the count that matters.
    max_pages : int
        Maximum number of pages of 100 stars per repository.
    """

    refresh_after: dt.timedelta = dt.timedelta(days=30)
    moved_after: dt.timedelta = dt.timedelta(days=1)
    retry_after: dt.timedelta = dt.timedelta(hours=1)
    closed_for: dt.timedelta = CLOSED_FOR
    least_news: int = 5
    max_pages: int = 10

    def without_waiting(self) -> RefreshPolicy:
        """Return the policy for a person's request: only repositories without any sign of news are left alone."""
        zero = dt.timedelta(0)
        return RefreshPolicy(self.refresh_after, zero, zero, zero, 1, self.max_pages)


@dataclass(frozen=True)
class Plan:
    """A plan as of now.

    Attributes
    ----------
    table : polars.DataFrame
        Of schema `COLLECTION_PLAN`.
    stars_collected : int
        Number of stored stars, including those of repositories that no list names any more.
    quota : list of QuotaSample
        What was left after past collections.
    """

    table: pl.DataFrame
    stars_collected: int
    quota: list[QuotaSample] = field(default_factory=list)


@dataclass(frozen=True)
class StoredPlan:
    """A stored plan and the generation of its object, which changes with the plan."""

    table: pl.DataFrame
    generation: int

    def fingerprint(self) -> str:
        """Return a fingerprint of all but what a look at an event feed changes."""
        changed = ("looked_at", "next_look_at", "events_a_day", "stars_a_day", "stars", "collected_at", "gained")
        return hashlib.sha256(self.table.drop(changed).hash_rows().to_numpy().tobytes()).hexdigest()[:16]


def make_plan(database: MongoDatabase, repos: pl.DataFrame) -> Plan:
    """Make a plan from the table `repos` and the states in Mongo."""
    states = CollectionState(database).load()
    stars = sum(state.stars or 0 for state in states.values())
    table = plan_table(repos, states, HistoryStates(database).load())
    return Plan(table, stars, quota_samples(database))


def read_plan(store: AssetStore) -> StoredPlan | None:
    """Read the stored plan; None if there is none yet."""
    stored = store.describe(PLAN, "parquet")
    if stored is None:
        return None
    try:
        return StoredPlan(store.read_table(PLAN), stored.generation)
    except StoredDataError:
        if store.describe(PLAN, "parquet") is None:  # it was deleted in between
            return None
        raise


def plan_table(
    repos: pl.DataFrame, states: Mapping[int, RepositoryState], histories: Mapping[int, HistoryState] | None = None
) -> pl.DataFrame:
    """Return a row for each reachable repository that a list names.

    Parameters
    ----------
    repos : polars.DataFrame
        The asset `repos`.
    states : mapping of int to RepositoryState
        By repository id.
    histories : mapping of int to HistoryState, optional
        By repository id.

    Returns
    -------
    polars.DataFrame
        Of schema `COLLECTION_PLAN`, in the order of `repos`.
    """
    reachable = repos.filter(
        pl.col("outcome").is_in([outcome.value for outcome in REACHABLE])
        & pl.col("partition").is_not_null()
        & pl.col("repo_id").is_not_null()
    ).select("repo_id", "partition", "full_name", "stargazer_count")
    ids = reachable["repo_id"].to_list()
    known = [states.get(repo_id) for repo_id in ids]
    fields = ("stars", "outcome", "collected_at", "closed_at", "proven")
    sources = {"counted_then": "stargazer_count", "asked_at": "refreshed_at"} | {name: name for name in fields}
    added = [
        pl.Series(name, [getattr(state, source, None) for state in known], dtype=COLLECTION_PLAN.dtypes[name])
        for name, source in sources.items()
    ]
    of_repositories = [(histories or {}).get(repo_id) for repo_id in ids]
    days = star_days(next(column for column in added if column.name == "collected_at"))
    gained = [
        None if history is None or day is None else history.gained_since(day)
        for history, day in zip(of_repositories, days, strict=True)
    ]
    added.append(pl.Series("gained", gained, dtype=COLLECTION_PLAN.dtypes["gained"]))
    feeds = [None if state is None else state.feed for state in known]
    added += [
        pl.Series(name, [getattr(feed, name, None) for feed in feeds], dtype=COLLECTION_PLAN.dtypes[name])
        for name in ("looked_at", "next_look_at", "events_a_day", "stars_a_day")
    ]
    return reachable.with_columns(added).select(list(COLLECTION_PLAN.dtypes))


def _moved() -> pl.Expr:
    """Return how many stars were given or taken back since the stars were read, as far as is known.

    GitHub's count may be older than the history, and is the same if as many stars are given as are taken back.
    """
    counted = (pl.col("stargazer_count").fill_null(0) - pl.col("counted_then").fill_null(0)).abs()
    return pl.max_horizontal(counted, pl.col("gained").fill_null(0))


def due(
    plan: pl.DataFrame, now: dt.datetime, policy: RefreshPolicy, reasons: Iterable[DueReason] = ALL_REASONS
) -> pl.DataFrame:
    """Return the repositories that are due, by the number of new stars expected per page, highest first.

    Parameters
    ----------
    plan : polars.DataFrame
        From `plan_table`.
    now : datetime
        With a time zone.
    policy : RefreshPolicy
    reasons : iterable of DueReason

    Returns
    -------
    polars.DataFrame
        ``repo_id``, ``partition``, ``full_name``, ``why``, ``news`` (expected number of stars given or taken back) and
        ``pages`` (expected number of pages).
    """
    since = pl.lit(now, dtype=UTC_TIME) - pl.col("asked_at")
    moved = _moved()
    reason = (
        pl.when(pl.col("asked_at").is_null())
        .then(pl.lit(DueReason.NEW.value))
        .when(pl.col("outcome") == Outcome.RESTRICTED.value)
        .then(pl.when(since >= policy.closed_for).then(pl.lit(DueReason.RESTRICTED.value)))
        .when(pl.col("outcome") != Outcome.OK.value)
        .then(pl.when(since >= policy.retry_after).then(pl.lit(DueReason.FAILED.value)))
        .when((moved >= policy.least_news) & (since >= policy.moved_after))
        .then(pl.lit(DueReason.MOVED.value))
        .when(~pl.col("proven").fill_null(value=False) & (since >= policy.moved_after))
        .then(pl.lit(DueReason.INCOMPLETE.value))
        .when(since >= policy.refresh_after)
        .then(pl.lit(DueReason.OLD.value))
    )
    wanted = plan.with_columns(reason.alias("why")).filter(pl.col("why").is_in([reason.value for reason in reasons]))
    return _ranked(wanted, now, policy.max_pages)


def feeds_due(plan: pl.DataFrame, now: dt.datetime) -> pl.DataFrame:
    """Return the repositories whose event feeds are to be looked at, the most overdue first.

    These are repositories whose lists are closed, and those whose stars come from their feeds alone. See
    `gh_assets.collector.feeds` for when a look is due.

    Parameters
    ----------
    plan : polars.DataFrame
        From `plan_table`.
    now : datetime
        With a time zone.

    Returns
    -------
    polars.DataFrame
        In the form of `due`; ``pages`` are the requests that a look is expected to cost, at least one.
    """
    is_due = pl.col("next_look_at").is_null() | (pl.col("next_look_at") <= pl.lit(now, dtype=UTC_TIME))
    has_feed = pl.col("closed_at").is_not_null() | pl.col("next_look_at").is_not_null()
    since = (pl.lit(now, dtype=UTC_TIME) - pl.col("looked_at")).dt.total_seconds() / 86_400
    days, events = since.clip(0).fill_null(UNKNOWN_DAYS), pl.col("events_a_day").fill_null(UNKNOWN_EVENTS)
    # What a feed holds that was never read is unknown, and no news.
    news = pl.col("stars_a_day").fill_null(0) * pl.min_horizontal(days, FEED_EVENTS / events.clip(1e-9))
    return (
        plan.filter(has_feed & is_due)
        .with_columns(
            pl.lit(DueReason.FEED.value).alias("why"),
            news.alias("news"),
            expected_requests(days, events).ceil().cast(pl.Int64).clip(1).alias("pages"),
            lateness(days, events).alias("lateness"),
        )
        .sort("lateness", descending=True, maintain_order=True)
        .select("repo_id", "partition", "full_name", "why", "news", "pages")
    )


def named(plan: pl.DataFrame, partitions: Sequence[str], now: dt.datetime, max_pages: int) -> pl.DataFrame:
    """Return repositories that a person named, in the form of `due`, with the reason ``named``.

    Raises
    ------
    InputError
        If one is not in the plan.
    """
    unknown = set(partitions) - set(plan["partition"])
    if unknown:
        raise InputError(
            f"{min(unknown)!r} is no partition of a repository that can be collected: see collection_plan."
        )
    wanted = plan.filter(pl.col("partition").is_in(partitions)).with_columns(pl.lit(DueReason.NAMED.value).alias("why"))
    return _ranked(wanted, now, max_pages)


def _ranked(wanted: pl.DataFrame, now: dt.datetime, max_pages: int) -> pl.DataFrame:
    """Add the columns ``news`` and ``pages``, and sort by their ratio."""
    never_read, most = pl.col("stars").is_null(), max_pages * PAGE_SIZE
    count, then = pl.col("stargazer_count").fill_null(0), pl.col("counted_then").fill_null(0)
    days = (pl.lit(now, dtype=UTC_TIME) - pl.col("asked_at")).dt.total_seconds().fill_null(0) / 86_400
    known_news = _moved().clip(0, most).cast(pl.Float64) + pl.col("stars") * CHURN_A_DAY * days
    news = pl.when(never_read).then(count.clip(1, most).cast(pl.Float64)).otherwise(known_news)
    # A list that may be incomplete is read anew, to its end.
    incomplete = (pl.col("why") == DueReason.INCOMPLETE.value) & ~never_read
    missing = (count - pl.col("stars")).abs().clip(0, most).cast(pl.Float64)
    news = pl.when(incomplete).then(missing + known_news).otherwise(news)
    chance = pl.when(pl.col("why") == DueReason.RESTRICTED.value).then(CHANCE_OF_OPENING).otherwise(1.0)
    new = (
        pl.when(never_read | incomplete)
        .then(count)
        .otherwise(pl.max_horizontal(count - then, pl.col("gained").fill_null(0)).clip(0))
    )
    pages = (new / PAGE_SIZE).ceil().cast(pl.Int64).clip(1, max_pages)
    return (
        wanted.with_columns((news * chance).alias("news"), pages.alias("pages"))
        .sort(pl.col("news") / pl.col("pages"), descending=True, maintain_order=True)
        .select("repo_id", "partition", "full_name", "why", "news", "pages")
    )


def affordable_prefix(wanted: pl.DataFrame, pages: int | None) -> pl.DataFrame:
    """Return the longest prefix whose pages fit the budget; None is unlimited."""
    if pages is None:
        return wanted
    return wanted.filter(pl.col("pages").cum_sum() <= pages)


def summarize(wanted: pl.DataFrame) -> str:
    """Describe due repositories: ``12 new, 3 moved: 40 pages``."""
    if not wanted.height:
        return "nothing is due"
    counts = dict(wanted["why"].value_counts().rows())
    parts = [f"{counts[reason.value]:,} {reason.value}" for reason in DueReason if reason.value in counts]
    return f"{', '.join(parts)}: {wanted['pages'].sum():,} pages"


def parse_reasons(names: Collection[str]) -> tuple[DueReason, ...]:
    """Return reasons by their names.

    Raises
    ------
    InputError
        If a name is unknown.
    """
    known = {reason.value: reason for reason in (*ALL_REASONS, DueReason.FEED)}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"{unknown[0]!r} is no reason to collect a repository: {', '.join(known)} are.")
    return tuple(known[name] for name in names)
