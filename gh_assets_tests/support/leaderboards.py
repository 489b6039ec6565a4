"""Tables of the leaderboard."""

import polars as pl

from gh_assets.schemas import LEADERBOARD
from gh_assets.serving.leaderboard import USERS_HELD_OUT

MEAN = "ndcg_at_100_as_people_have"


def leaderboard_of(*rows: tuple[str, float], **others: float | None) -> pl.DataFrame:
    """Rows of models and their scores weighted by length of histories, each with an interval of ± 0.01."""
    zeros = {name: 0.0 for name, kind in LEADERBOARD.dtypes.items() if kind == pl.Float64()}
    records = [
        zeros
        | {"split": USERS_HELD_OUT, "users": 10, "model": model}
        | {MEAN: mean, f"{MEAN}_low": mean - 0.01, f"{MEAN}_high": mean + 0.01}
        | others
        for model, mean in rows
    ]
    return pl.DataFrame(records, schema=LEADERBOARD.dtypes)


def leaderboard_by_known_stars() -> pl.DataFrame:
    """A leaderboard of a hybrid and popularity, with a different score for each number of known stars."""
    parts = []
    for model, base in (("hybrid", 0.2), ("popularity", 0.1)):
        given = {f"ndcg_at_100_given_{known}": base + known / 1000 for known in (1, 2, 3, 5, 10)}
        groups = ("1", "2", "3", "4", "1_to_4", "5_to_20", "21_up")
        people = {f"ndcg_at_100_of_{group}": base + place / 100 for place, group in enumerate(groups)}
        users = {f"users_of_{group}": 1000 * (place + 1) for place, group in enumerate(groups)}
        more = {"ndcg_at_100": base + 0.05, "ndcg_at_100_of_21_up": None}
        parts.append(leaderboard_of((model, base + 0.01), **given, **people | more, **users))
    return pl.concat(parts)
