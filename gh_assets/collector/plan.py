"""Whom to ask next: what is known of each repository, what is due, and what the quota buys most with.

Pure: tables in, tables out. A plan holds facts and no judgement, so that it stays true while time passes; what is due
follows from it and the clock.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import polars as pl

from gh_assets.collector.forecast import PAGE
from gh_assets.collector.star_sources.auto import CLOSED_FOR
from gh_assets.collector.state import RepositoryState
from gh_assets.errors import InputError
from gh_assets.github.outcomes import REACHABLE, Outcome
from gh_assets.schemas import COLLECTION_PLAN, UTC_TIME

CHURN_A_DAY = 1e-4
"""Share of a repository's stars that change unseen in a day, some given and as many taken back: a guess."""


class DueReason(StrEnum):
    """Why a repository is due. The order is that in which the rules are tried."""

    NEW = "new"
    """It was never asked."""
    FAILED = "failed"
    """It could not be asked."""
    RESTRICTED = "restricted"
    """Its list was closed; it may have been opened, or users may tell."""
    MOVED = "moved"
    """GitHub counts more or fewer stars than when they were read."""
    INCOMPLETE = "incomplete"
    """What is stored was not proven to be all: a part of GitHub's answer failed, or an earlier version read it."""
    OLD = "old"
    """Nothing seems to have changed, for long."""
    NAMED = "named"
    """A person named it."""


ALL_REASONS = tuple(why for why in DueReason if why is not DueReason.NAMED)


@dataclass(frozen=True)
class RefreshPolicy:
    """How long a repository is left alone.

    Attributes
    ----------
    refresh_after, moved_after, retry_after, closed_for : timedelta
        Since it was asked last: whatever its count; if its count moved, or what is stored may lack something; if it
        could not be asked; if its list is closed.
    least_news : int
        By how many stars its count has to move.
    max_pages : int
        Pages of 100 stars that are read of a repository, at most.
    """

    refresh_after: dt.timedelta = dt.timedelta(days=30)
    moved_after: dt.timedelta = dt.timedelta(days=1)
    retry_after: dt.timedelta = dt.timedelta(hours=1)
    closed_for: dt.timedelta = CLOSED_FOR
    least_news: int = 5
    max_pages: int = 10

    def none(self) -> RefreshPolicy:
        """For a person who wants them now: only those that nothing speaks for are left alone."""
        zero = dt.timedelta(0)
        return RefreshPolicy(self.refresh_after, zero, zero, zero, 1, self.max_pages)


def facts(repos: pl.DataFrame, states: Mapping[int, RepositoryState]) -> pl.DataFrame:
    """What a plan knows: a row for each repository that a list names and that can be reached.

    Parameters
    ----------
    repos : polars.DataFrame
        The asset `repos`.
    states : mapping of int to RepositoryState
        By repository id.

    Returns
    -------
    polars.DataFrame
        Of the schema `gh_assets.schemas.COLLECTION_PLAN`, in the order of `repos`.
    """
    reachable = repos.filter(
        pl.col("outcome").is_in([outcome.value for outcome in REACHABLE])
        & pl.col("partition").is_not_null()
        & pl.col("repo_id").is_not_null()
    ).select("repo_id", "partition", "full_name", "stargazer_count")
    known = [states.get(repo_id) for repo_id in reachable["repo_id"]]
    columns: dict[str, list[Any]] = {
        "counted_then": [None if state is None else state.stargazer_count for state in known],
        "stars": [None if state is None else state.stars for state in known],
        "outcome": [None if state is None else state.outcome.value for state in known],
        "asked_at": [None if state is None else state.asked_at for state in known],
        "collected_at": [None if state is None else state.collected_at for state in known],
        "closed_at": [None if state is None else state.closed_at for state in known],
        "proven": [None if state is None else state.proven for state in known],
    }
    added = [pl.Series(name, values, dtype=COLLECTION_PLAN.dtypes[name]) for name, values in columns.items()]
    return reachable.with_columns(added).select(list(COLLECTION_PLAN.dtypes))


