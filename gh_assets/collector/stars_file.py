"""Reading a file of stars: Parquet or CSV with `repo`, `login`, and optional `repo_id`, `user_id`, `starred_at`.

The wanted columns are read as text and normalized; rows without a valid user or repository are skipped, counted and
reported. `input_tables` reads the file formats.
"""

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gh_assets.collector.input_tables import InputTable, read_table
from gh_assets.errors import InputError
from gh_assets.github.names import LOGIN, RESERVED_OWNERS
from gh_assets.github.times import GITHUB_BEGAN
from gh_assets.schemas import UTC_TIME

NAMED = 3
"""Number of skipped rows that are described; the others are only counted."""

TIME_FORMS = (
    "2020-01-02T03:04:05Z (also with a space, an offset or UTC; without any of these it is UTC), 2020-01-02, "
    "and seconds, milliseconds, microseconds or nanoseconds since 1970"
)
"""Accepted forms of a time, for messages."""

LOGIN_FORM = "a GitHub login"
"""Expected form of a login, for messages."""

_SITE, _API = r"(?:https?://)?(?:www\.)?github\.com/", r"https?://api\.github\.com"
_CLONE = r"(?:git\+)?(?:git|ssh|https?)://(?:[^/@\s]+@)?(?:www\.)?github\.com[/:]|git@github\.com:/?"
_REPO_ADDRESS = rf"(?i)^(?:{_SITE}|{_API}/repos/|{_CLONE})({LOGIN})/([\w.-]{{1,104}})(?:[/?#].*)?$"
_REPO = rf"^({LOGIN})\s*/\s*([\w.-]{{1,104}})$"
_LOGIN_ADDRESS = rf"(?i)^(?:{_SITE}|{_API}/users/)({LOGIN}(?:\[bot\])?)/?(?:[?#].*)?$"
_PLAIN_LOGIN = rf"(?i)^@?({LOGIN}(?:\[bot\])?)$"

_AROUND = " \t\r\n\u00a0\"'"
"""Characters around a name: CSV readers keep a quote that follows a space."""

_NO_VALUE = ["", "null", "none", "nan", "nat", "na", "n/a", "\\n", "<na>"]
"""Texts that programs write for a missing time or id."""

_ISO = (
    r"(?i)^(\d{4}-\d\d-\d\d)(?:(?:T| +)(\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,9}))?\s*(?:(Z|UTC|GMT)|([+-]\d\d):?(\d\d)?)?)?$"
)
_NUMBER = r"^[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?$"
_WHOLE = r"^\+?(\d{1,19})(?:\.0*)?$"
_EXPONENT = r"^[+-]?\d+(?:\.(\d*))?[eE]([+-]?\d{1,4})$"

_FAR = dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
"""Later times in Parquet are shown as the numbers in the file."""


