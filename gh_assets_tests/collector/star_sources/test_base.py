"""The contract of all sources of stars, and their description."""

from __future__ import annotations

import datetime as dt
from typing import get_args

import numpy as np
import polars as pl
import pytest

from gh_assets.collector.gharchive import archive_hours, read_hour
from gh_assets.collector.star_sources.auto import AutoSource
from gh_assets.collector.star_sources.base import (
    SOURCES,
    CollectionOptions,
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarSource,
)
from gh_assets.collector.star_sources.file import StarsFile
from gh_assets.collector.star_sources.gharchive import ArchivedStars
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred import StarredLists
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred
from gh_assets.collector.star_sources.starred_state import SeedUser, StarredState
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STARGAZERS
from gh_assets.settings import StarSourceName
from gh_assets.storage.asset_store import AssetStore, Segments
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.gharchive import write_hour
from gh_assets_tests.support.worlds import world_of


def contract_world() -> World:
    return world_of({"a/b": [3, 1, 2], "C/d": [2], "e/long": list(range(4, 254))})


def source_over_rest(world: World, github_of, _, database, asset_store) -> StarSource:
    return RestStargazers(github_of(world)[1], 10)


def source_over_graphql(world: World, github_of, _, database, asset_store) -> StarSource:
    return GraphQLStargazers(github_of(world)[1], 10)


def source_over_file(world: World, _, tmp_path, database, asset_store) -> StarSource:
    rows = [
        (
            r.full_name.upper(),
            world.logins[user],
            r.repo_id,
            world.user_ids[user],
            dt.datetime.fromtimestamp(when, dt.UTC),
        )
        for r in world.repositories
        for user, when in zip(r.stargazers.tolist(), r.starred_at.tolist(), strict=True)
    ]
    path = tmp_path / "stars.parquet"
    pl.DataFrame(rows, schema=["repo", "login", "repo_id", "user_id", "starred_at"], orient="row").write_parquet(path)
    return StarsFile(path, own_world=True)


def starred(
    world: World,
    client: GitHubClient,
    database,
    asset_store: AssetStore,
    reader: type[RestStarred] | type[GraphQLStarred],
) -> StarredLists:
    """Users' lists, of all users of the world."""
    seeds = [SeedUser(login, user_id) for login, user_id in zip(world.logins, world.user_ids, strict=True)]
    options = CollectionOptions("starred", max_users=10_000)
    return StarredLists(
        reader(client, 10), StarredState(database), Segments(asset_store, "starred"), lambda _: seeds, options
    )


def source_over_starred_rest(world: World, github_of, _, database, asset_store) -> StarSource:
    return starred(world, github_of(world)[1], database, asset_store, RestStarred)


def source_over_starred_graphql(world: World, github_of, _, database, asset_store) -> StarSource:
    return starred(world, github_of(world)[1], database, asset_store, GraphQLStarred)


def source_over_archive(world: World, _, tmp_path, database, asset_store) -> StarSource:
    path = tmp_path / "2017-07-14-2.json.gz"
    write_hour(path, world)
    (hour,) = archive_hours([str(path)])
    return ArchivedStars(read_hour(hour)[0])


def source_auto_open(world: World, github_of, _, database, asset_store) -> StarSource:
    return AutoSource(GraphQLStargazers(github_of(world)[1], 10), None)


def source_auto_closed(world: World, github_of, _, database, asset_store) -> StarSource:
    standin, client = github_of(world)
    standin.restricted = True
    others = starred(world, client, database, asset_store, GraphQLStarred)
    return AutoSource(GraphQLStargazers(client, 10), lambda: others)


MAKE_SOURCE = {
    "stargazers": source_over_rest,
    "graphql": source_over_graphql,
    "file": source_over_file,
    "starred by REST": source_over_starred_rest,
    "starred by GraphQL": source_over_starred_graphql,
    "gharchive": source_over_archive,
    "auto, lists open": source_auto_open,
    "auto, lists closed": source_auto_closed,
}


@pytest.mark.parametrize("make", MAKE_SOURCE.values(), ids=list(MAKE_SOURCE))
def test_every_source_collects_the_same_stars(make, github_of, tmp_path, database, asset_store) -> None:
    """The contract of `StarSource`."""
    world = contract_world()
    source: StarSource = make(world, github_of, tmp_path, database, asset_store)
    kind = SOURCES[source.name]
    tasks = [CollectionTask(repository) for repository in refs(world)]
    collections = list(source.collect(iter(tasks), 2))
    assert sorted(c.repository.repo_id for c in collections) == [w.repository.repo_id for w in tasks]
    for collected in collections:
        repository = collected.repository
        assert collected.outcome is Outcome.OK
        assert collected.complete or not (kind.reads_own_lists or isinstance(source, StarsFile))
        assert collected.table is not None
        assert STARGAZERS.problem(collected.table) is None
        wanted = world.by_id[repository.repo_id].stargazers
        assert collected.table["user_id"].to_list() == [world.user_ids[user] for user in np.asarray(wanted)]
        assert collected.table["login"].to_list() == [world.logins[user] for user in np.asarray(wanted)]
        seconds = collected.table["starred_at"].dt.epoch("s").to_list()
        assert seconds == world.by_id[repository.repo_id].starred_at.tolist()
        assert collected.table["source"].unique().to_list() == [collected.source or source.name]
    (unknown,) = source.collect([CollectionTask(RepositoryRef(77, "x/y", "x/y", 5, Outcome.OK))], 1)
    assert unknown.outcome is not Outcome.OK
    assert unknown.table is None
    assert unknown.reason
    again = list(source.collect([_known(collected) for collected in collections], 2))
    assert all(collected.unchanged and collected.unstarred is None for collected in again)


def _known(collected: StarCollection) -> CollectionTask:
    table, pages = collected.table, collected.pages
    assert table is not None
    previous = PreviousStars(
        table, pages, 10, table["source"][0] if table.height else None, complete=collected.complete
    )
    return CollectionTask(collected.repository, lambda: previous)


def test_every_source_of_the_settings_is_described() -> None:
    assert set(SOURCES) == set(get_args(StarSourceName))
