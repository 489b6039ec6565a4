"""`stargazers`: who starred a repository, one partition a repository, many partitions in one run."""

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import dagster as dg
import polars as pl
from dagster._core.definitions.metadata import RawMetadataValue
from pydantic import Field

from gh_assets.assets.metadata import (
    COLLECTION,
    OWNERS,
    REPO_PARTITIONS,
    add_partition_metadata,
    measure_seconds,
    preview,
    table_metadata,
    throttled,
)
from gh_assets.assets.retries import GITHUB_POOL, retry_transient, tag_run
from gh_assets.assets.star_events import star_events
from gh_assets.collector.collection import CollectionOptions, CollectionResult, collect
from gh_assets.collector.pipeline import RepositoryState
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.github.outcomes import Outcome
from gh_assets.local import progress
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.schemas import STARGAZERS
from gh_assets.settings import MAX_PAGES, Settings, load_settings
from gh_assets.storage.asset_store import PartitionTables


class StargazersConfig(dg.Config):
    """How stars are collected. What is unset is as the settings say."""

    source: Literal["setting", "auto", "stargazers", "graphql", "starred", "gharchive", "file"] = Field(
        default="setting",
        description="Where stars come from. 'auto' asks each repository once for its own list and remembers where it "
        "is closed; if many are, users are asked. 'stargazers': GitHub's list by REST (oldest first); 'graphql': the "
        "same by GraphQL (newest first, many a query); 'starred': users' own lists; 'gharchive': what star_events "
        "holds; 'file': a file; 'setting': as GH_ASSETS_SOURCE says.",
    )
    stars_file: str | None = Field(default=None, description="The file of stars, for the source 'file'.")
    seed_users: str | None = Field(default=None, description="A file of users to ask first for their starred lists.")
    max_users: int | None = Field(default=None, ge=1, description="At most so many users are asked for their lists.")
    max_pages: int | None = Field(
        default=None, ge=1, le=MAX_PAGES, description="At most this many pages of 100 stars a repository or user."
    )
    max_requests: int | None = Field(
        default=None,
        ge=1,
        description="Stop cleanly when so many requests were sent; the next run goes on from there.",
    )
    full: bool = Field(
        default=False,
        description="Read all lists again, to their end: also of repositories whose star count has not changed. Stars "
        "that were taken back are noticed so.",
    )

    def options(self, settings: Settings) -> CollectionOptions:
        """With the settings for what is unset."""
        return CollectionOptions(
            source=settings.source if self.source == "setting" else self.source,
            max_pages=self.max_pages or settings.max_pages,
            stars_file=Path(self.stars_file) if self.stars_file is not None else None,
            seed_users=Path(self.seed_users) if self.seed_users is not None else settings.seed_users,
            max_users=self.max_users or settings.max_users,
            full=self.full,
            workers=settings.workers,
        )