def counted(number: int, noun: str) -> str:
    """Format a number with its noun in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class SkippedRows:
    """Rows of a file that were skipped.

    Attributes
    ----------
    file : str
        Name of the file.
    count, total : int
        Skipped rows, and all rows.
    reasons : sequence of str
        The number of rows for each reason.
    named : sequence of str
        Descriptions of the first rows.
    """

    file: str
    count: int
    total: int
    reasons: Sequence[str] = ()
    named: Sequence[str] = ()

    def sentence(self) -> str:
        """Describe the rows in a sentence; empty if none was skipped."""
        if not self.count:
            return ""
        more = "" if self.count == len(self.named) else "; …"
        return (
            f"{self.count:,} of {counted(self.total, 'row')} of {self.file} {'was' if self.count == 1 else 'were'} "
            f"skipped: {'; '.join(self.reasons)} ({'; '.join(self.named)}{more})."
        )


@dataclass(frozen=True)
class StarsFileContents:
    """Content of a file of stars.

    Attributes
    ----------
    table : polars.DataFrame
        ``repo, login`` (strings), ``repo_id, user_id`` (Int64), ``starred_at`` (Datetime[us, UTC], null where
        unknown), in the file's order, without repeated stars.
    skipped : SkippedRows
    has_repo_ids, has_user_ids : bool
        Whether the file has ids; otherwise they are numbers that are valid within this file only.
    former_names : dict
        For repositories with several names in the file, which is possible with ids only: all but the newest.
    """

    table: pl.DataFrame
    skipped: SkippedRows
    has_repo_ids: bool
    has_user_ids: bool
    former_names: dict[int, list[str]]


def read_stars(path: Path | str) -> StarsFileContents:
    """Read and check a file of stars.

    Parameters
    ----------
    path : Path or str
        A file for `gh_assets.collector.input_tables.read_table` with one row per star: ``repo`` (``owner/name`` or an
        address on github.com) and ``login`` (also ``@login`` or an address); optionally ``repo_id`` and ``user_id``
        (GitHub's ids, in every row) and ``starred_at`` (a time in one of `TIME_FORMS`).

    Returns
    -------
    StarsFileContents
        Repositories and users are identified by id or, without ids, by name in any case. An id with several names has
        the newest one: that of its latest star or, without times, the last in the file. Missing ids are numbered from
        1 by first appearance.

    Raises
    ------
    InputError
        If the file cannot be read, no row has a valid repository and user, or a time or id is impossible.
    """
    path = Path(path)
    columns = ("repo", "login", "repo_id", "user_id", "starred_at")
    file = read_table(path, columns, {"repo", "login"}, "stars file")
    frame = file.frame
    if frame.is_empty() and not file.ragged:
        raise InputError(f"The stars file {path} has no stars in it.")
    frame = _spelled(frame, "repo", repository_names(pl.col("repo")))
    frame = _spelled(frame, "login", logins(pl.col("login")))
    usable = pl.col("repo_name").is_not_null() & pl.col("login_name").is_not_null()
    stars = frame.filter(usable)
    skipped = skipped_rows(path, frame.filter(~usable), file, {"repo": "owner/name", "login": LOGIN_FORM})
    if stars.is_empty():
        raise InputError(f"The stars file {path} has no star that can be used. {skipped.sentence()}")
    times = _times(stars, path)
    repo_ids, user_ids = (ids_of(stars, name, f"stars file {path}") for name in ("repo_id", "user_id"))
    stars = stars.select(
        "repo_name",
        "login_name",
        (_numbered(stars["repo_key"]) if repo_ids is None else repo_ids).alias("repo_id"),
        (_numbered(stars["login_key"]) if user_ids is None else user_ids).alias("user_id"),
        times.alias("starred_at"),
    )
    former: dict[int, list[str]] = {}
    if repo_ids is not None:
        stars, former = _newest_name(stars, "repo_id", "repo_name")
    if user_ids is not None:
        stars, _ = _newest_name(stars, "user_id", "login_name")
    table = one_row_a_star(stars, ["repo_id", "user_id"]).select(
        pl.col("repo_name").alias("repo"), pl.col("login_name").alias("login"), "repo_id", "user_id", "starred_at"
    )
    return StarsFileContents(table, skipped, repo_ids is not None, user_ids is not None, former)


def one_row_a_star(stars: pl.DataFrame, identity: Sequence[str]) -> pl.DataFrame:
    """Return the first row of each star, with its time or, without one, the first time in a later row."""
    first = stars.unique(identity, keep="first", maintain_order=True)
    if first.height == stars.height or not first["starred_at"].null_count():
        return first
    timed = stars.drop_nulls("starred_at").unique(identity, keep="first", maintain_order=True)
    times = timed.select(*identity, pl.col("starred_at").alias("time"))
    first = first.join(times, on=identity, how="left", maintain_order="left")
    return first.with_columns(pl.coalesce("starred_at", "time").alias("starred_at")).drop("time")


# -- names ---------------------------------------------------------------------------------------------------------


def repository_names(texts: pl.Expr) -> pl.Expr:
    """Extract ``owner/name`` from names and addresses; null where a text is neither, or a page of GitHub itself."""
    texts = texts.str.strip_chars(_AROUND)
    owner = pl.coalesce(texts.str.extract(_REPO, 1), _no_page(texts.str.extract(_REPO_ADDRESS, 1)))
    name = pl.coalesce(texts.str.extract(_REPO, 2), texts.str.extract(_REPO_ADDRESS, 2)).str.replace(r"(?i)\.git$", "")
    # GitHub has no repositories with these names, which mean folders in a path.
    fine = ~name.is_in(["", ".", ".."]) & (name.str.len_chars() <= 100) & name.str.contains(r"^[A-Za-z0-9._-]+$")
    return pl.when(fine).then(pl.concat_str(owner, pl.lit("/"), name))


def logins(texts: pl.Expr) -> pl.Expr:
    """Extract logins from ``login``, ``@login`` and addresses of users; null where a text is none of these.

    ``_`` is in the logins of enterprise-managed users, ``[bot]`` ends those of apps.
    """
    texts = texts.str.strip_chars(_AROUND)
    return pl.coalesce(texts.str.extract(_PLAIN_LOGIN, 1), _no_page(texts.str.extract(_LOGIN_ADDRESS, 1)))


def _no_page(owners: pl.Expr) -> pl.Expr:
    """Return owners in addresses; null for GitHub's own pages, such as github.com/topics/python."""
    return pl.when(~owners.str.to_lowercase().is_in(sorted(RESERVED_OWNERS))).then(owners)


def _spelled(frame: pl.DataFrame, column: str, parsed: pl.Expr) -> pl.DataFrame:
    """Add columns ``…_name``, the first spelling of a name in any case, and ``…_key``, a number for each name.

    Each distinct text is parsed once.
    """
    texts = frame.select(column).unique(maintain_order=True).with_columns(parsed.alias(f"{column}_name"))
    lower = pl.col(f"{column}_name").str.to_lowercase()
    texts = texts.with_columns(pl.col(f"{column}_name").first().over(lower), lower.rank("dense").alias(f"{column}_key"))
    return frame.join(texts, on=column, how="left", maintain_order="left", nulls_equal=True)


def skipped_rows(path: Path, rows: pl.DataFrame, file: InputTable, wanted: dict[str, str]) -> SkippedRows:
    """Describe rows that have no usable name in one of the columns, or more fields than the header.

    Parameters
    ----------
    path : Path
    rows : polars.DataFrame
        With ``row``, the texts, and the parsed values (``…_name``, null where a text is invalid).
    file : InputTable
        All rows of the file.
    wanted : dict
        Expected form by column; a row is reported for its first invalid column.
    """
    reasons: list[str] = []
    named: list[tuple[int, str]] = []
    if file.ragged:
        reasons.append(f"{_rows_have(len(file.ragged))} more fields than the header")
        named += [(row, f"row {row} has {counted(fields, 'field')}, the header {len(file.header)}")
                  for row, fields in file.ragged[:NAMED]]  # fmt: skip
    left = rows
    for column, form in wanted.items():
        bad = left.filter(pl.col(f"{column}_name").is_null())
        left = left.filter(pl.col(f"{column}_name").is_not_null())
        is_empty = pl.col(column).fill_null("").str.strip_chars() == ""
        empty, wrong = bad.filter(is_empty), bad.filter(~is_empty)
        reasons += [f"{_rows_have(empty.height)} no {column}"] if empty.height else []
        reasons += [f"{_rows_have(wrong.height)} a {column} that is not {form}"] if wrong.height else []
        named += [(row, f"row {row}: the {column} is empty") for row in empty["row"].head(NAMED)]
        named += [(row, f"row {row}: {_shown(text)} is not {form}")
                  for row, text in wrong.select("row", column).head(NAMED).rows()]  # fmt: skip
    count, total = rows.height + len(file.ragged), file.frame.height + len(file.ragged)
    return SkippedRows(path.name, count, total, reasons, [description for _, description in sorted(named)[:NAMED]])


def _rows_have(number: int) -> str:
    return f"{counted(number, 'row')} {'has' if number == 1 else 'have'}"


def _shown(text: object) -> str:
    """Format a value for a message: short, on one line."""
    text = str(text)
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _newest_name(stars: pl.DataFrame, identity: str, name: str) -> tuple[pl.DataFrame, dict[int, list[str]]]:
    """Give each id its newest name; also return the other names of ids with several."""
    pairs = stars.select(identity, name).unique()
    several = pairs.filter(pl.len().over(identity) > 1)
    if several.is_empty():
        return stars, {}
    newest = (
        stars.join(several.select(identity).unique(), on=identity, how="semi", maintain_order="left")
        .sort("starred_at", nulls_last=False, maintain_order=True)
        .group_by(identity)
        .agg(pl.col(name).last().alias("newest"))
    )
    former: dict[int, list[str]] = {}
    for key, old, new in several.join(newest, on=identity).sort(identity, name).rows():
        if old.lower() != new.lower():
            former.setdefault(key, []).append(old)
    stars = stars.join(newest, on=identity, how="left", maintain_order="left")
    return stars.with_columns(pl.coalesce("newest", name).alias(name)).drop("newest"), former


# -- ids and times -------------------------------------------------------------------------------------------------


def ids_of(rows: pl.DataFrame, column: str, what: str, *, partly: bool = False) -> pl.Series | None:
    """Parse ids; None if the file has none.

    Parameters
    ----------
    rows : polars.DataFrame
        With ``row`` and possibly the column.
    column : str
    what : str
        Name of the file in errors.
    partly : bool
        Whether some rows may lack an id (null).

    Raises
    ------
    InputError
        If a value is not an integer from 1 to 2^63 - 1, or only some rows have an id.
    """
    if column not in rows.columns:
        return None
    if rows.schema[column] != pl.String:
        raise InputError(f"The column {column!r} of the {what} is {rows.schema[column]}, not whole numbers.")
    texts = _values(rows[column])
    if texts.null_count() == rows.height:
        return None
    ids = texts.str.extract(_WHOLE, 1).cast(pl.Int64, strict=False)
    bad = rows.filter((texts.is_not_null() & ~(ids >= 1).fill_null(value=False)).alias("bad"))
    if bad.height:
        raise InputError(
            f"Row {bad['row'][0]} of the {what} has the {column} {_shown(bad[column][0])}, which is no whole number "
            "from 1 to 2^63 - 1: correct it, or leave the column out."
        )
    if ids.null_count() and not partly:
        raise InputError(
            f"Row {rows.filter(ids.is_null())['row'][0]} of the {what} has no {column}, while other rows have one "
            f"({ids.null_count():,} of {rows.height:,} have none): fill it in everywhere, or leave the column out."
        )
    return ids


def _numbered(keys: pl.Series) -> pl.Series:
    """Number distinct keys from 1, by first appearance."""
    keys = keys.alias("key")
    distinct = keys.unique(maintain_order=True).to_frame().with_row_index("number", offset=1)
    return keys.to_frame().join(distinct, on="key", how="left", maintain_order="left")["number"].cast(pl.Int64)


def _values(texts: pl.Series) -> pl.Series:
    """Strip spaces; null where a text means a missing value."""
    texts = texts.str.strip_chars()
    return texts.set(texts.str.to_lowercase().is_in(_NO_VALUE), None)


def _times(rows: pl.DataFrame, path: Path) -> pl.Series:
    if "starred_at" not in rows.columns:
        return pl.Series([None] * rows.height, dtype=UTC_TIME)
    column = rows["starred_at"]
    if column.dtype == pl.String:
        texts = _values(column)
        times = _times_of(texts)
        given = texts.is_not_null()
    else:
        zoned = isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None
        # A column may declare another unit than that of its numbers: values out of range become null.
        utc = column if zoned else column.cast(pl.Datetime("us"), strict=False).dt.replace_time_zone("UTC")
        times = utc.cast(UTC_TIME, strict=False)
        given = column.is_not_null()
    latest = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    possible = ((times >= GITHUB_BEGAN) & (times <= latest)).fill_null(value=False)
    bad = given & ~possible
    if bad.any():
        first = bad.arg_max()
        assert first is not None
        raise InputError(
            f"Row {rows['row'][first]} of the stars file {path} has {_problem_of(column[first:], times[first:])}. "
            f"Accepted forms are {TIME_FORMS}; an empty value means that the time is unknown."
        )
    return times


def _problem_of(value: pl.Series, times: pl.Series) -> str:
    """Describe what is wrong with a value of ``starred_at``, which was parsed as the first of `times` or not at all."""
    value, times = value[:1], times[:1]
    typed = value.dtype != pl.String
    if typed and (times.null_count() or (times > _FAR).all()):
        # Such times cannot be written as text, and the number shows which unit was meant.
        return f"the starred_at {value.to_physical()[0]}, which is out of range as a number of {_unit_of(value.dtype)}"
    text = str(value.cast(pl.String)[0])
    shown = _shown(text)
    if times.null_count() == 0:
        # Formatted by polars, since Python has no years after 9999.
        day = times.dt.strftime("%Y-%m-%d")[0]
        when = "before GitHub began" if (times < GITHUB_BEGAN).all() else "in the future"
        return f"the impossible starred_at {shown}: that is {day}, {when}"
    text = text.strip()
    if re.match(_ISO, text):
        return f"the impossible starred_at {shown}: there is no such day or time"
    if re.match(_EXPONENT, text) and float(text) < 1e19:
        return f"the starred_at {shown}, whose last digits are lost: write numbers out, without an exponent"
    day_or_month = re.match(r"(\d{1,2})[/.-](\d{1,2})[/.-]\d", text)
    # 13/01/2020 and 02/02/2020 are not ambiguous, but in none of the forms.
    if day_or_month and int(day_or_month[1]) != int(day_or_month[2]) and max(map(int, day_or_month.groups())) <= 12:
        return f"the ambiguous starred_at {shown}: day and month cannot be told apart"
    return f"the starred_at {shown}, which is not in an accepted form"


def _unit_of(dtype: pl.DataType) -> str:
    """Describe the unit of a Parquet type of times."""
    units = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    return f"{units[dtype.time_unit]} since 1970" if isinstance(dtype, pl.Datetime) else "days since 1970"


def _times_of(texts: pl.Series) -> pl.Series:
    """Parse times; null where a text is none."""
    if not texts.null_count() < len(texts):
        return pl.Series([None] * len(texts), dtype=UTC_TIME)
    text = pl.col("text")
    frame = texts.alias("text").to_frame()
    parts = text.str.extract_groups(_ISO)
    date, minute, second, fraction, _, hours, minutes = (parts.struct[place] for place in range(7))
    iso = pl.concat_str(
        date,
        pl.lit("T"),
        minute.fill_null("00:00"),
        second.fill_null(":00"),
        pl.lit("."),
        # Digits beyond microseconds are cut off.
        fraction.fill_null("").str.pad_end(6, "0").str.slice(0, 6),
        hours.fill_null("+00"),
        minutes.fill_null("00"),
    ).str.to_datetime("%Y-%m-%dT%H:%M:%S.%6f%z", time_unit="us", time_zone="UTC", strict=False)
    number = text.str.contains(_NUMBER)
    whole = pl.when(number).then(text.str.extract(_WHOLE, 1)).cast(pl.Int64, strict=False)
    exact = pl.when(number).then(text).cast(pl.Float64, strict=False)
    decimals, exponent = (text.str.extract(_EXPONENT, group) for group in (1, 2))
    # The power of ten of the last digit: 7 in 1.57793E+12, as spreadsheets shorten numbers.
    last_digit = exponent.cast(pl.Int64, strict=False) - decimals.fill_null("").str.len_chars().cast(pl.Int64)
    return frame.select(pl.coalesce(iso, _since_1970(whole, exact, last_digit.fill_null(0)))).to_series().cast(UTC_TIME)


def _since_1970(whole: pl.Expr, exact: pl.Expr, last_digit: pl.Expr) -> pl.Expr:
    """Convert numbers to times. The four units have different magnitudes for the years since GitHub began.

    Null where the last digit means more than a second: the time would be wrong by minutes or years.
    """
    size = exact.abs()
    times = []
    for least, below, digits in ((0, 1e11, 0), (1e11, 1e14, 3), (1e14, 1e17, 6), (1e17, 1e19, 9)):
        exactly = whole * 10 ** (6 - digits) if digits <= 6 else whole // 1000
        rounded = (exact * 10.0 ** (6 - digits)).round().cast(pl.Int64, strict=False)
        is_of_unit = (size >= least) & (size < below) & (last_digit <= digits)
        times.append(pl.when(is_of_unit).then(pl.coalesce(exactly, rounded)))
    return pl.coalesce(times).cast(UTC_TIME)
