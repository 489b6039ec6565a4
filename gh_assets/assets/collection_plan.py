"""`collection_plan`: what is known of each repository, from which follows which ones are due and why."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl

from gh_assets.assets.definition import LISTS_FRESH, collection_asset, when_upstream_updated
from gh_assets.assets.metadata import figure_metadata, github_link, markdown_table, measure_seconds
from gh_assets.assets.stargazers import stargazers
from gh_assets.collector import plan as planning
from gh_assets.collector.plan import Plan, make_plan
from gh_assets.collector.quota import QuotaSample
from gh_assets.resources import GitHubResource, MongoResource, PolicyResource
from gh_assets.schemas import COLLECTION_PLAN, UTC_TIME

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gh_assets.instance.internals import RawMetadataValue

STARS_COLLECTED = "stars_collected"
"""Metadata of the plan and of `users`: a large difference of the two is the reason to train."""

PREVIEWED = 12
"""Repositories in the preview."""


@collection_asset(
    schema=COLLECTION_PLAN,
    deps=[dg.AssetDep(stargazers, partition_mapping=dg.AllPartitionMapping())],
    automation_condition=when_upstream_updated("stargazers"),
    freshness_policy=LISTS_FRESH,
    kinds={"polars", "parquet"},
)
def collection_plan(
    context: dg.AssetExecutionContext,
    repos: pl.DataFrame,
    mongo: MongoResource,
    github: GitHubResource,
    policy: PolicyResource,
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row is one repository that can be collected.

    It has GitHub's star count now and when the stars were read, the outcome, and the time. The sensors
    `new_repositories` and `stale_stars` spend the quota by this table: repositories with the most expected news a page
    come first.
    """
    with measure_seconds() as timing, mongo.database() as database:
        plan = make_plan(database, repos)
    metadata = plan_metadata(plan, policy.refresh_policy(), github.web_url())
    return dg.MaterializeResult(value=plan.table, metadata={**metadata, **timing})


def plan_metadata(plan: Plan, policy: planning.RefreshPolicy, web_url: str | None) -> "dict[str, RawMetadataValue]":
    """Return the metadata of a plan: what is due now, the age of the stars, and the quota.

    Parameters
    ----------
    plan : Plan
    policy : RefreshPolicy
    web_url : str or None
        Address of GitHub's pages, for links.
    """
    now = dt.datetime.now(dt.UTC)
    due = planning.due(plan.table, now, policy)
    counts: Mapping[str, int] = dict(due["why"].value_counts().rows())
    rows = [
        (github_link(name, web_url), reason, round(news, 1), pages)
        for name, reason, news, pages in due.head(PREVIEWED).select("full_name", "why", "news", "pages").rows()
    ]
    return {
        "dagster/row_count": plan.table.height,
        "due": due.height,
        "due_pages": int(due["pages"].sum()),
        **{f"due_{reason.value}": counts.get(reason.value, 0) for reason in planning.ALL_REASONS},
        "next": markdown_table(["repository", "reason", "news expected", "pages"], rows),
        STARS_COLLECTED: plan.stars_collected,
        "overview": figure_metadata(_overview(plan.table, now), "Ages and sizes"),
        **_quota_metadata(plan.quota),
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


def _quota_metadata(samples: Sequence[QuotaSample]) -> "dict[str, RawMetadataValue]":
    """Return a plot of the quota over time, and the newest values as numbers, which the UI plots by itself."""
    if not samples:
        return {}
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.add_subplot()
    newest: dict[str, RawMetadataValue] = {}
    for resource in sorted({sample.resource for sample in samples}):
        own = [sample for sample in samples if sample.resource == resource]
        axes.plot([s.at for s in own], [100 * s.left / s.limit for s in own], marker=".", label=resource)  # type: ignore[arg-type]
        newest |= {f"quota_left_{resource}": own[-1].left, f"quota_spent_{resource}": own[-1].spent}
    axes.set_ylim(0, 105)
    axes.set_ylabel("% of the quota left")
    axes.tick_params(axis="x", rotation=20)
    axes.legend(loc="lower left")
    return {"quota": figure_metadata(figure, "Quota left after each collection"), **newest}
