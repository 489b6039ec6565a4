"""The contract of all sources of stars, and their description."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import polars as pl
import pytest

from gh_assets.collector.gharchive import archive_hours, read_hour
from gh_assets.collector.star_sources.auto import AutoSource
from gh_assets.collector.star_sources.base import SOURCES, CollectionTask, PreviousStars, StarCollection, StarSource
from gh_assets.collector.star_sources.events import EventFeeds
from gh_assets.collector.star_sources.file import StarsFile
from gh_assets.collector.star_sources.gharchive import ArchivedStars
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STARGAZERS
from gh_assets.settings import StarSourceName
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import ref, refs, table_of
from gh_assets_tests.support.gharchive import write_hour
from gh_assets_tests.support.starred import Lists, Reader
from gh_assets_tests.support.worlds import world_of


@dataclass
class Surroundings:
    """What a source may read from."""

    world: World
    standin: Standin
    client: GitHubClient
    lists: Lists

    def own(self) -> StarSource:
        return GraphQLStargazers(self.client, 10)

    def starred(self, reader: Reader = GraphQLStarred) -> StarSource:
        """Return the lists of all users of the world."""
        return self.lists.source(self.client, self.world, reader, max_users=10_000)

    def file(self) -> StarSource:
        world, utc = self.world, partial(dt.datetime.fromtimestamp, tz=dt.UTC)
        rows = [
            (r.full_name.upper(), world.logins[user], r.repo_id, world.user_ids[user], utc(at))
            for r in world.repositories
            for user, at in zip(r.stargazers.tolist(), r.starred_at.tolist(), strict=True)
        ]
        columns = ["repo", "login", "repo_id", "user_id", "starred_at"]
        pl.DataFrame(rows, schema=columns, orient="row").write_parquet("stars.parquet")
        return StarsFile(Path("stars.parquet"), own_world=True)

    def archive(self) -> StarSource:
        path = Path("2017-07-14-2.json.gz")
        write_hour(path, self.world)
        (hour,) = archive_hours([str(path)])
        return ArchivedStars(read_hour(hour)[0])

    def auto_closed(self) -> StarSource:
        self.standin.restricted = True
        return AutoSource(self.own(), self.starred)

    def events(self) -> EventFeeds:
        """Return the event feeds soon after all stars were given."""
        self.standin.restricted, self.standin.feeds.delay = True, (0.0, 0.0)
        self.standin.clock = self.client.pool.clock = VirtualClock(1_500_100_000)
        for repository in self.world.repositories:
            repository.other_events_a_day = 0.0
        return EventFeeds(self.client)

    def auto_feeds(self) -> StarSource:
        feeds = self.events()
        return AutoSource(self.own(), None, feeds=feeds)


MAKE_SOURCE: dict[str, Callable[[Surroundings], StarSource]] = {
    "stargazers": lambda around: RestStargazers(around.client, 10),
    "graphql": Surroundings.own,
    "file": Surroundings.file,
    "starred by REST": lambda around: around.starred(RestStarred),
    "starred by GraphQL": Surroundings.starred,
    "gharchive": Surroundings.archive,
    "auto, lists open": lambda around: AutoSource(around.own(), None),
    "auto, lists closed": Surroundings.auto_closed,
    "events": Surroundings.events,
    "auto, lists closed, feeds alone": Surroundings.auto_feeds,
}


@pytest.mark.parametrize("make", MAKE_SOURCE.values(), ids=list(MAKE_SOURCE))
def test_every_source_collects_the_same_stars(
    make: Callable[[Surroundings], StarSource], github_of: GitHubOf, lists: Lists
) -> None:
    """The contract of `StarSource`."""
    sizes = {f"f/{size}": list(range(size)) for size in (99, 100, 101, 200)}
    world = world_of({"a/b": [3, 1, 2], "C/d": [2], "e/long": list(range(4, 254)), **sizes})
    source = make(Surroundings(world, *github_of(world), lists))
    kind = SOURCES[source.name]
    tasks = [CollectionTask(repository) for repository in refs(world)]
    collections = list(source.collect(iter(tasks), 2))
    assert sorted(c.repository.repo_id for c in collections) == [w.repository.repo_id for w in tasks]
    for collected in collections:
        repository = collected.repository
        assert collected.outcome is Outcome.OK
        assert collected.complete or not (kind.reads_own_lists or isinstance(source, StarsFile))
        table = table_of(collected)
        assert STARGAZERS.problem(table) is None
        wanted = world.by_id[repository.repo_id]
        users = [(world.user_ids[user], world.logins[user]) for user in wanted.stargazers]
        assert table.select("user_id", "login").rows() == users
        assert table["starred_at"].dt.epoch("s").to_list() == wanted.starred_at.tolist()
        assert table["source"].unique().to_list() == [collected.source or source.name]
    (unknown,) = source.collect([CollectionTask(ref(77, "x/y", 5))], 1)
    assert unknown.outcome is not Outcome.OK
    assert unknown.table is None
    assert unknown.reason
    again = list(source.collect([_known(collected) for collected in collections], 2))
    assert all(collected.unchanged and collected.unstarred is None for collected in again)


def _known(collected: StarCollection) -> CollectionTask:
    table, pages = table_of(collected), collected.pages
    previous = PreviousStars(
        table, pages, 10, table["source"][0] if table.height else None, complete=collected.complete
    )
    return CollectionTask(collected.repository, lambda: previous)


def test_every_source_of_the_settings_is_described() -> None:
    assert set(SOURCES) == set(get_args(StarSourceName))
