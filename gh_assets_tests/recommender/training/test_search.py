"""The search: its budget, what it looks at, what it gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender import RecVAEConfig, evaluate, strong_generalization_split
from gh_assets.recommender.training.search import SEARCHED, Trial, search
from gh_assets_tests.support.matrices import taste_matrix

BASE = RecVAEConfig(epochs=3, hidden_size=16, latent_size=64, batch_size=100)


def split():
    return strong_generalization_split(taste_matrix(users=200), validation_users=30, test_users=30)


def test_the_best_trial_is_given_with_its_model_and_all_that_were_tried() -> None:
    data = split()
    told: list[tuple[Trial, float]] = []
    found = search(data, BASE, 10.0, most=6, on_trial=lambda trial, best: told.append((trial, best)))
    assert [trial.number for trial in found.trials] == list(range(6))
    assert [trial for trial, _ in told] == list(found.trials)
    scores = [trial.score for trial in found.trials if trial.score is not None]
    assert found.score == max(scores) == told[-1][1]
    assert evaluate(found.model, *data.validation)["ndcg@100"] == pytest.approx(found.score)
    assert found.trials[0].parameters == {name: getattr(BASE, name) for name in SEARCHED}
    assert (found.config.epochs, found.config.hidden_size) == (3, 16), "what is not searched stays"
    assert len({tuple(trial.parameters.items()) for trial in found.trials}) == 6


def test_the_test_users_are_not_looked_at() -> None:
    data = split()
    blind = replace(data, test_held_out=sp.csr_array(data.test_held_out.shape, dtype=np.float32))
    one, other = (search(given, BASE, 10.0, most=4) for given in (data, blind))
    assert [trial.score for trial in one.trials] == [trial.score for trial in other.trials]
    assert one.config == other.config


def test_a_budget_that_is_spent_ends_the_search_with_a_result() -> None:
    found = search(split(), BASE, 1e-9)
    assert len(found.trials) == 1
    assert found.trials[0].epochs == 3, "the first one is finished"


def test_nothing_that_can_be_trained_is_one_error() -> None:
    with pytest.raises(InvalidInteractionsError, match="all diverged"):
        search(split(), replace(BASE, learning_rate=1e30), 1e-9)
