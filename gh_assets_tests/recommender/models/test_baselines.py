"""The linear baselines against their formulas, written densely."""

from pathlib import Path

import numpy as np
import pytest

from gh_assets.errors import ConfigurationError
from gh_assets.recommender import EASE
from gh_assets.recommender.models.baselines import ease_weights
from gh_assets_tests.support.matrices import taste_matrix


@pytest.mark.parametrize("dropout", [0.0, 0.66])
def test_ease_is_the_minimum_of_its_objective(dropout: float) -> None:
    """Steck 2019, eq. 8, and with dropout Steck 2020, eq. 10: each column by least squares without its own item."""
    stars = taste_matrix(users=90)
    dense = stars.toarray().astype(np.float64)
    gram = dense.T @ dense
    ridge = 5.0 + dropout / (1 - dropout) * np.diag(gram)
    weights = ease_weights(stars, 5.0, dropout)
    for item in range(0, dense.shape[1], 7):
        others = np.delete(np.arange(dense.shape[1]), item)
        expected = np.linalg.solve(gram[np.ix_(others, others)] + np.diag(ridge[others]), gram[others, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=2e-4)
        assert weights[item, item] == 0


def test_lambda_and_dropout_are_chosen_together_and_kept(tmp_path: Path) -> None:
    stars = taste_matrix(users=200)
    validation = stars[:40], stars[40:80]
    model = EASE((1.0, 50.0), (0.0, 0.5)).fit(stars[80:], validation)
    assert model.chosen[0] in (1.0, 50.0)
    assert EASE.load(model.save(tmp_path)).chosen == model.chosen


@pytest.mark.parametrize("dropouts", [(), (1.0,), (-0.1,)])
def test_an_invalid_dropout_is_rejected(dropouts: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one dropout"):
        EASE((1.0,), dropouts)
