"""The source of stars in events of GH Archive, which `gh_assets.collector.gharchive` reads."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import polars as pl

from gh_assets.collector.gharchive import id_of_name
from gh_assets.collector.repositories import NOTHING, CollectedRepositories, Document, KnownRepositories, tabulated
from gh_assets.collector.star_sources.base import CollectionTask, RepositoryRef, StarCollection
from gh_assets.collector.star_sources.merging import collection_from_users
from gh_assets.collector.users import identified, ids_of_logins
from gh_assets.github.outcomes import Outcome
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore


class ArchivedStars:
    """Source of the stars of some hours of GH Archive. Its stars of a repository are never complete.

    Events are matched with repositories by id, or by case-insensitive name if they have none, as before 2015. Users
    without an id get the one of their login where a later event, or another source, has it.

    Parameters
    ----------
    events : polars.DataFrame
        Of schema `STAR_EVENTS`.
    users : iterable of tuple
        Ids and logins from other sources.
    """

    name = "gharchive"

    def __init__(self, events: pl.DataFrame, users: Iterable[tuple[int, str]] = ()) -> None:
        self.total = events.height
        named = events.filter(pl.col("user_id") > 0).sort("starred_at").select("user_id", "login")
        known = pl.DataFrame(list(users), schema={"user_id": pl.Int64, "login": pl.String}, orient="row")
        self._ids = ids_of_logins(pl.concat([named, known]))
        stars = identified(events, self._ids).with_columns(pl.lit(self.name).alias("source"))
        self._none = stars.clear()
        self._by_id = grouped(stars.filter(pl.col("repo_id").is_not_null()), pl.col("repo_id"))
        nameless = stars.filter(pl.col("repo_id").is_null())
        self._by_name = grouped(nameless, pl.col("full_name").str.to_lowercase())

    def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
        """Return the events of each repository."""
        return map_bounded(self._collect, tasks, workers)

    def _collect(self, task: CollectionTask) -> StarCollection:
        repository = task.repository
        of_both = self._by_id.get(repository.repo_id), self._by_name.get(repository.full_name.lower())
        rows = (
            pl.concat([self._none, *(rows for rows in of_both if rows is not None)])
            .with_columns(pl.lit(repository.repo_id, pl.Int64).alias("repo_id"))
            .select("repo_id", "user_id", "login", "starred_at", "source")
            .sort("starred_at", "user_id")
            # A user who took the star back and gave it again has several events: the first counts.
            .unique("user_id", keep="first", maintain_order=True)
        )
        nothing = f"none of the {self.total:,} stars read from the archive is for it"
        before = task.load_previous()
        if before is None:
            return collection_from_users(repository, rows, None, {}, nothing)
        known = identified(before.table, self._ids).unique("user_id", maintain_order=True)
        rows = identified(rows, ids_of_logins(known)).unique("user_id", keep="first", maintain_order=True)
        collected = collection_from_users(repository, rows, replace(before, table=known), {}, nothing)
        return replace(collected, unchanged=collected.table is not None and collected.table.equals(before.table))


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
    for day in sorted(store.partitions(STAR_EVENTS.name)):
        events = store.read_sound_table(STAR_EVENTS.name, day)
        if events is None:
            continue
        if repositories is not None:
            by_name = pl.col("repo_id").is_null() & pl.col("full_name").str.to_lowercase().is_in(names.implode())
            events = events.filter(pl.col("repo_id").is_in(ids.implode()) | by_name)
        parts.append(events)
    return pl.concat(parts)


def grouped(stars: pl.DataFrame, key: pl.Expr) -> dict[object, pl.DataFrame]:
    """Return the stars of each value of `key`."""
    parts = stars.with_columns(key.alias("key")).partition_by("key", as_dict=True, include_key=False)
    return {group[0]: rows for group, rows in parts.items()}


def repositories_of_events(events: pl.DataFrame, known: KnownRepositories) -> CollectedRepositories:
    """Return the repositories that events name, without a list or a request to GitHub.

    A repository without an id, as before 2015, gets that of a later event with the same name, or else a negative one
    that is made from its name.
    """
    events = events.sort("starred_at").with_columns(pl.col("full_name").str.to_lowercase().alias("key"))
    with_id = events.drop_nulls("repo_id")
    nameless = events.filter(pl.col("repo_id").is_null()).join(with_id, on="key", how="anti")
    made = pl.Series([id_of_name(name) for name in nameless["key"]], dtype=pl.Int64)
    repositories = pl.concat([with_id, nameless.with_columns(made.alias("repo_id"))]).group_by("repo_id")
    described = repositories.agg(pl.col("full_name").last(), pl.col("key").unique().sort()).sort("repo_id")
    return tabulated([_document(*row) for row in described.rows()], known)


def _document(repo_id: int, full_name: str, names: list[str]) -> Document:
    return NOTHING | {
        "_id": repo_id,
        "repo_id": repo_id,
        "full_name": full_name,
        "topics": [],
        "lists": ["GH Archive"],
        "names": names,
        "outcome": Outcome.OK.value,
    }
