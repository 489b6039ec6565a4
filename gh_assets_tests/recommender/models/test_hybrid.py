"""The hybrid: choice of weight and popularity, storage, reuse of scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from gh_assets.errors import ConfigurationError, StoredDataError
from gh_assets.recommender import EASE, Hybrid, ItemKNN, Recommender, evaluate, strong_generalization_split
from gh_assets.recommender.models.base import CONFIG_FILE, WEIGHTS_FILE
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import Chance


class WithPopularity(Chance):
    """Scores to which popularity was added."""

    name = "with popularity"

    def __init__(self, good: Recommender, much: float) -> None:
        super().__init__()
        self.good, self.much = good, much

    def _fit(self, stars: sp.csr_array, validation: object) -> None:
        self.popularity_z = self.much * np.log1p(np.bincount(stars.indices, minlength=self.items))

    def score(self, stars: sp.csr_array) -> np.ndarray:
        return (self.good.score(stars) + self.popularity_z).astype(np.float32)


def test_the_weight_is_chosen_on_the_validation_users_alone() -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=60, test_users=60, seed=3)
    good, bad = EASE().fit(split.train), Chance().fit(split.train)
    assert Hybrid(good, bad).fit(split.train, split.validation).weight > 0.7
    assert Hybrid(bad, good).fit(split.train, split.validation).weight < 0.3
    assert Hybrid(bad, good, weight=0.9).fit(split.train).weight == 0.9, "nothing to choose on"
    first = Hybrid(good, bad).fit(split.train, split.validation)
    assert first.first is good, "a fitted part is not fitted again"


def test_popularity_that_both_parts_favour_is_subtracted_as_the_validation_users_prefer() -> None:
    split = strong_generalization_split(taste_matrix(users=600), validation_users=100, test_users=100, seed=3)
    good = EASE().fit(split.train)
    first, second = (WithPopularity(good, 0.7).fit(split.train) for _ in range(2))
    hybrid = Hybrid(first, second).fit(split.train, split.validation)
    assert hybrid.popularity > 0
    without = Hybrid(first, second, weight=hybrid.weight).fit(split.train)
    assert without.popularity == 0, "nothing to choose on"
    assert evaluate(hybrid, *split.test)["ndcg@100"] > evaluate(without, *split.test)["ndcg@100"] + 0.005
    too_few = WithPopularity(good, -0.7).fit(split.train)
    assert Hybrid(too_few, too_few).fit(split.train, split.validation).popularity == 0


def test_the_popularity_term_is_stored_and_older_hybrids_have_none(tmp_path: Path) -> None:
    matrix = taste_matrix(users=200)
    model = Hybrid(EASE(), ItemKNN(), popularity=0.3).fit(matrix)
    folder = model.save(tmp_path / "model")
    np.testing.assert_array_equal(Hybrid.load(folder).predict(matrix), model.predict(matrix))
    plain = Hybrid(EASE(), ItemKNN()).fit(matrix)
    assert not np.array_equal(plain.predict(matrix), model.predict(matrix))
    document = json.loads((folder / CONFIG_FILE).read_text())
    del document["config"]["popularity"]
    (folder / CONFIG_FILE).write_text(json.dumps(document))
    weights = load_file(folder / WEIGHTS_FILE)
    save_file({name: array for name, array in weights.items() if name != "fame"}, folder / WEIGHTS_FILE)
    np.testing.assert_allclose(Hybrid.load(folder).predict(matrix), plain.predict(matrix), rtol=1e-5, atol=1e-5)
    save_file(weights | {"fame": weights["fame"][:-1]}, folder / WEIGHTS_FILE)
    with pytest.raises(StoredDataError, match="the popularity of 60 items"):
        Hybrid.load(folder)


def test_a_negative_popularity_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="must not be below 0"):
        Hybrid(EASE(), ItemKNN(), popularity=-0.1)
