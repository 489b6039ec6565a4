"""`star_events`: the stars that GH Archive has seen, one partition a day, and the op that reads them.

A job reads the days, however scattered, in one run (`automation.jobs.archive_job`), and reports a materialization for
each. The asset itself is not executable: *Materialize all* means the repositories, and must not mean the archive's
fifteen years of days.
"""

import datetime as dt
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets.metadata import COLLECTION, OWNERS, measure_seconds, preview, table_metadata, throttled
from gh_assets.collector.archive_days import days_between, days_of, read_days
from gh_assets.collector.gharchive import WantedRepositories
from gh_assets.errors import ConfigurationError
from gh_assets.local import progress
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.schemas import STAR_EVENTS
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections

PREVIEWED_DAYS = 3
"""So many days of a run get a preview: each is another read."""

star_events = dg.AssetSpec(
    "star_events",
    partitions_def=dg.DailyPartitionsDefinition(start_date="2011-02-12"),
    group_name=COLLECTION,
    kinds={"gharchive", "polars", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(STAR_EVENTS),
    description=(
        "One row is one star that GH Archive has seen (a `WatchEvent`): who, which repository, when; a partition is a "
        "day (UTC). A way to stars that is open to everyone; complete until about June 2025. The job `read_archive` "
        "reads days; `stargazers` takes their stars with the source `gharchive`."
    ),
)


class ReadArchiveConfig(dg.Config):
    """What is read: places, or whole days below the setting GH_ASSETS_ARCHIVE."""

    places: list[str] = Field(
        default=[],
        description="Hours, each a file, a folder, gs://bucket/object or an http address; {0..23} stands for numbers.",
    )
    first_day: str | None = Field(
        default=None, description="Without places: the first day, such as 2024-05-01; all its hours are read."
    )
    last_day: str | None = Field(default=None, description="The last day; unset: the first one alone.")
    only_listed: bool = Field(
        default=False,
        description="Keep only the stars of repositories that `repos` knows. A list that grows later has missed them.",
    )

    def days(self) -> list[dt.date]:
        """The days to read.

        Raises
        ------
        ConfigurationError, InputError
            If neither places nor days are given, or a place names no hour.
        """
        if self.places:
            return days_of(self.places)
        if self.first_day is None:
            raise ConfigurationError("Nothing to read: give places (--archive FILE), or first_day and last_day.")
        return days_between(self.first_day, self.last_day or self.first_day)


@dg.op(description="Reads hours of GH Archive and keeps their stars, a day an object.")
def read_days_of_the_archive(
    context: dg.OpExecutionContext, config: ReadArchiveConfig, gcs: GcsResource, mongo: MongoResource
) -> None:
    """Stars of the archive's days."""
    settings = load_settings()
    days = config.days()
    log = throttled(context.log.info)
    store = gcs.asset_store()
    present = store.partitions("star_events")
    hours = stars = 0

    def before(day: dt.date) -> pl.DataFrame | None:
        return store.read_sound_table("star_events", day.isoformat()) if day.isoformat() in present else None

    with measure_seconds() as timing, mongo.database(claim=True) as database:
        wanted = WantedRepositories.of_documents(database[Collections.REPOS].find()) if config.only_listed else None
        days_read = read_days(days, config.places, settings.archive, before, wanted=wanted, open_gs=gcs.open_object)
        for number, (report, table) in enumerate(days_read, start=1):
            key = report.day.isoformat()
            stored = store.write_table("star_events", table, key)
            metadata: dict[str, Any] = {**report.metadata(), "uri": dg.MetadataValue.path(stored.uri)}
            if report.problems:
                metadata["problems_in_words"] = "; ".join(report.problems[:5])
                context.log.warning(f"{report.day}: {metadata['problems_in_words']}")
            if len(days) <= PREVIEWED_DAYS:
                metadata["preview"] = preview(table)
            context.log_event(dg.AssetMaterialization("star_events", partition=key, metadata=metadata))
            hours, stars = hours + report.hours, stars + report.stars
            progress.report("star_events", number, len(days), report.summary())
            log(f"{number} of {len(days)} days: {report.summary()}")
    context.log.info(f"{stars:,} stars in {hours} hours of {len(days)} days, {timing['seconds'].value} s")
