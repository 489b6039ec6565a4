"""The contract of every recommender, on a matrix whose right answer is obvious."""

from __future__ import annotations

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
    Hybrid,
    ItemKNN,
    MultVAE,
    MultVAEConfig,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
)
from gh_assets.recommender.models.base import CONFIG_FILE, WEIGHTS_FILE
from gh_assets_tests.support.matrices import checkerboard, taste_matrix

SMALL: dict[str, Any] = {"hidden_size": 32, "latent_size": 8, "learning_rate": 5e-3, "batch_size": 20}


def recvae() -> RecVAE:
    return RecVAE(RecVAEConfig(epochs=40, **SMALL))


MODELS: dict[str, Callable[[], Recommender]] = {
    "popularity": Popularity,
    "itemknn": ItemKNN,
    "ease": lambda: EASE(lambdas=(1.0, 10.0)),
    "ials": lambda: ALS(factors=4, lambdas=(0.1,)),
    "multvae": lambda: MultVAE(MultVAEConfig(epochs=60, **SMALL)),
    "recvae": recvae,
    "hybrid": lambda: Hybrid(recvae(), EASE(lambdas=(10.0,))),
    "hybrid of baselines": lambda: Hybrid(ALS(factors=4, lambdas=(0.1,)), ItemKNN(), weight=0.3),
}
PERSONAL = sorted(MODELS.keys() - {"popularity"})


@pytest.fixture(params=sorted(MODELS))
def make(request: pytest.FixtureRequest) -> Callable[[], Recommender]:
    return MODELS[request.param]


@pytest.mark.parametrize("name", PERSONAL)
def test_recommended_items_have_the_users_colour(name: str) -> None:
    board = checkerboard()
    items, _ = MODELS[name]().fit(board).recommend(board, 2)
    for user in range(board.shape[0]):
        assert (items[user] % 2 == user % 2).all()


@pytest.mark.parametrize("name", PERSONAL)
def test_reasons_are_the_users_own_stars(name: str) -> None:
    board = checkerboard()
    model = MODELS[name]().fit(board)
    items, _ = model.recommend(board, 2)
    reasons, shares = model.explain(board, items, 3)
    assert reasons.shape == shares.shape == (40, 2, 3)
    for user in range(board.shape[0]):
        own = set(board.indices[board.indptr[user] : board.indptr[user + 1]].tolist())
        given = reasons[user][reasons[user] >= 0].tolist()
        assert set(given) <= own
        assert given
    assert (np.diff(shares, axis=2) <= 1e-6).all(), "strongest first"
    assert (shares.sum(axis=2) <= 1.0001).all()


def test_scores_are_float32_and_higher_is_better(make: Callable[[], Recommender]) -> None:
    board = checkerboard()
    model = make().fit(board)
    scores = model.predict(board)
    assert scores.dtype == np.float32
    assert scores.shape == board.shape
    items, best = model.recommend(board, 3)
    assert [items.dtype, best.dtype, items.shape] == [np.int64, np.float32, (40, 3)]
    assert (np.diff(best, axis=1) <= 0).all()
    scores[board.toarray() > 0] = -np.inf
    np.testing.assert_allclose(best[:, 0], scores.max(axis=1), rtol=1e-5)


def test_items_that_a_user_has_are_never_recommended(make: Callable[[], Recommender]) -> None:
    board = checkerboard()
    items, scores = make().fit(board).recommend(board, 20)
    for user in range(board.shape[0]):
        own = set(board.indices[board.indptr[user] : board.indptr[user + 1]].tolist())
        given = items[user][items[user] >= 0].tolist()
        assert len(given) == len(set(given)) == 20 - len(own)
        assert not own & set(given)
    assert np.isneginf(scores[items == -1]).all()


def test_users_without_stars_and_long_lists_are_supported(make: Callable[[], Recommender]) -> None:
    board = checkerboard()
    model = make().fit(board)
    no_stars = sp.csr_array((2, 20), dtype=np.float32)
    items, _ = model.recommend(no_stars, 30)
    assert items.shape == (2, 30)
    assert (items >= 0).sum() == 40
    reasons, shares = model.explain(no_stars, items, 2)
    assert (reasons == -1).all()
    assert (shares == 0).all()


def test_a_model_is_saved_and_loaded_without_pickle(make: Callable[[], Recommender], tmp_path: Path) -> None:
    board = checkerboard()
    model = make().fit(board)
    folder = model.save(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    again = type(model).load(folder)
    np.testing.assert_array_equal(again.predict(board), model.predict(board))
    assert again.history == model.history
    assert json.loads((folder / CONFIG_FILE).read_text())["model"] == model.name


def test_damaged_or_foreign_files_raise_one_error(make: Callable[[], Recommender], tmp_path: Path) -> None:
    model = make().fit(checkerboard())
    kind = type(model)
    with pytest.raises(StoredDataError):
        kind.load(tmp_path / "nothing")
    folder = model.save(tmp_path / "model")
    weights = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(weights[: len(weights) // 2])
    with pytest.raises(StoredDataError):
        kind.load(folder)

    (folder / WEIGHTS_FILE).write_bytes(pickle.dumps({"a": 1}))
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


def test_columns_that_do_not_match_are_rejected(make: Callable[[], Recommender]) -> None:
    model = make().fit(checkerboard())
    with pytest.raises(InvalidInteractionsError, match="has 60 columns; the model knows 20"):
        model.predict(taste_matrix(users=5))
    with pytest.raises(InvalidInteractionsError, match="columns"):
        make().fit(checkerboard(), (taste_matrix(users=5), taste_matrix(users=5)))


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
