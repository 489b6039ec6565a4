"""`star_events`: the stars that GH Archive has seen, one partition a day."""

import datetime as dt
import warnings

import dagster as dg
import polars as pl
from dagster._core.definitions.metadata import RawMetadataValue
from pydantic import Field

from gh_assets import progress
from gh_assets.assets.common import (
    COLLECTION,
    OWNERS,
    add_partition_metadata,
    now_and_then,
    preview,
    stopwatch,
    table_metadata,
)
from gh_assets.collector.archive_days import DayReport, read_days
from gh_assets.collector.gharchive import WantedRepositories
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.schemas import STAR_EVENTS
from gh_assets.settings import load_settings

ARCHIVE_DAYS = dg.DailyPartitionsDefinition(start_date="2011-02-12")
"""GH Archive's days, in UTC."""


class StarEventsConfig(dg.Config):
    """What is read."""

    places: list[str] = Field(
        default=[],
        description="Hours, each a file, a folder, gs://bucket/object or an http address; {0..23} stands for numbers. "
        "Empty: all hours of the partition's day below the setting GH_ASSETS_ARCHIVE.",
    )
    only_listed: bool = Field(
        default=False,
        description="Keep only the stars of repositories that `repos` knows. A list that grows later has missed them.",
    )


with warnings.catch_warnings():
    # The only way to one run over many partitions is marked beta.
    warnings.simplefilter("ignore", dg.BetaWarning)

    @dg.asset(
        partitions_def=ARCHIVE_DAYS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        group_name=COLLECTION,
        kinds={"gharchive", "polars", "parquet"},
        owners=OWNERS,
        metadata=table_metadata(STAR_EVENTS),
        description=(
            "One row is one star that GH Archive has seen (a `WatchEvent`): who, which repository, when. A way to "
            "stars that is open to everyone; complete until about June 2025. `stargazers` takes them with the source "
            "`gharchive`."
        ),
    )
    def star_events(
        context: dg.AssetExecutionContext, config: StarEventsConfig, gcs: GcsResource, mongo: MongoResource
    ) -> dg.MaterializeResult[None]:
        """One row a star that the archive has seen."""
        settings = load_settings()
        days = [dt.date.fromisoformat(key) for key in context.partition_keys]
        log = now_and_then(context.log.info)
        store = gcs.asset_store()
        present = store.partitions("star_events")

        def before(day: dt.date) -> pl.DataFrame | None:
            return store.read_table("star_events", day.isoformat()) if day.isoformat() in present else None

        reports: list[DayReport] = []
        with stopwatch() as timing, mongo.database(claim=True) as database:
            wanted = WantedRepositories.of_documents(database["repos"].find()) if config.only_listed else None
            for report, table in read_days(
                days, config.places, settings.archive, before, wanted=wanted, open_gs=gcs.open_object
            ):
                store.write_table("star_events", table, report.day.isoformat())
                reports.append(report)
                progress.report("star_events", len(reports), len(days), f"{report.stars:,} stars on {report.day}")
                log(f"{len(reports)} of {len(days)} days: {report.words()}")
        add_partition_metadata(context, {report.day.isoformat(): report.numbers() for report in reports})
        for report in reports:
            if report.problems:
                context.log.warning(f"{report.day}: {'; '.join(report.problems[:5])}")
        metadata: dict[str, RawMetadataValue] = {
            "run_hours": sum(report.hours for report in reports),
            "run_stars": sum(report.stars for report in reports),
            "run_corrupt_lines": sum(report.corrupt_lines for report in reports),
            **{f"run_{name}": value for name, value in timing.items()},
        }
        if len(days) == 1:
            metadata["preview"] = preview(store.read_table("star_events", days[0].isoformat()))
        return dg.MaterializeResult(metadata=metadata)
