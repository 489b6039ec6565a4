"""The graph filter against its definition, and what it is for: users with few stars."""

import numpy as np
import pytest

from gh_assets.errors import ConfigurationError
from gh_assets.recommender import GraphFilter, strong_generalization_split
from gh_assets_tests.support.matrices import taste_matrix


def test_scores_are_those_of_the_wiener_filter_on_the_normalized_graph() -> None:
    matrix = taste_matrix(users=200)
    model = GraphFilter(factors=40, noises=[2.0]).fit(matrix)
    dense = matrix.toarray().astype(np.float64)
    of_items = np.sqrt(np.maximum(dense.sum(axis=0), 1))
    normalized = dense / np.sqrt(np.maximum(dense.sum(axis=1), 1))[:, None] / of_items
    _, values, vectors = np.linalg.svd(normalized, full_matrices=False)
    values, vectors = values[:40], vectors[:40]
    gains = values**2 / (values**2 + 2.0 / dense.sum(axis=1, keepdims=True))
    expected = ((dense / of_items) @ vectors.T * gains) @ vectors * of_items
    np.testing.assert_allclose(model.predict(matrix), expected, atol=0.02 * np.abs(expected).max())
    items = np.tile(np.arange(5), (len(dense), 1))
    added = model.contributions(matrix, items)
    sums = np.add.reduceat(added, matrix.indptr[:-1])
    np.testing.assert_allclose(sums, model.predict(matrix)[:, :5], rtol=1e-3, atol=1e-4)


def test_the_noise_is_chosen_on_the_validation_users() -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=60, test_users=60, seed=3)
    model = GraphFilter(16, [1.0, 1e9]).fit(split.train, split.validation)
    assert model.noise == 1.0, "the other filter keeps the lowest frequency alone"
    assert GraphFilter(16, [1.0, 5.0, 9.0]).fit(split.train).noise == 5.0, "nothing to choose on"


def test_factors_that_do_not_fit_the_items_are_rejected() -> None:
    model = GraphFilter(8).fit(taste_matrix(users=80))
    with pytest.raises(ValueError, match="do not fit 60 items"):
        model.restore({**model.weights(), "roots": model.roots[:-1]})


@pytest.mark.parametrize("arguments", [{"factors": 0}, {"noises": []}, {"noises": [-1.0]}])
def test_wrong_parameters_are_rejected(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="at least one factor"):
        GraphFilter(**arguments)  # type: ignore[arg-type]
