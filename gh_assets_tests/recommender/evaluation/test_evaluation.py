"""Evaluation on held-out users: no leaks, intervals, user groups, coverage, popularity."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender import (
    EASE,
    Hybrid,
    ItemKNN,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    evaluate,
    evaluate_users,
    strong_generalization_split,
)
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.evaluation.evaluation import (
    LENGTHS,
    as_people_have,
    bootstrap,
    evaluate_in_full,
    evaluate_lengths,
    length_shares,
)
from gh_assets.schemas import LEADERBOARD
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.reference_models import Chance

NDCG = "ndcg@100"


def shuffled(held_out: sp.csr_array, fold_in: sp.csr_array, seed: int) -> sp.csr_array:
    """Return as many held-out stars per user, at random items that are not in the fold-in."""
    rng = np.random.default_rng(seed)
    dense = np.zeros(held_out.shape, np.float32)
    for user in range(held_out.shape[0]):
        free = np.setdiff1d(np.arange(held_out.shape[1]), fold_in[[user]].indices)
        dense[user, rng.choice(free, held_out[[user]].nnz, replace=False)] = 1
    return sp.csr_array(dense)


MODELS: dict[str, Callable[[], Recommender]] = {
    "recvae": lambda: RecVAE(RecVAEConfig(epochs=15, hidden_size=48, latent_size=12, learning_rate=3e-3)),
    "ease": EASE,
    "itemknn": ItemKNN,
    "hybrid": lambda: Hybrid(EASE(), ItemKNN()),
}


@pytest.mark.parametrize("name", MODELS)
def test_with_shuffled_held_out_stars_metrics_drop_to_chance(name: str) -> None:
    """A model that saw held-out stars, or an evaluation that leaks, would score the same."""
    split = strong_generalization_split(taste_matrix(users=500), validation_users=60, test_users=120, seed=2)
    model = MODELS[name]().fit(split.train, split.validation)
    fold_in, held_out = split.test
    real = evaluate(model, fold_in, held_out)["recall@20"]
    nonsense = np.mean([evaluate(model, fold_in, shuffled(held_out, fold_in, seed))["recall@20"] for seed in range(5)])
    chance = 20 / 50  # of 60 items, about ten are given
    assert nonsense == pytest.approx(chance, abs=0.06)
    assert real > nonsense + 0.2


def test_intervals_contain_the_true_mean_about_95_times_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        interval = bootstrap(rng.beta(0.5, 2, 150), resamples=400, seed=seed)
        inside += interval.low <= 0.2 <= interval.high
    assert 180 <= inside <= 199


def test_intervals_of_paired_differences_are_narrower_than_those_of_the_metrics() -> None:
    split = strong_generalization_split(taste_matrix(users=500), validation_users=60, test_users=120, seed=2)
    strong, weak = (
        evaluate_in_full(EASE(lambdas=(value,)).fit(split.train), *split.test, split.train) for value in (10.0, 11.0)
    )
    difference, alone = strong.against(weak, NDCG), strong.interval(NDCG)
    assert difference.high - difference.low < 0.3 * (alone.high - alone.low)
    assert difference.low <= difference.mean <= difference.high
    assert strong.against(strong, NDCG).mean == 0


def test_each_length_of_histories_counts_as_often_as_people_have_it() -> None:
    counts = [1] * 4 + [2, 3, 4, 5, 9, 10, 19, 20, 500, 0]
    stars = sp.csr_array((np.arange(600) < np.array(counts)[:, None]).astype(np.float32))
    shares = length_shares(stars)
    np.testing.assert_allclose(shares, np.array([4, 1, 2, 2, 2, 2]) / 13)
    lengths = {length: np.full(3, float(place)) for place, length in enumerate(LENGTHS)}
    np.testing.assert_allclose(as_people_have(lengths, shares), np.full(3, (1 + 4 + 6 + 8 + 10) / 13))


def test_the_same_users_are_evaluated_with_histories_of_each_length() -> None:
    split = strong_generalization_split(taste_matrix(users=300), validation_users=40, test_users=60, seed=2)
    model = EASE().fit(split.train)
    lengths = evaluate_lengths(model, *split.test)
    assert list(lengths) == [1, 2, 3, 5, 10, None]
    assert {len(values) for values in lengths.values()} == {60}
    assert lengths[1].mean() < lengths[3].mean() < lengths[None].mean()
    assert lengths[None].mean() == pytest.approx(evaluate(model, *split.test)[NDCG])


class Counting(EASE):
    """A model that counts the users whom it scores."""

    scored = 0

    def score(self, stars: sp.csr_array) -> NDArray[np.float32]:
        self.scored += stars.shape[0]
        return super().score(stars)


def test_histories_of_a_sample_of_users_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.recommender.evaluation.evaluation.LENGTH_USERS", 30)
    split = strong_generalization_split(taste_matrix(users=400), validation_users=40, test_users=120, seed=2)
    model = Counting().fit(split.train)
    evaluation = evaluate_in_full(model, *split.test, split.train)
    assert len(evaluation.users[NDCG]) == 120
    assert model.scored <= 120 + 5 * 30, "lists are made once, and shorter histories are those of the sample"
    sample = np.linspace(0, 119, 30).astype(int)
    given, hidden = split.test_fold_in[sample], split.test_held_out[sample]
    assert evaluation.lengths.keys() == {1, 2, 3, 5, 10, None}
    for length, values in evaluation.lengths.items():
        expected = evaluate_users(model, cut_histories(given, length), hidden)[NDCG]
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert evaluation.coverage == len(np.unique(model.recommend(split.test_fold_in, 20)[0])) / 60


def test_users_without_more_stars_are_not_scored_again() -> None:
    split = strong_generalization_split(taste_matrix(users=300), validation_users=40, test_users=60, seed=2)
    model = Counting().fit(split.train)
    given = cut_histories(split.test_fold_in, 3)
    lengths = evaluate_lengths(model, given, split.test_held_out, most=50)
    assert model.scored == 50 + 50 + 50, "whole histories, one star, and two stars"
    np.testing.assert_array_equal(lengths[10], lengths[None])


def test_leaderboards_of_earlier_versions_can_be_read() -> None:
    former = LEADERBOARD.empty().drop([name for name, column in LEADERBOARD.columns.items() if column.added])
    assert {"ndcg_at_100", "ndcg_at_100_of_1_to_4", "coverage_at_20"} <= set(former.columns)
    assert LEADERBOARD.problem(LEADERBOARD.completed(former)) is None


def test_groups_coverage_and_popularity_follow_their_definitions() -> None:
    train = taste_matrix(users=300)
    given = np.zeros((3, 60), np.float32)
    for user, count in enumerate((2, 12, 30)):
        given[user, :count] = 1
    hidden = np.zeros((3, 60), np.float32)
    hidden[:, 50:55] = 1
    fold_in, held_out = sp.csr_array(given), sp.csr_array(hidden)
    model = Popularity().fit(train)
    evaluation = evaluate_in_full(model, fold_in, held_out, train)
    groups = evaluation.by_history()
    assert list(groups) == ["1", "2", "3", "4", "1_to_4", "5_to_20", "21_up"]
    two, twelve, thirty = evaluation.users[NDCG].tolist()
    assert [values.tolist() for values in groups.values()] == [[], [two], [], [], [two], [twelve], [thirty]]
    shown = {item for row in model.recommend(fold_in, 20)[0] for item in row.tolist() if item >= 0}
    assert evaluation.coverage == len(shown) / 60
    assert evaluation.popularity_percentile > 0.6
    counts = np.bincount(train.indices, minlength=60)
    items = model.recommend(fold_in, 20)[0]
    assert evaluation.novelty == pytest.approx(float(np.mean(-np.log2(counts[items] / 300))))
    spread = evaluate_in_full(Chance().fit(train), fold_in, held_out, train)
    assert spread.novelty > evaluation.novelty
    assert set(evaluation.summary()) == set(LEADERBOARD.columns) - {"split", "model", "users"}


def test_people_who_really_have_few_stars_are_evaluated() -> None:
    train = taste_matrix(users=300)
    split = strong_generalization_split(train, validation_users=40, test_users=60, seed=2)
    short = cut_histories(taste_matrix(users=40), 2)
    few = short, sp.csr_array((np.arange(60) == 59).astype(np.float32) * np.ones((40, 1), np.float32))
    model = EASE().fit(split.train)
    evaluation = evaluate_in_full(model, *split.test, split.train, few)
    np.testing.assert_allclose(evaluation.by_history()["2"], evaluate_users(model, *few)[NDCG])
    row = evaluation.summary()
    assert (row["users_of_1"], row["users_of_2"], row["users_of_1_to_4"]) == (0, 40, 40)
    assert (row["users_of_5_to_20"], row["ndcg_at_100_of_1"]) == (60, None)
    assert row["ndcg_at_100_of_2"] == row["ndcg_at_100_of_1_to_4"] == pytest.approx(evaluate(model, *few)[NDCG])
    assert row["ndcg_at_100"] == pytest.approx(evaluate(model, *split.test)[NDCG]), "they are not among the test users"
    assert set(row) == set(LEADERBOARD.columns) - {"split", "model", "users"}
    without = evaluate_in_full(model, *split.test, split.train, (short[:0], few[1][:0]))
    assert without.summary()["users_of_2"] == 0
