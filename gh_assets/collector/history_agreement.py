"""How well collected stars agree with GitHub's own count of the stars of each day."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from gh_assets.collector.history_state import HistoryState
from gh_assets.collector.star_history import DAY
from gh_assets.collector.state import RepositoryState
from gh_assets.errors import StoredDataError
from gh_assets.github.outcomes import Outcome
from gh_assets.github.times import star_day, star_days
from gh_assets.storage.asset_store import AssetStore, TableView

MAX_COMPARED = 1000
"""Maximum number of repositories that are compared, evenly spread over all."""

FEW_SHARE, MIN_STARS = 0.8, 10
"""A repository has too few collected stars if they are less than this share of GitHub's, of which there are `MIN_STARS`
or more."""


@dataclass(frozen=True)
class Agreement:
    """The collected stars of one repository beside GitHub's count, over the whole days that both know.

    Attributes
    ----------
    full_name : str
    days, agreeing : int
        Days on which either has a star, and those of them on which both have as many.
    collected, counted : int
        Stars of these days.
    """

    full_name: str
    days: int
    agreeing: int
    collected: int
    counted: int

    @property
    def has_too_few(self) -> bool:
        return self.counted >= MIN_STARS and self.collected < FEW_SHARE * self.counted


def compare(store: AssetStore, pairs: Sequence[tuple[RepositoryState, HistoryState]]) -> list[Agreement]:
    """Compare the stored stars of repositories with their stored histories.

    Days count from the first one of both to the one before the earlier of both readings. Stars of an unknown time
    belong to no day.

    Parameters
    ----------
    store : AssetStore
    pairs : sequence of (RepositoryState, HistoryState)
        Those without stars, without a history or with a damaged table are left out; at most `MAX_COMPARED` are
        compared.
    """
    usable = [pair for pair in pairs if _both_stored(*pair)]
    step = max(1, -(-len(usable) // MAX_COMPARED))
    found = (_agreement(store, stars, history) for stars, history in usable[::step])
    return [agreement for agreement in found if agreement is not None]


def _both_stored(stars: RepositoryState, history: HistoryState) -> bool:
    is_read = stars.outcome is Outcome.OK and stars.collected_at is not None and bool(stars.stars)
    return is_read and stars.partition == history.partition and history.checksum is not None


def _agreement(store: AssetStore, stars: RepositoryState, history: HistoryState) -> Agreement | None:
    """Compare one repository; None if a table is damaged or no day is known."""
    assert stars.collected_at is not None
    assert history.read_until is not None
    try:
        counted = store.read_table("star_history", history.partition)
        times = store.read_table("stargazers", stars.partition, TableView(("starred_at",)))["starred_at"].drop_nulls()
    except StoredDataError:
        return None
    collected = pl.DataFrame({"day": star_days(times)}).group_by("day").agg(pl.len().cast(pl.Int64).alias("collected"))
    days = [day for day in (counted["day"].min(), collected["day"].min()) if day is not None]
    if not days:
        return None
    first = max(days)
    last = min(star_day(stars.collected_at.timestamp()), history.read_until.date()) - DAY
    both = (
        counted.select("day", counted="stars")
        .join(collected, on="day", how="full", coalesce=True)
        .filter(pl.col("day").is_between(first, last))
        .fill_null(0)
        .filter((pl.col("counted") > 0) | (pl.col("collected") > 0))
    )
    agreeing = both.filter(pl.col("counted") == pl.col("collected")).height
    sums = both.select(pl.col("collected", "counted").sum()).row(0)
    return Agreement(history.full_name, both.height, agreeing, *sums)
