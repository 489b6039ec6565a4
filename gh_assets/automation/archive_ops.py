"""The op that reads days of GH Archive into `star_events`, however scattered, in one run."""

import datetime as dt
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from gh_assets.assets import star_events
from gh_assets.assets.definition import AssetConfig
from gh_assets.assets.metadata import measure_seconds, preview
from gh_assets.assets.progress import asset_progress
from gh_assets.collector.gharchive import WantedRepositories, days_between, days_of, read_days
from gh_assets.errors import ConfigurationError
from gh_assets.resources import GcsResource, GitHubResource, MongoResource, PolicyResource
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.mongo import Collections

PREVIEWED_DAYS = 3
"""Maximum number of days of a run for which their materializations get a preview."""

REPORTED_PROBLEMS = 5
"""Maximum number of problems in the metadata of a day."""


class ReadArchiveConfig(AssetConfig):
    """What is read: places, or whole days below the setting GH_ASSETS_ARCHIVE."""

    places: list[str] = Field([])
    """Hours, each a file, a folder, gs://bucket/object or an http address; {0..23} is a range."""

    first_day: str | None = None
    """Without places: the first day, such as 2024-05-01; all its hours are read."""

    last_day: str | None = None
    """The last day. Unset: the first day alone."""

    only_listed: bool = False
    """Keep only the stars of repositories in `repos`. Repositories that are listed later lack them."""

    def days(self) -> list[dt.date]:
        """Return the days to read.

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


@dg.op
def read_days_of_the_archive(
    context: dg.OpExecutionContext,
    config: ReadArchiveConfig,
    gcs: GcsResource,
    mongo: MongoResource,
    github: GitHubResource,
    policy: PolicyResource,
) -> None:
    """Read hours of GH Archive and store their stars, one object a day."""
    days = config.days()
    progress = asset_progress(context)
    store = gcs.asset_store()
    stored_days = store.partitions(STAR_EVENTS.name)
    hours = stars = 0

    def stored(day: dt.date) -> pl.DataFrame | None:
        key = day.isoformat()
        return store.read_sound_table(STAR_EVENTS.name, key) if key in stored_days else None

    with measure_seconds() as timing, mongo.database() as database:
        github.claim_world(database)
        wanted = WantedRepositories.of_documents(database[Collections.REPOS].find()) if config.only_listed else None
        reports = read_days(days, config.places, policy.archive, stored, wanted=wanted, open_gs=gcs.open_object)
        for number, (report, table) in enumerate(reports, start=1):
            key = report.day.isoformat()
            written = store.write_table(STAR_EVENTS.name, table, key)
            metadata: dict[str, Any] = {**report.metadata(), "uri": dg.MetadataValue.path(written.uri)}
            if report.problems:
                metadata["first_problems"] = "; ".join(report.problems[:REPORTED_PROBLEMS])
                context.log.warning(f"{report.day}: {metadata['first_problems']}")
            if len(days) <= PREVIEWED_DAYS:
                metadata["preview"] = preview(table)
            context.log_event(dg.AssetMaterialization(star_events.key, partition=key, metadata=metadata))
            hours, stars = hours + report.hours, stars + report.stars
            progress.report(STAR_EVENTS.name, number, len(days), report.summary())
    context.log.info(f"{stars:,} stars in {hours} hours of {len(days)} days, {timing['seconds'].value} s")
