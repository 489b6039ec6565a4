"""Ranking metrics against their definitions."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender import evaluate
from gh_assets.recommender.evaluation.metrics import contains, evaluate_users, rank_items


class Fixed:
    """A model that returns given scores."""

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
    """NDCG@100, Recall@20 and Recall@50 of one user, as in Liang et al. 2018."""
    order = [int(item) for item in np.argsort(-scores, kind="stable") if item not in set(given_items.tolist())]
    relevant = set(hidden.tolist())
    dcg = sum(1 / np.log2(place + 2) for place, item in enumerate(order[:100]) if item in relevant)
    ideal = sum(1 / np.log2(place + 2) for place in range(min(len(relevant), 100)))
    recalls = [len(relevant & set(order[:k])) / min(k, len(relevant)) for k in (20, 50)]
    return dcg / ideal, recalls[0], recalls[1]


@given(st.integers(0, 10_000), st.integers(2, 150), st.integers(1, 12))
def test_metrics_follow_their_definitions(seed: int, items: int, users: int) -> None:
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, (users, items))  # 0: nothing, 1: given, 2: hidden
    kind[:, 0] = 2
    scores = rng.permutation(users * items).reshape(users, items).astype(np.float32)
    fold_in = sp.csr_array((kind == 1).astype(np.float32))
    held_out = sp.csr_array((kind == 2).astype(np.float32))
    result = evaluate_users(Fixed(scores), fold_in, held_out, batch_size=5)
    for user in range(users):
        expected = by_definition(scores[user], np.flatnonzero(kind[user] == 1), np.flatnonzero(kind[user] == 2))
        assert [result[name][user] for name in ("ndcg@100", "recall@20", "recall@50")] == pytest.approx(expected)


def test_a_perfect_ranking_scores_one_and_its_reverse_zero() -> None:
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


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 12))
def test_the_best_are_ordered_by_score_and_then_by_item(seed: int, users: int, items: int, kinds: int, n: int) -> None:
    """Also if the list ends among equal scores, is longer than the remaining items, or none remain."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, kinds, (users, items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    seen = rng.random(scores.shape) < 0.3
    ranked, values = rank_items(scores.copy(), sp.csr_array(seen.astype(np.float32)), n)
    assert ranked.shape == values.shape == (users, n)
    for user in range(users):
        left = [item for item in range(items) if not seen[user, item] and np.isfinite(scores[user, item])]
        best = [item for _, item in sorted((-scores[user, item], item) for item in left)][:n]
        none = n - len(best)
        assert ranked[user].tolist() == best + [-1] * none
        assert values[user].tolist() == [scores[user, item] for item in best] + [-np.inf] * none


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 5), st.sampled_from([0.0, 0.2, 0.7]))
def test_a_row_contains_its_own_items_only(seed: int, users: int, items: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.random((users, items)) < share
    items_of_row = rng.integers(-1, items, (users, 6))
    result = contains(sp.csr_array(cells.astype(np.float32)), items_of_row)
    expected = [
        [item >= 0 and bool(cells[user, item]) for item in row] for user, row in enumerate(items_of_row.tolist())
    ]
    assert result.dtype == bool
    assert result.tolist() == expected


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
def test_matrices_of_different_shapes_are_rejected(
    fold_in: tuple[int, int], held_out: tuple[int, int], message: str
) -> None:
    given_items, hidden = (sp.csr_array(np.ones(shape, np.float32)) for shape in (fold_in, held_out))
    with pytest.raises(InvalidInteractionsError, match=message):
        evaluate(Fixed(np.ones((3, 5))), given_items, hidden)
