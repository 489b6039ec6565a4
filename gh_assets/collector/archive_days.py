"""Days of stars from GH Archive: combine its hours, report what was read, and read the days that are stored."""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from gh_assets.collector.gharchive import (
    ArchiveHour,
    HourReport,
    ObjectOpener,
    WantedRepositories,
    archive_hours,
    read_hour,
)
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.errors import InputError, MissingHourError
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore

WORKERS = 2
"""Number of hours that are read at once; memory holds the stars of as many."""


@dataclass
class DayReport:
    """Figures about a day that was read.

    Attributes
    ----------
    hours : int
        Hours that were read.
    stars : int
        Rows of the day's table, including hours that were read earlier.
    corrupt_lines : int
    problems : list of str
        Messages about hours that are damaged or missing.
    """

    day: dt.date
    hours: int = 0
    stars: int = 0
    corrupt_lines: int = 0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """Return the figures as a line of text."""
        damaged = f", {self.corrupt_lines} corrupt lines" if self.corrupt_lines else ""
        return f"{self.stars:,} stars in {self.hours} hours of {self.day}{damaged}"

    def metadata(self) -> dict[str, str | int]:
        """Return the figures as asset metadata."""
        return {
            "dagster/row_count": self.stars,
            "hours": self.hours,
            "corrupt_lines": self.corrupt_lines,
            "problems": len(self.problems),
        }


def days_of(places: Sequence[str]) -> list[dt.date]:
    """Return the days that have hours at some places.

    Raises
    ------
    InputError
        If a place names no hour, or a file does not exist.
    """
    return sorted({hour.start.date() for hour in archive_hours(places)})


def days_between(first: str, last: str) -> list[dt.date]:
    """Return the days from `first` to `last`, both included.

    Raises
    ------
    InputError
        If one is not a day, or the last comes before the first.
    """
    try:
        begin, end = dt.date.fromisoformat(first), dt.date.fromisoformat(last)
    except ValueError:
        raise InputError(f"{first!r} to {last!r} is not a range of days: write each as 2024-05-01.") from None
    if end < begin:
        raise InputError(f"The last day, {last}, comes before the first, {first}.")
    return [begin + dt.timedelta(days=number) for number in range((end - begin).days + 1)]


def read_days(
    days: Sequence[dt.date],
    places: Sequence[str],
    base: str,
    before: Callable[[dt.date], pl.DataFrame | None],
    *,
    wanted: WantedRepositories | None = None,
    open_gs: ObjectOpener | None = None,
) -> Iterator[tuple[DayReport, pl.DataFrame]]:
    """Read days one after another, the hours of each concurrently. Memory holds the stars of one day.

    Parameters
    ----------
    days : sequence of date
        UTC.
    places : sequence of str
        Places of their hours; see `gh_assets.collector.gharchive.archive_hours`. If empty, all 24 below `base`.
    base : str
        A folder, ``gs://bucket/prefix`` or an http address.
    before : callable
        Returns the stored table of a day, whose other hours are kept.
    wanted : WantedRepositories, optional
        Stars of other repositories are left out.

    Yields
    ------
    report : DayReport
    table : polars.DataFrame
        Of schema `STAR_EVENTS`.

    Raises
    ------
    InputError
        If a day has no hours.
    ServiceUnavailableError
        If an hour cannot be read to its end, after the days before it were yielded.
    """

    def read(hour: ArchiveHour) -> tuple[ArchiveHour, tuple[pl.DataFrame, HourReport] | MissingHourError]:
        try:
            return hour, read_hour(hour, wanted)
        except MissingHourError as error:
            if places:
                raise
            return hour, error

    given = archive_hours(places, open_gs) if places else []
    for day in days:
        report = DayReport(day)
        named = [hour for hour in given if hour.start.date() == day]
        hours = named if places else _hours_below(base, open_gs, report)
        tables: dict[dt.datetime, pl.DataFrame] = {}
        for hour, result in map_bounded(read, hours, WORKERS, window=WORKERS):
            if isinstance(result, MissingHourError):
                report.problems.append(str(result))
                continue
            tables[hour.start], figures = result
            report.corrupt_lines += figures.corrupt_lines
            if figures.damage is not None:
                report.problems.append(f"{hour.location}: {figures.damage}; its stars before the damage are kept")
        if not tables:
            problems = f": {'; '.join(report.problems[:2])}" if report.problems else "."
            raise InputError(f"GH Archive has no hour of {day} at {', '.join(places) or base}{problems}")
        table = _whole_day(tables, before(day))
        report.hours, report.stars = len(tables), table.height
        yield report, table


def _hours_below(base: str, open_gs: ObjectOpener | None, report: DayReport) -> list[ArchiveHour]:
    """Return the hours of the day below a folder, a bucket's prefix or an address; others are reported as missing."""
    hours = []
    for hour in range(24):
        try:
            hours += archive_hours([f"{base.rstrip('/')}/{report.day}-{hour}.json.gz"], open_gs)
        except InputError as error:
            report.problems.append(str(error))
    return hours


def _whole_day(tables: dict[dt.datetime, pl.DataFrame], before: pl.DataFrame | None) -> pl.DataFrame:
    parts = [tables[start] for start in sorted(tables)]
    if before is not None:
        read_now = pl.Series(sorted(tables)).cast(STAR_EVENTS.dtypes["starred_at"])
        parts.append(before.filter(~pl.col("starred_at").dt.truncate("1h").is_in(read_now.implode())))
    table = pl.concat(parts).sort("starred_at", "repo_id", "full_name", "user_id", nulls_last=False)
    return table.unique(["repo_id", "full_name", "user_id"], keep="first", maintain_order=True)


def read_star_events(store: AssetStore, repositories: Sequence[RepositoryRef] | None = None) -> pl.DataFrame:
    """Read the stars of all days.

    Damaged days are left out: their stars are in the tables of the repositories already.

    Parameters
    ----------
    store : AssetStore
    repositories : sequence of RepositoryRef, optional
        Read only stars of these repositories.

    Returns
    -------
    polars.DataFrame
        Of schema `STAR_EVENTS`.
    """
    ids = pl.Series([r.repo_id for r in repositories or ()], dtype=pl.Int64)
    names = pl.Series([r.full_name.lower() for r in repositories or ()], dtype=pl.String)
    parts = [STAR_EVENTS.empty()]
    for day in sorted(store.partitions(STAR_EVENTS.name)):
        events = store.read_sound_table(STAR_EVENTS.name, day)
        if events is None:
            continue
        if repositories is not None:
            by_name = pl.col("repo_id").is_null() & pl.col("full_name").str.to_lowercase().is_in(names.implode())
            events = events.filter(pl.col("repo_id").is_in(ids.implode()) | by_name)
        parts.append(events)
    return pl.concat(parts)
