"""The filters against their definitions, and what the graph filter is for: users with few stars."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from gh_assets.errors import ConfigurationError
from gh_assets.recommender import GFCF, SVDAE, GraphFilter, Recommender, evaluate, strong_generalization_split
from gh_assets_tests.support.matrices import taste_matrix


def dense_matrices(matrix: sp.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a matrix, the roots of its items' numbers of stars, and the matrix divided by roots of users and items."""
    dense = matrix.toarray().astype(np.float64)
    of_items = np.sqrt(np.maximum(dense.sum(axis=0), 1))
    return dense, of_items, dense / np.sqrt(np.maximum(dense.sum(axis=1), 1))[:, None] / of_items


def assert_contributions_add_up(model: Recommender, matrix: sp.csr_array) -> None:
    added = model.contributions(matrix, np.tile(np.arange(5), (matrix.shape[0], 1)))
    assert added is not None
    np.testing.assert_allclose(
        np.add.reduceat(added, matrix.indptr[:-1]), model.predict(matrix)[:, :5], rtol=1e-3, atol=1e-4
    )


def test_scores_are_those_of_the_wiener_filter_on_the_normalized_graph() -> None:
    matrix = taste_matrix(users=200)
    model = GraphFilter(factors=40, noises=[2.0]).fit(matrix)
    dense, of_items, normalized = dense_matrices(matrix)
    _, values, vectors = np.linalg.svd(normalized, full_matrices=False)
    values, vectors = values[:40], vectors[:40]
    gains = values**2 / (values**2 + 2.0 / dense.sum(axis=1, keepdims=True))
    expected = ((dense / of_items) @ vectors.T * gains) @ vectors * of_items
    np.testing.assert_allclose(model.predict(matrix), expected, atol=0.02 * np.abs(expected).max())
    assert_contributions_add_up(model, matrix)


def test_scores_of_svd_ae_are_the_matrix_projected_on_its_largest_singular_vectors() -> None:
    matrix = taste_matrix(users=200)
    model = SVDAE([40]).fit(matrix)
    dense, of_items, normalized = dense_matrices(matrix)
    left, values, right = np.linalg.svd(normalized, full_matrices=False)
    expected = dense / of_items @ right[:40].T / values[:40] @ (left[:, :40].T @ dense)
    np.testing.assert_allclose(model.predict(matrix), expected, atol=0.02 * np.abs(expected).max())
    assert_contributions_add_up(model, matrix)


def test_scores_of_gf_cf_are_those_of_the_linear_and_the_ideal_filter() -> None:
    matrix = taste_matrix(users=200)
    model = GFCF([8], [0.3], [59]).fit(matrix)
    dense, of_items, normalized = dense_matrices(matrix)
    _, _, right = np.linalg.svd(normalized, full_matrices=False)
    linear = normalized.T @ normalized
    np.fill_diagonal(linear, 0)  # an item that the user has is not recommended
    expected = dense @ (linear + 0.3 * (right[:8].T / of_items[:, None]) @ (right[:8] * of_items))
    np.testing.assert_allclose(model.predict(matrix), expected, atol=0.02 * np.abs(expected).max())
    assert_contributions_add_up(model, matrix)


@pytest.mark.parametrize("model", [GFCF([4, 16], [0.3, 30.0], [1, 50]), SVDAE([1, 16, 40])])
def test_what_the_validation_users_prefer_is_chosen_and_kept(model: Recommender, tmp_path: Path) -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=60, test_users=60, seed=3)
    first = model.to_config()
    axes = [getattr(model, name) for name in first]
    model.fit(split.train, split.validation)
    scores = [
        evaluate(type(model)(*([value] for value in values)).fit(split.train), *split.validation)["ndcg@100"]
        for values in product(*axes)
    ]
    chosen = evaluate(model, *split.validation)["ndcg@100"]
    assert chosen > min(scores)
    assert type(model).load(model.save(tmp_path)).to_config() == model.to_config()


def test_the_noise_is_chosen_on_the_validation_users() -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=60, test_users=60, seed=3)
    model = GraphFilter(16, [1.0, 1e9]).fit(split.train, split.validation)
    assert model.noise == 1.0, "the other filter keeps the lowest frequency alone"
    assert GraphFilter(16, [1.0, 5.0, 9.0]).fit(split.train).noise == 5.0, "nothing to choose on"


def test_factors_that_do_not_fit_the_items_are_rejected() -> None:
    model = GraphFilter(8).fit(taste_matrix(users=80))
    with pytest.raises(ValueError, match="do not fit 60 items"):
        model.restore({**model.weights(), "roots": model.roots[:-1]})
    autoencoder = SVDAE([8]).fit(taste_matrix(users=80))
    with pytest.raises(ValueError, match="do not fit 60 items"):
        autoencoder.restore({**autoencoder.weights(), "inputs": autoencoder.inputs[:-1]})


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (GraphFilter, {"factors": 0}),
        (GraphFilter, {"noises": []}),
        (GraphFilter, {"noises": [-1.0]}),
        (SVDAE, {"factors": []}),
        (SVDAE, {"factors": [0]}),
        (GFCF, {"factors": [0]}),
        (GFCF, {"alphas": [-1.0]}),
        (GFCF, {"neighbours": []}),
    ],
)
def test_wrong_parameters_are_rejected(model: type[Recommender], arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="at least one factor"):
        model(**arguments)
