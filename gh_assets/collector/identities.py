"""Whose a login is: users of old events are known by login alone, and have negative ids until somebody knows better."""

from __future__ import annotations

import polars as pl


def ids_of_logins(users: pl.DataFrame) -> pl.DataFrame:
    """Whose a login is: columns ``key`` (the login in lower case) and ``known_id``; the last row of a login counts."""
    return (
        users.filter(pl.col("user_id") > 0)
        .select(pl.col("login").str.to_lowercase().alias("key"), pl.col("user_id").alias("known_id"))
        .unique("key", keep="last", maintain_order=True)
    )


def identified(stars: pl.DataFrame, ids: pl.DataFrame) -> pl.DataFrame:
    """With the ids of users of whom only the login was known (negative), where they are known by now."""
    if not (stars["user_id"] < 0).any():
        return stars
    found = stars.with_columns(pl.col("login").str.to_lowercase().alias("key")).join(
        ids, on="key", how="left", maintain_order="left"
    )
    own = pl.when(pl.col("user_id") < 0).then(pl.coalesce("known_id", "user_id")).otherwise(pl.col("user_id"))
    return found.with_columns(own.alias("user_id")).drop("key", "known_id")