def due(
    plan: pl.DataFrame, now: dt.datetime, policy: RefreshPolicy, kinds: Iterable[DueReason] = ALL_REASONS
) -> pl.DataFrame:
    """Repositories that should be asked, those first of which a page is expected to tell most.

    Parameters
    ----------
    plan : polars.DataFrame
        As `facts` gives it.
    now : datetime
        With a time zone.
    patience : RefreshPolicy
    kinds : iterable of DueReason

    Returns
    -------
    polars.DataFrame
        ``repo_id``, ``partition``, ``full_name``, ``why``, ``news`` (stars that are expected to be new, or taken
        back) and ``pages`` (that it costs to learn of them).
    """
    since = pl.lit(now, dtype=UTC_TIME) - pl.col("asked_at")
    moved = (pl.col("stargazer_count").fill_null(0) - pl.col("counted_then").fill_null(0)).abs()
    why = (
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
    wanted = plan.with_columns(why.alias("why")).filter(pl.col("why").is_in([kind.value for kind in kinds]))
    return _ranked(wanted, now, policy.max_pages)


def named(plan: pl.DataFrame, partitions: Sequence[str], now: dt.datetime, max_pages: int) -> pl.DataFrame:
    """Repositories that a person named, as `due` gives them; `DueReason` is what the person has to know.

    Raises
    ------
    InputError
        If one is not in the plan.
    """
    unknown = set(partitions) - set(plan["partition"])
    if unknown:
        raise InputError(f"{min(unknown)!r} is no partition of a repository that can be asked: see collection_plan.")
    wanted = plan.filter(pl.col("partition").is_in(partitions)).with_columns(pl.lit(DueReason.NAMED.value).alias("why"))
    return _ranked(wanted, now, max_pages)


def _ranked(wanted: pl.DataFrame, now: dt.datetime, max_pages: int) -> pl.DataFrame:
    """By what a page is expected to tell."""
    never_read, most = pl.col("stars").is_null(), max_pages * PAGE
    count, then = pl.col("stargazer_count").fill_null(0), pl.col("counted_then").fill_null(0)
    days = (pl.lit(now, dtype=UTC_TIME) - pl.col("asked_at")).dt.total_seconds().fill_null(0) / 86_400
    # What is not known at all is news, as far as it will be read.
    known_news = (count - then).abs().clip(0, most).cast(pl.Float64) + pl.col("stars") * CHURN_A_DAY * days
    news = pl.when(never_read).then(count.clip(1, most).cast(pl.Float64)).otherwise(known_news)
    # A list that may lack something is read anew, to its end.
    incomplete = (pl.col("why") == DueReason.INCOMPLETE.value) & ~never_read
    missing = (count - pl.col("stars")).abs().clip(0, most).cast(pl.Float64)
    news = pl.when(incomplete).then(missing + known_news).otherwise(news)
    # A closed list has hardly ever been opened.
    hope = pl.when(pl.col("why") == DueReason.RESTRICTED.value).then(0.01).otherwise(1.0)
    new = pl.when(never_read | incomplete).then(count).otherwise((count - then).clip(0))
    pages = (new / PAGE).ceil().cast(pl.Int64).clip(1, max_pages)
    return (
        wanted.with_columns((news * hope).alias("news"), pages.alias("pages"))
        .sort(pl.col("news") / pl.col("pages"), descending=True, maintain_order=True)
        .select("repo_id", "partition", "full_name", "why", "news", "pages")
    )


def affordable_prefix(wanted: pl.DataFrame, pages: int | None) -> pl.DataFrame:
    """The first of those that are due, as many as so many pages buy; None: all."""
    if pages is None:
        return wanted
    return wanted.filter(pl.col("pages").cum_sum() <= pages)


def summarize(wanted: pl.DataFrame) -> str:
    """``12 new, 3 moved: 40 pages``."""
    if not wanted.height:
        return "nothing is due"
    counts = dict(wanted["why"].value_counts().rows())
    parts = [f"{counts[why.value]:,} {why.value}" for why in DueReason if why.value in counts]
    return f"{', '.join(parts)}: {wanted['pages'].sum():,} pages"


def parse_reasons(names: Collection[str]) -> tuple[DueReason, ...]:
    """By their names.

    Raises
    ------
    InputError
        If one is none.
    """
    known = {why.value: why for why in ALL_REASONS}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(f"{unknown[0]!r} is no reason to ask a repository: {', '.join(known)} are.")
    return tuple(known[name] for name in names)
