"""The op that brings scattered repositories up to date: whichever are due, in one run.

An asset's own run covers one contiguous range of partitions: five hundred stale ones among ten thousand would be
hundreds of runs. This op asks exactly those that are due and reports a materialization for each.
"""

import datetime as dt

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.collection_plan import collection_plan, plan_metadata
from gh_assets.assets.common import REPO_PARTITIONS, report_materializations
from gh_assets.assets.running import GITHUB_POOL, retried
from gh_assets.assets.stargazers import StargazersConfig, bring_up_to_date, stargazers
from gh_assets.collector import planning
from gh_assets.collector.ledger import MongoLedger
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.upkeep import PLAN, make_plan, patience_of, quota_of


class CollectDueConfig(StargazersConfig):
    """Which repositories are asked, and how."""

    which: list[str] = Field(
        default=[why.value for why in planning.EVERY_WHY],
        description="Why a repository is asked. new: never asked before; failed: it could not be asked; restricted: "
        "its list was closed; moved: GitHub counts other stars than are stored; old: not asked for "
        "GH_ASSETS_REFRESH_AFTER.",
    )
    repositories: list[str] = Field(
        default=[], description="Partitions to ask, whatever is known of them. Empty: those that are due."
    )
    patient: bool = Field(
        default=False,
        description="Wait as the settings say before one is asked again, and leave the reserve of the quota to people; "
        "sensors do. Otherwise all that any of the reasons holds for are asked now.",
    )


@dg.op(
    pool=GITHUB_POOL,
    description="Asks the repositories that are due, however scattered, and reports a materialization for each.",
)
@retried
def collect_due(
    context: dg.OpExecutionContext,
    config: CollectDueConfig,
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
) -> None:
    """Stars of the repositories that are due."""
    started = dt.datetime.now(dt.UTC).replace(microsecond=0)
    store = gcs.asset_store()
    repos = store.read_table("repos")
    present = set(context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name)))
    with mongo.database() as database:
        plan = make_plan(database, repos).table.filter(pl.col("partition").is_in(sorted(present)))
        wanted = _wanted(config, plan, MongoLedger(database["github_budgets"]))
    context.log.info(planning.in_words(wanted))
    if wanted.height:
        partitions = wanted["partition"].to_list()
        collected, told, metadata = bring_up_to_date(
            context, config, repos, partitions, github, mongo, gcs, ask=set(wanted["repo_id"])
        )
        asked = {
            state.partition
            for state in collected.report.states.values()
            if state.asked_at is not None and state.asked_at >= started
        }
        report_materializations(context, stargazers.key, {key: told[key] for key in partitions if key in asked})
        context.add_output_metadata(metadata)
    with mongo.database() as database:
        after = make_plan(database, repos)
    store.write_table(PLAN, after.table)
    context.log_event(dg.AssetMaterialization(collection_plan.key, metadata=plan_metadata(after, load_settings())))


def _wanted(config: CollectDueConfig, plan: pl.DataFrame, ledger: MongoLedger) -> pl.DataFrame:
    settings = load_settings()
    now = dt.datetime.now(dt.UTC)
    patience = patience_of(settings)
    if config.repositories:
        return planning.named(plan, config.repositories, now, patience.max_pages)
    kinds = planning.kinds_of(config.which)
    if not config.patient:
        return planning.due(plan, now, patience.none(), kinds)
    return planning.affordable(planning.due(plan, now, patience, kinds), quota_of(settings, ledger.known(), now).pages)
