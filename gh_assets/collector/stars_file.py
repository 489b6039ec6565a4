"""Reading a file of stars: Parquet or CSV with `repo`, `login`, and optional `repo_id`, `user_id`, `starred_at`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from gh_assets.errors import InputError
from gh_assets.schemas import UTC_TIME

_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {".parquet": pl.read_parquet, ".csv": pl.read_csv}


def read_stars_file(path: Path | str) -> pl.DataFrame:
    """Read and check a file of stars.

    Parameters
    ----------
    path : Path or str
        A ``.parquet`` or ``.csv`` file with a row a star: ``repo`` (``owner/name``) and ``login``; ``repo_id``
        and ``user_id`` (integers) and ``starred_at`` (time, or ISO 8601 text; UTC unless it says otherwise)
        where they are known.

    Returns
    -------
    polars.DataFrame
        ``repo, login`` (strings), ``repo_id, user_id`` (Int64), ``starred_at`` (Datetime[us, UTC], null where
        unknown), in the file's order, without repeated stars (logins and names compared without case). Where
        the file has no ids they are numbered from 1 by first appearance.

    Raises
    ------
    InputError
        If the file cannot be read, is empty, or a column is missing, of the wrong kind or malformed.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"The stars file {path} is neither .parquet nor .csv.")
    try:
        table = reader(path)
    except FileNotFoundError:
        raise InputError(f"The stars file {path} does not exist.") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"The stars file {path} cannot be read as {path.suffix[1:]}: {first_line}.") from error
    for name in ("repo", "login"):
        if name not in table.columns:
            raise InputError(
                f"The stars file {path} has no column {name!r}; it has: {', '.join(table.columns) or 'none'}."
            )
        if table.schema[name] != pl.String:
            raise InputError(f"The column {name!r} of the stars file {path} is {table.schema[name]}, not text.")
        if table[name].null_count():
            raise InputError(
                f"The column {name!r} of the stars file {path} has {table[name].null_count()} empty values."
            )
    if table.is_empty():
        raise InputError(f"The stars file {path} has no stars in it.")
    malformed = table.filter(~pl.col("repo").str.contains(r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$"))
    if not malformed.is_empty():
        raise InputError(f"The stars file {path} names a repository {malformed['repo'][0]!r}: not owner/name.")
    table = table.with_columns(
        pl.col("repo").str.to_lowercase().alias("repo_key"),
        pl.col("login").str.to_lowercase().alias("login_key"),
    ).unique(["repo_key", "login_key"], keep="first", maintain_order=True)
    return table.select(
        pl.col("repo").first().over("repo_key"),
        pl.col("login").first().over("login_key"),
        _identity(table, path, "repo_id", "repo_key"),
        _identity(table, path, "user_id", "login_key"),
        _time(table, path),
    )


def _identity(table: pl.DataFrame, path: Path, column: str, key: str) -> pl.Series:
    if column in table.columns:
        if not table.schema[column].is_integer() or table[column].null_count():
            raise InputError(f"The column {column!r} of the stars file {path} must hold a whole number in every row.")
        return table[column].cast(pl.Int64)
    distinct = table.select(pl.col(key).unique(maintain_order=True)).with_row_index(column, offset=1)
    return table.join(distinct, on=key, how="left", maintain_order="left")[column].cast(pl.Int64)


def _time(table: pl.DataFrame, path: Path) -> pl.Series:
    if "starred_at" not in table.columns:
        return pl.Series("starred_at", [None] * table.height, dtype=UTC_TIME)
    times = table["starred_at"]
    try:
        if times.dtype == pl.String:
            # "Z" and offsets are read as what they say; times without either are taken as UTC.
            times = times.str.replace(r"Z$", "+00:00").str.to_datetime(time_unit="us", time_zone="UTC")
        elif isinstance(times.dtype, pl.Datetime) and times.dtype.time_zone is None:
            times = times.dt.replace_time_zone("UTC")
        return times.cast(UTC_TIME)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"The column 'starred_at' of the stars file {path} holds something that is no time."
        ) from error
