"""The linear baselines and the neighbours against their formulas, written densely."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gh_assets.errors import ConfigurationError, GhAssetsError, InvalidInteractionsError
from gh_assets.recommender import (
    ALS,
    EASE,
    GFCF,
    SVDAE,
    GraphFilter,
    ItemKNN,
    Popularity,
    Recommender,
    RP3Beta,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.evaluation.evaluation import LENGTHS
from gh_assets.recommender.evaluation.metrics import Predictor
from gh_assets.recommender.models import baselines
from gh_assets.recommender.models.baselines import climb, ease_weights, gram_matrix, nearest_items
from gh_assets_tests.support.matrices import taste_matrix


@pytest.mark.parametrize(("dropout", "scaling"), [(0.0, 0.0), (0.66, 0.0), (0.0, 0.4), (0.5, 0.2)])
def test_ease_is_the_minimum_of_its_objective(dropout: float, scaling: float) -> None:
    """Steck 2019, eq. 8, and with dropout Steck 2020, eq. 10: each column by least squares without its own item."""
    stars = taste_matrix(users=90)
    counts = np.maximum(stars.toarray().sum(axis=0), 1)
    factors = (counts / counts.mean()) ** -scaling
    dense = stars.toarray().astype(np.float64) * factors
    gram = dense.T @ dense
    ridge = 5.0 + dropout / (1 - dropout) * np.diag(gram)
    weights = ease_weights(gram_matrix(stars), 5.0, dropout, scaling)
    for item in range(0, dense.shape[1], 7):
        others = np.delete(np.arange(dense.shape[1]), item)
        expected = np.linalg.solve(gram[np.ix_(others, others)] + np.diag(ridge[others]), gram[others, item])
        expected *= factors[others] / factors[item]
        np.testing.assert_allclose(weights[others, item], expected, atol=2e-4)
        assert weights[item, item] == 0


def test_scores_of_rp3beta_are_those_of_walks_of_three_steps() -> None:
    """Paudel et al. 2016, with the transition probabilities to the power α and the items' counts to the power β."""
    matrix = taste_matrix(users=90)
    model = RP3Beta([0.6], [0.5], [59]).fit(matrix)
    dense = matrix.toarray().astype(np.float64)
    of_users, of_items = (np.maximum(dense.sum(axis=axis), 1) for axis in (1, 0))
    walks = (dense.T / of_items[:, None]) ** 0.5 @ (dense / of_users[:, None]) ** 0.5
    np.fill_diagonal(walks, 0)  # an item that the user has is not recommended
    np.testing.assert_allclose(model.predict(matrix), dense @ walks / of_items**0.6, rtol=1e-4)
    few = RP3Beta([0.6], [0.5], [3]).fit(matrix)
    kept = np.where(np.argsort(np.argsort(-walks, axis=0, kind="stable"), axis=0) < 3, walks, 0)
    np.testing.assert_allclose(few.predict(matrix), dense @ kept / of_items**0.6, rtol=1e-4, atol=1e-7)


def test_exponents_of_rp3beta_are_chosen_on_the_validation_users(tmp_path: Path) -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=80, test_users=40, seed=1)
    model = RP3Beta((0.0, 0.4, 5.0), (1.0,), (1, 50)).fit(split.train, split.validation)
    beta, alpha, count = model.chosen
    assert beta < 5.0, "hardly anything but rare items"
    assert [alpha, count] == [1.0, 50], "one neighbour is not enough"
    assert RP3Beta.load(model.save(tmp_path)).chosen == model.chosen


@pytest.mark.parametrize("arguments", [{"betas": []}, {"alphas": [-1.0]}, {"neighbours": [0]}])
def test_invalid_exponents_of_rp3beta_are_rejected(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="at least one neighbour"):
        RP3Beta(**arguments)


def test_values_that_no_neighbour_betters_are_chosen_and_kept(tmp_path: Path) -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=80, test_users=40, seed=1)
    model = EASE((1.0, 20.0, 50.0, 1e4, 1e6), (0.0, 0.5, 0.9)).fit(split.train, split.validation)

    def score(values: tuple[float, ...]) -> float:
        return evaluate(EASE(*((value,) for value in values)).fit(split.train), *split.validation)["ndcg@100"]

    best, (weight, dropout, scaling) = score(model.chosen), model.chosen
    for place in (-1, 1):
        lambdas = dict(zip(model.lambdas, [*model.lambdas[place:], *model.lambdas[:place]], strict=True))
        assert score((lambdas[weight], dropout, scaling)) <= best
    assert EASE.load(model.save(tmp_path)).chosen == model.chosen


def test_only_as_many_combinations_are_fitted_as_allowed() -> None:
    split = strong_generalization_split(taste_matrix(users=200), validation_users=40, test_users=40, seed=1)
    fitted: list[tuple[float, ...]] = []
    model = Popularity().fit(split.train)
    axes = [tuple(map(float, range(9)))] * 2

    def fit(values: tuple[float, ...]) -> None:
        fitted.append(values)
        model.counts = np.random.default_rng(len(fitted)).random(model.items).astype(np.float32)

    chosen = climb(model, fit, axes, (4.0, 4.0), split.validation, 6)
    assert len(set(fitted)) <= 6
    assert fitted[-1] == chosen, "the model is left fitted with what was chosen"


