"""One collection of stars, as the settings and a run's options say: which source, at what cost, and how far it is.

Between the collector, which knows no settings, and the assets, which only report. Knows no Dagster.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Sequence
from collections.abc import Collection as AbstractCollection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import polars as pl

from gh_assets.collector.forecast import Forecast, clock_time, duration, expected_pages, forecast, seconds_for
from gh_assets.collector.pipeline import CollectionReport, PipelineOptions, Selection, StarPipeline
from gh_assets.collector.seed_users import SeedUsers
from gh_assets.collector.star_sources.auto import AutoReport, AutoSource, OwnLists
from gh_assets.collector.star_sources.base import OWN_LIST_SOURCES, SOURCES, RepositoryRef, StarSource
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
from gh_assets.github.graphql import QuerySize
from gh_assets.github.rate_limits import Resource
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore, PartitionTables, Segments
from gh_assets.storage.mongo import Collections, MongoDatabase

STAR_EVENTS_ASSET = "star_events"
STARRED_SEGMENTS = "starred"

UNLIMITED = 1_000_000
"""The stand-in's limits are beyond it: there is no quota to speak of."""

QUOTA_SAMPLES = 400

PAGES_A_USER = 3
"""What a user's list is expected to have, before it is read."""

ProgressCallback = Callable[[int, int, str], None]
"""Hears how far a collection is: what is done, of how many, in words."""


@dataclass(frozen=True)
class CollectionOptions:
    """What a run was asked for.

    Attributes
    ----------
    source : str
        One of `gh_assets.settings.StarSourceName`.
    max_pages : int
        Pages of 100 stars a repository or user, at most.
    stars_file : Path or None
        For the source ``file``.
    seed_users : Path or None
        Users to ask first for their lists.
    max_users : int
        Users whose lists are read, at most.
    full : bool
        Read everything again, to its end: unstars are noticed so.
    workers : int
        Requests in flight at once.
    """

    source: str
    max_pages: int
    stars_file: Path | None = None
    seed_users: Path | None = None
    max_users: int = 5000
    full: bool = False
    workers: int = 8


@dataclass
class CollectionResult:
    """What a collection did.

    Attributes
    ----------
    report : CollectionReport
    forecast : Forecast
        Made before it began.
    users : StarredReport or None
        If users were asked for their lists.
    ways : AutoReport or None
        If the source was to be found out.
    requests, points : int
        What was asked, users and forks included.
    quota_left : dict
        Points left by resource; without those that have no limit.
    forks_unread : int
        Repositories whose forks could not be read, where users are found by them.
    left_out : list of str
        Sentences about rows of a person's files that could not be used.
    """

    report: CollectionReport
    forecast: Forecast
    users: StarredReport | None = None
    ways: AutoReport | None = None
    requests: int = 0
    points: int = 0
    quota_left: dict[str, int] = field(default_factory=dict)
    forks_unread: int = 0
    left_out: list[str] = field(default_factory=list)

    def summary_lines(self) -> list[str]:
        """What a person wants to know afterwards, beside the numbers."""
        said = list(self.left_out)
        if self.ways is not None and self.ways.closed:
            said.append(
                f"{self.ways.closed:,} of {self.report.total:,} repositories do not let their stargazers be listed; "
                + (f"{self.ways.by_users:,} of them were completed from users' own lists."
                   if self.ways.by_users else "they are too few to ask users for their lists.")
            )  # fmt: skip
        if self.users is not None:
            said.append(
                f"{self.users.asked:,} users were asked for the repositories that they starred "
                f"({self.users.unchanged:,} lists unchanged), {self.users.known:,} were known before."
            )
            if self.users.unread:
                said.append(
                    f"The lists of {self.users.unread:,} users could not be read whole: they are asked again by the "
                    "next run."
                )
        if self.forks_unread:
            said.append(f"The forks of {self.forks_unread:,} repositories could not be read: the next run tries again.")
        if self.report.unproven:
            said.append(
                f"{self.report.unproven:,} lists could not be proven to be whole: what was read is kept, nothing of "
                "them counts as taken back, and the next run asks for them again."
            )
        if self.report.unstarred:
            said.append(f"{self.report.unstarred:,} stars were taken back; they are kept as history.")
        stopped = self.report.stopped
        if stopped is not None:
            reached = self.report.asked + self.report.unchanged
            said.append(f"{stopped} {reached:,} of {self.report.total:,} repositories are up to date.")
        return said


