"""Evaluation that nobody can doubt: no leaks, intervals that mean something, groups, coverage, time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from gh_assets.errors import ConfigurationError, InvalidInteractionsError, StoredDataError
from gh_assets.recommender import (
    EASE,
    Hybrid,
    ItemKNN,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.data.interactions import temporal_split
from gh_assets.recommender.evaluation.evaluation import bootstrap, evaluate_in_full
from gh_assets.recommender.models.base import CONFIG_FILE, WEIGHTS_FILE
from gh_assets.schemas import LEADERBOARD
from gh_assets_tests.support.matrices import taste_matrix

NDCG = "ndcg@100"


def shuffled(held_out: sp.csr_array, fold_in: sp.csr_array, seed: int) -> sp.csr_array:
    """As many held-out stars a user, at items chosen by chance among those that the user was not given."""
    rng = np.random.default_rng(seed)
    dense = np.zeros(held_out.shape, np.float32)
    for user in range(held_out.shape[0]):
        free = np.setdiff1d(np.arange(held_out.shape[1]), fold_in[[user]].indices)
        dense[user, rng.choice(free, held_out[[user]].nnz, replace=False)] = 1
    return sp.csr_array(dense)


class Chance(Recommender):
    """Any order."""

    name = "chance"

    def _fit(self, stars: sp.csr_array, validation: object) -> None: ...

    def _predict(self, stars: sp.csr_array) -> np.ndarray:
        return np.random.default_rng(stars.nnz).random(stars.shape, np.float32)

    def _weights(self) -> dict[str, np.ndarray]:
        return {}

    def _restore(self, weights: dict[str, np.ndarray]) -> None: ...


MODELS = {
    "recvae": lambda: RecVAE(RecVAEConfig(epochs=15, hidden_size=48, latent_size=12, learning_rate=3e-3)),
    "ease": EASE,
    "itemknn": ItemKNN,
    "hybrid": lambda: Hybrid(EASE(), ItemKNN()),
}


@pytest.mark.parametrize("name", MODELS)
def test_with_shuffled_held_out_stars_metrics_drop_to_chance(name: str) -> None:
    """A model that saw held-out stars, or an evaluation that leaks, would not care."""
    split = strong_generalization_split(taste_matrix(users=500), validation_users=60, test_users=120, seed=2)
    model = MODELS[name]().fit(split.train, split.validation)
    fold_in, held_out = split.test
    real = evaluate(model, fold_in, held_out)["recall@20"]
    nonsense = np.mean([evaluate(model, fold_in, shuffled(held_out, fold_in, seed))["recall@20"] for seed in range(5)])
    chance = 20 / 50  # of 60 items, about ten are given
    assert nonsense == pytest.approx(chance, abs=0.06)
    assert real > nonsense + 0.2


def test_nothing_of_the_held_out_users_is_trained_on() -> None:
    matrix = taste_matrix(users=200)
    split = strong_generalization_split(matrix, seed=1)
    groups = [split.train_users, split.validation_users, split.test_users]
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    np.testing.assert_array_equal(split.train.toarray(), matrix[split.train_users].toarray())
    for fold_in, held_out, users in (
        (*split.validation, split.validation_users),
        (*split.test, split.test_users),
    ):
        assert fold_in.multiply(held_out).nnz == 0
        np.testing.assert_array_equal((fold_in + held_out).toarray(), matrix[users].toarray())


def test_intervals_hold_the_true_mean_about_95_times_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        interval = bootstrap(rng.beta(0.5, 2, 150), resamples=400, seed=seed)
        inside += interval.low <= 0.2 <= interval.high
    assert 180 <= inside <= 199


def test_paired_differences_are_narrower_than_the_figures_themselves() -> None:
    split = strong_generalization_split(taste_matrix(users=500), validation_users=60, test_users=120, seed=2)
    strong, weak = (
        evaluate_in_full(EASE(lambdas=(value,)).fit(split.train), *split.test, split.train) for value in (10.0, 11.0)
    )
    difference, alone = strong.against(weak, NDCG), strong.interval(NDCG)
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert difference.low <= difference.mean <= difference.high
    assert strong.against(strong, NDCG).mean == 0


def test_groups_coverage_and_popularity_are_their_definitions() -> None:
    train = taste_matrix(users=300)
    given = np.zeros((3, 60), np.float32)
    for user, count in enumerate((2, 12, 30)):
        given[user, :count] = 1
    hidden = np.zeros((3, 60), np.float32)
    hidden[:, 50:55] = 1
    fold_in, held_out = sp.csr_array(given), sp.csr_array(hidden)
    model = Popularity().fit(train)
    found = evaluate_in_full(model, fold_in, held_out, train)
    groups = found.by_history(NDCG)
    assert list(groups) == ["1_to_4", "5_to_20", "21_up"]
    assert [groups[name] for name in groups] == pytest.approx(list(found.users[NDCG]))
    shown = {item for row in model.recommend(fold_in, 20)[0] for item in row.tolist() if item >= 0}
    assert found.coverage == len(shown) / 60
    assert found.popularity_percentile > 0.6
    counts = np.bincount(train.indices, minlength=60)
    items = model.recommend(fold_in, 20)[0]
    assert found.novelty == pytest.approx(float(np.mean(-np.log2(counts[items] / 300))))
    spread = evaluate_in_full(Chance().fit(train), fold_in, held_out, train)
    assert spread.novelty > found.novelty
    assert set(found.summary()) == set(LEADERBOARD.columns) - {"split", "model", "users"}


def test_a_group_without_users_has_no_figure() -> None:
    train = taste_matrix(users=100)
    split = strong_generalization_split(train, seed=0)
    found = evaluate_in_full(Popularity().fit(split.train), *split.test, split.train)
    assert found.by_history(NDCG)["1_to_4"] is None


def timed(matrix: sp.csr_array, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.datetime64("2024-01-01", "us") + rng.integers(0, 1000, matrix.nnz) * np.timedelta64(1, "D")


def test_a_temporal_split_learns_from_before_and_predicts_after() -> None:
    matrix = taste_matrix(users=300)
    times = timed(matrix)
    times[::7] = np.datetime64("NaT")
    split, date = temporal_split(matrix, times, later_share=0.2)
    when = {}
    coordinates = matrix.tocoo()
    for user, item, time in zip(coordinates.row, coordinates.col, times, strict=True):
        when[int(user), int(item)] = time
    for part, users, later in (
        (split.train, split.train_users, False),
        (split.validation_fold_in, split.validation_users, False),
        (split.validation_held_out, split.validation_users, False),
        (split.test_fold_in, split.test_users, False),
        (split.test_held_out, split.test_users, True),
    ):
        cells = part.tocoo()
        assert part.nnz > 0
        assert all(
            (when[int(users[user]), int(item)] >= date) == later
            for user, item in zip(cells.row, cells.col, strict=True)
        )
    assert len(np.intersect1d(split.test_users, split.validation_users)) == 0
    assert (np.diff(split.test_held_out.indptr) > 0).all()
    assert float((times[~np.isnat(times)] >= date).mean()) == pytest.approx(0.2, abs=0.02)
    known = np.bincount(np.concatenate([split.train.indices, *[p.indices for p in split.validation]]), minlength=60) > 0
    assert known[split.test_held_out.indices].all()


def test_without_times_or_with_too_few_a_temporal_split_is_one_error() -> None:
    matrix = taste_matrix(users=100)
    with pytest.raises(InvalidInteractionsError, match="needs starred_at"):
        temporal_split(matrix, np.full(matrix.nnz, np.datetime64("NaT"), "datetime64[us]"))
    with pytest.raises(InvalidInteractionsError, match="times were given for"):
        temporal_split(matrix, timed(matrix)[:-1])


def test_the_hybrids_weight_comes_from_the_validation_users_alone() -> None:
    split = strong_generalization_split(taste_matrix(users=400), validation_users=60, test_users=60, seed=3)
    good, bad = EASE().fit(split.train), Chance().fit(split.train)
    assert Hybrid(good, bad).fit(split.train, split.validation).weight > 0.7
    assert Hybrid(bad, good).fit(split.train, split.validation).weight < 0.3
    assert Hybrid(bad, good, weight=0.9).fit(split.train).weight == 0.9, "nothing to choose on"
    first = Hybrid(good, bad).fit(split.train, split.validation)
    assert first.first is good, "what is fitted already is left as it is"


class WithFame(Recommender):
    """Scores to which popularity was added."""

    name = "with fame"

    def __init__(self, good: Recommender, much: float) -> None:
        super().__init__()
        self.good, self.much = good, much

    def _fit(self, stars: sp.csr_array, validation: object) -> None:
        self.popularity_z = self.much * np.log1p(np.bincount(stars.indices, minlength=self.items))

    def _predict(self, stars: sp.csr_array) -> np.ndarray:
        return (self.good._predict(stars) + self.popularity_z).astype(np.float32)

    def _weights(self) -> dict[str, np.ndarray]:
        return {}

    def _restore(self, weights: dict[str, np.ndarray]) -> None:
        pass


def test_popularity_that_both_parts_count_is_taken_back_as_the_validation_users_want_it() -> None:
    split = strong_generalization_split(taste_matrix(users=600), validation_users=100, test_users=100, seed=3)
    good = EASE().fit(split.train)
    parts = [WithFame(good, 0.7).fit(split.train) for _ in range(2)]
    found = Hybrid(*parts).fit(split.train, split.validation)
    assert found.popularity > 0
    without = Hybrid(*parts, weight=found.weight).fit(split.train)
    assert without.popularity == 0, "nothing to choose on"
    assert evaluate(found, *split.test)["ndcg@100"] > evaluate(without, *split.test)["ndcg@100"] + 0.005
    too_few = WithFame(good, -0.7).fit(split.train)
    assert Hybrid(too_few, too_few).fit(split.train, split.validation).popularity == 0


def test_a_hybrid_keeps_what_it_takes_back_and_one_from_before_takes_nothing(tmp_path: Path) -> None:
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


def test_what_a_hybrid_takes_back_is_not_below_zero() -> None:
    with pytest.raises(ConfigurationError, match="not below 0"):
        Hybrid(EASE(), ItemKNN(), popularity=-0.1)
