"""Collections of users' lists of starred repositories."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from gh_assets.collector.star_sources.base import CollectionOptions, CollectionTask, StarCollection
from gh_assets.collector.star_sources.starred import StarredLists, StarredReport
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred
from gh_assets.collector.star_sources.starred_state import SeedUser, StarredState
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Connected, refs, table_of

Reader = type[RestStarred] | type[GraphQLStarred]

READERS: list[Reader] = [RestStarred, GraphQLStarred]


class Lists(Connected):
    """Users' lists in one store, which are read several times."""

    def __init__(self, database: MongoDatabase, store: AssetStore, github_of: GitHubOf) -> None:
        super().__init__(github_of)
        self.database = database
        self.state = StarredState(database)
        self.segments = PartitionTables(store, "starred")
        self.last = StarredReport()

    def source(
        self, client: GitHubClient, seeds: World | Iterable[SeedUser], reader: Reader = GraphQLStarred, **options: Any
    ) -> StarredLists:
        """Return the source of these users' lists, or of all users of a world."""
        users = all_users(seeds) if isinstance(seeds, World) else list(seeds)
        chosen = CollectionOptions("starred", **options)
        return StarredLists(reader(client, chosen.max_pages), self.state, self.segments, lambda _: users, chosen)

    def run(
        self,
        world: World,
        seeds: Iterable[SeedUser] | None = None,
        reader: Reader = GraphQLStarred,
        client: GitHubClient | None = None,
        **options: Any,
    ) -> dict[str, StarCollection]:
        """Collect all repositories of a world, by default from a stand-in without limits and faults."""
        client = client or self.client_of(world)
        source = self.source(client, world if seeds is None else seeds, reader, **options)
        found = source.collect([CollectionTask(ref) for ref in refs(world)], 2)
        collections = {collected.repository.full_name: collected for collected in found}
        self.last = source.report
        return collections

    def make_stale(self) -> None:
        """Make all lists due, as if a month had passed."""
        long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=31)
        self.database["starred_state"].update_many({}, {"$set": {"state.asked_at": long_ago}})


def all_users(world: World) -> list[SeedUser]:
    return [SeedUser(login, user_id) for login, user_id in zip(world.logins, world.user_ids, strict=True)]


def users_of(collected: StarCollection) -> set[int]:
    return set(table_of(collected)["user_id"])
