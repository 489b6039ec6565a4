"""Collections of stars from a stand-in."""

from collections.abc import Callable
from typing import Any

import polars as pl

from gh_assets.collector.collection import CollectionResult, collect
from gh_assets.collector.pipeline import CollectionReport, StarPipeline
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef, StarCollection, StarSource
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.local.progress import Progress
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.worlds import LIST

Source = Callable[[GitHubClient, int], StarSource]
"""A class of sources: made from a client and the maximum number of pages."""


def ref(repo_id: int = 1, full_name: str = "a/b", stars: int | None = None) -> RepositoryRef:
    return RepositoryRef(repo_id, full_name, full_name, stars, Outcome.OK)


def refs(world: World) -> list[RepositoryRef]:
    listed = [repository for repository in world.repositories if repository.full_name != LIST]
    return [ref(repository.repo_id, repository.full_name, len(repository.stargazers)) for repository in listed]


def table_of(collected: StarCollection) -> pl.DataFrame:
    """Return the stars that were collected."""
    assert collected.table is not None
    return collected.table


class Connected:
    """Connects to the stand-in of a world, one after another.

    Attributes
    ----------
    standin : Standin
        Of the last world.
    """

    standin: Standin

    def __init__(self, github_of: GitHubOf) -> None:
        self._github_of = github_of
        self._world: World | None = None

    def client_of(self, world: World) -> GitHubClient:
        """Return a client of a world's stand-in: of the present one if the world is the same."""
        if world is not self._world:
            self._world, (self.standin, self._client) = world, self._github_of(world)
        return self._client

    def standin_of(self, world: World) -> Standin:
        """Return a world's stand-in, to change it before the first request."""
        self.client_of(world)
        return self.standin


class Collecting(Connected):
    """A pipeline over a store and a state that can run several times."""

    def __init__(self, store: AssetStore, state: CollectionState, github_of: GitHubOf) -> None:
        super().__init__(github_of)
        self.tables = PartitionTables(store, "stargazers")
        self.state = state

    def run(
        self, repositories: list[RepositoryRef], source: StarSource, *, max_pages: int = 10, full: bool = False
    ) -> CollectionReport:
        options = CollectionOptions(source.name, max_pages, workers=4, full=full)
        return StarPipeline(source, self.tables, self.state, options).collect(repositories)

    def of_world(
        self, source: Source, world: World, client: GitHubClient | None = None, max_pages: int = 10, **options: bool
    ) -> CollectionReport:
        """Collect all repositories of a world, by default from a stand-in without limits and faults."""
        chosen = source(client or self.client_of(world), max_pages)
        return self.run(refs(world), chosen, max_pages=max_pages, **options)

    def rest(
        self, world: World, client: GitHubClient | None = None, max_pages: int = 10, **options: bool
    ) -> CollectionReport:
        return self.of_world(RestStargazers, world, client, max_pages, **options)

    def users(self, partition: str) -> list[int]:
        """Return the stored users of a repository."""
        return self.tables.read(partition)[0]["user_id"].to_list()


class Run(Connected):
    """Runs collections by their options, and keeps their progress."""

    def __init__(self, database: MongoDatabase, store: AssetStore, github_of: GitHubOf) -> None:
        super().__init__(github_of)
        self.database, self.store = database, store
        self.sentences: list[str] = []
        self.states: list[tuple[int, int, str]] = []

    def __call__(
        self,
        world: World,
        source: str = "auto",
        *,
        only: list[RepositoryRef] | None = None,
        client: GitHubClient | None = None,
        offline: bool = False,
        **options: Any,
    ) -> CollectionResult:
        """Collect the repositories of a world, or some, by default from a stand-in without limits and faults."""
        wanted = refs(world) if only is None else only
        client = None if offline else client or self.client_of(world)
        progress = Progress(lambda _, *state: self.states.append(state), self.sentences.append)
        return collect(CollectionOptions(source, **options), wanted, client, self.database, self.store, progress)

    def stars(self, partition: str) -> pl.DataFrame:
        return self.store.read_table("stargazers", partition)
