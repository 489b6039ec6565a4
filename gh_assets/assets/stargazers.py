"""`stargazers`: who starred a repository, one partition a repository, many partitions in one run."""

import warnings
from pathlib import Path
from typing import Literal

import dagster as dg
import polars as pl
from dagster._core.definitions.metadata import RawMetadataValue
from pydantic import Field

from gh_assets import progress
from gh_assets.asset_store import PartitionTables
from gh_assets.assets.common import (
    COLLECTION,
    OWNERS,
    REPO_PARTITIONS,
    add_partition_metadata,
    now_and_then,
    preview,
    stopwatch,
    table_metadata,
)
from gh_assets.collector.client import GitHubClient
from gh_assets.collector.graphql_stargazers import GraphQLStargazers
from gh_assets.collector.outcomes import Outcome
from gh_assets.collector.sources import RepositoryRef, RestStargazers, StarsFile, StarSource
from gh_assets.collector.stargazers import (
    CollectionReport,
    CollectionState,
    RepositoryState,
    collect_stargazers,
)
from gh_assets.errors import ConfigurationError
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.schemas import STARGAZERS
from gh_assets.settings import load_settings


class StargazersConfig(dg.Config):
    """How stars are collected."""

    source: Literal["stargazers", "graphql", "file"] = Field(
        default="stargazers",
        description="Where stars come from: GitHub's list of stargazers by REST (oldest first) or by GraphQL (newest "
        "first, many repositories a query), or a file.",
    )
    stars_file: str | None = Field(default=None, description="The file of stars, for the source 'file'.")
    max_pages: int | None = Field(
        default=None,
        ge=1,
        le=400,
        description="At most this many pages of 100 stargazers a repository. Unset: that of the settings.",
    )
    ask_all: bool = Field(
        default=False,
        description="Ask also for repositories whose star count has not changed since last time.",
    )


with warnings.catch_warnings():
    # The only way to one run over many partitions is marked beta.
    warnings.simplefilter("ignore", dg.BetaWarning)

    @dg.asset(
        partitions_def=REPO_PARTITIONS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=COLLECTION,
        kinds={"github", "polars", "parquet", "gcs"},
        owners=OWNERS,
        metadata=table_metadata(STARGAZERS),
        description=(
            "One row is one star: a user who starred the partition's repository, when, and how we know. "
            "A partition's `outcome` tells whether its list could be read: `restricted` is neither deleted nor "
            "starless, and what was collected before stays. "
            "Repositories whose star count did not change are not asked again."
        ),
    )
    def stargazers(
        context: dg.AssetExecutionContext,
        config: StargazersConfig,
        repos: pl.DataFrame,
        github: GitHubResource,
        mongo: MongoResource,
        gcs: GcsResource,
    ) -> dg.MaterializeResult[None]:
        """One row a star of the partition's repository."""
        settings = load_settings()
        partitions = list(context.partition_keys)
        max_pages = config.max_pages or settings.max_pages
        log = now_and_then(context.log.info)
        tables = PartitionTables(gcs.asset_store(), "stargazers")

        def tell(report: CollectionReport) -> None:
            progress.report("stargazers", report.done, report.total, f"{report.stars:,} stars, {report.pages:,} pages")
            log(f"{report.done} of {report.total} repositories: {report.stars} stars, {report.pages} pages")

        with stopwatch() as timing, mongo.database(claim=True) as database, github.client(database) as client:
            report = collect_stargazers(
                _repositories(repos, partitions),
                _source(config, client, max_pages),
                tables,
                CollectionState(database),
                max_pages=max_pages,
                workers=settings.workers,
                ask_all=config.ask_all,
                progress=tell,
            )
            left_in_quota = client.pool.remaining()
        missing = [key for key in partitions if key not in report.states]
        if missing:
            context.log.warning(
                f"{len(missing)} partitions are in no list any more; their data are kept: {missing[:5]}"
            )
        add_partition_metadata(context, {key: _partition_metadata(state) for key, state in report.states.items()})
        context.log.info(
            f"{report.done} repositories: {report.asked} asked, {report.unchanged} unchanged, {report.stars} stars, "
            f"{report.pages} pages ({report.pages_not_modified} not modified), outcomes {dict(report.outcomes)}"
        )
        metadata: dict[str, RawMetadataValue] = {
            "run_repositories_asked": report.asked,
            "run_pages": report.pages,
            "run_pages_not_modified": report.pages_not_modified,
            "run_stars": report.stars,
            "run_outcomes": ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common()),
            **{f"run_{name}": value for name, value in timing.items()},
        }
        if left_in_quota is not None:
            metadata["run_quota_left"] = left_in_quota
        if len(partitions) == 1 and partitions[0] in tables.partitions():
            metadata["preview"] = preview(tables.read(partitions[0])[0].drop("repo_id"))
        return dg.MaterializeResult(metadata=metadata)


def _source(config: StargazersConfig, client: GitHubClient, max_pages: int) -> StarSource:
    if config.source == "file":
        if config.stars_file is None:
            raise ConfigurationError("The source 'file' needs a file: set stars_file (--stars FILE).")
        return StarsFile(Path(config.stars_file))
    if config.source == "graphql":
        return GraphQLStargazers(client, max_pages)
    return RestStargazers(client, max_pages)


def _repositories(repos: pl.DataFrame, partitions: list[str]) -> list[RepositoryRef]:
    wanted = set(partitions)
    rows = repos.select("repo_id", "partition", "full_name", "stargazer_count", "outcome").rows()
    return [
        RepositoryRef(repo_id, partition, full_name, count, Outcome(outcome))
        for repo_id, partition, full_name, count, outcome in rows
        if partition in wanted
    ]


def _partition_metadata(state: RepositoryState) -> dict[str, str | int]:
    # Little, on purpose: ten thousand partitions write this ten thousand times.
    metadata: dict[str, str | int] = {"outcome": state.outcome.value}
    if state.stars is not None:
        metadata["dagster/row_count"] = state.stars
    if state.reason:
        metadata["reason"] = state.reason[:300]
    return metadata