def collect(
    options: CollectionOptions,
    repositories: Sequence[RepositoryRef],
    client: GitHubClient | None,
    database: MongoDatabase,
    store: AssetStore,
    *,
    on_progress: ProgressCallback,
    say: Callable[[str], None],
    ask: AbstractCollection[int] = frozenset(),
) -> CollectionResult:
    """Bring the stars of the repositories up to date.

    Parameters
    ----------
    options : CollectionOptions
    repositories : sequence of RepositoryRef
    client : GitHubClient or None
        None where there is no GitHub to ask: then stars come from the archive (or a file).
    database : pymongo database
    store : AssetStore
        Gets the tables, by partition.
    tell, say : callable
        Hear how far it is, and what a person should know at once (the forecast).
    ask : collection of int
        Repositories, by id, to ask even if nothing seems to have changed, or their lists were found closed lately.

    Raises
    ------
    ConfigurationError
        If the source needs something that was not given.
    AuthenticationError, RateLimitedError, CancelledError
        If nobody can be asked any more; what was collected until then is kept.
    """
    state = CollectionState(database)
    resource = SOURCES[options.source].resource if client is not None else None
    progress = CollectionProgress(client, resource, on_progress, say)
    if client is not None:
        client.pool.notify = say
    sizes = QuerySizeStore(database)
    source = _source(options, repositories, client, database, store, state, progress, sizes, ask)

    pipeline_options = PipelineOptions(options.max_pages, options.workers, options.full, ask)
    pipeline = StarPipeline(source, PartitionTables(store, "stargazers"), state, pipeline_options)
    try:
        selection = pipeline.select(repositories)
        pages = _expected_pages(selection, source.name, options) if source.name != "starred" else 0
        progress.begin(selection.report, pages)
        report = pipeline.run(selection, progress.on_repositories)
    finally:
        sizes.remember()
    usage = client.usage if client is not None else None
    if client is not None:
        _remember_quota(database, client)
    quota = {r.value: left for r in Resource if client is not None and (left := client.pool.remaining(r)) is not None}
    return CollectionResult(
        report,
        progress.forecast,
        progress.users,
        source.report if isinstance(source, AutoSource) else None,
        usage.requests if usage is not None else 0,
        usage.graphql_points if usage is not None else 0,
        quota,
        progress.seeds.unread if progress.seeds is not None else 0,
        [*progress.left_out, *(source.summary_lines() if isinstance(source, StarsFile) else ())],
    )


def _expected_pages(selection: Selection, source: str, options: CollectionOptions) -> int:
    """Return the pages that a collection is expected to read."""
    comparable = {source, *OWN_LIST_SOURCES}
    counts = []
    for repository in selection.pending:
        before = selection.known.get(repository.repo_id)
        is_known = before is not None and before.proven and before.source in comparable and not options.full
        counts.append(
            (
                repository.stargazer_count,
                before.stargazer_count if before is not None else None,
                before.stars if before is not None and is_known else None,
            )
        )
    return expected_pages(counts, options.max_pages).pages


def read_star_events(store: AssetStore, repositories: Sequence[RepositoryRef] | None = None) -> pl.DataFrame:
    """The stars that were read from the archive, of all days; only those of some repositories if they are given."""
    ids = pl.Series([r.repo_id for r in repositories or ()], dtype=pl.Int64)
    names = pl.Series([r.full_name.lower() for r in repositories or ()], dtype=pl.String)
    parts = [STAR_EVENTS.empty()]
    for day in sorted(store.partitions(STAR_EVENTS_ASSET)):
        events = store.read_sound_table(STAR_EVENTS_ASSET, day)
        if events is None:
            continue  # stars that it told of are in the tables; the day has to be read again
        if repositories is not None:
            by_name = pl.col("repo_id").is_null() & pl.col("full_name").str.to_lowercase().is_in(names.implode())
            events = events.filter(pl.col("repo_id").is_in(ids.implode()) | by_name)
        parts.append(events)
    return pl.concat(parts)


