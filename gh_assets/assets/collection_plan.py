"""`collection_plan`: what is known of each repository, and so whom the sensors will ask next, and why."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
from dagster._core.definitions.metadata import RawMetadataValue

from gh_assets.assets.conditions import LISTS_FRESH, when_upstream_updated
from gh_assets.assets.metadata import (
    COLLECTION,
    OWNERS,
    figure_metadata,
    github_link,
    markdown_table,
    measure_seconds,
    table_metadata,
)
from gh_assets.assets.retries import retry_transient
from gh_assets.assets.stargazers import stargazers
from gh_assets.collector import plan as planning
from gh_assets.collector.collection import QuotaSample
from gh_assets.collector.upkeep import Plan, make_plan
from gh_assets.resources import MongoResource
from gh_assets.schemas import COLLECTION_PLAN, UTC_TIME
from gh_assets.settings import Settings, load_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STARS_COLLECTED = "stars_collected"
"""Metadata of the plan and of `users`: when the one is far ahead of the other, it is time to train."""

SHOWN = 12
"""Repositories that the preview names."""


def refresh_policy(settings: Settings) -> planning.RefreshPolicy:
    """As the settings say."""
    return planning.RefreshPolicy(
        refresh_after=settings.refresh_after,
        moved_after=settings.moved_after,
        retry_after=settings.retry_after,
        least_news=settings.least_news,
        max_pages=settings.max_pages,
    )


@dg.asset(
    deps=[dg.AssetDep(stargazers, partition_mapping=dg.AllPartitionMapping())],
    automation_condition=when_upstream_updated("stargazers"),
    freshness_policy=LISTS_FRESH,
    group_name=COLLECTION,
    kinds={"polars", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(COLLECTION_PLAN),
    description=(
        "One row is one repository that can be asked: GitHub's count of its stars now and when they were read, what "
        "became of asking, and when. The sensors `new_repositories` and `stale_stars` spend the quota by it: those "
        "first of which a page is expected to tell most."
    ),
)
@retry_transient
def collection_plan(
    context: dg.AssetExecutionContext, repos: pl.DataFrame, mongo: MongoResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row a repository that can be asked."""
    with measure_seconds() as timing, mongo.database() as database:
        plan = make_plan(database, repos)
    return dg.MaterializeResult(value=plan.table, metadata={**plan_metadata(plan, load_settings()), **timing})


def plan_metadata(plan: Plan, settings: Settings) -> dict[str, RawMetadataValue]:
    """What the UI shows of a plan: who is due now, how old the stars are."""
    now = dt.datetime.now(dt.UTC)
    wanted = planning.due(plan.table, now, refresh_policy(settings))
    counts: Mapping[str, int] = dict(wanted["why"].value_counts().rows())
    rows = [
        (github_link(name, settings), why, round(news, 1), pages)
        for name, why, news, pages in wanted.head(SHOWN).select("full_name", "why", "news", "pages").rows()
    ]
    return {
        "dagster/row_count": plan.table.height,
        "due": wanted.height,
        "due_pages": int(wanted["pages"].sum()),
        **{f"due_{why.value}": counts.get(why.value, 0) for why in planning.ALL_REASONS},
        "next": markdown_table(["repository", "why", "news expected", "pages"], rows),
        STARS_COLLECTED: plan.stars_collected,
        "overview": figure_metadata(_overview(plan.table, now), "Ages and sizes"),
        **_quota(plan.quota),
    }


def _overview(plan: pl.DataFrame, now: dt.datetime) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    read = plan.filter(pl.col("collected_at").is_not_null())
    ages = (pl.lit(now, dtype=UTC_TIME) - pl.col("collected_at")).dt.total_seconds() / 86_400
    days = read.select(ages.alias("days"))["days"].to_numpy()
    left.hist(days, bins=40, range=(0.0, max(1.0, float(days.max(initial=0.0)))), color="tab:blue")
    left.set_xlabel(f"days since the stars were read ({plan.height - read.height:,}: never)")
    left.set_ylabel("repositories")
    sizes = read["stars"].drop_nulls().to_numpy()
    if len(sizes):
        right.hist(sizes + 1, bins=np.geomspace(1, max(10, sizes.max() + 2), 40), color="tab:blue")
        right.set_xscale("log")
    right.set_xlabel("stars a repository (stored)")
    return figure


def _quota(samples: Sequence[QuotaSample]) -> dict[str, RawMetadataValue]:
    """Quota over time as a picture, and the newest as numbers, which the UI draws by itself."""
    if not samples:
        return {}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.add_subplot()
    newest: dict[str, RawMetadataValue] = {}
    for resource in sorted({sample.resource for sample in samples}):
        mine = [sample for sample in samples if sample.resource == resource]
        axes.plot([s.at for s in mine], [100 * s.left / s.limit for s in mine], marker=".", label=resource)  # type: ignore[arg-type]
        newest |= {f"quota_left_{resource}": mine[-1].left, f"quota_spent_{resource}": mine[-1].spent}
    axes.set_ylim(0, 105)
    axes.set_ylabel("% of the quota left")
    axes.tick_params(axis="x", rotation=20)
    axes.legend(loc="lower left")
    return {"quota": figure_metadata(figure, "Quota left after each collection"), **newest}
