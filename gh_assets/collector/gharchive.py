"""Read stars from GH Archive: hours of public events in gzip JSON lines, in which a ``WatchEvent`` is a star, and days.

Only lines that contain the event's name are parsed; the rest of an hour is decompressed and searched. Both formats are
read: the one since 2015, and the older timeline (``repository``, ``actor`` as a string), whose users have no id.

Source: gharchive.org; docs.github.com/rest/using-the-rest-api/github-event-types.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from itertools import product
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson
import polars as pl
import requests
from isal import isal_zlib
from urllib3.exceptions import HTTPError

from gh_assets.errors import InputError, MissingHourError, ServiceUnavailableError, StoredDataError
from gh_assets.github.list_reading import number_of
from gh_assets.local.concurrency import map_bounded
from gh_assets.schemas import STAR_EVENTS

CHUNK = 64 * 1024
"""Compressed bytes per read, so that their decompressed text fits into a core's cache."""

MAX_LINE = 32 * 1024 * 1024
"""Maximum bytes of a line; a longer one is damage, not an event."""

ATTEMPTS = 4
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0

WORKERS = 2
"""Number of hours that are read at once; memory holds the stars of as many."""

_HOUR = re.compile(r"\d{4}-\d\d-\d\d-\d{1,2}")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MARK = b"WatchEvent"
_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


class Readable(Protocol):
    """A binary stream that an hour is read from."""

    def read(self, size: int, /) -> bytes: ...


Opener = Callable[[], AbstractContextManager[Readable]]
ObjectOpener = Callable[[str, str], AbstractContextManager[Readable]]
"""Opens an object, given its bucket and its name."""


@dataclass(frozen=True)
class ArchiveHour:
    """One hour of the archive.

    Attributes
    ----------
    start : datetime
        UTC, on the hour.
    location : str
        Its name in messages.
    open : callable
        Returns a context manager of its compressed bytes, from the beginning on each call.
    """

    start: dt.datetime
    location: str
    open: Opener


@dataclass
class HourReport:
    """Figures about an hour that was read.

    Attributes
    ----------
    size : int
        Decompressed bytes.
    corrupt_lines : int
        Lines that contain the event's name but cannot be read as a star.
    damage : str or None
        Why the hour ended early, if it did. Its stars before the damage are kept.
    """

    size: int = 0
    corrupt_lines: int = 0
    damage: str | None = None


@dataclass(frozen=True)
class WantedRepositories:
    """The repositories whose stars are kept: by id, or by case-insensitive name where an event has no id."""

    ids: Collection[int] = frozenset()
    names: Collection[str] = frozenset()

    @classmethod
    def of_documents(cls, documents: Iterable[Mapping[str, Any]]) -> WantedRepositories:
        """Take the repositories of documents; see `gh_assets.collector.repositories.KnownRepositories`."""
        known = list(documents)
        return cls(
            frozenset(document["repo_id"] for document in known if document["repo_id"] is not None),
            frozenset(name for document in known for name in document["names"]),
        )

    def has(self, repo_id: int | None, name: str) -> bool:
        return repo_id in self.ids if repo_id is not None else name.lower() in self.names


def archive_hours(places: Sequence[str], open_gs: ObjectOpener | None = None) -> list[ArchiveHour]:
    """Return the hours at some places in chronological order.

    Parameters
    ----------
    places : sequence of str
        Files, folders of files, ``gs://bucket/object`` or ``http(s)://…``; ``{0..23}`` expands to a range of numbers.
        File names begin with the hour, as in GH Archive: ``2015-01-01-0.json.gz``.
    open_gs : callable, optional
        Opens an object of a bucket; without it, such hours can be listed only.

    Raises
    ------
    InputError
        If a place names no hour, or a file does not exist.
    """
    hours: dict[dt.datetime, ArchiveHour] = {}
    for place in places:
        for expanded in _expanded(place):
            for hour in _hours_at(expanded, open_gs):
                known = hours.setdefault(hour.start, hour)
                if known.location != hour.location:
                    raise InputError(
                        f"The hour {hour.start:%Y-%m-%d-%H} is given twice: {known.location} and {hour.location}."
                    )
    if not hours:
        raise InputError("No hour of GH Archive is given: name files such as 2015-01-01-0.json.gz.")
    return [hours[start] for start in sorted(hours)]


def _expanded(place: str) -> Iterator[str]:
    parts = _BRACES.split(place)
    # Text and pairs of bounds alternate; "{01..12}" keeps its zeros, as in a shell.
    ranges = []
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        width = len(first) if first.startswith("0") and len(first) > 1 else 0
        ranges.append([f"{number:0{width}d}" for number in range(int(first), int(last) + 1)])
    texts = parts[0::3]
    for chosen in product(*ranges):
        yield texts[0] + "".join(number + text for number, text in zip(chosen, texts[1:], strict=True))


