"""A collection of stars from beginning to end: the source that the options name, its cost, progress and result.

Independent of settings, which the caller turns into options, and of Dagster.
"""

from __future__ import annotations

from collections.abc import Collection as AbstractCollection
from collections.abc import Sequence
from dataclasses import dataclass, field

from gh_assets.collector.forecast import Forecast, expected_pages
from gh_assets.collector.pipeline import CollectionReport, PipelineOptions, Selection, StarPipeline
from gh_assets.collector.progress import STEP, CollectionProgress
from gh_assets.collector.quota import record_quota
from gh_assets.collector.source_factory import CollectionOptions, StarSourceFactory
from gh_assets.collector.star_sources.auto import AutoReport, AutoSource
from gh_assets.collector.star_sources.base import OWN_LIST_SOURCES, SOURCES, RepositoryRef
from gh_assets.collector.star_sources.file import StarsFile
from gh_assets.collector.star_sources.starred import StarredReport
from gh_assets.collector.state import CollectionState
from gh_assets.github.client import GitHubClient
from gh_assets.github.rate_limits import Resource
from gh_assets.local.progress import Progress
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase


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
    auto_report : AutoReport or None
        If the source was ``auto``.
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
    auto_report: AutoReport | None = None
    requests: int = 0
    points: int = 0
    quota_left: dict[str, int] = field(default_factory=dict)
    forks_unread: int = 0
    notes: list[str] = field(default_factory=list)

    def summary_lines(self) -> list[str]:
        """Describe what the numbers alone do not show, a sentence or two per line."""
        report = self.report
        lines = list(self.notes)
        if self.auto_report is not None and self.auto_report.closed:
            completed = (
                f"{self.auto_report.by_users:,} of them were completed from users' own lists."
                if self.auto_report.by_users
                else "they are too few to read users' lists for them."
            )
            lines.append(
                f"{self.auto_report.closed:,} of {report.total:,} repositories do not let their stargazers be listed; "
                f"{completed}"
            )
        if self.users is not None:
            lines.append(
                f"The starred repositories of {self.users.collected:,} users were requested ({self.users.unchanged:,} "
                f"lists unchanged); {self.users.known:,} users were known before."
            )
            if self.users.unread:
                lines.append(
                    f"The lists of {self.users.unread:,} users could not be read completely: the next run reads them "
                    "again."
                )
        if self.forks_unread:
            lines.append(
                f"The forks of {self.forks_unread:,} repositories could not be read: the next run tries again."
            )
        if report.unproven:
            lines.append(
                f"{report.unproven:,} lists may be incomplete: what was read is kept, none of their stars counts as "
                "taken back, and the next run reads them again."
            )
        if report.unstarred:
            lines.append(f"{report.unstarred:,} stars were taken back; they are kept as history.")
        if report.stopped is not None:
            reached = report.asked + report.unchanged
            lines.append(f"{report.stopped} {reached:,} of {report.total:,} repositories are up to date.")
        return lines


def collect(
    options: CollectionOptions,
    repositories: Sequence[RepositoryRef],
    client: GitHubClient | None,
    database: MongoDatabase,
    store: AssetStore,
    *,
    progress: Progress | None = None,
    force: AbstractCollection[int] = frozenset(),
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
    force : collection of int
        Ids of repositories to collect even if nothing seems to have changed, or their lists were found closed lately.

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
    source = factory.create(repositories, force)
    pipeline_options = PipelineOptions(options.max_pages, options.workers, options.full, force)
    pipeline = StarPipeline(source, PartitionTables(store, STEP), CollectionState(database), pipeline_options)
    try:
        selection = pipeline.select(repositories)
        pages = _expected_pages(selection, source.name, options) if source.name != "starred" else 0
        reporter.begin(selection.report, pages)
        report = pipeline.run(selection, reporter.on_repositories)
    finally:
        factory.query_sizes.save()
    result = CollectionResult(report, reporter.forecast, reporter.users)
    if client is not None:
        record_quota(database, client)
        result.requests, result.points = client.usage.requests, client.usage.graphql_points
        left = {resource.value: client.pool.remaining(resource) for resource in Resource}
        result.quota_left = {name: points for name, points in left.items() if points is not None}
    if isinstance(source, AutoSource):
        result.auto_report = source.report
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
        is_known = before is not None and before.proven and before.source in comparable and not options.full
        counts.append(
            (
                repository.stargazer_count,
                before.stargazer_count if before is not None else None,
                before.stars if before is not None and is_known else None,
            )
        )
    return expected_pages(counts, options.max_pages).pages
