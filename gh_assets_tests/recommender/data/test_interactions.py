"""The user-item matrix: built from stars, stored, read."""

import io
import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.errors import InvalidInteractionsError, StoredDataError
from gh_assets.recommender import UserItemMatrix, build_user_item_matrix
from gh_assets.schemas import REPOS, STARGAZERS, USERS


def stars(pairs: list[tuple[int, int]]) -> pl.DataFrame:
    rows = [(repo, user, f"login-{user}", None, "test") for user, repo in pairs]
    return pl.DataFrame(rows, schema=STARGAZERS.dtypes, orient="row")


def names(pairs: list[tuple[int, int]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    users = sorted({user for user, _ in pairs})
    rows = [(user, f"login-{user}", 1) for user in users]
    repo_rows = [{"repo_id": repo, "full_name": f"r/{repo}"} for repo in sorted({repo for _, repo in pairs})]
    repos = pl.DataFrame(repo_rows, schema_overrides={"repo_id": pl.Int64}) if repo_rows else REPOS.empty()
    return pl.DataFrame(rows, schema=USERS.dtypes, orient="row"), repos.select("repo_id", "full_name")


pairs = st.lists(st.tuples(st.integers(1, 12), st.integers(100, 112)), min_size=1, max_size=80)


@given(pairs)
def test_the_matrix_has_exactly_the_pairs(collected: list[tuple[int, int]]) -> None:
    matrix = build_user_item_matrix(stars(collected), *names(collected))
    rows, columns = matrix.stars.nonzero()
    actual = set(zip(matrix.user_ids[rows].tolist(), matrix.repo_ids[columns].tolist(), strict=True))
    assert actual == set(collected)
    assert (matrix.stars.data == 1).all()
    assert (np.diff(matrix.stars.indptr) > 0).all()
    assert matrix.logins.tolist() == [f"login-{user}" for user in matrix.user_ids]
    assert matrix.full_names.tolist() == [f"r/{repo}" for repo in matrix.repo_ids]
    again = UserItemMatrix.from_bytes(matrix.to_bytes())
    assert again.to_bytes() == matrix.to_bytes()
    assert again.fingerprint == matrix.fingerprint
    shuffled = build_user_item_matrix(stars(collected[::-1]), *names(collected))
    assert shuffled.to_bytes() == matrix.to_bytes(), "the order of collection must not matter"


@given(pairs, st.integers(1, 4), st.integers(1, 4))
def test_minima_hold_for_the_remaining_users_and_repositories(
    collected: list[tuple[int, int]], a_user: int, a_repo: int
) -> None:
    try:
        matrix = build_user_item_matrix(
            stars(collected), *names(collected), min_user_stars=a_user, min_repo_stars=a_repo
        )
    except InvalidInteractionsError:
        return  # nothing was left
    assert np.diff(matrix.stars.indptr).min() >= a_user
    assert np.bincount(matrix.stars.indices, minlength=matrix.stars.shape[1]).min() >= a_repo
    assert (matrix.min_user_stars, matrix.min_repo_stars) == (a_user, a_repo)


def test_a_file_that_is_no_matrix_raises_one_error() -> None:
    with pytest.raises(StoredDataError, match="cannot be read"):
        UserItemMatrix.from_bytes(b"not an archive")
    buffer = io.BytesIO()
    np.savez(buffer, indptr=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(StoredDataError, match="cannot be read"):
        UserItemMatrix.from_bytes(buffer.getvalue())
    with pytest.raises(StoredDataError, match="cannot be read"):
        UserItemMatrix.from_bytes(pickle.dumps([1]))