with warnings.catch_warnings():
    # The only way to one run over many partitions is marked beta.
    warnings.simplefilter("ignore", dg.BetaWarning)

    @dg.asset(
        partitions_def=REPO_PARTITIONS,
        deps=[dg.AssetDep(star_events, partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=GITHUB_POOL,
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
    @retry_transient
    def stargazers(
        context: dg.AssetExecutionContext,
        config: StargazersConfig,
        repos: pl.DataFrame,
        github: GitHubResource,
        mongo: MongoResource,
        gcs: GcsResource,
    ) -> dg.MaterializeResult[None]:
        """One row a star of the partition's repository."""
        partitions = list(context.partition_keys)
        _, told, metadata = collect_partitions(context, config, repos, partitions, github, mongo, gcs)
        add_partition_metadata(context, told)
        tables = PartitionTables(gcs.asset_store(), "stargazers")
        if len(partitions) == 1 and partitions[0] in tables.partitions():
            metadata["preview"] = preview(tables.read(partitions[0])[0].drop("repo_id"))
        return dg.MaterializeResult(metadata=metadata)


def collect_partitions(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    config: StargazersConfig,
    repos: pl.DataFrame,
    partitions: Sequence[str],
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
    *,
    ask: Collection[int] = frozenset(),
) -> tuple[CollectionResult, dict[str, dict[str, str | int]], dict[str, RawMetadataValue]]:
    """Collect the stars of partitions; gives what was done, the metadata of each partition, and those of the run.

    Parameters
    ----------
    ask : collection of int
        Repositories, by id, to ask whatever is known of them.
    """
    settings = load_settings()
    log = throttled(context.log.info)

    def on_progress(done: int, total: int, words: str) -> None:
        progress.report("stargazers", done, total, words)
        log(f"{done} of {total}: {words}")

    def say(words: str) -> None:
        progress.notify(words)
        context.log.info(words)

    with (
        measure_seconds() as timing,
        mongo.database(claim=True) as database,
        github.client_if_any(database, max_requests=config.max_requests) as client,
    ):
        options = config.options(settings)
        collected = collect(
            options,
            _repositories(repos, partitions),
            client,
            database,
            gcs.asset_store(),
            on_progress=on_progress,
            say=say,
            ask=ask,
        )
    report = collected.report
    listed = set(repos["partition"].drop_nulls())
    missing = [key for key in partitions if key not in listed]
    if missing:
        context.log.warning(
            f"{len(missing)} partitions are of repositories that no list names, and were not asked for; what was "
            f"collected of them before is kept: {missing[:5]}"
        )
    for words in collected.summary_lines():
        say(words)
    told = {key: _partition_metadata(state) for key, state in report.states.items()}
    told |= dict.fromkeys(missing, UNLISTED)
    if report.stopped is not None:
        waiting: dict[str, str | int] = {"outcome": Outcome.UNKNOWN.value, "reason": report.stopped[:300]}
        told |= {key: waiting for key in partitions if key in listed and key not in told}
    metadata: dict[str, RawMetadataValue] = {
        "run_source": options.source,
        "run_forecast": collected.forecast.words(),
        "run_repositories_asked": report.asked,
        "run_pages": report.pages,
        "run_pages_not_modified": report.pages_not_modified,
        "run_requests": collected.requests,
        "run_graphql_points": collected.points,
        "run_stars": report.stars,
        "run_stars_taken_back": report.unstarred,
        "run_lists_closed": report.closed,
        "run_outcomes": ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.most_common()),
        **{f"run_quota_left_{resource}": left for resource, left in collected.quota_left.items()},
        **{f"run_{name}": value for name, value in timing.items()},
    }
    if collected.users is not None:
        metadata["run_users_asked"] = collected.users.asked
    if collected.left_out:
        metadata["run_rows_left_out"] = " ".join(collected.left_out)
    if report.stopped is not None:
        metadata["run_stopped"] = report.stopped
    tag_run(
        context,
        {
            "source": options.source,
            "requests": collected.requests,
            "graphql_points": collected.points,
            "repositories_asked": report.asked,
        },
    )
    return collected, told, metadata


UNLISTED: dict[str, str | int] = {
    "outcome": Outcome.UNLISTED.value,
    "reason": "No list names this repository, so it was not asked for: name it in a list (--awesome, "
    "GH_ASSETS_AWESOME) and materialize repos.",
}


def _repositories(repos: pl.DataFrame, partitions: Sequence[str]) -> list[RepositoryRef]:
    wanted = set(partitions)
    rows = repos.select("repo_id", "partition", "full_name", "stargazer_count", "outcome", "node_id").rows()
    return [
        RepositoryRef(repo_id, partition, full_name, count, Outcome(outcome), node_id)
        for repo_id, partition, full_name, count, outcome, node_id in rows
        if partition in wanted
    ]


def _partition_metadata(state: RepositoryState) -> dict[str, str | int]:
    # Little, on purpose: ten thousand partitions write this ten thousand times.
    metadata: dict[str, str | int] = {"outcome": state.outcome.value}
    if state.stars is not None:
        metadata["dagster/row_count"] = state.stars
    if state.source is not None:
        metadata["source"] = state.source
    if state.reason:
        metadata["reason"] = state.reason[:300]
    return metadata
