"""Creating the source of stars that a collection's options name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Collection as AbstractCollection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gh_assets.collector.query_sizes import QuerySizeStore
from gh_assets.collector.seed_users import SeedUsers
from gh_assets.collector.star_events import STAR_EVENTS_ASSET, read_star_events
from gh_assets.collector.star_sources.auto import AutoSource, OwnLists
from gh_assets.collector.star_sources.base import RepositoryRef, StarSource
from gh_assets.collector.star_sources.file import StarsFile, UserLookup
from gh_assets.collector.star_sources.gharchive import ArchivedStars
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred import StarredLists, StarredReport
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred, StarredWithFallback
from gh_assets.collector.star_sources.starred_state import StarredState
from gh_assets.collector.state import CollectionState
from gh_assets.collector.worlds import is_world_of
from gh_assets.errors import ConfigurationError
from gh_assets.github.client import GitHubClient
from gh_assets.storage.asset_store import AssetStore, Segments
from gh_assets.storage.mongo import Collections, MongoDatabase

STARRED_SEGMENTS = "starred"


@dataclass(frozen=True)
class CollectionOptions:
    """Options of a collection.

    Attributes
    ----------
    source : str
        One of `gh_assets.settings.StarSourceName`.
    max_pages : int
        Maximum number of pages of 100 stars per repository or user.
    stars_file : Path or None
        For the source ``file``.
    seed_users : Path or None
        Users whose lists are read first.
    max_users : int
        Maximum number of users whose lists are read.
    full : bool
        Read every list again, to its end, which detects stars that were taken back.
    workers : int
        Number of concurrent requests.
    """

    source: str
    max_pages: int
    stars_file: Path | None = None
    seed_users: Path | None = None
    max_users: int = 5000
    full: bool = False
    workers: int = 8


class StarSourceFactory:
    """Creates sources of stars.

    Parameters
    ----------
    options : CollectionOptions
    client : GitHubClient or None
        None without access to GitHub: then stars come from the archive or a file.
    database : pymongo database
    store : AssetStore
    on_users : callable
        Called with a `StarredReport` while users' lists are read.

    Attributes
    ----------
    query_sizes : QuerySizeStore
    seeds : SeedUsers or None
        Users whose lists are read, once that has begun.
    """

    def __init__(
        self,
        options: CollectionOptions,
        client: GitHubClient | None,
        database: MongoDatabase,
        store: AssetStore,
        on_users: Callable[[StarredReport], None],
    ) -> None:
        self.options = options
        self.client = client
        self.database = database
        self.store = store
        self.on_users = on_users
        self.query_sizes = QuerySizeStore(database)
        self.seeds: SeedUsers | None = None

    def create(self, repositories: Sequence[RepositoryRef], force: AbstractCollection[int]) -> StarSource:
        """Create the source.

        Parameters
        ----------
        repositories : sequence of RepositoryRef
        force : collection of int
            Ids of repositories whose own lists are requested even if they were found closed lately.

        Raises
        ------
        ConfigurationError
            If the source needs something that is missing.
        """
        name = self.options.source
        if name == "file":
            return self._file()
        if name == "gharchive" or (name == "auto" and self.client is None):
            return self._archive(repositories)
        if self.client is None:
            raise ConfigurationError(
                f"This home has no access to GitHub for the source {name!r}, only to GH Archive: set GITHUB_TOKENS."
            )
        if name == "stargazers":
            return self._own_lists_by_rest(self.client)
        if name == "starred":
            return self._users_lists(self.client, repositories)
        own_lists = OwnLists(
            GraphQLStargazers(self.client, self.options.max_pages, batch=self.query_sizes.of("stargazers")),
            self._own_lists_by_rest(self.client),
        )
        if name == "graphql":
            return own_lists
        states = CollectionState(self.database).load().values()
        closed = {s.repo_id: s.closed_at for s in states if s.closed_at is not None and s.repo_id not in force}
        others = partial(self._users_lists, self.client, repositories)
        return AutoSource(own_lists, others, closed=closed, total=len(repositories))

    def _file(self) -> StarsFile:
        path = self.options.stars_file
        if path is None:
            raise ConfigurationError("The source 'file' needs a file: set stars_file (--stars FILE).")
        own_world = is_world_of(self.database, path)
        return StarsFile(path, own_world=own_world, logins=UserLookup(self.database, self.client))

    def _archive(self, repositories: Sequence[RepositoryRef]) -> ArchivedStars:
        if not self.store.partitions(STAR_EVENTS_ASSET):
            raise ConfigurationError(
                "The source 'gharchive' has no hours to read stars from: give some (--archive FILE), or run the job "
                "read_archive."
            )
        users = self.database[Collections.USERS].find({"login": {"$exists": True}}, {"login": 1})
        events = read_star_events(self.store, repositories)
        return ArchivedStars(events, ((document["_id"], document["login"]) for document in users))

    def _own_lists_by_rest(self, client: GitHubClient) -> RestStargazers:
        return RestStargazers(client, self.options.max_pages, partial(GraphQLStargazers, client))

    def _users_lists(self, client: GitHubClient, repositories: Sequence[RepositoryRef]) -> StarredLists:
        options = self.options
        events = read_star_events(self.store, repositories)
        self.seeds = SeedUsers(
            client,
            self.database,
            file=options.seed_users,
            events=events if events.height else None,
            enough=options.max_users,
            workers=options.workers,
        )
        by_graphql = GraphQLStarred(client, options.max_pages, batch=self.query_sizes.of("starred"))
        return StarredLists(
            StarredWithFallback(by_graphql, RestStarred(client, options.max_pages)),
            StarredState(self.database),
            Segments(self.store, STARRED_SEGMENTS),
            self.seeds,
            max_users=options.max_users,
            max_pages=options.max_pages,
            full=options.full,
            progress=self.on_users,
        )
