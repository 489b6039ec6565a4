"""`star_history`: how many people starred a repository on each day, by GitHub's own count; a partition a repository."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import polars as pl
from pydantic import Field

from gh_assets.assets.definition import GITHUB_POOL, REPO_PARTITIONS, AssetConfig, collection_asset, single_run, tag_run
from gh_assets.assets.metadata import MAX_REASON, figure_metadata, measure_seconds, preview
from gh_assets.assets.progress import asset_progress
from gh_assets.assets.stargazers import CollectionServices, repositories_of
from gh_assets.collector.history_collection import HistoryReport, due_histories, read_histories
from gh_assets.collector.history_state import HistoryState, HistoryStates
from gh_assets.collector.star_history import DAY, RECENT_DAYS
from gh_assets.github.outcomes import Outcome
from gh_assets.github.times import STAR_DAYS_ZONE
from gh_assets.instance.internals import add_partition_metadata
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource
from gh_assets.schemas import STAR_HISTORY
from gh_assets.storage.asset_store import PartitionTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gh_assets.instance.internals import RawMetadataValue

ARCHIVE_ONLY = "This home has GH Archive only, which has no star histories."

DAYS = f"{STAR_DAYS_ZONE} days"


class StarHistoryConfig(AssetConfig):
    """How star histories are read."""

    max_pages: int = Field(100, ge=1, le=100)
    """Maximum pages of 30 weeks that are read of a repository beyond what is stored: later runs read what is older.
    They are read only while the quota has more than its reserve (GH_ASSETS_QUOTA_RESERVE); the days that may have
    changed are read in any case, before them."""

    max_requests: int | None = Field(None, ge=1)
    """Maximum number of requests; the next run continues from there."""


@dataclass(frozen=True)
class HistoryOutcome:
    """What a run read, with the metadata of the run and of its partitions."""

    report: HistoryReport
    metadata: "dict[str, RawMetadataValue]" = field(default_factory=dict)
    by_partition: dict[str, dict[str, str | int]] = field(default_factory=dict)


@collection_asset(
    schema=STAR_HISTORY,
    partitions_def=REPO_PARTITIONS,
    backfill_policy=single_run(),
    pool=GITHUB_POOL,
    kinds={"github", "polars", "parquet", "gcs"},
)
def star_history(
    context: dg.AssetExecutionContext,
    config: StarHistoryConfig,
    repos: pl.DataFrame,
    github: GitHubResource,
    mongo: MongoResource,
    gcs: GcsResource,
    policy: PolicyResource,
) -> dg.MaterializeResult[None]:
    """One row is one day of the partition's repository: how many of today's stargazers starred it on that day.

    GitHub counts by days of Los Angeles, also where the list of stargazers is closed; a star that is taken back lowers
    its day. Each run reads the days that may have changed, and then goes further back, to the creation if the quota
    allows it. GitHub Enterprise has no star histories: then the outcome is `unavailable`, and nothing fails.
    """
    partitions = list(context.partition_keys)
    services, reserve = CollectionServices(github, mongo, gcs), policy.settings().quota_reserve
    outcome = read_partitions(context, partitions, repos, config, services, reserve=reserve)
    add_partition_metadata(context, outcome.by_partition)
    tables = PartitionTables(gcs.asset_store(), STAR_HISTORY.name)
    if len(partitions) == 1 and partitions[0] in tables.partitions():
        table = tables.read(partitions[0])[0]
        outcome.metadata["preview"] = preview(table.reverse().drop("repo_id"))
        outcome.metadata["history"] = figure_metadata(_plot(table["day"].to_list(), table["stars"].to_list()), "Stars")
    return dg.MaterializeResult(metadata=outcome.metadata)


def read_partitions(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    partitions: Sequence[str],
    repos: pl.DataFrame,
    config: StarHistoryConfig,
    services: CollectionServices,
    *,
    reserve: float,
    only_due: bool = False,
) -> HistoryOutcome:
    """Read the star histories of partitions, and tag the run with what that took.

    Parameters
    ----------
    context : context of an asset or op
    partitions : sequence of str
    repos : polars.DataFrame
        The asset `repos`.
    config : StarHistoryConfig
    services : CollectionServices
    reserve : float
        Share of the quota that reading older pages leaves.
    only_due : bool
        Leave out the histories that were requested within the last day.
    """
    reported = asset_progress(context)
    repositories = repositories_of(repos, partitions)
    with (
        measure_seconds() as timing,
        services.mongo.database() as database,
        services.github.client_if_any(database, max_requests=config.max_requests) as client,
    ):
        services.github.claim_world(database)
        if client is None:
            reported.notify(ARCHIVE_ONLY)
            unavailable: dict[str, str | int] = {"outcome": Outcome.UNAVAILABLE.value, "reason": ARCHIVE_ONLY}
            return HistoryOutcome(HistoryReport(), {"notes": ARCHIVE_ONLY}, dict.fromkeys(partitions, unavailable))
        client.pool.notify = reported.notify
        asked_at = HistoryStates(database).asked_at() if only_due else {}
        wanted = due_histories(repositories, asked_at, dt.datetime.now(dt.UTC))
        report = read_histories(
            wanted,
            client,
            database,
            services.gcs.asset_store(),
            max_pages=config.max_pages,
            reserve=reserve,
            workers=services.github.workers,
            progress=reported,
        )
        requests = client.usage.requests
    for line in report.summary_lines():
        reported.notify(line)
    tag_run(context, {"requests": requests, "repositories_asked": report.asked})
    metadata: dict[str, RawMetadataValue] = {
        "run_repositories_asked": report.asked,
        "run_requests": requests,
        "run_not_modified": report.not_modified,
        "run_stars": report.stars,
        "run_outcomes": ", ".join(f"{count} {name}" for name, count in report.outcomes.most_common()),
        "time_zone": DAYS,
        **({"notes": " ".join(report.summary_lines())} if report.summary_lines() else {}),
        **{f"run_{name}": value for name, value in timing.items()},
    }
    days, stars = _stars_of_all(list(report.states.values()))
    if days:
        metadata["recent"] = figure_metadata(_plot(days, stars), "Stars a day")
    by_partition = {key: history_metadata(state) for key, state in report.states.items()}
    return HistoryOutcome(report, metadata, by_partition)


def history_metadata(state: HistoryState) -> dict[str, str | int]:
    """Return the metadata of a partition: few, because a run writes them for thousands."""
    trend = state.trend
    metadata = {
        "outcome": state.outcome.value,
        "stars_last_30_days": None if trend is None else trend.recent,
        "first_week": None if state.first_week is None else f"{state.first_week:%Y-%m-%d}",
        "sum": None if state.first_week is None else state.sum,
        "complete": None if state.first_week is None else str(state.complete).lower(),
        "time_zone": None if state.first_week is None else DAYS,
        "reason": state.reason[:MAX_REASON] if state.reason else None,
    }
    return {name: value for name, value in metadata.items() if value is not None}


def _stars_of_all(states: Sequence[HistoryState]) -> tuple[list[dt.date], list[int]]:
    """Return the last days and the stars that all repositories together got on them."""
    known = [(state.read_until.date(), state.recent) for state in states if state.read_until and state.recent]
    if not known:
        return [], []
    last = max(day for day, _ in known)
    total = np.zeros(RECENT_DAYS, np.int64)
    for day, recent in known:
        end = RECENT_DAYS - (last - day).days
        begin = max(0, end - len(recent))
        if end > begin:
            total[begin:end] += np.array(recent[len(recent) - (end - begin) :], np.int64)
    return [last - DAY * (RECENT_DAYS - 1 - number) for number in range(RECENT_DAYS)], total.tolist()


def _plot(days: Sequence[dt.date], stars: Sequence[int]) -> "Figure":
    """Plot stars a day, and their mean over a week."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(days, stars, color="tab:blue", alpha=0.35, linewidth=0.8)  # type: ignore[arg-type]
    week = min(7, len(stars))
    mean = np.convolve(stars, np.ones(week) / week, mode="valid")
    axes.plot(days[week - 1 :], mean, color="tab:blue")  # type: ignore[arg-type]
    axes.set_ylim(bottom=0)
    axes.set_ylabel("stars a day")
    axes.set_xlabel(DAYS)
    return figure
