"""A collection of stars from beginning to end: the source that the options name, its cost, progress and result.

Independent of settings, which the caller turns into options, and of Dagster.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from gh_assets.collector.forecast import Forecast, expected_pages
from gh_assets.collector.pipeline import CollectionReport, Selection, StarPipeline
from gh_assets.collector.progress import STEP, CollectionProgress
from gh_assets.collector.query_sizes import QuerySizeStore
from gh_assets.collector.quota import record_quota
from gh_assets.collector.seed_users import SeedUsers
from gh_assets.collector.star_sources.auto import AutoSource
from gh_assets.collector.star_sources.base import (
    OWN_LIST_SOURCES,
    SOURCES,
    CollectionOptions,
    RepositoryRef,
    StarSource,
)
from gh_assets.collector.star_sources.events import EventFeeds, LookAllowance
from gh_assets.collector.star_sources.file import StarsFile, UserLookup
from gh_assets.collector.star_sources.frontier import Yields
from gh_assets.collector.star_sources.gharchive import ArchivedStars, read_star_events
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred import StarredLists, StarredReport
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred
from gh_assets.collector.star_sources.starred_state import StarredState
from gh_assets.collector.state import CollectionState
from gh_assets.collector.worlds import is_world_of
from gh_assets.errors import ConfigurationError
from gh_assets.github.client import GitHubClient
from gh_assets.github.rate_limits import Resource
from gh_assets.local.progress import Progress
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import Collections, MongoDatabase

STARRED_SEGMENTS = "starred"


@dataclass
class CollectionResult:
    """Result of a collection.

    Attributes
    ----------
    report : CollectionReport
    forecast : Forecast
        Made before it began.
    users : StarredReport or None
        If users' lists were read.
    closed, closed_completed, closed_looked : int
        If the source was ``auto``: repositories whose own lists are closed, those of them that were completed from
        users' lists, and those whose event feeds were looked at.
    requests, points : int
        REST requests and GraphQL points, including those for users and forks.
    quota_left : dict
        Points left by resource, without unlimited ones.
    forks_unread : int
        Repositories whose forks, which are a source of users, could not be read.
    notes : list of str
        Sentences about rows of the user's files that could not be used.
    """

    report: CollectionReport
    forecast: Forecast
    users: StarredReport | None = None
    closed: int = 0
    closed_completed: int = 0
    closed_looked: int = 0
    requests: int = 0
    points: int = 0
    quota_left: dict[str, int] = field(default_factory=dict)
    forks_unread: int = 0
    notes: list[str] = field(default_factory=list)

    def summary_lines(self) -> list[str]:
        """Describe what the numbers alone do not show, a sentence or two per line."""
        report = self.report
        lines = list(self.notes)
        if self.closed:
            completed = "they are too few to read users' lists for them."
            if self.closed_completed:
                completed = f"{self.closed_completed:,} of them were completed from users' own lists."
            if self.closed_looked:
                completed += f" The event feeds of {self.closed_looked:,} were looked at."
            lines.append(
                f"{self.closed:,} of {report.total:,} repositories do not let their stargazers be listed; {completed}"
            )
        if self.users is not None:
            lines.append(
                f"The starred repositories of {self.users.collected:,} users were requested ({self.users.unchanged:,} "
                f"lists unchanged); {self.users.known:,} users were known before."
            )
        counted = {
            "The lists of {:,} users could not be read completely: the next run reads them again.": (
                self.users.unread if self.users is not None else 0
            ),
            "The forks of {:,} repositories could not be read: the next run tries again.": self.forks_unread,
            "{:,} lists may be incomplete: what was read is kept, none of their stars counts as taken back, and the "
            "next run reads them again.": report.unproven,
            "The event feeds of {:,} repositories were full: stars may have been washed out since the last look.": (
                report.gaps
            ),
            "{:,} stars were taken back; they are kept as history.": report.unstarred,
        }
        lines += [text.format(count) for text, count in counted.items() if count]
        if report.stopped is not None:
            reached = report.asked + report.unchanged
            lines.append(f"{report.stopped} {reached:,} of {report.total:,} repositories are up to date.")
        return lines


@dataclass
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
    yields : Yields
    seeds : SeedUsers or None
        Users whose lists are read, once that has begun.
    """

    options: CollectionOptions
    client: GitHubClient | None
    database: MongoDatabase
    store: AssetStore
    on_users: Callable[[StarredReport], None]
    seeds: SeedUsers | None = None

    def __post_init__(self) -> None:
        self.query_sizes = QuerySizeStore(self.database)
        self.yields = Yields.load(self.database)

    def create(self, repositories: Sequence[RepositoryRef]) -> StarSource:
        """Create the source.

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
            return self._users_lists(self.client)
        if name == "events":
            return self._feeds(self.client)
        size = self.query_sizes.of("stargazers")
        by_rest = self._own_lists_by_rest(self.client)
        own_lists = GraphQLStargazers(self.client, self.options.max_pages, size, by_rest)
        if name == "graphql":
            return own_lists
        feeds = self._feeds(self.client)
        closed = {repo_id: at for repo_id, at in feeds.closed.items() if repo_id not in self.options.force}
        others = partial(self._users_lists, self.client)
        allowance = LookAllowance(self.client.pool, self.options.quota_reserve)
        return AutoSource(own_lists, others, closed, len(repositories), feeds=feeds, allowance=allowance)

    def _feeds(self, client: GitHubClient) -> EventFeeds:
        states = CollectionState(self.database).load().values()
        feeds = {state.repo_id: state.feed for state in states if state.feed is not None}
        return EventFeeds(client, feeds, {s.repo_id: s.closed_at for s in states if s.closed_at is not None})

    def _file(self) -> StarsFile:
        path = self.options.stars_file
        if path is None:
            raise ConfigurationError("The source 'file' needs a file: set stars_file (--stars FILE).")
        own_world = is_world_of(self.database, path)
        return StarsFile(path, own_world=own_world, logins=UserLookup(self.database, self.client))

    def _archive(self, repositories: Sequence[RepositoryRef]) -> ArchivedStars:
        if not self.store.partitions(STAR_EVENTS.name):
            raise ConfigurationError(
                "The source 'gharchive' has no hours to read stars from: give some (--archive FILE), or run the job "
                "read_archive."
            )
        users = self.database[Collections.USERS].find({"login": {"$exists": True}}, {"login": 1})
        events = read_star_events(self.store, repositories)
        return ArchivedStars(events, ((document["_id"], document["login"]) for document in users))

    def _own_lists_by_rest(self, client: GitHubClient) -> RestStargazers:
        return RestStargazers(client, self.options.max_pages, partial(GraphQLStargazers, client))

    def _users_lists(self, client: GitHubClient) -> StarredLists:
        options = self.options
        self.seeds = SeedUsers(client, self.database, self.store, options)
        return StarredLists(
            GraphQLStarred(client, options.max_pages, self.query_sizes.of("starred")),
            StarredState(self.database),
            PartitionTables(self.store, STARRED_SEGMENTS),
            self.seeds,
            options,
            self.on_users,
            self.yields,
        )


def collect(
    options: CollectionOptions,
    repositories: Sequence[RepositoryRef],
    client: GitHubClient | None,
    database: MongoDatabase,
    store: AssetStore,
    progress: Progress | None = None,
) -> CollectionResult:
    """Update the stars of repositories.

    Parameters
    ----------
    options : CollectionOptions
    repositories : sequence of RepositoryRef
    client : GitHubClient or None
        None without access to GitHub: then stars come from the archive or a file.
    database : pymongo database
    store : AssetStore
        Receives the tables, by partition.
    progress : Progress, optional
        Receives the step `STEP`, and sentences such as the forecast.

    Raises
    ------
    ConfigurationError
        If the source needs something that is missing.
    AuthenticationError, RateLimitedError, CancelledError
        If no more requests are possible; what was collected until then is kept.
    """
    progress = progress or Progress()
    reporter = CollectionProgress(client, SOURCES[options.source].resource, progress)
    if client is not None:
        client.pool.notify = progress.notify
    factory = StarSourceFactory(options, client, database, store, reporter.on_users)
    source = factory.create(repositories)
    pipeline = StarPipeline(source, PartitionTables(store, STEP), CollectionState(database), options)
    try:
        selection = pipeline.select(repositories)
        pages = _expected_pages(selection, source.name, options) if source.name != "starred" else 0
        reporter.begin(selection.report, pages)
        report = pipeline.run(selection, reporter.on_repositories)
    finally:
        factory.query_sizes.save()
        if factory.seeds is not None:
            factory.yields.save(database)
    result = CollectionResult(report, reporter.forecast, reporter.users)
    if client is not None:
        record_quota(database, client)
        result.requests, result.points = client.usage.requests, client.usage.graphql_points
        left = {resource.value: client.pool.remaining(resource) for resource in Resource}
        result.quota_left = {name: points for name, points in left.items() if points is not None}
    if isinstance(source, AutoSource):
        result.closed, result.closed_completed = source.closed_lists, source.completed
        result.closed_looked = source.looked
    if isinstance(source, StarsFile):
        result.notes += source.summary_lines()
    if factory.seeds is not None:
        result.forks_unread = factory.seeds.unread
        result.notes += [note] if (note := factory.seeds.from_file.skipped.sentence()) else []
    return result


def _expected_pages(selection: Selection, source: str, options: CollectionOptions) -> int:
    """Return the pages that a collection is expected to read."""
    comparable = {source, *OWN_LIST_SOURCES}
    counts = []
    for repository in selection.pending:
        before = selection.known.get(repository.repo_id)
        counted, stars = (None, None) if before is None else (before.stargazer_count, before.stars)
        is_known = before is not None and before.proven and before.source in comparable and not options.full
        counts.append((repository.stargazer_count, counted, stars if is_known else None))
    return expected_pages(counts, options.max_pages)
