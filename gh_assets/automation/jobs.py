"""The jobs, and the tags of a run over a range of partitions."""

import dagster as dg

from gh_assets.assets import (
    CHAIN_ASSETS,
    champion,
    collection_plan,
    recommendations,
    repo_embeddings,
    repos,
    star_history,
    stargazers,
    user_item_matrix,
    users,
)
from gh_assets.automation.archive_ops import read_days_of_the_archive
from gh_assets.automation.collect_ops import choose_due, collect_share, write_plan
from gh_assets.automation.history_ops import read_due_histories
from gh_assets.instance.internals import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    IMPLICIT_ASSET_JOB_NAME,
    UnresolvedAssetJobDefinition,
)

repos_job = dg.define_asset_job(
    "read_lists",
    selection=dg.AssetSelection.assets(repos, repo_embeddings, collection_plan),
    description="Read the awesome lists and GitHub's metadata; adds partitions for new repositories.",
)

refresh_job = dg.define_asset_job(
    "collect_and_recommend",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS) - dg.AssetSelection.assets(repos, repo_embeddings),
    description="Collect the stars of a range of repositories, then rebuild matrix, model and recommendations.",
)

chain_job = dg.define_asset_job(
    "whole_chain",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS),
    description="From the awesome lists to the recommendations, for all repositories that have a partition.",
)


@dg.job(name="read_archive")
def archive_job() -> None:
    """Read days of GH Archive, however scattered, into the asset star_events."""
    read_days_of_the_archive()


@dg.job(name="collect_due_repositories")
def collect_due_job() -> None:
    """Collect the repositories that are due, however scattered.

    They are new, failed, were closed, are incomplete or old, or their star count moved. One run, with a materialization
    of `stargazers` for each. By default, all repositories that have any of these reasons are collected.
    """
    write_plan(choose_due().map(collect_share).collect())


@dg.job(name="read_star_histories")
def histories_job() -> None:
    """Read the star histories that were not read within the last day: GitHub's own count of the stars of each day.

    One run, with a materialization of `star_history` for each. A history that has not changed costs no quota.
    """
    read_due_histories()


history_checks_job = dg.define_asset_job(
    "check_star_histories",
    selection=dg.AssetSelection.checks_for_assets(star_history),
    description="Compare the star histories with GitHub's counts, and the collected stars with them. Spends no quota.",
)


@dg.job(name="look_at_event_feeds")
def feeds_job() -> None:
    """Add the stars in event feeds of repositories whose lists are closed, before they are washed out.

    Needs the configuration that the sensor `event_feeds` gives it: the reason 'feed' and the source 'events'.
    """
    write_plan(choose_due().map(collect_share).collect())


rebuild_job = dg.define_asset_job(
    "rebuild_from_stars",
    selection=dg.AssetSelection.assets(*CHAIN_ASSETS)
    - dg.AssetSelection.assets(repos, repo_embeddings, stargazers, collection_plan),
    description="From the stored stars: users, matrix, models, champion and recommendations. Spends no quota.",
)

refresh_lists_job = dg.define_asset_job(
    "refresh_recommendations",
    selection=dg.AssetSelection.assets(users, user_item_matrix, recommendations),
    description=(
        "From the stored stars: users, matrix, and by the champion the recommendations of users whose stars changed. "
        "Trains nothing and spends no quota."
    ),
)

judge_job = dg.define_asset_job(
    "judge_models",
    selection=dg.AssetSelection.assets(champion),
    description="Compare the newest models with the champion on the same held-out users.",
)

recommend_job = dg.define_asset_job(
    "recommend",
    selection=dg.AssetSelection.assets(recommendations),
    description="Recommend to all users again, by the champion.",
)

ALL_JOBS: list[dg.JobDefinition | UnresolvedAssetJobDefinition] = [
    repos_job,
    collect_due_job,
    histories_job,
    history_checks_job,
    feeds_job,
    rebuild_job,
    refresh_lists_job,
    judge_job,
    recommend_job,
    refresh_job,
    chain_job,
    archive_job,
]

REBUILDING = (rebuild_job.name, refresh_job.name, chain_job.name, IMPLICIT_ASSET_JOB_NAME)
"""Jobs that may end in a new champion and new recommendations; the last one materializes assets by hand."""


def range_tags(first: str, last: str) -> dict[str, str]:
    """Return the tags of one run over all partitions from `first` to `last`, in the order in which they were added."""
    return {ASSET_PARTITION_RANGE_START_TAG: first, ASSET_PARTITION_RANGE_END_TAG: last}
