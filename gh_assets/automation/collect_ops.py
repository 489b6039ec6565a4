"""The ops that collect the repositories that are due, however scattered, in one run.

A run of the asset covers one contiguous range of partitions: five hundred due repositories among ten thousand would be
hundreds of runs. These ops collect exactly those that are due and report a materialization for each. With an executor
of several processes or machines the work is divided: each share is a step, and all spend the same quota.
"""

import datetime as dt
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.collection_plan import collection_plan, plan_metadata
from gh_assets.assets.definition import GITHUB_POOL, REPO_PARTITIONS
from gh_assets.assets.retries import retry_transient
from gh_assets.assets.stargazers import CollectionServices, StargazersConfig, collect_partitions, stargazers
from gh_assets.collector import plan as planning
from gh_assets.collector.plan import PLAN, DueReason, make_plan
from gh_assets.errors import InputError
from gh_assets.instance.internals import report_materializations
from gh_assets.io_managers import JSON_IO, run_folder
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource
from gh_assets.storage.mongo import MongoDatabase

MAX_LOOKS = 2000
"""Maximum number of event feeds of one run, so that it ends before others are due."""

MIN_SHARE_SIZE = 25
"""Minimum number of repositories for which a step of their own is started."""


class CollectDueConfig(StargazersConfig):
    """Which repositories are collected, and how."""

    which: list[str] = Field([reason.value for reason in planning.ALL_REASONS])
    """Reasons to collect a repository. new: it was never collected; failed: it could not be read; restricted: its list
    was closed; moved: GitHub counts other stars than are stored; incomplete: the stored list was not proven complete;
    old: it was not read for GH_ASSETS_REFRESH_AFTER. feed, which has to be alone: stars may be washed out of the event
    feed of a repository whose list is closed; its source is 'events'."""

    repositories: list[str] = Field([])
    """Partitions to collect, due or not. Empty: those that are due."""

    patient: bool = False
    """Respect the waits of the settings and leave the reserve of the quota to people, as sensors do. Otherwise all
    repositories that have any of the reasons are collected now."""

    shares: int | None = Field(None, ge=1, le=1000)
    """Number of steps that the work is divided into. Unset: one, and sixteen with the Celery executor."""

    def share_config(self, shares: int) -> dict[str, Any]:
        """Return the configuration of one of several shares, which divide the requests among them."""
        config = {name: getattr(self, name) for name in StargazersConfig.model_fields}
        if self.max_requests is not None and shares:
            config["max_requests"] = max(1, self.max_requests // shares)
        return config


@dg.op(out=dg.DynamicOut(io_manager_key=JSON_IO))
@retry_transient
def choose_due(
    context: dg.OpExecutionContext,
    config: CollectDueConfig,
    mongo: MongoResource,
    gcs: GcsResource,
    policy: PolicyResource,
) -> list[dg.DynamicOutput[dict[str, Any]]]:
    """Find the repositories that are due, and divide them into shares."""
    present = set(context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name)))
    with mongo.database() as database:
        plan = make_plan(database, gcs.asset_store().read_table("repos")).table
        plan = plan.filter(pl.col("partition").is_in(sorted(present)))
        due = _choose(config, plan, policy, database)
    context.log.info(planning.summarize(due))
    shares = max(1, min(config.shares or policy.shares, due.height // MIN_SHARE_SIZE)) if due.height else 0
    outputs = []
    for number in range(shares):
        # Every n-th row, so that each share has as many of the first, most valuable ones.
        rows = due.gather_every(shares, number)
        share = rows.select(partitions="partition", always="repo_id").to_dict(as_series=False)
        outputs.append(dg.DynamicOutput({**share, "config": config.share_config(shares)}, mapping_key=str(number)))
    return outputs


def _choose(
    config: CollectDueConfig, plan: pl.DataFrame, policy: PolicyResource, database: MongoDatabase
) -> pl.DataFrame:
    now = dt.datetime.now(dt.UTC)
    refresh = policy.refresh_policy()
    if config.repositories:
        return planning.named(plan, config.repositories, now, refresh.max_pages)
    reasons = planning.parse_reasons(config.which)
    if DueReason.FEED in reasons:
        if len(reasons) > 1 or config.source != "events":
            raise InputError("The reason 'feed' has to be alone, and needs the source 'events'.")
        looks = planning.feeds_due(plan, now).head(MAX_LOOKS)
        return (
            planning.affordable_prefix(looks, policy.quota(database, now, "events").pages) if config.patient else looks
        )
    if not config.patient:
        return planning.due(plan, now, refresh.without_waiting(), reasons)
    return planning.affordable_prefix(planning.due(plan, now, refresh, reasons), policy.quota(database, now).pages)


@dg.op(ins={"share": dg.In(input_manager_key=JSON_IO)}, out=dg.Out(dg.Nothing), pool=GITHUB_POOL)
@retry_transient
def collect_share(
    context: dg.OpExecutionContext,
    share: dict[str, Any],
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
    policy: PolicyResource,
) -> None:
    """Collect the repositories of a share, and report a materialization for each."""
    started = dt.datetime.now(dt.UTC).replace(microsecond=0)
    config, repos = StargazersConfig(**share["config"]), gcs.asset_store().read_table("repos")
    partitions, options = share["partitions"], config.options(policy, frozenset(share["always"]))
    services = CollectionServices(github, mongo, gcs)
    outcome = collect_partitions(context, partitions, repos, options, services, config.max_requests)
    states = outcome.result.report.states.values()
    collected = {state.partition for state in states if state.asked_at is not None and state.asked_at >= started}
    if options.source == "events":
        collected &= outcome.result.report.changed  # most looks find nothing, some times a day
    metadata = {key: outcome.by_partition[key] for key in partitions if key in collected}
    report_materializations(context, stargazers.key, metadata)
    context.add_output_metadata(outcome.metadata)


@dg.op(ins={"collected": dg.In(dg.Nothing)})
@retry_transient
def write_plan(
    context: dg.OpExecutionContext,
    mongo: MongoResource,
    gcs: GcsResource,
    github: GitHubResource,
    policy: PolicyResource,
) -> None:
    """Write the plan of the collection again, with what is known now."""
    store = gcs.asset_store()
    with mongo.database() as database:
        plan = make_plan(database, store.read_table("repos"))
    store.write_table(PLAN, plan.table)
    metadata = plan_metadata(plan, policy.refresh_policy(), github.web_url())
    context.log_event(dg.AssetMaterialization(collection_plan.key, metadata=metadata))
    for name in list(store.objects.names(run_folder(context.run.run_id))):
        store.objects.delete(name)