def _hours_at(place: str, open_gs: ObjectOpener | None) -> Iterator[ArchiveHour]:
    parts = urlsplit(place)
    if parts.scheme in ("http", "https"):
        yield ArchiveHour(_hour_of(place), place.split("?")[0], partial(_open_http, place))
        return
    if parts.scheme == "gs":
        yield ArchiveHour(_hour_of(place), place, partial(_open_object, place, open_gs))
        return
    path = Path(place).expanduser()
    files = sorted(path.glob("*.json.gz")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"The folder {path} has no .json.gz files in it.")
    for file in files:
        if not file.is_file():
            raise InputError(f"The archive {file} does not exist.")
        yield ArchiveHour(_hour_of(str(file)), str(file), partial(FileIO, file))


def _hour_of(place: str) -> dt.datetime:
    match = _HOUR.match(urlsplit(place).path.rpartition("/")[2])
    try:
        return dt.datetime.strptime(match[0] if match else "", "%Y-%m-%d-%H").replace(tzinfo=dt.UTC)
    except ValueError:
        raise InputError(
            f"The archive {place} does not say which hour it is: its name must begin as 2015-01-01-0 does."
        ) from None


@contextmanager
def _open_object(place: str, open_gs: ObjectOpener | None) -> Iterator[Readable]:
    if open_gs is None:
        raise InputError(f"{place} is in a bucket, and there is no client for buckets here.")
    parts = urlsplit(place)
    try:
        with open_gs(parts.netloc, parts.path.lstrip("/")) as file:
            yield file
    except StoredDataError:
        raise MissingHourError(place) from None


@contextmanager
def _open_http(address: str) -> Iterator[Readable]:
    with requests.get(address, stream=True, timeout=(CONNECT_SECONDS, READ_SECONDS)) as response:
        if response.status_code == 404:
            raise MissingHourError(address.split("?")[0])
        response.raise_for_status()
        yield response.raw


# -- reading -------------------------------------------------------------------------------------------------------


def read_hour(hour: ArchiveHour, wanted: WantedRepositories | None = None) -> tuple[pl.DataFrame, HourReport]:
    """Read the stars of an hour.

    Parameters
    ----------
    hour : ArchiveHour
    wanted : WantedRepositories, optional
        Stars of other repositories are left out; by default all are kept.

    Returns
    -------
    polars.DataFrame
        Of schema `STAR_EVENTS`, in the order of the archive, with the first star of each user for a repository.
    HourReport

    Raises
    ------
    InputError
        If the archive does not have the hour.
    ServiceUnavailableError
        If it cannot be read to its end. Damage in the file itself is reported, not raised.
    """
    problem = ""
    for _ in range(ATTEMPTS):
        rows = _Rows(wanted)
        report = HourReport()
        try:
            with hour.open() as file:
                _pick_all(_decompressed(file, report), rows, report)
        except (OSError, requests.RequestException, HTTPError) as error:
            # A cut connection looks like a truncated file: only another attempt tells them apart.
            problem = type(error).__name__
            continue
        return rows.table(), report
    raise ServiceUnavailableError(
        f"The archive {hour.location} could not be read to its end in {ATTEMPTS} tries ({problem}). Run again: the "
        "hours before it are kept."
    )


def _pick_all(texts: Iterable[bytes], rows: _Rows, report: HourReport) -> None:
    """Collect the stars of a stream of texts, which may end within a line."""
    rest: list[bytes] = []  # of the line that has begun
    length = 0
    for text in texts:
        report.size += len(text)
        first = text.find(b"\n") + 1
        if first:
            # Only the line that spans two texts is joined; the others are searched in place.
            _pick(b"".join([*rest, text[:first]]), 0, rows, report)
            rest, length = [], 0
            last = text.rfind(b"\n") + 1
            _pick(text, first, rows, report, last)
            text = text[last:]
        rest.append(text)
        length += len(text)
        if length > MAX_LINE:
            report.corrupt_lines += 1
            rest, length = [], 0
    _pick(b"".join(rest), 0, rows, report)


def _decompressed(file: Readable, report: HourReport) -> Iterator[bytes]:
    member = isal_zlib.decompressobj(wbits=31)
    begun = False
    while compressed := file.read(CHUNK):
        while compressed:
            if member.eof:  # a gzip file may have several members
                member = isal_zlib.decompressobj(wbits=31)
            try:
                text = member.decompress(compressed)
            except isal_zlib.error as error:  # type: ignore[misc] # the stub calls it an instance
                report.damage = f"it is damaged ({error})" if begun else f"it is not gzip ({error})"
                return
            begun = True
            compressed = member.unused_data if member.eof else b""
            if text:
                yield text
    if not member.eof:
        report.damage = "it is cut off" if begun else "it is empty"