@dataclass(frozen=True)
class QuotaSample:
    """What was left of the quota when a collection ended, and what it had spent.

    Attributes
    ----------
    at : datetime
        UTC.
    resource : str
    left, limit : int
        Points of all accounts.
    spent : int
        Requests, or GraphQL points.
    """

    at: dt.datetime
    resource: str
    left: int
    limit: int
    spent: int


def _remember_quota(database: MongoDatabase, client: GitHubClient) -> None:
    """For the picture of it; the last `QUOTA_SAMPLES` are kept."""
    spent = {Resource.REST: client.usage.requests, Resource.GRAPHQL: client.usage.graphql_points}
    samples = []
    for resource, points in spent.items():
        left, limit = client.pool.remaining(resource), client.pool.limit(resource)
        if left is not None and limit is not None and limit < UNLIMITED:
            now = dt.datetime.now(dt.UTC)
            samples.append({"at": now, "resource": resource.value, "left": left, "limit": limit, "spent": points})
    if samples:
        database[Collections.META].update_one(
            {"_id": "quota samples"}, {"$push": {"samples": {"$each": samples, "$slice": -QUOTA_SAMPLES}}}, upsert=True
        )


def quota_samples(database: MongoDatabase) -> list[QuotaSample]:
    """What was left of the quota after the last collections, oldest first."""
    found = database[Collections.META].find_one({"_id": "quota samples"}) or {}
    return [QuotaSample(**sample) for sample in found.get("samples", ())]


class QuerySizeStore:
    """The sizes of GraphQL queries that GitHub bore last time, by kind of list, in the collection ``meta``."""

    def __init__(self, database: MongoDatabase) -> None:
        self._meta = database[Collections.META]
        self._known = (self._meta.find_one({"_id": "graphql query sizes"}) or {}).get("sizes", {})
        self._used: dict[str, QuerySize] = {}

    def of(self, kind: str) -> QuerySize:
        """To begin with what fitted."""
        known = self._known.get(kind)
        return self._used.setdefault(kind, QuerySize() if known is None else QuerySize.resumed(int(known)))

    def remember(self) -> None:
        """For the next run."""
        limits = {kind: batch.limit for kind, batch in self._used.items() if batch.limit is not None}
        sizes = {kind: size for kind, size in self._known.items() if kind not in self._used} | limits
        if sizes != self._known:
            self._meta.update_one({"_id": "graphql query sizes"}, {"$set": {"sizes": sizes}}, upsert=True)


def _source(
    options: CollectionOptions,
    repositories: Sequence[RepositoryRef],
    client: GitHubClient | None,
    database: MongoDatabase,
    store: AssetStore,
    state: CollectionState,
    progress: CollectionProgress,
    sizes: QuerySizeStore,
    ask: AbstractCollection[int],
) -> StarSource:
    name, pages = options.source, options.max_pages
    if name == "file":
        if options.stars_file is None:
            raise ConfigurationError("The source 'file' needs a file: set stars_file (--stars FILE).")
        own_world = is_world_of(database, options.stars_file)
        return StarsFile(options.stars_file, own_world=own_world, logins=UserLookup(database, client))
    if name == "gharchive" or client is None:
        if name not in ("auto", "gharchive"):
            raise ConfigurationError(
                f"This home has no GitHub to ask for the source {name!r}, only GH Archive: set GITHUB_TOKENS."
            )
        events = read_star_events(store, repositories)
        if not store.partitions(STAR_EVENTS_ASSET):
            raise ConfigurationError(
                "The source 'gharchive' has no hours to take stars from: give some (--archive FILE), or run the job "
                "read_archive."
            )
        users = database[Collections.USERS].find({"login": {"$exists": True}}, {"login": 1})
        return ArchivedStars(events, ((document["_id"], document["login"]) for document in users))
    if name == "stargazers":
        return RestStargazers(client, pages, partial(GraphQLStargazers, client))
    own_lists = OwnLists(
        GraphQLStargazers(client, pages, batch=sizes.of("stargazers")),
        RestStargazers(client, pages, partial(GraphQLStargazers, client)),
    )
    if name == "graphql":
        return own_lists

    def users_lists() -> StarredLists:
        events = read_star_events(store, repositories)
        progress.seeds = SeedUsers(
            client,
            database,
            file=options.seed_users,
            events=events if events.height else None,
            enough=options.max_users,
            workers=options.workers,
        )
        progress.left_out += [sentence] if (sentence := progress.seeds.from_file.skipped.sentence()) else []
        return StarredLists(
            StarredWithFallback(GraphQLStarred(client, pages, batch=sizes.of("starred")), RestStarred(client, pages)),
            StarredState(database),
            Segments(store, STARRED_SEGMENTS),
            progress.seeds,
            max_users=options.max_users,
            max_pages=pages,
            full=options.full,
            progress=progress.on_users,
        )

    if name == "starred":
        return users_lists()
    states = state.load().values()
    closed = {s.repo_id: s.closed_at for s in states if s.closed_at is not None and s.repo_id not in ask}
    return AutoSource(
        own_lists,
        users_lists,
        closed=closed,
        total=len(repositories),
    )


