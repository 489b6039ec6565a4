"""Collections of stars from a stand-in."""

from __future__ import annotations

from gh_assets.collector.pipeline import CollectionReport, StarPipeline
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef, StarSource
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets_tests.support.worlds import LIST


def refs(world: World) -> list[RepositoryRef]:
    return [
        RepositoryRef(r.repo_id, r.full_name, r.full_name, len(r.stargazers), Outcome.OK)
        for r in world.repositories
        if r.full_name != LIST
    ]


class Collecting:
    """A pipeline over a store and a state that can run several times."""

    def __init__(self, store: AssetStore, state: CollectionState) -> None:
        self.tables = PartitionTables(store, "stargazers")
        self.state = state

    def run(
        self, repositories: list[RepositoryRef], source: StarSource, *, max_pages: int = 10, full: bool = False
    ) -> CollectionReport:
        options = CollectionOptions(source.name, max_pages, workers=4, full=full)
        return StarPipeline(source, self.tables, self.state, options).collect(repositories)

    def rest(self, world: World, client: GitHubClient, max_pages: int = 10, **options: bool) -> CollectionReport:
        return self.run(refs(world), RestStargazers(client, max_pages), max_pages=max_pages, **options)
