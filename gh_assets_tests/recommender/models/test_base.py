"""The contract of every recommender, on a matrix whose right answer is obvious."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from gh_assets.errors import GhAssetsError, InvalidInteractionsError, StoredDataError
from gh_assets.recommender import (
    ALS,
    EASE,
    GFCF,
    SVDAE,
    GraphFilter,
    Hybrid,
    ItemKNN,
    MultVAE,
    MultVAEConfig,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    RP3Beta,
)
from gh_assets.recommender.models.base import CONFIG_FILE, WEIGHTS_FILE
from gh_assets_tests.support.matrices import checkerboard, taste_matrix

SMALL: dict[str, Any] = {"hidden_size": 32, "latent_size": 8, "learning_rate": 5e-3, "batch_size": 20}


MODELS: dict[str, Callable[[int], Recommender]] = {
    "popularity": lambda epochs: Popularity(),
    "itemknn": lambda epochs: ItemKNN(),
    "ease": lambda epochs: EASE(lambdas=(1.0, 10.0)),
    "graph filter": lambda epochs: GraphFilter(factors=4),
    "gf-cf": lambda epochs: GFCF(factors=[4]),
    "svd-ae": lambda epochs: SVDAE(factors=[4]),
    "rp3beta": lambda epochs: RP3Beta(),
    "ials": lambda epochs: ALS(factors=4, lambdas=(0.1,)),
    "multvae": lambda epochs: MultVAE(MultVAEConfig(epochs=epochs, **SMALL)),
    "recvae": lambda epochs: RecVAE(RecVAEConfig(epochs=epochs, **SMALL)),
    "hybrid": lambda epochs: Hybrid(RecVAE(RecVAEConfig(epochs=epochs, **SMALL)), EASE(lambdas=(10.0,))),
    "hybrid of baselines": lambda epochs: Hybrid(
        ALS(factors=4, lambdas=(0.1,)), ItemKNN(), weights=(0.3, 0.7), popularity=-0.1
    ),
}
"""Each model by the number of epochs of its training, if it has any."""

PERSONAL = sorted(MODELS.keys() - {"popularity"})

MANY, FEW = 60, 4
"""Epochs until the right answers are found, and for tests of what every training does."""


BOARD = checkerboard()


@pytest.fixture(params=sorted(MODELS))
def make(request: pytest.FixtureRequest) -> Callable[[], Recommender]:
    return lambda: MODELS[request.param](FEW)


@pytest.fixture(scope="module", params=sorted(MODELS))
def fitted(request: pytest.FixtureRequest) -> Recommender:
    """Each model, fitted once to `BOARD`."""
    return MODELS[request.param](MANY).fit(BOARD)


def own_items(user: int) -> set[int]:
    return set(BOARD[[user]].indices.tolist())


@pytest.mark.parametrize("fitted", PERSONAL, indirect=True)
def test_recommended_items_have_the_users_colour(fitted: Recommender) -> None:
    items, _ = fitted.recommend(BOARD, 2)
    for user in range(BOARD.shape[0]):
        assert (items[user] % 2 == user % 2).all()


@pytest.mark.parametrize("fitted", PERSONAL, indirect=True)
def test_reasons_are_the_users_own_stars(fitted: Recommender) -> None:
    items, _ = fitted.recommend(BOARD, 2)
    reasons, shares = fitted.explain(BOARD, items, 3)
    assert reasons.shape == shares.shape == (40, 2, 3)
    for user in range(BOARD.shape[0]):
        given = reasons[user][reasons[user] >= 0].tolist()
        assert set(given) <= own_items(user)
        assert given
    assert (np.diff(shares, axis=2) <= 1e-6).all(), "strongest first"
    assert (shares.sum(axis=2) <= 1.0001).all()


def test_scores_are_float32_and_higher_is_better(fitted: Recommender) -> None:
    scores = fitted.predict(BOARD)
    assert scores.dtype == np.float32
    assert scores.shape == BOARD.shape
    items, best = fitted.recommend(BOARD, 3)
    assert [items.dtype, best.dtype, items.shape] == [np.int64, np.float32, (40, 3)]
    assert (np.diff(best, axis=1) <= 0).all()
    scores[BOARD.toarray() > 0] = -np.inf
    np.testing.assert_allclose(best[:, 0], scores.max(axis=1), rtol=1e-5)


def test_items_that_a_user_has_are_never_recommended(fitted: Recommender) -> None:
    items, scores = fitted.recommend(BOARD, 20)
    for user in range(BOARD.shape[0]):
        own = own_items(user)
        given = items[user][items[user] >= 0].tolist()
        assert len(given) == len(set(given)) == 20 - len(own)
        assert not own & set(given)
    assert np.isneginf(scores[items == -1]).all()


def test_users_without_stars_and_long_lists_are_supported(fitted: Recommender) -> None:
    no_stars = sp.csr_array((2, 20), dtype=np.float32)
    items, _ = fitted.recommend(no_stars, 30)
    assert items.shape == (2, 30)
    assert (items >= 0).sum() == 40
    reasons, shares = fitted.explain(no_stars, items, 2)
    assert (reasons == -1).all()
    assert (shares == 0).all()


def test_a_model_is_saved_and_loaded_without_pickle(fitted: Recommender, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    again = type(fitted).load(folder)
    np.testing.assert_array_equal(again.predict(BOARD), fitted.predict(BOARD))
    assert again.history == fitted.history
    assert json.loads((folder / CONFIG_FILE).read_text())["model"] == fitted.name


def test_damaged_or_foreign_files_raise_one_error(fitted: Recommender, tmp_path: Path) -> None:
    kind = type(fitted)
    with pytest.raises(StoredDataError):
        kind.load(tmp_path / "nothing")
    folder = fitted.save(tmp_path / "model")
    weights = (folder / WEIGHTS_FILE).read_bytes()
    for damaged in (weights[: len(weights) // 2], pickle.dumps({"a": 1})):
        (folder / WEIGHTS_FILE).write_bytes(damaged)
        with pytest.raises(StoredDataError):
            kind.load(folder)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    document = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(document | {"model": "other"}))
    with pytest.raises(StoredDataError, match="'other'"):
        kind.load(folder)


def test_an_unfitted_model_raises_an_error(make: Callable[[], Recommender], tmp_path: Path) -> None:
    with pytest.raises(GhAssetsError, match="not fitted"):
        make().predict(checkerboard())
    with pytest.raises(GhAssetsError, match="not fitted"):
        make().save(tmp_path)


def board_with(value: float) -> sp.csr_array:
    board = checkerboard()
    board.data[3] = value
    return board


WRONG: dict[str, tuple[Any, str]] = {
    "dense": (checkerboard().toarray(), "give a scipy.sparse CSR"),
    "csc": (checkerboard().tocsc(), "give a scipy.sparse CSR"),
    "no users": (sp.csr_array((0, 20)), "is empty"),
    "no items": (sp.csr_array((5, 0)), "is empty"),
    "complex": (checkerboard().astype(np.complex64), "complex64 values"),
    "nan": (board_with(np.nan), "not finite"),
    "infinite": (board_with(np.inf), "not finite"),
    "negative": (board_with(-1), "negative"),
    "no stars": (sp.csr_array((5, 20), dtype=np.float32), "holds no stars"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_an_invalid_matrix_is_rejected(make: Callable[[], Recommender], kind: str) -> None:
    matrix, message = WRONG[kind]
    with pytest.raises(InvalidInteractionsError, match=message):
        make().fit(matrix)


def test_a_matrix_of_other_columns_is_rejected(fitted: Recommender) -> None:
    with pytest.raises(InvalidInteractionsError, match="has 60 columns; the model knows 20"):
        fitted.predict(taste_matrix(users=5))


def test_validation_matrices_of_other_columns_are_rejected(make: Callable[[], Recommender]) -> None:
    with pytest.raises(InvalidInteractionsError, match="columns"):
        make().fit(BOARD, (taste_matrix(users=5), taste_matrix(users=5)))


def test_one_user_and_one_item_are_enough(make: Callable[[], Recommender]) -> None:
    model = make().fit(sp.csr_array(np.ones((1, 1), np.float32)))
    assert model.predict(sp.csr_array(np.ones((1, 1), np.float32))).shape == (1, 1)
    items, _ = model.recommend(sp.csr_array(np.ones((1, 1), np.float32)), 3)
    assert (items == -1).all()


def test_the_callers_matrix_is_unchanged(make: Callable[[], Recommender]) -> None:
    board = checkerboard()
    board.data[:] = 3.0
    before = board.copy()
    make().fit(board).recommend(board, 3)
    assert (board != before).nnz == 0


def test_reasons_from_given_scores_are_those_without_them(make: Callable[[], Recommender]) -> None:
    """Also if the values were changed since, and for more users than are explained per batch."""
    board = checkerboard(users=150)
    model = make().fit(board)
    scores = model.predict_scores(board)
    np.testing.assert_array_equal(scores.values, model.predict(board))
    items, _ = model.recommend(board, 2)
    scores.values[:] = 0
    (reasons, shares), expected = model.explain(board, items, scores=scores), model.explain(board, items)
    np.testing.assert_array_equal(reasons, expected[0])
    np.testing.assert_allclose(shares, expected[1], rtol=1e-4, atol=1e-5)