class CollectionProgress:
    """Turns what the collector reports into words: what is done, what is left of the quota, when it will end."""

    def __init__(
        self,
        client: GitHubClient | None,
        resource: Resource | None,
        on_progress: ProgressCallback,
        say: Callable[[str], None],
    ) -> None:
        self.client = client
        self.resource = resource
        self.on_progress = on_progress
        self.say = say
        self.users: StarredReport | None = None
        self.seeds: SeedUsers | None = None
        self.left_out: list[str] = []
        self.forecast = Forecast(None, 0, 0.0, None)
        self._pages = 0
        self._users_first = False
        self._started = time.monotonic()

    def begin(self, report: CollectionReport, pages: int) -> None:
        """Say what it will cost."""
        self._started, self._pages = time.monotonic(), pages
        if pages and self.client is not None and self.resource is not None:
            self.client.refresh_budgets()
        self.forecast = forecast(self.client.pool if self.client else None, self.resource if pages else None, pages)
        if report.pending:
            self.say(
                f"{report.pending:,} of {report.total:,} repositories may have news: {pages:,} pages; "
                f"{self.forecast.words()}"
                if pages and self.resource is not None
                else f"{report.pending:,} of {report.total:,} repositories may have news"
            )

    def on_repositories(self, report: CollectionReport) -> None:
        if self._users_first:  # their time is no measure for the repositories'
            self._users_first, self._started = False, time.monotonic()
        words = f"{report.stars:,} stars, {report.pages:,} pages"
        self.on_progress(
            report.done, report.total, words + self._quota(report.pages, self._pages, report.asked, report.pending)
        )

    def on_users(self, report: StarredReport) -> None:
        self.users = report
        pages = report.total * PAGES_A_USER
        if report.asked == 0:
            self._users_first, self._started = True, time.monotonic()
            if self.client is not None:
                self.client.refresh_budgets()
            self.forecast = forecast(self.client.pool if self.client else None, self.resource, pages)
            self.say(f"{report.total:,} users to be asked for their starred repositories: {self.forecast.words()}")
        words = f"{report.asked:,} of {report.total:,} users asked, {report.stars:,} stars"
        self.on_progress(report.asked, report.total, words + self._quota(0, 0, report.asked, report.total))

    def _quota(self, pages: int, expected: int, asked: int, pending: int) -> str:
        if self.client is None or self.resource is None:
            return ""
        usage, pool = self.client.usage, self.client.pool
        said = f", {usage.requests:,} requests"
        left, reset = pool.remaining(self.resource), pool.next_reset(self.resource)
        if left is not None and (pool.limit(self.resource) or 0) < UNLIMITED:
            said += f", {left:,} points left"
            said += f" until {clock_time(reset)}" if reset is not None else ""
        share = asked / pending if pending and not expected else min(1.0, pages / max(1, expected))
        elapsed = time.monotonic() - self._started
        # What the first few took says nothing.
        if 0.01 < share < 1 and elapsed > 2:
            cost = round(self.forecast.cost * (1 - share))
            eta = max(elapsed * (1 - share) / share, seconds_for(pool, self.resource, cost))
            said += f", {duration(eta)} to go"
        return said
