"""The ops that bring scattered repositories up to date: whichever are due, in one run.

An asset's own run covers one contiguous range of partitions: five hundred stale ones among ten thousand would be
hundreds of runs. These ops ask exactly those that are due and report a materialization for each. With an executor of
many processes or machines the work is shared out: each share is a step, and the quota is theirs together.
"""

import datetime as dt
import json
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.collection_plan import collection_plan, plan_metadata, refresh_policy
from gh_assets.assets.metadata import REPO_PARTITIONS, report_materializations
from gh_assets.assets.retries import GITHUB_POOL, retry_transient
from gh_assets.assets.stargazers import StargazersConfig, collect_partitions, stargazers
from gh_assets.collector import plan as planning
from gh_assets.collector.upkeep import PLAN, make_plan, quota_of
from gh_assets.github.ledger import MongoLedger
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections

SHARES_IO = "shares_io_manager"

MIN_SHARE_SIZE = 25
"""Fewer repositories are not worth a step of their own."""


class CollectDueConfig(StargazersConfig):
    """Which repositories are asked, and how."""

    which: list[str] = Field(
        default=[why.value for why in planning.ALL_REASONS],
        description="Why a repository is asked. new: never asked before; failed: it could not be asked; restricted: "
        "its list was closed; moved: GitHub counts other stars than are stored; incomplete: what is stored was not "
        "proven to be whole; old: not asked for GH_ASSETS_REFRESH_AFTER.",
    )
    repositories: list[str] = Field(
        default=[], description="Partitions to ask, whatever is known of them. Empty: those that are due."
    )
    patient: bool = Field(
        default=False,
        description="Wait as the settings say before one is asked again, and leave the reserve of the quota to people; "
        "sensors do. Otherwise all that any of the reasons holds for are asked now.",
    )
    shares: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Into how many steps the work is shared out. Unset: one, and sixteen with the Celery executor.",
    )


@dg.op(
    out=dg.DynamicOut(io_manager_key=SHARES_IO),
    description="Finds the repositories that are due, and shares them out.",
)
@retry_transient
def choose_due(
    context: dg.OpExecutionContext, config: CollectDueConfig, mongo: MongoResource, gcs: GcsResource
) -> list[dg.DynamicOutput[dict[str, Any]]]:
    """Shares of what is due: each its partitions, those to ask whatever is known, and how."""
    present = set(context.instance.get_dynamic_partitions(str(REPO_PARTITIONS.name)))
    with mongo.database() as database:
        plan = make_plan(database, gcs.asset_store().read_table("repos")).table
        plan = plan.filter(pl.col("partition").is_in(sorted(present)))
        wanted = _wanted(config, plan, MongoLedger(database[Collections.GITHUB_BUDGETS]))
    context.log.info(planning.summarize(wanted))
    settings = load_settings()
    shares = config.shares or (16 if settings.executor == "celery" else 1)
    shares = max(1, min(shares, wanted.height // MIN_SHARE_SIZE)) if wanted.height else 0
    how = {name: getattr(config, name) for name in StargazersConfig.model_fields}
    if how["max_requests"] is not None and shares:
        how["max_requests"] = max(1, how["max_requests"] // shares)
    outputs = []
    for number in range(shares):
        # In turns, so that each has as many of the valuable ones.
        rows = wanted.gather_every(shares, number)
        share = {"partitions": rows["partition"].to_list(), "ask": rows["repo_id"].to_list(), "how": how}
        outputs.append(dg.DynamicOutput(share, mapping_key=str(number)))
    return outputs


@dg.op(
    ins={"share": dg.In(input_manager_key=SHARES_IO)},
    out=dg.Out(dg.Nothing),
    pool=GITHUB_POOL,
    description="Asks the repositories of a share, and reports a materialization for each.",
)
@retry_transient
def collect_share(
    context: dg.OpExecutionContext,
    share: dict[str, Any],
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
) -> None:
    """Stars of the repositories that are due."""
    started = dt.datetime.now(dt.UTC).replace(microsecond=0)
    repos = gcs.asset_store().read_table("repos")
    config = StargazersConfig(**share["how"])
    partitions: list[str] = share["partitions"]
    collected, told, metadata = collect_partitions(
        context, config, repos, partitions, github, mongo, gcs, ask=set(share["ask"])
    )
    asked = {
        state.partition
        for state in collected.report.states.values()
        if state.asked_at is not None and state.asked_at >= started
    }
    report_materializations(context, stargazers.key, {key: told[key] for key in partitions if key in asked})
    context.add_output_metadata(metadata)


@dg.op(
    ins={"collected": dg.In(dg.Nothing)},
    description="Writes the plan of the collection anew: what is known now.",
)
@retry_transient
def write_plan(context: dg.OpExecutionContext, mongo: MongoResource, gcs: GcsResource) -> None:
    """The asset `collection_plan`, after a collection."""
    store = gcs.asset_store()
    with mongo.database() as database:
        plan = make_plan(database, store.read_table("repos"))
    store.write_table(PLAN, plan.table)
    context.log_event(dg.AssetMaterialization(collection_plan.key, metadata=plan_metadata(plan, load_settings())))
    for name in list(store.objects.names(_folder(context.run.run_id))):
        store.objects.delete(name)


class SharesIOManager(dg.ConfigurableIOManager):
    """What goes from one op to the next, as JSON in the bucket: any machine reads it. Gone when the run has ended."""

    gcs: dg.ResourceDependency[GcsResource]

    def handle_output(self, context: dg.OutputContext, obj: dict[str, Any]) -> None:
        """Store a share."""
        store = self.gcs.asset_store().objects
        store.write(_name(context), json.dumps(obj).encode(), content_type="application/json")

    def load_input(self, context: dg.InputContext) -> dict[str, Any]:
        """Read it."""
        assert context.upstream_output is not None
        found: dict[str, Any] = json.loads(self.gcs.asset_store().objects.read(_name(context.upstream_output)))
        return found


def _folder(run_id: str) -> str:
    return f"runs/{run_id}/"


def _name(context: dg.OutputContext) -> str:
    return f"{_folder(context.run_id)}{context.step_key}-{context.mapping_key}.json"


def _wanted(config: CollectDueConfig, plan: pl.DataFrame, ledger: MongoLedger) -> pl.DataFrame:
    settings = load_settings()
    now = dt.datetime.now(dt.UTC)
    policy = refresh_policy(settings)
    if config.repositories:
        return planning.named(plan, config.repositories, now, policy.max_pages)
    kinds = planning.parse_reasons(config.which)
    if not config.patient:
        return planning.due(plan, now, policy.none(), kinds)
    return planning.affordable_prefix(
        planning.due(plan, now, policy, kinds),
        quota_of(settings.source, settings.quota_reserve, ledger.known(), now).pages,
    )
