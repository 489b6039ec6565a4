"""Trainings and comparisons on a split."""

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender import EASE, Popularity, RecVAEConfig, evaluate
from gh_assets.recommender.training.training import best_on_validation, split_of, training_fingerprint
from gh_assets_tests.support.matrices import taste_matrix, with_ids

MATRIX = with_ids(taste_matrix(users=600))
SPLIT = split_of(MATRIX, 0)


class GoodInTheTest(EASE):
    """A model that knows the held-out stars of the test users, and nothing else."""

    def score(self, stars: sp.csr_array) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = np.random.default_rng(0).random(stars.shape, np.float32)
        if stars.shape[0] == SPLIT.test_held_out.shape[0]:
            scores += SPLIT.test_held_out.toarray()
        return scores


def test_the_test_users_do_not_choose_the_best_model() -> None:
    validation = SPLIT.validation_fold_in[:-1], SPLIT.validation_held_out[:-1]  # not as many as are tested
    split = replace(SPLIT, validation_fold_in=validation[0], validation_held_out=validation[1])
    better, other = EASE((10.0,)).fit(SPLIT.train), GoodInTheTest((10.0,)).fit(SPLIT.train)
    assert evaluate(other, *split.test)["ndcg@100"] > evaluate(better, *split.test)["ndcg@100"]
    assert best_on_validation([other, better, Popularity().fit(SPLIT.train)], split) is better


def test_everything_that_determines_a_training_is_part_of_its_fingerprint() -> None:
    other = with_ids(taste_matrix(users=601))
    config = RecVAEConfig()
    fingerprints = [
        training_fingerprint(MATRIX, config, 0),
        training_fingerprint(other, config, 0),
        training_fingerprint(MATRIX, replace(config, epochs=config.epochs + 1), 0),
        training_fingerprint(MATRIX, config, 1),
        training_fingerprint(MATRIX, config, 0, 0.5),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert training_fingerprint(MATRIX, RecVAEConfig(), 0, 0.0) == fingerprints[0]
