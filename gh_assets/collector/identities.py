"""Ids of logins: users of old events are known by login alone, and have negative ids until their own are known."""

from __future__ import annotations

import polars as pl


def ids_of_logins(users: pl.DataFrame) -> pl.DataFrame:
    """Return columns ``key`` (the login in lower case) and ``known_id``, of the last row with a login."""
    return (
        users.filter(pl.col("user_id") > 0)
        .select(pl.col("login").str.to_lowercase().alias("key"), pl.col("user_id").alias("known_id"))
        .unique("key", keep="last", maintain_order=True)
    )


def identified(stars: pl.DataFrame, ids: pl.DataFrame) -> pl.DataFrame:
    """Return stars with negative ids replaced where the user's id is known by now."""
    if not (stars["user_id"] < 0).any():
        return stars
    joined = stars.with_columns(pl.col("login").str.to_lowercase().alias("key")).join(
        ids, on="key", how="left", maintain_order="left"
    )
    own = pl.when(pl.col("user_id") < 0).then(pl.coalesce("known_id", "user_id")).otherwise(pl.col("user_id"))
    return joined.with_columns(own.alias("user_id")).drop("key", "known_id")
