"""Metrics against their definitions, splits without leaks, the matrix."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.errors import InvalidInteractionsError, StoredDataError
from gh_assets.recommender import UserItemMatrix, build_user_item_matrix, evaluate, strong_generalization_split
from gh_assets.recommender.evaluation.metrics import contains, evaluate_users, rank_items
from gh_assets.schemas import REPOS, STARGAZERS, USERS
from gh_assets_tests.support.matrices import taste_matrix


class Fixed:
    """Gives the scores that it was made with."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores.astype(np.float32)
        self.at = 0
        self.batches: list[int] = []

    def predict(self, fold_in: sp.csr_array) -> np.ndarray:
        self.batches.append(fold_in.shape[0])
        part = self.scores[self.at : self.at + fold_in.shape[0]].copy()
        self.at += fold_in.shape[0]
        return part


def by_definition(scores: np.ndarray, given_items: np.ndarray, hidden: np.ndarray) -> tuple[float, float, float]:
    """NDCG@100, Recall@20 and Recall@50 of one user, word for word from Liang et al. 2018."""
    order = [int(item) for item in np.argsort(-scores, kind="stable") if item not in set(given_items.tolist())]
    relevant = set(hidden.tolist())
    dcg = sum(1 / np.log2(place + 2) for place, item in enumerate(order[:100]) if item in relevant)
    ideal = sum(1 / np.log2(place + 2) for place in range(min(len(relevant), 100)))
    recalls = [len(relevant & set(order[:k])) / min(k, len(relevant)) for k in (20, 50)]
    return dcg / ideal, recalls[0], recalls[1]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 150), st.integers(1, 12))
def test_metrics_are_their_definitions(seed: int, items: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, (users, items))  # 0: nothing, 1: given, 2: hidden
    kind[:, 0] = 2
    scores = rng.permutation(users * items).reshape(users, items).astype(np.float32)
    fold_in = sp.csr_array((kind == 1).astype(np.float32))
    held_out = sp.csr_array((kind == 2).astype(np.float32))
    found = evaluate_users(Fixed(scores), fold_in, held_out, batch_size=5)
    for user in range(users):
        expected = by_definition(scores[user], np.flatnonzero(kind[user] == 1), np.flatnonzero(kind[user] == 2))
        assert [found[name][user] for name in ("ndcg@100", "recall@20", "recall@50")] == pytest.approx(expected)


def test_a_perfect_ranking_scores_one_and_the_reverse_near_nothing() -> None:
    fold_in = sp.csr_array(np.eye(1, 300, 299, dtype=np.float32))
    hidden = np.zeros((1, 300), np.float32)
    hidden[0, :3] = 1
    perfect = evaluate(Fixed(np.linspace(1, 0, 300).reshape(1, -1)), fold_in, sp.csr_array(hidden))
    assert perfect == {"ndcg@100": 1.0, "recall@20": 1.0, "recall@50": 1.0}
    reverse = evaluate(Fixed(np.linspace(0, 1, 300).reshape(1, -1)), fold_in, sp.csr_array(hidden))
    assert reverse == {"ndcg@100": 0.0, "recall@20": 0.0, "recall@50": 0.0}


def test_users_without_held_out_items_do_not_count() -> None:
    fold_in = sp.csr_array((2, 5), dtype=np.float32)
    hidden = sp.csr_array(np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]], np.float32))
    assert len(evaluate_users(Fixed(np.ones((1, 5))), fold_in, hidden)["ndcg@100"]) == 1
    with pytest.raises(InvalidInteractionsError, match="No user has a held-out item"):
        evaluate(Fixed(np.ones((2, 5))), fold_in, fold_in)


def test_equal_scores_are_ordered_by_item() -> None:
    items, _ = rank_items(np.zeros((1, 6), np.float32), sp.csr_array((1, 6), dtype=np.float32), 6)
    assert items.tolist() == [[0, 1, 2, 3, 4, 5]]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 12))
