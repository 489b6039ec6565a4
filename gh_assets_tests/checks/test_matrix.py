"""Checks of the matrix: what passes, what warns, and what stops the training."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp

from gh_assets.checks import ALL_CHECKS
from gh_assets.checks.matrix import (
    LikenessConfig,
    every_user_has_a_star,
    matrix_has_exactly_the_collected_pairs,
    matrix_is_like_the_last,
)
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets_tests.checks.conftest import problem_of, result_of
from gh_assets_tests.conftest import Save, clock_behind
from gh_assets_tests.support.matrices import with_ids

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def matrix_of(users: int, repositories: int, density: float) -> UserItemMatrix:
    stars = sp.random(users, repositories, density, format="csr", dtype=np.float32, rng=np.random.default_rng(1))
    stars.data[:] = 1
    return with_ids(sp.csr_array(stars))


@pytest.mark.parametrize(
    ("now", "accept", "problem"),
    [
        ((100, 40, 0.2), False, None),
        ((90, 40, 0.2), False, None),
        ((100, 40, 0.3), False, WARN),
        ((40, 40, 0.2), False, ERROR),
        ((100, 19, 0.4), False, ERROR),
        ((40, 40, 0.2), True, None),
        ((1000, 400, 0.2), False, WARN),
    ],
)
def test_a_matrix_unlike_the_last_trains_nothing(
    save: Save, resources: dict[str, Any], now: tuple[int, int, float], accept: bool, problem: object
) -> None:
    then = matrix_of(100, 40, 0.2)
    first = result_of(matrix_is_like_the_last, LikenessConfig(), then, resources["registry"])
    assert first.passed, "there is nothing to compare the first with"
    data = {"users": 100, "repositories": 40, "stars": int(then.stars.nnz)}
    save("recvae", 0.5, data=data)
    result = result_of(matrix_is_like_the_last, LikenessConfig(accept=accept), matrix_of(*now), resources["registry"])
    assert problem_of(result) is problem, result.description


def test_the_last_matrix_is_that_of_the_last_model_whatever_the_clock(
    save: Save, resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = matrix_of(100, 40, 0.2)
    sizes = {"repositories": 40, "stars": int(now.stars.nnz)}
    save("hybrid", 0.5, data={**sizes, "users": 1000})
    with clock_behind(monkeypatch):
        save("recvae", 0.5, data={**sizes, "users": 100})
    result = result_of(matrix_is_like_the_last, LikenessConfig(), now, resources["registry"])
    assert result.passed, result.description
    assert result.metadata["compared_with"].value == "recvae 1"


def test_rows_without_stars_and_other_values_than_one_fail() -> None:
    matrix = matrix_of(20, 10, 0.5)
    assert result_of(every_user_has_a_star, matrix).passed == bool((np.diff(matrix.stars.indptr) > 0).all())
    full = with_ids(sp.csr_array(np.ones((2, 2), dtype=np.float32)))
    assert result_of(every_user_has_a_star, full).passed
    full.stars.data[0] = 2
    assert not result_of(every_user_has_a_star, full).passed
    empty = matrix_of(5, 5, 0.0)
    assert not result_of(every_user_has_a_star, empty).passed


def test_the_matrix_has_exactly_the_collected_pairs() -> None:
    matrix = matrix_of(20, 10, 0.5)
    coordinates = matrix.stars.tocoo()
    stars = pl.DataFrame({"user_id": matrix.user_ids[coordinates.row], "repo_id": matrix.repo_ids[coordinates.col]})
    assert result_of(matrix_has_exactly_the_collected_pairs, matrix, stars).passed
    invented = result_of(matrix_has_exactly_the_collected_pairs, matrix, stars[1:])
    assert not invented.passed, "a pair that was not collected"
    more = pl.concat([stars, pl.DataFrame({"user_id": [99], "repo_id": [0]})])
    result = result_of(matrix_has_exactly_the_collected_pairs, matrix, more)
    assert not result.passed, "a collected pair is missing although there is no minimum"
    assert result.metadata["pairs_left_out_by_minimum"].value == 1


def test_checks_that_stop_a_bad_matrix_are_blocking() -> None:
    blocking = {spec.name for check in ALL_CHECKS for spec in check.check_specs if spec.blocking}
    assert blocking == {
        "every_star_has_its_user",
        "every_user_has_a_star",
        "matrix_has_exactly_the_collected_pairs",
        "matrix_is_like_the_last",
    }
