"""Repositories that get more stars than usual, by GitHub's own counts of each day (`gh_assets.assets.star_history`)."""

from dataclasses import dataclass

from gh_assets.collector.star_history import Trend
from gh_assets.errors import StoredDataError
from gh_assets.schemas import STAR_TRENDS
from gh_assets.storage.asset_store import AssetStore


@dataclass(frozen=True)
class RisingRepository:
    """A repository that is rising (`gh_assets.collector.star_history.Trend.is_rising`)."""

    repo_id: int
    trend: Trend


def read_rising(store: AssetStore) -> list[RisingRepository]:
    """Return the rising repositories, those with the largest ratio first; none if there are no star histories."""
    if store.describe(STAR_TRENDS.name, "parquet") is None:
        return []
    try:
        table = store.read_table(STAR_TRENDS.name)
    except StoredDataError:
        return []  # a hint on the page must not prevent serving
    rows = table.select("repo_id", "recent", "usual").rows()
    found = [RisingRepository(repo_id, Trend(recent, usual)) for repo_id, recent, usual in rows]
    rising = [one for one in found if one.trend.is_rising]
    return sorted(rising, key=lambda one: (-(one.trend.ratio or 0.0), one.repo_id))
