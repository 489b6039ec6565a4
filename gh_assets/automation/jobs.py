"""The jobs, and how a run is told which partitions it is about."""

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from gh_assets.assets import CHAIN_ASSETS, champion, collection_plan, recommendations, repos, stargazers
from gh_assets.assets.star_events import read_days_of_the_archive
from gh_assets.automation.collect_ops import choose_due, collect_share, write_plan

repos_job = dg.define_asset_job(
    "read_lists",
    selection=dg.AssetSelection.assets(repos, collection_plan),
    description="Read the awesome lists and GitHub's metadata; adds partitions for new repositories.",
)

refresh_job = dg.define_asset_job(
    "collect_and_recommend",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS) - dg.AssetSelection.assets(repos),
    description="Collect the stars of a range of repositories, then rebuild matrix, model and recommendations.",
)

chain_job = dg.define_asset_job(
    "whole_chain",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS),
    description="From the awesome lists to the recommendations, for all repositories that have a partition.",
)


@dg.job(
    name="read_archive",
    description="Read days of GH Archive, however scattered, into the asset star_events: stars that everyone may see.",
)
def archive_job() -> None:
    """One op for all days: a run a contiguous range, as assets have it, would be a process start for each gap."""
    read_days_of_the_archive()


@dg.job(
    name="collect_due_repositories",
    description=(
        "Ask the repositories that are due, however scattered: new ones, those that failed, were closed, whose star "
        "count moved, or that are old. One run, and a materialization of `stargazers` for each. Launched as it is, it "
        "asks all that any of these holds for."
    ),
)
def collect_due_job() -> None:
    """See `gh_assets.automation.collect_ops`."""
    write_plan(choose_due().map(collect_share).collect())


rebuild_job = dg.define_asset_job(
    "rebuild_from_stars",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS) - dg.AssetSelection.assets(repos, stargazers, collection_plan),
    description="From the stars that are there: users, matrix, models, champion and recommendations. Asks nobody.",
)

judge_job = dg.define_asset_job(
    "judge_models",
    selection=dg.AssetSelection.assets(champion),
    description="Put the newest models against the champion, on the same held-out users.",
)

recommend_job = dg.define_asset_job(
    "recommend",
    selection=dg.AssetSelection.assets(recommendations),
    description="Everybody's recommendations anew, by the champion.",
)

ALL_JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
    repos_job,
    collect_due_job,
    rebuild_job,
    judge_job,
    recommend_job,
    refresh_job,
    chain_job,
    archive_job,
]


ASSET_JOB = "__ASSET_JOB"
"""Dagster's own name for the job of assets that are materialized by hand or by their conditions."""

REBUILDING = (rebuild_job.name, refresh_job.name, chain_job.name, ASSET_JOB)
"""Jobs that may end in a new champion and new recommendations."""


def range_tags(first: str, last: str) -> dict[str, str]:
    """Tags of one run over all partitions from `first` to `last`, in the order in which they were added."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