@pytest.mark.parametrize("dropouts", [(), (1.0,), (-0.1,)])
def test_an_invalid_dropout_is_rejected(dropouts: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one dropout"):
        EASE((1.0,), dropouts)


@pytest.fixture
def few_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose on a quarter of the validation and of the training users, and with half of the items."""
    monkeypatch.setattr(baselines, "CHOOSING_USERS", 50)
    monkeypatch.setattr(baselines, "CHOOSING_TRAINING_USERS", 250)
    monkeypatch.setattr(baselines, "CHOOSING_ITEMS", 30)


def test_parameters_chosen_with_samples_are_those_chosen_with_all(request: pytest.FixtureRequest) -> None:
    split = strong_generalization_split(taste_matrix(users=1400), validation_users=200, test_users=200, seed=1)
    models: dict[str, Callable[[], ALS | ItemKNN | EASE]] = {
        "ials": lambda: ALS(8, (0.01, 1.0), (0.3, 0.003)),
        "itemknn": lambda: ItemKNN((1, 50), (10.0,)),
        "ease": lambda: EASE((1e-2, 100.0, 1e6)),
    }
    whole = {name: make().fit(split.train, split.validation) for name, make in models.items()}
    request.getfixturevalue("few_choose")
    for name, make in models.items():
        sampled = make().fit(split.train, split.validation)
        assert sampled.chosen == whole[name].chosen
        scores = [evaluate(model, *split.test)["ndcg@100"] for model in (sampled, whole[name])]
        assert scores[0] == pytest.approx(scores[1], rel=0.01), "all users and items are learned from"


@pytest.mark.usefixtures("few_choose")
@pytest.mark.parametrize("make", [ALS, ItemKNN, EASE, RP3Beta, GFCF, SVDAE, GraphFilter])
def test_no_more_validation_users_are_asked_than_needed(
    make: Callable[[], Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = strong_generalization_split(taste_matrix(users=700), validation_users=200, test_users=200, seed=1)
    asked: list[int] = []

    def counted(model: Predictor, fold_in: sp.csr_array, held_out: sp.csr_array) -> dict[str, float]:
        asked.append(fold_in.shape[0])
        return evaluate(model, fold_in, held_out)

    monkeypatch.setattr(baselines, "evaluate", counted)
    make().fit(split.train, split.validation)
    lengths = len(LENGTHS) if make is GraphFilter else 1
    assert set(asked) == {50 * lengths}


def test_ease_chooses_with_all_items_if_the_sampled_ones_predict_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    split = strong_generalization_split(taste_matrix(users=200), validation_users=40, test_users=40, seed=1)
    others = split.validation_held_out[:, [0]].toarray()[:, 0] == 0
    validation = split.validation_fold_in[others], split.validation_held_out[others]
    whole = EASE((1e-3, 1e-2, 1e4)).fit(split.train, validation)
    monkeypatch.setattr(baselines, "CHOOSING_ITEMS", 1)
    assert EASE((1e-3, 1e-2, 1e4)).fit(split.train, validation).chosen == whole.chosen == (1e4, 0.0, 0.0)


@pytest.mark.usefixtures("few_choose")
def test_ease_takes_a_larger_lambda_if_the_one_chosen_with_a_sample_is_too_small_for_all_items() -> None:
    stars = taste_matrix(users=400, items=30)
    twice = sp.csr_array(stars[:, np.arange(60) // 2])  # the sample has one of each pair of equal items
    split = strong_generalization_split(twice, validation_users=40, test_users=40)
    model = EASE((1e-6, 1e4)).fit(split.train, split.validation)
    assert model.chosen[0] == 1e4
    with pytest.raises(GhAssetsError, match="cannot invert"):
        EASE((1e-6,)).fit(split.train, split.validation)


@pytest.mark.parametrize("make", [ALS, ItemKNN, EASE, GraphFilter])
def test_validation_users_that_do_not_fit_are_named(make: Callable[[], Recommender]) -> None:
    stars = taste_matrix(users=60)
    for held_out, message in ((stars[:40], "differ in their users"), (stars[:50] * 0, "No user has a held-out item")):
        held_out.eliminate_zeros()
        with pytest.raises(InvalidInteractionsError, match=message):
            make().fit(stars, (stars[:50], held_out))


def test_neighbours_are_those_of_the_whole_similarity_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    stars = taste_matrix(users=90)
    dense = stars.toarray().astype(np.float64)
    of_users, of_items = (np.maximum(dense.sum(axis=axis), 1) for axis in (1, 0))
    common = dense.T @ (dense / of_users[:, None])
    similarity = common / (np.outer(of_items**0.25, of_items**0.75) + 2.0)
    np.fill_diagonal(similarity, 0)
    monkeypatch.setattr(baselines, "BLOCK", 7)
    nearest, likeness = nearest_items(stars, 5, users=1.0, own=0.25, recommended=0.75, shrinkage=2.0)
    np.testing.assert_allclose(likeness, -np.sort(-similarity, axis=0)[:5], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(similarity, nearest, axis=0), likeness, rtol=1e-5)
    np.testing.assert_array_equal(gram_matrix(stars), dense.T @ dense)