def _pick(text: bytes, begin: int, rows: _Rows, report: HourReport, finish: int | None = None) -> None:
    """Collect the stars of whole lines. Lines without the event's name are skipped."""
    finish = len(text) if finish is None else finish
    position = text.find(_MARK, begin, finish)
    while position >= 0:
        start = max(begin, text.rfind(b"\n", begin, position) + 1)
        end = text.find(b"\n", position, finish)
        end = finish if end < 0 else end
        line = text[start:end]
        try:
            rows.add(orjson.loads(line))
        except ValueError:
            _pick_from_joined(line, rows, report)
        position = text.find(_MARK, end, finish)


def _pick_from_joined(line: bytes, rows: _Rows, report: HourReport) -> None:
    """Collect the stars of a line of several joined events, as in old archives."""
    decoder = json.JSONDecoder()
    text = line.decode("utf-8", "replace").strip()
    position = 0
    while position < len(text):
        try:
            event, position = decoder.raw_decode(text, position)
            if not isinstance(event, dict):
                raise ValueError
            rows.add(event)
        except (ValueError, RecursionError):
            report.corrupt_lines += 1
            return
        while position < len(text) and text[position].isspace():
            position += 1


class _Rows:
    """Collects stars in columns, which costs less memory than many tuples."""

    def __init__(self, wanted: WantedRepositories | None) -> None:
        self.wanted = wanted
        self.columns: dict[str, list[Any]] = {name: [] for name in STAR_EVENTS.columns}

    def add(self, event: Any) -> None:
        """Add an event if it is a star of a wanted repository.

        Raises
        ------
        ValueError
            If it is not an event, or is a star without one of its parts.
        """
        if not isinstance(event, dict):
            raise ValueError("not an event")
        if event.get("type") != "WatchEvent":
            return
        payload = event.get("payload")
        if isinstance(payload, dict) and payload.get("action", "started") != "started":
            return
        repo_id, name = _repository_of(event)
        user_id, login = _user_of(event)
        starred_at = _time_of(event.get("created_at"))
        if self.wanted is not None and not self.wanted.has(repo_id, name):
            return
        for column, value in zip(self.columns.values(), (repo_id, name, user_id, login, starred_at), strict=True):
            column.append(value)

    def table(self) -> pl.DataFrame:
        table = pl.DataFrame(self.columns, schema=STAR_EVENTS.dtypes, strict=True)
        return table.unique(["repo_id", "full_name", "user_id"], keep="first", maintain_order=True)


def _repository_of(event: Mapping[str, Any]) -> tuple[int | None, str]:
    repo = event.get("repo")
    if isinstance(repo, dict):
        name = repo.get("name")
    elif isinstance(repo := event.get("repository"), dict):
        name = f"{repo.get('owner')}/{repo.get('name')}"
    else:
        raise ValueError("no repository")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("no name")
    return number_of(repo.get("id")), name


def _user_of(event: Mapping[str, Any]) -> tuple[int, str]:
    actor = event.get("actor")
    if isinstance(actor, str):
        actor = {"login": actor}
    elif not isinstance(actor, dict):
        actor = event.get("actor_attributes")
    if not isinstance(actor, dict) or not isinstance(login := actor.get("login"), str) or not login:
        raise ValueError("no user")
    return number_of(actor.get("id")) or id_of_name(login), login


def id_of_name(name: str) -> int:
    """Return a number for a user or repository known only by name. It is negative, unlike all ids of GitHub."""
    digest = hashlib.blake2b(name.lower().encode(), digest_size=8).digest()
    return -(int.from_bytes(digest) >> 2) - 1


def _time_of(text: Any) -> dt.datetime:
    if not isinstance(text, str):
        raise ValueError("no time")
    # 2015-01-01T00:00:18Z; before 2015 also 2012-03-10T22:00:00-08:00 and 2011/02/12 00:00:01 -0800.
    time = dt.datetime.fromisoformat(re.sub(r"^(\d{4})/(\d\d)/(\d\d) (\S+) ([+-]\d{4})$", r"\1-\2-\3T\4\5", text))
    return (time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)).astimezone(dt.UTC)


# -- days ----------------------------------------------------------------------------------------------------------


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
        Places of their hours; see `archive_hours`. If empty, all 24 below `base`.
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
