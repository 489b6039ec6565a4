"""Blending of scores against its definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gh_assets.recommender.cpu.blending import add_standardized, discounted_gains


@settings(max_examples=40)
@given(
    both=arrays.arrays(np.float32, (2, 3, 11), elements=st.floats(-1000, 1000, width=32)),
    weights=arrays.arrays(np.float32, 3, elements=st.floats(-1, 1, width=32)),
)
def test_standardized_scores_are_added_with_the_weight_of_each_user(both: np.ndarray, weights: np.ndarray) -> None:
    before, scores = both.astype(np.float64)
    result = both[0].copy()
    spreads = add_standardized(result, both[1], weights)
    expected = np.maximum(scores.std(axis=1), 1e-12)
    np.testing.assert_allclose(spreads, expected, rtol=1e-3, atol=1e-3)
    if expected.min() > 1e-2:
        standardized = (scores - scores.mean(axis=1, keepdims=True)) / expected[:, None]
        np.testing.assert_allclose(result, before + weights[:, None] * standardized, atol=2e-2)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 12), st.integers(1, 6), st.booleans())
def test_gains_of_blends_are_those_of_the_relevant_items_at_their_ranks(
    seed: int, parts: int, items: int, depth: int, ties: bool
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, (5, parts, items)).astype(np.float32) if ties else rng.random((5, parts, items), "f4")
    counts, relevant = rng.integers(0, items + 1, 5), rng.random((5, items)) < 0.4
    relevant &= np.arange(items) < counts[:, None]
    weights = np.concatenate([np.eye(parts), rng.random((6, parts))]).astype(np.float32)
    discount = 1 / np.log2(np.arange(2, depth + 2))
    expected = np.zeros((5, len(weights)))
    for user in range(5):
        for blend, row in enumerate(weights):
            blended = sum(weight * part for weight, part in zip(row, scores[user, :, : counts[user]], strict=True))
            order = np.argsort(-blended, kind="stable")[:depth]
            expected[user, blend] = discount[: len(order)][relevant[user, order]].sum()
    users, places = relevant.nonzero()
    offsets = np.searchsorted(users, np.arange(6))
    np.testing.assert_allclose(discounted_gains(scores, counts, places, offsets, weights, discount), expected)