def test_the_best_are_ordered_by_score_and_then_by_item(seed: int, users: int, items: int, kinds: int, n: int) -> None:
    """Also where the list ends among equal scores, where it is longer than what is left, and where nothing is."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, kinds, (users, items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    seen = rng.random(scores.shape) < 0.3
    ranked, values = rank_items(scores.copy(), sp.csr_array(seen.astype(np.float32)), n)
    assert ranked.shape == values.shape == (users, n)
    for user in range(users):
        left = [item for item in range(items) if not seen[user, item] and np.isfinite(scores[user, item])]
        best = sorted(left, key=lambda item, user=user: (-scores[user, item], item))[:n]
        none = n - len(best)
        assert ranked[user].tolist() == best + [-1] * none
        assert values[user].tolist() == [scores[user, item] for item in best] + [-np.inf] * none


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.7]))
def test_a_row_contains_its_own_items_only(seed: int, users: int, items: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    there = rng.random((users, items)) < share
    asked = rng.integers(-1, items, (users, 6))
    found = contains(sp.csr_array(there.astype(np.float32)), asked)
    expected = [[item >= 0 and bool(there[user, item]) for item in row] for user, row in enumerate(asked.tolist())]
    assert found.dtype == bool
    assert found.tolist() == expected


@pytest.mark.parametrize(("size", "batches"), [(2, [2, 2, 1]), (4, [3, 2]), (5, [5]), (9, [5])])
def test_users_are_scored_in_batches_of_at_most_that_size(size: int, batches: list[int]) -> None:
    rng = np.random.default_rng(0)
    fold_in, held_out = sp.csr_array((5, 8), dtype=np.float32), sp.csr_array(np.eye(5, 8, dtype=np.float32))
    model, at_once = (Fixed(rng.permutation(40).reshape(5, 8)) for _ in range(2))
    at_once.scores = model.scores
    means = evaluate(model, fold_in, held_out, batch_size=size)
    assert model.batches == batches
    assert means == pytest.approx(evaluate(at_once, fold_in, held_out))
    assert at_once.batches == [5]


@pytest.mark.parametrize(
    ("fold_in", "held_out", "message"),
    [
        ((2, 4), (3, 4), "differ in their users"),
        ((2, 4), (2, 5), "held-out matrix"),
        ((0, 4), (0, 4), "fold-in matrix"),
    ],
)
def test_matrices_that_do_not_go_together_are_refused(
    fold_in: tuple[int, int], held_out: tuple[int, int], message: str
) -> None:
    given_items, hidden = (sp.csr_array(np.ones(shape, np.float32)) for shape in (fold_in, held_out))
    with pytest.raises(InvalidInteractionsError, match=message):
        evaluate(Fixed(np.ones((3, 5))), given_items, hidden)


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.2, 0.5]))
def test_a_split_hides_whole_users_and_loses_nothing(seed: int, share: float) -> None:
    matrix = taste_matrix(users=90)
    split = strong_generalization_split(matrix, validation_users=10, test_users=15, held_out_share=share, seed=seed)
    groups = [split.train_users, split.validation_users, split.test_users]
    assert sorted(np.concatenate(groups).tolist()) == list(range(90)), "each user is in one group"
    assert (split.train != matrix[split.train_users]).nnz == 0
    for users, given_items, hidden in (
        (split.validation_users, split.validation_fold_in, split.validation_held_out),
        (split.test_users, split.test_fold_in, split.test_held_out),
    ):
        assert ((given_items + hidden) != matrix[users]).nnz == 0
        assert given_items.multiply(hidden).nnz == 0, "no item is both given and to be predicted"
        assert (np.diff(given_items.indptr) >= 1).all()
        assert (np.diff(hidden.indptr) >= 1).all()


def test_the_same_seed_gives_the_same_split() -> None:
    matrix = taste_matrix(users=90)
    first, second = (strong_generalization_split(matrix, seed=4) for _ in range(2))
    assert np.array_equal(first.test_users, second.test_users)
    assert (first.test_held_out != second.test_held_out).nnz == 0


def test_too_few_users_are_one_error() -> None:
    with pytest.raises(
        InvalidInteractionsError, match="Training needs at least 2, and another user to train on: 1 user "
    ):
        strong_generalization_split(sp.csr_array(np.ones((1, 10), np.float32)))
    with pytest.raises(InvalidInteractionsError, match=r"^Only 0 of 90 users have at least 60 stars\. Training needs"):
        strong_generalization_split(taste_matrix(users=90), min_stars=60)


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
    found = set(zip(matrix.user_ids[rows].tolist(), matrix.repo_ids[columns].tolist(), strict=True))
    assert found == set(collected)
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
def test_minima_hold_for_what_is_left(collected: list[tuple[int, int]], a_user: int, a_repo: int) -> None:
    try:
        matrix = build_user_item_matrix(
            stars(collected), *names(collected), min_user_stars=a_user, min_repo_stars=a_repo
        )
    except InvalidInteractionsError:
        return  # nothing was left
    assert np.diff(matrix.stars.indptr).min() >= a_user
    assert np.bincount(matrix.stars.indices, minlength=matrix.stars.shape[1]).min() >= a_repo
    assert (matrix.min_user_stars, matrix.min_repo_stars) == (a_user, a_repo)


def test_a_matrix_file_that_is_none_is_one_error() -> None:
    with pytest.raises(StoredDataError, match="cannot be read"):
        UserItemMatrix.from_bytes(b"not an archive")
    import io
    import pickle

    buffer = io.BytesIO()
    np.savez(buffer, indptr=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(StoredDataError, match="cannot be read"):
        UserItemMatrix.from_bytes(buffer.getvalue())
    with pytest.raises(StoredDataError, match="cannot be read"):
        UserItemMatrix.from_bytes(pickle.dumps([1]))
