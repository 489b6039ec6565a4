"""The schemas of all tables: names, types and descriptions of their columns, defined nowhere else.

Assets show these as Dagster column schemas; the IO manager checks frames against them on write and on read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import polars as pl

UTC_TIME = pl.Datetime("us", "UTC")

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    dtype: pl.DataType
    description: str
    nullable: bool = False
    added: bool = False
    """Whether tables of earlier versions lack it: it is null in them."""


@dataclass(frozen=True)
class TableSchema:
    """A named table and its columns, in order."""

    name: str
    columns: Mapping[str, Column]

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        return {name: column.dtype for name, column in self.columns.items()}

    def empty(self) -> pl.DataFrame:
        """Return a frame of this schema without rows."""
        return pl.DataFrame(schema=self.dtypes)

    def completed(self, frame: Frame) -> Frame:
        """Add the columns that a frame of an earlier version lacks, in their positions."""
        present: list[str] = frame.collect_schema().names()
        lacking = [name for name, column in self.columns.items() if column.added and name not in present]
        if not lacking:
            return frame
        nulls = [pl.lit(None, dtype=self.columns[name].dtype).alias(name) for name in lacking]
        order: list[str] = [name for name in self.columns if name in present or name in lacking]
        completed: Frame = frame.with_columns(nulls).select([*order, *(name for name in present if name not in order)])
        return completed

    def problem(self, frame: pl.DataFrame, only: Collection[str] | None = None) -> str | None:
        """Return what is wrong with `frame`, or None. With `only`, the frame has these columns alone."""
        present = frame.schema
        for name, column in self.columns.items():
            if only is not None and name not in only:
                continue
            if name not in present:
                return f"the column {name!r} of table {self.name!r} is missing"
            if present[name] != column.dtype:
                return f"the column {name!r} of table {self.name!r} is {present[name]}, not {column.dtype}"
            if not column.nullable and frame[name].null_count():
                return f"the column {name!r} of table {self.name!r} has {frame[name].null_count()} empty values"
        extra = [name for name in present if name not in self.columns]
        if extra:
            return f"table {self.name!r} has the unknown column {extra[0]!r}"
        return None


REPOS = TableSchema(
    "repos",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id, which survives renames", nullable=True),
        "node_id": Column(pl.String(), "GitHub's global id, for GraphQL", nullable=True),
        "full_name": Column(pl.String(), "Current owner/name"),
        "partition": Column(
            pl.String(),
            "Partition key: the name under which the repository was first seen; stays through renames",
            nullable=True,
        ),
        "description": Column(pl.String(), "The owner's description", nullable=True),
        "language": Column(pl.String(), "Main programming language", nullable=True),
        "topics": Column(pl.List(pl.String()), "Topics"),
        "stargazer_count": Column(pl.Int64(), "Number of stars according to GitHub", nullable=True),
        "created_at": Column(UTC_TIME, "When it was created (UTC)", nullable=True),
        "pushed_at": Column(UTC_TIME, "Time of the last push (UTC)", nullable=True),
        "archived": Column(pl.Boolean(), "Whether the owner made it read-only", nullable=True),
        "fork_of": Column(pl.Int64(), "Id of the repository that it is a fork of, if it is one", nullable=True),
        "lists": Column(pl.List(pl.String()), "Awesome lists that link to it"),
        "outcome": Column(pl.String(), "ok, moved (renamed since it was listed), gone, blocked or unknown"),
        "reason": Column(pl.String(), "Why the outcome is not ok", nullable=True),
    },
)

REPO_EMBEDDINGS = TableSchema(
    "repo_embeddings",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id of the repository"),
        "text_hash": Column(pl.String(), "Hash of the text that was embedded, and of the model's name"),
        "vector": Column(pl.Array(pl.Float16(), 384), "Sentence embedding of unit length"),
    },
)

STARGAZERS = TableSchema(
    "stargazers",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id of the repository"),
        "user_id": Column(pl.Int64(), "GitHub's database id of the user"),
        "login": Column(pl.String(), "The user's login when the star was read"),
        "starred_at": Column(UTC_TIME, "When the star was given (UTC)", nullable=True),
        "source": Column(pl.String(), "Star source that read it"),
    },
)

COLLECTION_PLAN = TableSchema(
    "collection_plan",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id of the repository"),
        "partition": Column(pl.String(), "Its partition of stargazers"),
        "full_name": Column(pl.String(), "Current owner/name"),
        "stargazer_count": Column(
            pl.Int64(), "Number of stars according to GitHub when the lists were read", nullable=True
        ),
        "counted_then": Column(
            pl.Int64(), "Number of stars according to GitHub when its stars were read", nullable=True
        ),
        "stars": Column(pl.Int64(), "Number of stored stars", nullable=True),
        "outcome": Column(pl.String(), "Outcome of the last collection; null if it was never collected", nullable=True),
        "asked_at": Column(UTC_TIME, "Time of the last collection (UTC)", nullable=True),
        "collected_at": Column(UTC_TIME, "When its stars were last read (UTC)", nullable=True),
        "closed_at": Column(UTC_TIME, "When its list was found closed (UTC)", nullable=True),
        "proven": Column(pl.Boolean(), "Whether the stored list was proven to be complete", nullable=True, added=True),
        "gained": Column(
            pl.Int64(),
            "Stars of the days after its stars were read, by its star history; null if that is unknown",
            nullable=True,
            added=True,
        ),
        "looked_at": Column(UTC_TIME, "When its event feed was last read (UTC)", nullable=True, added=True),
        "next_look_at": Column(
            UTC_TIME, "When the next look at its event feed is due (UTC)", nullable=True, added=True
        ),
        "events_a_day": Column(pl.Float64(), "Events of all kinds a day in its feed", nullable=True, added=True),
        "stars_a_day": Column(pl.Float64(), "Stars a day in its feed", nullable=True, added=True),
    },
)

STARRED = TableSchema(
    "starred",
    {
        "user_id": Column(pl.Int64(), "GitHub's database id of the user"),
        "login": Column(pl.String(), "The user's login when the list was read"),
        "repo_id": Column(pl.Int64(), "GitHub's database id of a repository that the user starred"),
        "full_name": Column(pl.String(), "owner/name when the list was read"),
        "starred_at": Column(UTC_TIME, "When the star was given (UTC)", nullable=True),
    },
)

STAR_EVENTS = TableSchema(
    "star_events",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id of the repository", nullable=True),
        "full_name": Column(pl.String(), "owner/name at the time"),
        "user_id": Column(
            pl.Int64(),
            "GitHub's database id of the user; negative, made from the login, where events before 2015 have none",
        ),
        "login": Column(pl.String(), "The user's login at the time"),
        "starred_at": Column(UTC_TIME, "When the star was given (UTC)"),
    },
)

STAR_HISTORY = TableSchema(
    "star_history",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id of the repository"),
        "day": Column(pl.Date(), "Day in the time zone America/Los_Angeles, as GitHub counts"),
        "stars": Column(pl.Int64(), "Stars of this day that have not been taken back, by GitHub's count"),
    },
)

STAR_TRENDS = TableSchema(
    "star_trends",
    {
        "repo_id": Column(pl.Int64(), "GitHub's database id of the repository"),
        "recent": Column(pl.Int64(), "Stars of the last 30 whole days"),
        "usual": Column(
            pl.Float64(), "Median of the stars of the months before; null of fewer than three", nullable=True
        ),
    },
)

USERS = TableSchema(
    "users",
    {
        "user_id": Column(pl.Int64(), "GitHub's database id, which survives changes of the login"),
        "login": Column(pl.String(), "Latest known login"),
        "stars": Column(pl.Int64(), "Number of collected repositories that the user starred"),
    },
)

RECOMMENDATIONS = TableSchema(
    "recommendations",
    {
        "user_id": Column(pl.Int64(), "GitHub's database id of the user"),
        "login": Column(pl.String(), "The user's login"),
        "rank": Column(pl.Int32(), "1 is the best"),
        "repo_id": Column(pl.Int64(), "GitHub's database id of the recommended repository"),
        "full_name": Column(pl.String(), "owner/name of the recommended repository"),
        "score": Column(pl.Float32(), "The model's score: higher is better, comparable within one user"),
        "because": Column(pl.List(pl.String()), "The user's own stars that explain it most, strongest first"),
        "because_share": Column(pl.List(pl.Float32()), "Their shares in the explanation (at most 1 in all)"),
        "made_from": Column(
            pl.Int64(),
            "Fingerprint of what the user's list is made from: it is made again when this changes",
            nullable=True,
            added=True,
        ),
    },
)

LEADERBOARD = TableSchema(
    "leaderboard",
    {
        "split": Column(pl.String(), "What was held out"),
        "model": Column(pl.String(), "Short name of the recommender"),
        "users": Column(pl.Int64(), "Number of held-out users"),
        "ndcg_at_100": Column(pl.Float64(), "NDCG@100"),
        "ndcg_at_100_low": Column(pl.Float64(), "Lower end of its 95 % bootstrap interval over users"),
        "ndcg_at_100_high": Column(pl.Float64(), "Upper end of that interval"),
        "recall_at_20": Column(pl.Float64(), "Recall@20, min(20, held out) in the denominator"),
        "recall_at_50": Column(pl.Float64(), "Recall@50, min(50, held out) in the denominator"),
        "ndcg_at_100_of_1_to_4": Column(pl.Float64(), "NDCG@100 of users who have 1 to 4 known stars", nullable=True),
        "ndcg_at_100_of_5_to_20": Column(pl.Float64(), "NDCG@100 of users who have 5 to 20", nullable=True),
        "ndcg_at_100_of_21_up": Column(pl.Float64(), "NDCG@100 of users who have more than 20", nullable=True),
        **{
            f"ndcg_at_100_of_{known}": Column(
                pl.Float64(), f"NDCG@100 of users who have {known}", nullable=True, added=True
            )
            for known in (1, 2, 3, 4)
        },
        **{
            f"users_of_{group}": Column(
                pl.Int64(), f"Number of users of ndcg_at_100_of_{group}", nullable=True, added=True
            )
            for group in ("1", "2", "3", "4", "1_to_4", "5_to_20", "21_up")
        },
        **{
            f"ndcg_at_100_given_{length}": Column(
                pl.Float64(), f"NDCG@100 with {length} known stars of each user", nullable=True, added=True
            )
            for length in (1, 2, 3, 5, 10)
        },
        "ndcg_at_100_as_people_have": Column(
            pl.Float64(),
            "NDCG@100, each number of known stars weighted by how many users have it",
            nullable=True,
            added=True,
        ),
        "ndcg_at_100_as_people_have_low": Column(
            pl.Float64(), "Lower end of its 95 % bootstrap interval over users", nullable=True, added=True
        ),
        "ndcg_at_100_as_people_have_high": Column(
            pl.Float64(), "Upper end of that interval", nullable=True, added=True
        ),
        "coverage_at_20": Column(pl.Float64(), "Share of repositories in the top 20 of at least one user"),
        "novelty_at_20": Column(
            pl.Float64(), "Mean self-information of the top 20 in bits; low for popular repositories"
        ),
        "popularity_percentile_at_20": Column(pl.Float64(), "Mean popularity percentile of the top 20"),
    },
)

TABLES = {
    table.name: table
    for table in (
        REPOS,
        REPO_EMBEDDINGS,
        STARGAZERS,
        STAR_HISTORY,
        STAR_TRENDS,
        COLLECTION_PLAN,
        STARRED,
        STAR_EVENTS,
        USERS,
        RECOMMENDATIONS,
        LEADERBOARD,
    )
}
