"""`stargazers`: who starred a repository, one partition a repository, many partitions in one run."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.definition import GITHUB_POOL, REPO_PARTITIONS, AssetConfig, collection_asset, single_run, tag_run
from gh_assets.assets.metadata import MAX_REASON, collection_metadata, measure_seconds, partition_metadata, preview
from gh_assets.assets.progress import asset_progress
from gh_assets.assets.star_events import star_events
from gh_assets.collector.collection import CollectionResult, collect
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef
from gh_assets.github.outcomes import Outcome
from gh_assets.instance.internals import add_partition_metadata
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource
from gh_assets.schemas import STARGAZERS
from gh_assets.settings import MAX_PAGES, StarSourceName
from gh_assets.storage.asset_store import PartitionTables

if TYPE_CHECKING:
    from gh_assets.instance.internals import RawMetadataValue

UNLISTED: dict[str, str | int] = {
    "outcome": Outcome.UNLISTED.value,
    "reason": "No list names this repository, so it was not collected: name it in a list (--awesome, "
    "GH_ASSETS_AWESOME) and materialize repos.",
}
"""Metadata of a partition whose repository is in no list."""


class StargazersConfig(AssetConfig):
    """How stars are collected. What is unset has the value of the settings."""

    source: Literal["setting", StarSourceName] = "setting"
    """Where stars come from. 'auto': the repository's own list, and users' lists where many own lists are closed;
    'stargazers': GitHub's list by REST (oldest first); 'graphql': the same by GraphQL (newest first, many in a query);
    'starred': users' lists; 'events': repositories' event feeds; 'gharchive': the asset star_events; 'file': a file;
    'setting': the value of GH_ASSETS_SOURCE."""

    stars_file: str | None = None
    """File of stars, for the source 'file'."""

    seed_users: str | None = None
    """File of users whose starred lists are read first."""

    max_users: int | None = Field(None, ge=1)
    """Maximum number of users whose lists are read."""

    max_pages: int | None = Field(None, ge=1, le=MAX_PAGES)
    """Maximum pages of 100 stars a repository or user."""

    max_requests: int | None = Field(None, ge=1)
    """Maximum number of requests; the next run continues from there."""

    full: bool = False
    """Read all lists again to their end, also where the star count has not changed. This notices stars that were taken
    back."""

    def options(self, policy: PolicyResource, force: Collection[int] = frozenset()) -> CollectionOptions:
        """Return the options of the collection, with the policy's values for what is unset."""
        settings = policy.settings()
        return CollectionOptions(
            source=settings.source if self.source == "setting" else self.source,
            max_pages=self.max_pages or settings.max_pages,
            stars_file=Path(self.stars_file) if self.stars_file is not None else None,
            seed_users=Path(self.seed_users) if self.seed_users is not None else settings.seed_users,
            max_users=self.max_users or settings.max_users,
            target_share=settings.target_share,
            full=self.full,
            workers=settings.workers,
            force=force,
            quota_reserve=settings.quota_reserve,
        )


@dataclass(frozen=True)
class CollectionServices:
    """The resources that a collection uses."""

    github: GitHubResource
    mongo: MongoResource
    gcs: GcsResource


@dataclass(frozen=True)
class CollectionOutcome:
    """What a collection did, with the metadata of its run and of its partitions."""

    result: CollectionResult
    metadata: "dict[str, RawMetadataValue]"
    by_partition: dict[str, dict[str, str | int]]


@collection_asset(
    schema=STARGAZERS,
    partitions_def=REPO_PARTITIONS,
    deps=[dg.AssetDep(star_events, partition_mapping=dg.AllPartitionMapping())],
    backfill_policy=single_run(),
    pool=GITHUB_POOL,
    kinds={"github", "polars", "parquet", "gcs"},
)
def stargazers(
    context: dg.AssetExecutionContext,
    config: StargazersConfig,
    repos: pl.DataFrame,
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
    policy: PolicyResource,
) -> dg.MaterializeResult[None]:
    """One row is one star: a user who starred the partition's repository, when, and from which source we know.

    A partition's `outcome` says whether its list could be read: `restricted` is neither deleted nor without stars, and
    what was collected before is kept. Repositories whose star count has not changed are not read again.
    """
    partitions = list(context.partition_keys)
    services = CollectionServices(github, mongo, gcs)
    outcome = collect_partitions(context, partitions, repos, config.options(policy), services, config.max_requests)
    add_partition_metadata(context, outcome.by_partition)
    tables = PartitionTables(gcs.asset_store(), "stargazers")
    if len(partitions) == 1 and partitions[0] in tables.partitions():
        outcome.metadata["preview"] = preview(tables.read(partitions[0])[0].drop("repo_id"))
    return dg.MaterializeResult(metadata=outcome.metadata)


def collect_partitions(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    partitions: Sequence[str],
    repos: pl.DataFrame,
    options: CollectionOptions,
    services: CollectionServices,
    max_requests: int | None,
) -> CollectionOutcome:
    """Collect the stars of partitions, and tag the run with what that took.

    Parameters
    ----------
    context : context of an asset or op
    partitions : sequence of str
    repos : polars.DataFrame
        The asset `repos`.
    options : CollectionOptions
    services : CollectionServices
    max_requests : int or None
        Cap on the number of requests.
    """
    reported = asset_progress(context)
    repositories = repositories_of(repos, partitions)
    with (
        measure_seconds() as timing,
        services.mongo.database() as database,
        services.github.client_if_any(database, max_requests=max_requests) as client,
    ):
        services.github.claim_world(database)
        options = replace(options, listed=frozenset(repos["repo_id"].drop_nulls().to_list()))
        result = collect(options, repositories, client, database, services.gcs.asset_store(), reported)
    unlisted = sorted(set(partitions) - {repository.partition for repository in repositories})
    if unlisted:
        context.log.warning(
            f"{len(unlisted)} partitions belong to repositories that no list names. They were not collected; what was "
            f"collected before is kept: {unlisted[:5]}"
        )
    for line in result.summary_lines():
        reported.notify(line)
    tags = {"source": options.source, "requests": result.requests, "graphql_points": result.points}
    tag_run(context, {**tags, "repositories_asked": result.report.asked})
    metadata = collection_metadata(result, options.source) | {f"run_{name}": value for name, value in timing.items()}
    by_partition = {key: partition_metadata(state) for key, state in result.report.states.items()}
    by_partition |= dict.fromkeys(unlisted, UNLISTED)
    if result.report.stopped is not None:
        reason = result.report.stopped[:MAX_REASON]
        waiting: dict[str, str | int] = {"outcome": Outcome.UNKNOWN.value, "reason": reason}
        by_partition = dict.fromkeys(partitions, waiting) | by_partition
    return CollectionOutcome(result, metadata, by_partition)


def repositories_of(repos: pl.DataFrame, partitions: Sequence[str]) -> list[RepositoryRef]:
    """Return the repositories of partitions, as far as lists name them, in the order of the asset `repos`."""
    rows = repos.filter(pl.col("partition").is_in(partitions)).select(
        "repo_id", "partition", "full_name", "stargazer_count", "outcome", "node_id"
    )
    return [RepositoryRef(**row | {"outcome": Outcome(row["outcome"])}) for row in rows.iter_rows(named=True)]
