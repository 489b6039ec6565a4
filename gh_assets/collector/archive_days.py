"""Combine hours of GH Archive into days, and report what was read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import polars as pl

from gh_assets.collector.gharchive import (
    ArchiveHour,
    HourReport,
    Readable,
    WantedRepositories,
    archive_hours,
    hours_below,
    read_hours,
)
from gh_assets.errors import InputError, MissingHourError
from gh_assets.schemas import STAR_EVENTS


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
    return sorted({hour.start.date() for hour in archive_hours(places, _unopened)})


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


def _unopened(_bucket: str, _name: str) -> AbstractContextManager[Readable]:
    raise NotImplementedError("only the names of the hours are used")


def read_days(
    days: Sequence[dt.date],
    places: Sequence[str],
    base: str,
    before: Callable[[dt.date], pl.DataFrame | None],
    *,
    wanted: WantedRepositories | None = None,
    open_gs: Callable[[str, str], AbstractContextManager[Readable]] | None = None,
    workers: int = 2,
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
    given = archive_hours(places, open_gs) if places else []
    for day in days:
        report = DayReport(day)
        hours = [hour for hour in given if hour.start.date() == day]
        if not places:
            starts = [dt.datetime.combine(day, dt.time(hour), dt.UTC) for hour in range(24)]
            hours = _existing_hours(base, starts, open_gs, report)
        if not hours:
            where = ", ".join(places) if places else base
            raise InputError(f"GH Archive has no hour of {day} at {where}.")
        tables: dict[dt.datetime, pl.DataFrame] = {}
        for hour, table, hour_report in _read(hours, wanted, workers, report, optional=not places):
            tables[hour.start] = table
            _add_figures(report, hour, hour_report)
        if not tables:
            raise InputError(f"GH Archive has no hour of {day} at {base}: {'; '.join(report.problems[:2])}")
        yield report, _whole_day(report, tables, before(day))


def _existing_hours(
    base: str,
    starts: Sequence[dt.datetime],
    open_gs: Callable[[str, str], AbstractContextManager[Readable]] | None,
    report: DayReport,
) -> list[ArchiveHour]:
    hours = []
    for start in starts:
        try:
            hours += hours_below(base, [start], open_gs)
        except InputError as error:
            report.problems.append(str(error))
    return hours


def _read(
    hours: Sequence[ArchiveHour],
    wanted: WantedRepositories | None,
    workers: int,
    report: DayReport,
    *,
    optional: bool,
) -> Iterator[tuple[ArchiveHour, pl.DataFrame, HourReport]]:
    """Read hours. Those that the archive does not have are reported if `optional`, else an error."""
    left = list(hours)
    while left:
        try:
            for result in read_hours(left, wanted, workers=workers):
                left = [other for other in left if other.start != result[0].start]
                yield result
            return
        except MissingHourError as error:
            if not optional:
                raise
            report.problems.append(str(error))
            left = [other for other in left if other.location != error.location]


def _add_figures(report: DayReport, hour: ArchiveHour, hour_report: HourReport) -> None:
    report.hours += 1
    report.corrupt_lines += hour_report.corrupt_lines
    if hour_report.damage is not None:
        report.problems.append(f"{hour.location}: {hour_report.damage}; its stars before the damage are kept")


def _whole_day(report: DayReport, tables: dict[dt.datetime, pl.DataFrame], before: pl.DataFrame | None) -> pl.DataFrame:
    parts = [tables[start] for start in sorted(tables)]
    if before is not None:
        read_now = pl.Series(sorted(tables)).cast(STAR_EVENTS.dtypes["starred_at"])
        parts.append(before.filter(~pl.col("starred_at").dt.truncate("1h").is_in(read_now.implode())))
    table = pl.concat(parts).sort("starred_at", "repo_id", "full_name", "user_id", nulls_last=False)
    table = table.unique(["repo_id", "full_name", "user_id"], keep="first", maintain_order=True)
    report.stars = table.height
    return table
