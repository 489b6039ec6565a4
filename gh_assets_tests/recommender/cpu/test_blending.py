"""Blending of scores against its definition."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gh_assets.recommender.cpu.blending import add_standardized


@settings(max_examples=40, deadline=None)
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
