"""Merging users over repositories, the messages that store them, and ids of logins.

Users of old events are known by login alone, and have negative ids until their own are known.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import polars as pl

from gh_assets.schemas import USERS, UTC_TIME
from gh_assets.storage.messages import Message, UserInsert, versioned
from gh_assets.storage.mongo import Collections, MongoDatabase


def merge_users(stargazers: pl.DataFrame, read_at: Mapping[int, dt.datetime | None]) -> pl.DataFrame:
    """Return one row per user, merged by id.

    Parameters
    ----------
    stargazers : polars.DataFrame
        Of schema ``STARGAZERS``, all repositories together.
    read_at : mapping
        When the stars of each repository (by id) were read: a user has the login that was read last.

    Returns
    -------
    polars.DataFrame
        Of schema ``USERS``, ordered by id.
    """
    times = pl.DataFrame(
        {"repo_id": list(read_at), "read_at": list(read_at.values())}, schema={"repo_id": pl.Int64, "read_at": UTC_TIME}
    )
    # Later readings have larger numbers; of logins read in the same second, it is always the same one that counts.
    order = (
        stargazers.select(pl.col("repo_id").unique())
        .join(times, on="repo_id", how="left")
        .sort("read_at", "repo_id", nulls_last=False)
        .select("repo_id", pl.int_range(pl.len(), dtype=pl.Int32).alias("order"))
    )
    # Only what is left of a user is sorted: there are tens of stars a user.
    return (
        stargazers.lazy()
        .select("user_id", "repo_id", "login")
        .join(order.lazy(), on="repo_id")
        .group_by("user_id")
        .agg(pl.col("login").get(pl.col("order").arg_max()), pl.col("order").n_unique().cast(pl.Int64).alias("stars"))
        .sort("user_id")
        .select(*USERS.columns)
        .collect()
    )


class StoredUser(NamedTuple):
    """What MongoDB has about a user; None where a field is missing."""

    login: str | None
    stars: int | None


def stored_users(database: MongoDatabase) -> dict[int, StoredUser]:
    """Return all users in MongoDB by id, without the rest of their documents: there may be hundreds of thousands."""
    documents = database[Collections.USERS].find({}, {"login": 1, "collected.stars": 1})
    return {
        document["_id"]: StoredUser(document.get("login"), (document.get("collected") or {}).get("stars"))
        for document in documents
    }


def changed_users(table: pl.DataFrame, present: Mapping[int, StoredUser]) -> list[tuple[int, str, int]]:
    """Return id, login and stars of the users who are new, or whose login or number of stars changed.

    Parameters
    ----------
    table : polars.DataFrame
        Of schema ``USERS``.
    present : mapping
        See `stored_users`.
    """
    return [row for row in table.select("user_id", "login", "stars").iter_rows() if present.get(row[0]) != row[1:]]


def user_messages(users: Iterable[tuple[int, str, int]], at: dt.datetime) -> Iterator[Message]:
    """Yield the messages that store users in Mongo.

    Parameters
    ----------
    users : iterable of tuple
        See `changed_users`.
    at : datetime
        When their table was made: of two messages about a user, the later one wins.
    """
    for user_id, login, stars in users:
        yield Message(
            insert=UserInsert(uid=user_id, login=login, seen_at=at),
            update=versioned(Collections.USERS, user_id, "collected", {"stars": stars}, at),
        )


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
