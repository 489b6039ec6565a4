"""Asset checks: what each lets pass, warns of, and stops."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from gh_assets.checks.collection import (
    every_star_has_its_user,
    listed_repositories_are_there,
    no_star_twice,
    stars_match_githubs_count,
)
from gh_assets.checks.matrix import LikenessConfig, matrix_is_like_the_last
from gh_assets.checks.models import champion_is_not_left_behind, nothing_known_is_recommended
from gh_assets.collector.pipeline import CollectionState, RepositoryState
from gh_assets.github.outcomes import Outcome
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.resources import GcsResource, MongoResource
from gh_assets.schemas import LEADERBOARD, REPOS
from gh_assets.services.connections import connect_mongo, model_store
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import clock_behind

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


@pytest.fixture
def mongo(fresh_home: Path) -> Iterator[MongoDatabase]:
    database = connect_mongo(load_settings())
    yield database
    database.client.close()


def repos_of(*outcomes: str) -> pl.DataFrame:
    rows = [
        {"repo_id": n, "full_name": f"o/{n}", "partition": f"o/{n}", "topics": [], "lists": ["l"], "outcome": outcome}
        for n, outcome in enumerate(outcomes)
    ]
    return pl.DataFrame(rows, schema=REPOS.dtypes)


def test_lists_whose_repositories_are_gone() -> None:
    well = listed_repositories_are_there(repos_of(*["ok"] * 17, "moved", "gone", "blocked"))
    assert well.passed
    some = listed_repositories_are_there(repos_of(*["ok"] * 16, "moved", "gone", "gone", "blocked"))
    assert (some.passed, some.severity) == (False, WARN)
    none = listed_repositories_are_there(repos_of("gone", "unknown"))
    assert (none.passed, none.severity) == (False, ERROR)


def state(number: int, stars: int, count: int, **changes: Any) -> RepositoryState:
    now = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)
    usual: dict[str, Any] = {
        "outcome": Outcome.OK, "reason": None, "source": "graphql", "max_pages": 10, "pages": [], "checksum": None,
        "complete": True, "proven": True, "collected_at": now, "asked_at": now,
    }  # fmt: skip
    return RepositoryState(
        repo_id=number, partition=f"o/{number}", full_name=f"o/{number}", stars=stars, stargazer_count=count,
        **(usual | changes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "passed", "severity", "compared"),
    [
        ([state(n, 100, 100) for n in range(20)], True, WARN, 20),
        ([state(0, 95, 100), state(1, 980, 1000), state(2, 0, 5)], True, WARN, 3),
        ([state(n, 100 if n else 94, 100) for n in range(20)], True, WARN, 20),
        ([state(n, 100 if n > 1 else 94, 100) for n in range(20)], False, WARN, 20),
        ([state(n, 100 if n > 10 else 10, 100) for n in range(20)], False, ERROR, 20),
        ([state(0, 10, 100, source="starred"), state(1, 10, 100, complete=False)], True, WARN, 0),
        ([state(n, 10, 100, complete=False, proven=False) for n in range(20)], False, ERROR, 20),
        ([state(0, 1000, 90_000), state(1, 10, 100, outcome=Outcome.RESTRICTED)], True, WARN, 0),
        ([], True, WARN, 0),
    ],
)
def test_stars_against_githubs_own_count(
    mongo: MongoDatabase, states: list[RepositoryState], passed: bool, severity: object, compared: int
) -> None:
    CollectionState(mongo).save(states)
    told = stars_match_githubs_count(MongoResource())
    assert (told.passed, told.metadata["compared"].value) == (passed, compared)
    if not passed:
        assert told.severity is severity


def test_pairs() -> None:
    stars = pl.DataFrame({"repo_id": [1, 1, 2], "user_id": [7, 8, 7]})
    assert no_star_twice(stars).passed
    assert not no_star_twice(pl.concat([stars, stars[:1]])).passed
    users = pl.DataFrame({"user_id": [7, 8], "login": ["a", "b"], "stars": [2, 1]})
    assert every_star_has_its_user(users, stars.select("user_id")).passed
    assert not every_star_has_its_user(users[:1], stars.select("user_id")).passed
    assert not every_star_has_its_user(users, stars.select("user_id")[:1]).passed
    recommended = pl.DataFrame({"user_id": [8, 9], "repo_id": [2, 1]})
    assert nothing_known_is_recommended(recommended, stars).passed
    assert not nothing_known_is_recommended(recommended.with_columns(repo_id=pl.lit(1)), stars).passed
    assert not nothing_known_is_recommended(pl.concat([recommended, recommended]), stars).passed


def matrix_of(users: int, repositories: int, density: float) -> UserItemMatrix:
    stars = sp.random(users, repositories, density, format="csr", dtype=np.float32, rng=np.random.default_rng(1))
    stars.data[:] = 1
    names = [f"o/{n}" for n in range(repositories)]
    return UserItemMatrix(
        sp.csr_array(stars),
        np.arange(users),
        np.array([f"u{n}" for n in range(users)]),
        np.arange(repositories),
        np.array(names),
    )


@pytest.mark.parametrize(
    ("now", "accept", "passed", "severity"),
    [
        ((100, 40, 0.2), False, True, None),
        ((90, 40, 0.2), False, True, None),
        ((100, 40, 0.3), False, False, WARN),
        ((40, 40, 0.2), False, False, ERROR),
        ((100, 19, 0.4), False, False, ERROR),
        ((40, 40, 0.2), True, True, None),
        ((1000, 400, 0.2), False, False, WARN),
    ],
)
def test_a_matrix_unlike_the_last_trains_nothing(
    mongo: MongoDatabase, tmp_path: Path, now: tuple[int, int, float], accept: bool, passed: bool, severity: object
) -> None:
    then = matrix_of(100, 40, 0.2)
    first = matrix_is_like_the_last(LikenessConfig(), then, MongoResource(), GcsResource())
    assert first.passed, "there is nothing to compare the first with"
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    data = {"users": 100, "repositories": 40, "stars": int(then.stars.nnz)}
    ModelRegistry(model_store(load_settings()), mongo["models"]).save(weights, ModelCard("recvae", 0.5, data=data))
    told = matrix_is_like_the_last(LikenessConfig(accept=accept), matrix_of(*now), MongoResource(), GcsResource())
    assert told.passed is passed, told.description
    if severity is not None:
        assert told.severity is severity


def test_the_last_matrix_is_that_of_the_last_model_whatever_the_clock(
    mongo: MongoDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    registry = ModelRegistry(model_store(load_settings()), mongo["models"])
    now = matrix_of(100, 40, 0.2)
    sizes = {"repositories": 40, "stars": int(now.stars.nnz)}
    registry.save(weights, ModelCard("hybrid", 0.5, data={**sizes, "users": 1000}))
    with clock_behind(monkeypatch):
        registry.save(weights, ModelCard("recvae", 0.5, data={**sizes, "users": 100}))
    told = matrix_is_like_the_last(LikenessConfig(), now, MongoResource(), GcsResource())
    assert told.passed, told.description
    assert told.metadata["compared_with"].value == "recvae 1"


def test_blocking_checks() -> None:
    from gh_assets.checks import ALL_CHECKS

    blocking = {
        spec.name for check in ALL_CHECKS for spec in check.check_specs if spec.blocking
    }  # what stops a bad matrix
    assert blocking == {
        "every_star_has_its_user",
        "every_user_has_a_star",
        "matrix_has_exactly_the_collected_pairs",
        "matrix_is_like_the_last",
    }


def test_a_champion_that_is_left_behind_is_told(mongo: MongoDatabase, tmp_path: Path) -> None:
    def board(*rows: tuple[str, float]) -> pl.DataFrame:
        known = {"split": "users held out", "users": 10}
        others = {name: 0.0 for name, kind in LEADERBOARD.dtypes.items() if kind == pl.Float64()}
        made = [
            others | known | {"model": model, "ndcg_at_100": mean, "ndcg_at_100_low": mean - 0.01,
                              "ndcg_at_100_high": mean + 0.01}
            for model, mean in rows
        ]  # fmt: skip
        return pl.DataFrame(made, schema=LEADERBOARD.dtypes)

    from gh_assets.assets.leaderboard import USERS_HELD_OUT

    def check(frame: pl.DataFrame) -> dg.AssetCheckResult:
        frame = frame.with_columns(split=pl.lit(USERS_HELD_OUT))
        return champion_is_not_left_behind(frame, MongoResource(), GcsResource())

    assert check(board(("recvae", 0.4))).passed, "there is no champion yet"
    registry = ModelRegistry(model_store(load_settings()), mongo["models"])
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    registry.save(weights, ModelCard("recvae", 0.4))
    registry.promote(Promotion("recvae", 1, why="a test"))
    assert check(board(("recvae", 0.4), ("ease", 0.415))).passed, "the intervals overlap"
    told = check(board(("recvae", 0.4), ("ease", 0.43)))
    assert (told.passed, told.severity) == (False, WARN)
    assert "ease is better than the champion recvae" in str(told.description)
