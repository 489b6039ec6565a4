"""Blending of scores against its definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gh_assets.recommender.cpu.blending import blend


@settings(max_examples=40, deadline=None)
@given(
    both=arrays.arrays(np.float32, (2, 3, 11), elements=st.floats(-1000, 1000, width=32)),
    weight=st.floats(0, 1, width=32),
    offsets=arrays.arrays(np.float32, 11, elements=st.floats(-3, 3, width=32)),
)
def test_blending_is_a_sum_of_standardized_scores(both: np.ndarray, weight: float, offsets: np.ndarray) -> None:
    first, second = both.astype(np.float64)

    def standardized(scores: np.ndarray) -> np.ndarray:
        spreads: np.ndarray = np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
        return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / spreads)

    result = both[0].copy()
    spreads = blend(result, both[1].copy(), np.float32(weight), offsets)
    for place, scores in enumerate((first, second)):
        np.testing.assert_allclose(spreads[place], np.maximum(scores.std(axis=1), 1e-12), rtol=1e-3, atol=1e-3)
    if min(first.std(axis=1).min(), second.std(axis=1).min()) > 1e-2:
        expected = weight * standardized(first) + (1 - weight) * standardized(second) - offsets
        np.testing.assert_allclose(result, expected, atol=2e-2)
