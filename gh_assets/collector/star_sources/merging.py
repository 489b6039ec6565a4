"""Combine new stars with known ones, without losing a star or inventing that one was taken back."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from gh_assets.collector.star_sources.base import Page, PreviousStars, RepositoryRef, StarCollection
from gh_assets.collector.users import identified, ids_of_logins
from gh_assets.github.list_reading import Coverage, coverage_fields
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import UTC_TIME


@dataclass(frozen=True, kw_only=True)
class ListReading(Coverage):
    """How far a repository's own list was read, possibly in part by an earlier run, and whether the result is proven.

    Attributes
    ----------
    total : int or None
        GitHub's count.
    to_the_end : bool
        Whether all of it was read now, so that users who are missing from it took their stars back.
    problem : str or None
        Why it is not proven, if the reason is not its count.
    """

    total: int | None
    to_the_end: bool = True
    problem: str | None = None

    def reason(self) -> str | None:
        """Return why the list is not proven, and how many of its entries failed; None if there is nothing to report."""
        parts = []
        if self.problem is not None:
            parts.append(self.problem)
        elif not self.proven and self.entries == self.total:
            parts.append(f"{self.null_entries:,} of its {self.entries:,} entries came without a user")
        elif not self.proven:
            parts.append(f"{self.entries:,} entries were read, and GitHub counts {self.total or 0:,}")
        if self.failed_entries:
            parts.append(f"GitHub failed on {self.failed_entries:,} entries each time")
        return "; ".join(parts) or None


def collection_from_list(
    repository: RepositoryRef,
    table: pl.DataFrame,
    before: PreviousStars | None,
    reading: ListReading,
    *,
    pages: Sequence[Page] = (),
    requests: int = 0,
    not_modified: int = 0,
) -> StarCollection:
    """Return the result of reading a repository's own list.

    Only a list that was read to its end and is proven replaces the known stars and shows which were taken back.
    Otherwise known stars that are missing are kept: they may be in the part that was not read, or have lost their user.

    Parameters
    ----------
    table : polars.DataFrame
        Of schema `STARGAZERS`, with one row per user.
    before : PreviousStars or None
    pages : sequence of Page
        Pages whose rows are in the table one after another, if the next run can reuse them.
    """
    whole = reading.complete and reading.proven
    unstarred = None
    if whole and reading.to_the_end and not reading.null_entries and not reading.failed_entries:
        unstarred = stars_missing_from(table, before)
    elif before is not None:
        known = identified(before.table, ids_of_logins(table)).unique("user_id", maintain_order=True)
        missing = known.join(table, on="user_id", how="anti")
        if missing.height:
            table, pages = pl.concat([missing, table]).sort("starred_at", maintain_order=True, nulls_last=False), ()
    return StarCollection(
        repository,
        Outcome.OK,
        reading.reason(),
        table,
        pages,
        requests=requests,
        not_modified=not_modified,
        unchanged=before is not None and table.equals(before.table),
        unstarred=unstarred,
        **coverage_fields(reading) | {"complete": whole},
    )


def stars_missing_from(table: pl.DataFrame, before: PreviousStars | None) -> pl.DataFrame | None:
    """Return the known stars whose users are not in a list that was read whole: they were taken back."""
    if before is None:
        return None
    # Users of old events have no id of GitHub, so they cannot be matched with the list.
    missing = before.table.filter(pl.col("user_id") > 0).join(table, on="user_id", how="anti")
    return None if missing.is_empty() else missing


def collection_from_users(
    repository: RepositoryRef,
    rows: pl.DataFrame,
    before: PreviousStars | None,
    read_whole: Mapping[int, dt.datetime],
    reason_for_none: str,
) -> StarCollection:
    """Return the result of collecting stars from users or events instead of the repository's own list.

    Parameters
    ----------
    rows, before, read_whole
        See `merge_stars`.
    reason_for_none : str
        Reason of the outcome if no stars are known.
    """
    table, unstarred = merge_stars(rows, before, read_whole)
    if table.is_empty() and (before is None or before.table.is_empty()) and repository.stargazer_count != 0:
        return StarCollection(repository, Outcome.UNKNOWN, reason_for_none)
    unchanged = before is not None and table.equals(before.table)
    return StarCollection(
        repository, Outcome.OK, None, table, complete=False, unchanged=unchanged, unstarred=unstarred, proven=True
    )


def merge_stars(
    rows: pl.DataFrame, before: PreviousStars | None, read_whole: Mapping[int, dt.datetime] | None = None
) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Add the stars of some users or hours to the known ones.

    Parameters
    ----------
    rows : polars.DataFrame
        Of schema `STARGAZERS`.
    before : PreviousStars or None
    read_whole : mapping of int to datetime, optional
        Users whose lists were read whole, and when: an older star of theirs that is not in `rows` was taken back.

    Returns
    -------
    table : polars.DataFrame
        One row per user with the latest star, oldest star first.
    unstarred : polars.DataFrame or None
    """
    unstarred = None
    parts = [rows]
    if before is not None:
        known = identified(before.table, ids_of_logins(rows)).unique("user_id", keep="last", maintain_order=True)
        others = known.join(rows, on="user_id", how="anti")
        if read_whole:
            # Looked up one by one: there may be far more users than stars of a repository that no list has.
            read_at = pl.Series([read_whole.get(user_id) for user_id in others["user_id"].to_list()], dtype=UTC_TIME)
            taken_back = (others["starred_at"] < read_at).fill_null(value=False)
            unstarred, others = others.filter(taken_back), others.filter(~taken_back)
        # A known row with the same time is kept, so that its source does not change.
        same = known.join(rows, on=["user_id", "starred_at"], how="semi", nulls_equal=True)
        parts = [rows.join(same, on="user_id", how="anti"), same, others]
    table = (
        pl.concat(parts)
        .sort("starred_at", "user_id", nulls_last=False)
        .unique("user_id", keep="last", maintain_order=True)
    )
    return table, None if unstarred is None or unstarred.is_empty() else unstarred
