"""Counts of users in common against a dense product."""

import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.recommender.cpu.co_occurrence import add_common_users


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12), st.floats(0, 1))
def test_rows_are_those_of_the_weighted_product(seed: int, users: int, items: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    dense = (rng.random((users, items)) < share).astype(np.float32)
    weights = rng.random(users, np.float32)
    matrix = sp.csr_array(dense)
    columns = matrix.tocsc()
    first = int(rng.integers(0, items))
    total = np.ones((int(rng.integers(1, items - first + 1)), items), np.float32)
    sides = [(side.indptr.astype(np.int64), side.indices.astype(np.int32)) for side in (columns, matrix)]
    add_common_users(total, first, *sides[0], *sides[1], weights)
    expected = 1 + dense.T @ (dense * weights[:, None])
    np.testing.assert_allclose(total, expected[first : first + len(total)], rtol=1e-5)
