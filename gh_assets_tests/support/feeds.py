"""Looks at the event feeds of small worlds in virtual time."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from gh_assets.collector.feeds import FeedState
from gh_assets.collector.pipeline import CollectionReport, StarPipeline
from gh_assets.collector.star_sources.base import CollectionOptions
from gh_assets.collector.star_sources.events import EventFeeds
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.worlds import world_of

BEGIN = 1_800_000_000
"""The time at which the feeds' worlds begin, in seconds since 1970."""

MINUTE, HOUR, DAY = 60, 3600, 86_400


def feed_world(times: Sequence[Sequence[int]], *, others: float = 0.0) -> World:
    """Return a world of repositories ``a/0`` … with a star of another user at each time, in seconds after `BEGIN`.

    Parameters
    ----------
    times : sequence of sequence of int
        For each repository.
    others : float
        Other events a day.
    """
    world = world_of({f"a/{number}": list(range(len(of_one))) for number, of_one in enumerate(times)})
    for repository, of_one in zip(world.repositories, times, strict=False):
        repository.starred_at = np.array(sorted(of_one), np.int64) + BEGIN
        repository.other_events_a_day = others
        repository.restricted = True
    return world


class Looks:
    """A home whose stars come from event feeds.

    Attributes
    ----------
    standin : Standin
    clock : VirtualClock
        Of the stand-in and of the client.
    """

    def __init__(
        self, standin: Standin, client: GitHubClient, clock: VirtualClock, database: MongoDatabase, store: AssetStore
    ) -> None:
        self.standin, self.client, self.clock = standin, client, clock
        self.state, self.tables = CollectionState(database), self.tables_of(store)

    @staticmethod
    def tables_of(store: AssetStore) -> PartitionTables:
        return PartitionTables(store, "stargazers")

    def look(self, at: int, *, world: World | None = None) -> CollectionReport:
        """Look at all feeds at a time, in seconds after `BEGIN`."""
        self.clock.advance(BEGIN + at)
        return self.pipeline().collect(refs(world or self.standin.world))

    def pipeline(self) -> StarPipeline:
        states = self.state.load().values()
        feeds = {state.repo_id: state.feed for state in states if state.feed is not None}
        source = EventFeeds(self.client, feeds)
        return StarPipeline(source, self.tables, self.state, CollectionOptions(source.name, workers=2))

    def feed(self, repo_id: int = 1) -> FeedState:
        """Return what is known of a feed."""
        feed = self.state.load()[repo_id].feed
        assert feed is not None
        return feed

    def table(self, partition: str = "a/0") -> pl.DataFrame:
        return self.tables.read(partition)[0]

    def users(self, partition: str = "a/0") -> list[int]:
        """Return the numbers of the users whose stars are stored."""
        return sorted(user - 5000 for user in self.table(partition)["user_id"])

    @property
    def spent(self) -> int:
        """Requests that were counted."""
        return self.standin.quota.spent.total()
