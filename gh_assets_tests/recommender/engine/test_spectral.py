"""Spectral item factors against a singular value decomposition."""

import numpy as np
import pytest
import scipy.sparse as sp

from gh_assets.recommender.engine import spectral
from gh_assets.recommender.engine.spectral import item_factors
from gh_assets_tests.support.matrices import taste_matrix


@pytest.mark.parametrize("at_once", [1000, 50])
def test_item_factors_are_the_leading_singular_vectors(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(spectral, "USERS_AT_ONCE", at_once)
    stars = taste_matrix(users=120)
    rows, columns = stars.toarray().sum(axis=1, keepdims=True), stars.toarray().sum(axis=0, keepdims=True)
    normalized = stars.toarray() / np.sqrt(rows) / np.sqrt(np.maximum(columns, 1))
    _, values, right = np.linalg.svd(normalized, full_matrices=False)
    factors = item_factors(stars, 5)
    expected = right[:5].T * np.sqrt(values[:5])
    np.testing.assert_allclose(factors @ factors.T, expected @ expected.T, atol=1e-3)
    assert item_factors(sp.csr_array(np.ones((1, 4), np.float32)), 3).shape == (4, 0)
