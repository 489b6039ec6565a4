"""The op that reads the star histories that are due, however scattered, in one run."""

import datetime as dt

import dagster as dg
from pydantic import Field

from gh_assets.assets import star_history
from gh_assets.assets.definition import GITHUB_POOL, REPO_PARTITIONS
from gh_assets.assets.retries import retry_transient
from gh_assets.assets.star_history import StarHistoryConfig, read_partitions
from gh_assets.assets.stargazers import CollectionServices
from gh_assets.instance.internals import report_materializations
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource


class ReadHistoriesConfig(StarHistoryConfig):
    """Which star histories are read, and how."""

    repositories: list[str] = Field([])
    """Partitions to read, due or not. Empty: all that were not read within the last day, longest first."""

    patient: bool = False
    """Leave the reserve of the quota to people, as the sensor does, and stop instead of waiting for new quota."""


@dg.op(pool=GITHUB_POOL)
@retry_transient
def read_due_histories(
    context: dg.OpExecutionContext,
    config: ReadHistoriesConfig,
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
    policy: PolicyResource,
) -> None:
    """Read the star histories that are due, and report a materialization for each."""
    store = gcs.asset_store()
    present = context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
    limits = [config.max_requests]
    if config.patient:
        with mongo.database() as database:
            quota = policy.quota(database, dt.datetime.now(dt.UTC), "stargazers")
        limits.append(quota.spendable)
    limit = min((number for number in limits if number is not None), default=None)
    if limit == 0:
        context.log.info(f"The quota does not allow it: {quota.summary()}.")
        return
    reading = StarHistoryConfig(max_pages=config.max_pages, max_requests=limit)
    outcome = read_partitions(
        context,
        config.repositories or present,
        store.read_table("repos"),
        reading,
        CollectionServices(github, mongo, gcs),
        reserve=policy.settings().quota_reserve,
        only_due=not config.repositories,
    )
    read = {key: entries for key, entries in outcome.by_partition.items() if key in outcome.report.states}
    if read:
        report_materializations(context, star_history.key, read)
    context.add_output_metadata(outcome.metadata)
