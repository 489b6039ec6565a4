"""Checks of the collected data: what passes, what warns, and what fails."""

import datetime as dt
from typing import Any

import dagster as dg
import polars as pl
import pytest

from gh_assets.checks import collection
from gh_assets.collector.state import CollectionState, RepositoryState
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import REPOS
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.checks.conftest import problem_of, result_of

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def repos_of(*outcomes: str) -> pl.DataFrame:
    rows = [
        {"repo_id": n, "full_name": f"o/{n}", "partition": f"o/{n}", "topics": [], "lists": ["l"], "outcome": outcome}
        for n, outcome in enumerate(outcomes)
    ]
    return pl.DataFrame(rows, schema=REPOS.dtypes)


def test_repositories_that_are_gone_warn_and_fail_if_none_is_left() -> None:
    def problem(*outcomes: str) -> object:
        return problem_of(result_of(collection.listed_repositories_are_there, repos_of(*outcomes)))

    assert problem(*["ok"] * 17, "moved", "gone", "blocked") is None
    assert problem(*["ok"] * 16, "moved", "gone", "gone", "blocked") is WARN
    assert problem("gone", "unknown") is ERROR


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
    ("states", "problem", "compared"),
    [
        ([state(n, 100, 100) for n in range(20)], None, 20),
        ([state(0, 95, 100), state(1, 980, 1000), state(2, 0, 5)], None, 3),
        ([state(n, 100 if n else 94, 100) for n in range(20)], None, 20),
        ([state(n, 100 if n > 1 else 94, 100) for n in range(20)], WARN, 20),
        ([state(n, 100 if n > 10 else 10, 100) for n in range(20)], ERROR, 20),
        ([state(0, 10, 100, source="starred"), state(1, 10, 100, complete=False)], None, 0),
        ([state(n, 10, 100, complete=False, proven=False) for n in range(20)], ERROR, 20),
        ([state(0, 1000, 90_000), state(1, 10, 100, outcome=Outcome.RESTRICTED)], None, 0),
        ([], None, 0),
    ],
)
def test_stars_match_githubs_count_within_a_tolerance(
    database: MongoDatabase, resources: dict[str, Any], states: list[RepositoryState], problem: object, compared: int
) -> None:
    CollectionState(database).save(states)
    result = result_of(collection.stars_match_githubs_count, resources["mongo"])
    assert (problem_of(result), result.metadata["compared"].value) == (problem, compared)


def test_repeated_stars_and_users_without_stars_fail() -> None:
    stars = pl.DataFrame({"repo_id": [1, 1, 2], "user_id": [7, 8, 7]})
    assert result_of(collection.no_star_twice, stars).passed
    assert not result_of(collection.no_star_twice, pl.concat([stars, stars[:1]])).passed
    users = pl.DataFrame({"user_id": [7, 8], "login": ["a", "b"], "stars": [2, 1]})
    assert result_of(collection.every_star_has_its_user, users, stars.select("user_id")).passed
    assert not result_of(collection.every_star_has_its_user, users[:1], stars.select("user_id")).passed
    assert not result_of(collection.every_star_has_its_user, users, stars.select("user_id")[:1]).passed
