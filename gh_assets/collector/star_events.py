"""Stars read from GH Archive, as the asset `star_events` stores them by day."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore

STAR_EVENTS_ASSET = "star_events"


def read_star_events(store: AssetStore, repositories: Sequence[RepositoryRef] | None = None) -> pl.DataFrame:
    """Read the stars of all days.

    Damaged days are left out: their stars are in the tables of the repositories already.

    Parameters
    ----------
    store : AssetStore
    repositories : sequence of RepositoryRef, optional
        Read only stars of these repositories.

    Returns
    -------
    polars.DataFrame
        Of schema `STAR_EVENTS`.
    """
    ids = pl.Series([r.repo_id for r in repositories or ()], dtype=pl.Int64)
    names = pl.Series([r.full_name.lower() for r in repositories or ()], dtype=pl.String)
    parts = [STAR_EVENTS.empty()]
    for day in sorted(store.partitions(STAR_EVENTS_ASSET)):
        events = store.read_sound_table(STAR_EVENTS_ASSET, day)
        if events is None:
            continue
        if repositories is not None:
            by_name = pl.col("repo_id").is_null() & pl.col("full_name").str.to_lowercase().is_in(names.implode())
            events = events.filter(pl.col("repo_id").is_in(ids.implode()) | by_name)
        parts.append(events)
    return pl.concat(parts)
