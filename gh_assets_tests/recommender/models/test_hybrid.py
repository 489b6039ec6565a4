"""The hybrid: weights that depend on the number of known stars, storage, models of earlier versions."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from gh_assets.errors import ConfigurationError, StoredDataError
from gh_assets.recommender import (
    EASE,
    GraphFilter,
    Hybrid,
    ItemKNN,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.models.base import CONFIG_FILE, WEIGHTS_FILE
from gh_assets.recommender.models.hybrid import KNOTS
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import Chance

SPLIT = strong_generalization_split(taste_matrix(users=600), validation_users=120, test_users=120, seed=3)


class Part(Chance):
    """A part whose scores a test defines."""

    name = "part"

    def __init__(self, scores: Callable[[sp.csr_array], np.ndarray]) -> None:
        super().__init__()
        self.scores = scores

    def score(self, stars: sp.csr_array) -> np.ndarray:
        return self.scores(stars).astype(np.float32)


def test_the_weights_of_each_history_length_are_those_that_the_validation_users_prefer() -> None:
    good, noise = EASE().fit(SPLIT.train), Chance().fit(SPLIT.train)

    def good_if(wanted: Callable[[np.ndarray], np.ndarray]) -> Part:
        """A part that is good for users with some numbers of stars, and chance for the others."""
        return Part(
            lambda stars: np.where(wanted(np.diff(stars.indptr))[:, None], good.score(stars), noise.score(stars))
        ).fit(SPLIT.train)

    few, many = good_if(lambda known: known <= 2), good_if(lambda known: known > 2)
    hybrid = Hybrid(few, many).fit(SPLIT.train, SPLIT.validation)
    assert (hybrid.part_weights.sum(axis=1) > 0).all()
    assert hybrid.part_weights[0, 0] > hybrid.part_weights[0, 1], "with one star"
    of_many = hybrid.part_weights[KNOTS.index(10)]
    assert of_many[1] > 0.7
    assert hybrid.parts[0] is few, "a fitted part is not fitted again"


@pytest.mark.parametrize("length", [1, 2, 3, 5, None])
def test_it_is_not_worse_than_its_best_part_at_any_length(length: int | None) -> None:
    split = strong_generalization_split(taste_matrix(users=1500), validation_users=150, test_users=700, seed=0)
    parts: list[Recommender] = [EASE(), GraphFilter(16), ItemKNN()]
    hybrid = Hybrid(*parts).fit(split.train, split.validation)
    fold_in = cut_histories(split.test_fold_in, length, seed=1)
    singles = [evaluate(model, fold_in, split.test_held_out) for model in [*parts, Popularity().fit(split.train)]]
    assert evaluate(hybrid, fold_in, split.test_held_out)["ndcg@100"] > max(s["ndcg@100"] for s in singles) - 0.01


def test_popularity_is_added_or_subtracted_as_the_validation_users_prefer() -> None:
    good = EASE().fit(SPLIT.train)
    popularity = np.log1p(np.bincount(SPLIT.train.indices, minlength=SPLIT.train.shape[1]))
    too_popular = Part(lambda stars: good.score(stars) + 0.7 * popularity).fit(SPLIT.train)
    too_rare = Part(lambda stars: good.score(stars) - 0.7 * popularity).fit(SPLIT.train)
    hybrid = Hybrid(too_popular).fit(SPLIT.train, SPLIT.validation)
    assert hybrid.popularity_weights[-1] < 0
    without = Hybrid(too_popular).fit(SPLIT.train)
    assert without.popularity_weights.tolist() == [0] * len(KNOTS), "nothing to choose on"
    assert evaluate(hybrid, *SPLIT.test)["ndcg@100"] > evaluate(without, *SPLIT.test)["ndcg@100"] + 0.005
    assert Hybrid(too_rare).fit(SPLIT.train, SPLIT.validation).popularity_weights[-1] > 0


def test_a_length_that_hardly_any_validation_user_has_takes_the_weights_of_the_length_before() -> None:
    fold_in, held_out = SPLIT.validation
    first = (np.arange(fold_in.shape[1]) == 0)[None].astype(np.float32)
    given, hidden = (
        sp.csr_array(np.vstack([matrix.toarray(), row])) for matrix, row in ((fold_in, 1 - first), (held_out, first))
    )
    hybrid = Hybrid(EASE(), GraphFilter(16)).fit(SPLIT.train, (given, hidden))
    assert hybrid.part_weights[KNOTS.index(50)].tolist() == hybrid.part_weights[KNOTS.index(20)].tolist()


def test_users_with_reasons_have_them_beside_users_without() -> None:
    hybrid = Hybrid(EASE(), weights=[[0], [1]], popularity=[1, 0], knots=[1, 5]).fit(SPLIT.train)
    one = cut_histories(SPLIT.train, 1)[:200]
    both = sp.csr_array(sp.vstack([one, SPLIT.train[:1]]))
    reasons, _ = hybrid.explain(both, np.tile(np.arange(5), (201, 1)))
    assert (reasons[:200] == -1).all(), "popularity has no reasons"
    assert (reasons[200] >= 0).any()


@pytest.mark.parametrize("change", [{"knots": [5, 1]}, {"knots": []}, {"weights": [[0.5, 0.5]]}])
def test_a_stored_hybrid_whose_weights_do_not_fit_cannot_be_loaded(change: dict[str, object], tmp_path: Path) -> None:
    folder = Hybrid(EASE(), ItemKNN()).fit(SPLIT.train).save(tmp_path)
    document = json.loads((folder / CONFIG_FILE).read_text())
    document["config"] |= change
    (folder / CONFIG_FILE).write_text(json.dumps(document))
    with pytest.raises(StoredDataError, match="holds no readable model"):
        Hybrid.load(folder)


def test_weights_between_two_knots_lie_between_theirs() -> None:
    hybrid = Hybrid(EASE(), ItemKNN(), weights=[[1, 0], [0, 1]], popularity=[0.4, 0], knots=[1, 100])
    parts, popularity = hybrid.weights_of(np.array([0, 1, 10, 100, 5000]))
    np.testing.assert_allclose(parts[0], [1, 1, 0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(parts.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(popularity, [0.4, 0.4, 0.2, 0, 0], atol=1e-6)


def test_without_parts_it_is_recvae_and_the_models_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = RecVAEConfig(epochs=1)
    monkeypatch.setattr("gh_assets.recommender.models.hybrid.RecVAE", lambda: RecVAE(quick))
    hybrid = Hybrid().fit(taste_matrix(users=60))
    assert [part.name for part in hybrid.parts] == ["recvae", "ease", "graph-filter", "gf-cf"]


def test_a_hybrid_that_an_earlier_version_stored_gives_the_same_scores(tmp_path: Path) -> None:
    matrix = taste_matrix(users=200)
    model = Hybrid(EASE(), ItemKNN(), weights=[0.3, 0.7], popularity=-0.2).fit(matrix)
    folder = model.save(tmp_path / "model")
    document = json.loads((folder / CONFIG_FILE).read_text())
    first, second = document["config"]["parts"]
    document["config"] = {"first": first, "second": second, "weight": 0.3, "popularity": 0.2}
    (folder / CONFIG_FILE).write_text(json.dumps(document))
    stored = load_file(folder / WEIGHTS_FILE)
    former = {key.replace("0.", "first.").replace("1.", "second."): array for key, array in stored.items()}
    save_file(former, folder / WEIGHTS_FILE)
    loaded = Hybrid.load(folder)
    np.testing.assert_allclose(loaded.predict(matrix), model.predict(matrix), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(Hybrid.load(loaded.save(tmp_path / "new")).predict(matrix), loaded.predict(matrix))
    # Still earlier ones had no popularity.
    del document["config"]["popularity"]
    (folder / CONFIG_FILE).write_text(json.dumps(document))
    save_file({name: array for name, array in former.items() if name != "fame"}, folder / WEIGHTS_FILE)
    plain = Hybrid(*model.parts, weights=[0.3, 0.7]).fit(matrix)
    np.testing.assert_allclose(Hybrid.load(folder).predict(matrix), plain.predict(matrix), rtol=1e-5, atol=1e-5)
    save_file(former | {"fame": stored["fame"][:-1]}, folder / WEIGHTS_FILE)
    with pytest.raises(StoredDataError, match="the popularity of 60 items"):
        Hybrid.load(folder)


@pytest.mark.parametrize("weights", [[-0.1, 1.1], [1.0], [[0.5, 0.5]]])
def test_weights_that_do_not_fit_are_rejected(weights: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"must have the shape \(7, 2\) and not be negative"):
        Hybrid(EASE(), ItemKNN(), weights=weights)
