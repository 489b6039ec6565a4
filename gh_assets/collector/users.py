"""Merging users over repositories."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import polars as pl

from gh_assets.schemas import USERS, UTC_TIME


def merge_users(stargazers: pl.DataFrame, read_at: Mapping[int, dt.datetime | None]) -> pl.DataFrame:
    """One row a user, merged by id.

    Parameters
    ----------
    stargazers : polars.DataFrame
        Of schema ``STARGAZERS``, all repositories together.
    read_at : mapping
        When the stars of each repository (by id) were read: a user's login is the one that was read last.

    Returns
    -------
    polars.DataFrame
        Of schema ``USERS``, ordered by id.
    """
    times = pl.DataFrame(
        {"repo_id": list(read_at), "read_at": list(read_at.values())},
        schema={"repo_id": pl.Int64, "read_at": UTC_TIME},
    )
    return (
        stargazers.unique(["user_id", "repo_id"])
        .join(times, on="repo_id", how="left")
        # Of logins read in the same second any would do; the order makes it always the same one.
        .sort("user_id", "read_at", "repo_id", nulls_last=False)
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("login").last(), pl.len().cast(pl.Int64).alias("stars"))
        .select(*USERS.columns)
    )
