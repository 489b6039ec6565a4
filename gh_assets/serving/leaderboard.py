"""The stored leaderboard by number of known stars, for those who show it: the asset, the command and the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from gh_assets.errors import StoredDataError
from gh_assets.recommender.evaluation.evaluation import HISTORIES, LENGTHS, group_name
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC
from gh_assets.storage.asset_store import AssetStore

USERS_HELD_OUT = "users held out"
"""Value of the column ``split`` for the split by users."""

COLUMN = MAIN_METRIC.replace("@", "_at_")

KNOWN_STARS = tuple("all" if length is None else str(length) for length in LENGTHS)
"""Numbers of known stars to which histories are cut."""

GROUPS = tuple(group for group in HISTORIES if group != (1, 4))
"""Groups of users by the number of known stars that they really have, without overlap."""


@dataclass(frozen=True)
class Standing:
    """NDCG@100 of a model by number of known stars; None where it was not measured.

    Attributes
    ----------
    model : str
    cut : mapping of float or None
        By number of known stars: the same users, with their histories cut to each of `KNOWN_STARS`.
    as_people_have : float or None
        The mean of these, weighted by how many people have each number of stars.
    people : mapping of (float or None, int or None)
        By `GROUPS`: people as they are, and how many of them.
    """

    model: str
    cut: Mapping[str, float | None]
    as_people_have: float | None
    people: Mapping[str, tuple[float | None, int | None]]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "metric": MAIN_METRIC,
            "known_stars": dict(self.cut),
            "as_people_have": self.as_people_have,
            "people": {group: {"score": score, "users": users} for group, (score, users) in self.people.items()},
        }


def standings(table: pl.DataFrame) -> list[Standing]:
    """Return the rows of a table ``LEADERBOARD`` for held-out users, in its order."""
    rows = table.filter(pl.col("split") == USERS_HELD_OUT).to_dicts()
    return [
        Standing(
            row["model"],
            {known: row[COLUMN if known == "all" else f"{COLUMN}_given_{known}"] for known in KNOWN_STARS},
            row[f"{COLUMN}_as_people_have"],
            {
                group_title(*group): (row[f"{COLUMN}_of_{group_name(*group)}"], row[f"users_of_{group_name(*group)}"])
                for group in GROUPS
            },
        )
        for row in rows
    ]


def group_title(low: int, high: int | None) -> str:
    """Return the name of a group of users for people: ``5–20`` stars."""
    return f"{low}+" if high is None else f"{low}–{high}" if high > low else f"{low}"


def read_standings(store: AssetStore) -> Sequence[Standing]:
    """Read the stored leaderboard; empty if there is none that can be read."""
    if store.describe("leaderboard", "parquet") is None:
        return []
    try:
        return standings(store.read_table("leaderboard"))
    except StoredDataError:
        return []
