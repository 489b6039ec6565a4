"""The stored leaderboard by number of known stars."""

from io import BytesIO

import polars as pl
import pytest

from gh_assets.schemas import LEADERBOARD
from gh_assets.serving.leaderboard import read_standings, standings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.leaderboards import leaderboard_by_known_stars


def test_a_standing_has_cut_histories_and_people_as_they_are() -> None:
    table = leaderboard_by_known_stars()
    in_time = table.with_columns(split=pl.lit("later stars held out"))
    hybrid, popularity = standings(pl.concat([table, in_time]))
    assert (hybrid.model, popularity.model) == ("hybrid", "popularity")
    expected = {"1": 0.201, "2": 0.202, "3": 0.203, "5": 0.205, "10": 0.21, "all": 0.25}
    assert hybrid.cut == pytest.approx(expected)
    assert hybrid.as_people_have == pytest.approx(0.21)
    assert {group: users for group, (_, users) in hybrid.people.items()} == {
        "1": 1000,
        "2": 2000,
        "3": 3000,
        "4": 4000,
        "5–20": 6000,
        "21+": 7000,
    }
    assert [score for score, _ in hybrid.people.values()] == [*map(pytest.approx, (0.2, 0.21, 0.22, 0.23, 0.25)), None]
    assert hybrid.to_json()["people"]["5–20"] == {"score": pytest.approx(0.25), "users": 6000}


def test_stored_leaderboards_are_read(objects: ObjectStore) -> None:
    store = AssetStore(objects, 1)
    assert read_standings(store) == [], "there is none yet"
    table = leaderboard_by_known_stars()
    store.write_table("leaderboard", table)
    assert read_standings(store) == standings(table)
    name = next(stored.name for stored in objects.list("") if "leaderboard" in stored.name)
    former = BytesIO()
    table.drop([column for column, kind in LEADERBOARD.columns.items() if kind.added]).write_parquet(former)
    objects.write(name, former.getvalue())
    (hybrid, _) = read_standings(store)
    assert (hybrid.cut["1"], hybrid.cut["all"], hybrid.as_people_have) == (None, 0.25, None)
    assert hybrid.people["5–20"][0] == pytest.approx(0.25)
    assert hybrid.people["5–20"][1] is None
    objects.write(name, b"no table")
    assert read_standings(store) == []
