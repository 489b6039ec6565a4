"""The hyperparameter search: its budget, its data, its result."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender import RecVAEConfig, StrongGeneralizationSplit, evaluate, strong_generalization_split
from gh_assets.recommender.engine.run import batch_size_for
from gh_assets.recommender.training.search import SEARCHED, Trial, search
from gh_assets_tests.support.matrices import taste_matrix

BASE = RecVAEConfig(epochs=3, hidden_size=16, latent_size=64, batch_size=100)


def split() -> StrongGeneralizationSplit:
    return strong_generalization_split(taste_matrix(users=200), validation_users=30, test_users=30)


def test_the_best_trial_is_returned_with_its_model_and_all_trials() -> None:
    data = split()
    reported: list[tuple[Trial, float]] = []
    result = search(data, BASE, 10.0, max_trials=6, on_trial=lambda trial, best: reported.append((trial, best)))
    assert [trial.number for trial in result.trials] == list(range(6))
    assert [trial for trial, _ in reported] == list(result.trials)
    scores = [trial.score for trial in result.trials if trial.score is not None]
    assert result.score == max(scores) == reported[-1][1]
    assert evaluate(result.model, *data.validation)["ndcg@100"] == pytest.approx(result.score)
    settled = BASE.settled(data.train)
    assert result.trials[0].parameters == {name: getattr(settled, name) for name in SEARCHED}
    assert (result.config.epochs, result.config.hidden_size) == (3, 16), "other values are unchanged"
    assert len({tuple(trial.parameters.items()) for trial in result.trials}) == 6


def test_a_search_begins_with_the_values_that_fit_the_data() -> None:
    data = split()
    result = search(data, replace(BASE, batch_size=None), 10.0, max_trials=2)
    assert result.trials[0].parameters["batch_size"] == batch_size_for(data.train.shape[0]) < 100
    assert result.trials[0].score is not None


def test_the_test_users_do_not_influence_the_search() -> None:
    data = split()
    blind = replace(data, test_held_out=sp.csr_array(data.test_held_out.shape, dtype=np.float32))
    one, other = (search(given, BASE, 10.0, max_trials=4) for given in (data, blind))
    assert [trial.score for trial in one.trials] == [trial.score for trial in other.trials]
    assert one.config == other.config


def test_a_spent_budget_ends_the_search_with_a_result() -> None:
    result = search(split(), BASE, 1e-9)
    assert len(result.trials) == 1
    assert result.trials[0].epochs == 3, "the first trial is finished"


def test_a_search_without_a_trained_model_raises_one_error() -> None:
    with pytest.raises(InvalidInteractionsError, match="all diverged"):
        search(split(), replace(BASE, learning_rate=1e30), 1e-9)
