"""Checks of models and recommendations: what passes and what warns."""

from typing import Any

import dagster as dg
import polars as pl
import pytest

from gh_assets.checks.models import champion_beats_baselines, nothing_known_is_recommended
from gh_assets.registry import ModelRegistry, Promotion
from gh_assets.resources import GcsResource, build_resources
from gh_assets.schemas import RECOMMENDATIONS
from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings
from gh_assets_tests.checks.conftest import problem_of, result_of
from gh_assets_tests.conftest import Save
from gh_assets_tests.support.leaderboards import MEAN, leaderboard_of


@pytest.mark.usefixtures("fresh_home")
def test_recommendations_of_starred_or_repeated_repositories_fail() -> None:
    gcs: GcsResource = build_resources(load_settings())["gcs"]
    stars = pl.DataFrame({"repo_id": [1, 1, 2], "user_id": [7, 8, 7]})

    def passes(user_ids: list[int], repo_ids: list[int]) -> bool:
        others = {"login": "x", "rank": 1, "full_name": "a/b", "score": 1.0, "because": [], "because_share": []}
        rows = [
            others | {"user_id": user, "repo_id": repository, "made_from": None}
            for user, repository in zip(user_ids, repo_ids, strict=True)
        ]
        asset_store(load_settings()).write_table("recommendations", pl.DataFrame(rows, schema=RECOMMENDATIONS.dtypes))
        return result_of(nothing_known_is_recommended, stars, gcs).passed

    assert passes([8, 9], [2, 1])
    assert not passes([8, 9], [1, 1])
    assert not passes([8, 9, 8, 9], [2, 1, 2, 1])


def test_a_clearly_better_model_than_the_champion_warns(
    registry: ModelRegistry, save: Save, resources: dict[str, Any]
) -> None:
    def check(board: pl.DataFrame) -> dg.AssetCheckResult:
        return result_of(champion_beats_baselines, board, resources["registry"])

    assert check(leaderboard_of(("recvae", 0.4))).passed, "there is no champion yet"
    save("recvae", 0.4)
    registry.promote(Promotion("recvae", 1, why="a test"))
    assert check(leaderboard_of(("recvae", 0.4), ("ease", 0.415))).passed, "the intervals overlap"
    result = check(leaderboard_of(("recvae", 0.4), ("ease", 0.43)))
    assert problem_of(result) is dg.AssetCheckSeverity.WARN
    assert "ease is better than the champion recvae" in str(result.description)


def test_the_champion_is_compared_with_as_many_known_stars_as_people_have(
    registry: ModelRegistry, save: Save, resources: dict[str, Any]
) -> None:
    def check(board: pl.DataFrame) -> dg.AssetCheckResult:
        return result_of(champion_beats_baselines, board, resources["registry"])

    save("recvae", 0.4)
    registry.promote(Promotion("recvae", 1, why="a test"))
    champion = leaderboard_of(("recvae", 0.2), ndcg_at_100=0.2, ndcg_at_100_low=0.19, ndcg_at_100_high=0.21)
    best_of_many_stars = leaderboard_of(("ease", 0.2), ndcg_at_100=0.3, ndcg_at_100_low=0.29, ndcg_at_100_high=0.31)
    board = pl.concat([champion, best_of_many_stars])
    assert check(board).passed, "full histories alone do not count"
    former = board.with_columns(pl.lit(None, pl.Float64).alias(f"{MEAN}{end}") for end in ("", "_low", "_high"))
    result = check(former)
    assert not result.passed, "a leaderboard of an earlier version has nothing else"
    assert result.metadata["ndcg_at_100"].value == 0.2
