"""Trainings and comparisons on a split: what identifies a training, and what is recorded about it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from gh_assets.recommender import (
    EASE,
    GraphFilter,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    UserItemMatrix,
    evaluate,
)
from gh_assets.recommender.engine import precision
from gh_assets.recommender.models.autoencoder import ITEM_TABLES
from gh_assets.recommender.training import training
from gh_assets.recommender.training.training import (
    best_on_validation,
    compare,
    compare_in_time,
    split_of,
    train_hybrid,
    train_recvae,
    training_fingerprint,
    warm_start_of,
)
from gh_assets_tests.support.matrices import taste_matrix, with_ids

SMALL = RecVAEConfig(epochs=2, hidden_size=16, latent_size=6, batch_size=40, gamma=0.01)
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


def test_preferred_models_yield_only_to_one_that_is_certainly_better() -> None:
    close, weak = EASE((10.0,)).fit(SPLIT.train), Popularity().fit(SPLIT.train)
    better = GraphFilter().fit(SPLIT.train)

    def best(*preferred: str) -> Recommender:
        return best_on_validation([weak, close, better], SPLIT, preferred=preferred)

    assert best() is better, "EASE is behind, but within the noise of so few users"
    assert best("ease") is close
    assert best("popularity", "ease") is close, "the best of them is compared"
    assert best("popularity") is better
    assert best("popularity", "graph-filter") is better
    assert best("of another run") is better


def timed_matrix(users: int) -> UserItemMatrix:
    matrix = with_ids(taste_matrix(users=users))
    days = np.random.default_rng(0).integers(0, 1000, matrix.stars.nnz) * np.timedelta64(1, "D")
    return replace(matrix, starred_at=np.datetime64("2024-01-01", "us") + days)


class Steps(list[tuple[int, int, str]]):
    """A listener that keeps all calls."""

    def __call__(self, done: int, total: int, text: str) -> None:
        self.append((done, total, text))

    def assert_all_of(self, total: int) -> None:
        done = [step[0] for step in self]
        assert sorted(set(done)) == list(range(total))
        assert done == sorted(done)
        assert {step[1] for step in self} == {total}


def test_comparisons_and_blends_say_what_they_do_before_each_step() -> None:
    matrix, steps, blending = timed_matrix(300), Steps(), Steps()
    split = split_of(matrix, 0)
    recvae = RecVAE(SMALL).fit(split.train, split.validation)
    hybrid = train_hybrid(matrix, recvae, on_step=blending).trained.model
    blending.assert_all_of(5)
    assert [text for _, _, text in blending[:2]] == ["fitting ease", "fitting graph-filter"]
    compared, _ = compare(matrix, [hybrid], on_step=steps)
    steps.assert_all_of(len(compared) + 6)
    assert {f"evaluating {row.name}" for row in compared} == {text for _, _, text in steps[-len(compared) :]}
    assert any(text.startswith("fitting multvae: epoch 1, ") for _, _, text in steps), "a long step says how far it is"
    in_time = Steps()
    compare_in_time(matrix, SMALL, on_step=in_time)
    in_time.assert_all_of(11)


@pytest.mark.parametrize(("most", "epochs"), [(300, 2), (200, 25)])
def test_the_comparison_in_time_trains_on_a_sample_of_many_users(
    monkeypatch: pytest.MonkeyPatch, most: int, epochs: int
) -> None:
    monkeypatch.setattr(training, "TIMED_USERS", most)
    trained: list[RecVAE] = []

    class Kept(RecVAE):
        def _fit(self, stars: sp.csr_array, validation: tuple[sp.csr_array, sp.csr_array] | None) -> None:
            super()._fit(stars, validation)
            trained.append(self)
            assert stars.shape[0] <= most

    monkeypatch.setattr(training, "RecVAE", Kept)
    rows, _ = compare_in_time(timed_matrix(300), SMALL)
    assert {len(row.histories) for row in rows} <= set(range(most // 2, most + 1))
    assert trained[0].config.epochs == epochs, "those of the whole are too few for a sample"


def test_everything_that_determines_a_training_is_part_of_its_fingerprint() -> None:
    other = with_ids(taste_matrix(users=601))
    config = RecVAEConfig()
    fingerprints = [
        training_fingerprint(MATRIX, config, 0),
        training_fingerprint(other, config, 0),
        training_fingerprint(MATRIX, replace(config, epochs=3), 0),
        training_fingerprint(MATRIX, config, 1),
        training_fingerprint(MATRIX, config, 0, 0.5),
    ]
    assert len(set(fingerprints)) == len(fingerprints)
    assert training_fingerprint(MATRIX, RecVAEConfig(), 0, 0.0) == fingerprints[0]


@pytest.fixture
def matrix() -> UserItemMatrix:
    return with_ids(taste_matrix(users=200))


@pytest.mark.parametrize("multiplies", [True, False])
def test_the_precision_that_a_machine_has_is_in_fingerprint_and_model(
    matrix: UserItemMatrix, monkeypatch: pytest.MonkeyPatch, multiplies: bool
) -> None:
    name = "bfloat16" if multiplies else "float32"
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: multiplies)
    fingerprint = training_fingerprint(matrix, SMALL, 0)
    assert fingerprint == training_fingerprint(matrix, replace(SMALL, precision=name), 0)
    trained = train_recvae(matrix, SMALL).trained
    assert trained.model.to_config()["precision"] == name
    assert trained.data["device"] == RecVAE(SMALL).device.type
    assert trained.data["threads"] == torch.get_num_threads()
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: not multiplies)
    assert fingerprint != training_fingerprint(matrix, SMALL, 0)


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_weights_do_not_depend_on_how_busy_the_machine_is(matrix: UserItemMatrix, restored_threads: None) -> None:
    torch.set_num_threads(2)
    config = replace(SMALL, hidden_size=64)
    quiet = train_recvae(matrix, config).trained.model.weights()
    with busy_neighbours(2):
        busy = train_recvae(matrix, config).trained.model.weights()
    assert all(np.array_equal(values, busy[name]) for name, values in quiet.items())


def grown(matrix: UserItemMatrix, users: int, items: int) -> UserItemMatrix:
    """Return the first users and items of a matrix."""
    stars = matrix.stars[:users][:, :items]
    return UserItemMatrix(
        stars, matrix.user_ids[:users], matrix.logins[:users], matrix.repo_ids[:items], matrix.full_names[:items]
    )


def test_a_training_begins_with_the_weights_of_an_earlier_model(matrix: UserItemMatrix) -> None:
    config = replace(SMALL, epochs=12)
    items = matrix.stars.shape[1]
    earlier = train_recvae(grown(matrix, 180, items - 4), config).trained
    before = {name: values.copy() for name, values in earlier.model.weights().items()}
    fixed = replace(config, learning_rate=1e-30)
    warm = train_recvae(matrix, fixed, earlier=earlier).trained
    weights = warm.model.weights()
    for name, values in before.items():
        taken = weights[name][: items - 4] if name in ITEM_TABLES else weights[name]
        assert np.allclose(taken, values, atol=1e-6), name
    assert len(warm.model.history) == 3, "a quarter of the epochs"
    assert warm.data["warm_starts"] == 1
    assert train_recvae(matrix, fixed, earlier=warm).trained.data["warm_starts"] == 2
    assert "warm_starts" not in earlier.data
    assert set(warm.data["test_users"]) <= set(earlier.data["test_users"]), "others may have been trained on"


def test_a_model_of_other_sizes_items_or_users_is_not_begun_with(matrix: UserItemMatrix) -> None:
    earlier = train_recvae(matrix, SMALL).trained
    assert warm_start_of(earlier, matrix, SMALL, split_of(matrix, 0)) is not None
    assert warm_start_of(earlier, matrix, replace(SMALL, hidden_size=17), split_of(matrix, 0)) is None
    assert warm_start_of(earlier, matrix, SMALL, split_of(matrix, 1)) is None, (
        "it was trained on this split's test users"
    )
    others = replace(matrix, repo_ids=matrix.repo_ids + matrix.stars.shape[1] // 2)
    assert warm_start_of(earlier, others, SMALL, split_of(others, 0)) is None


def test_a_warm_start_is_in_the_fingerprint(matrix: UserItemMatrix) -> None:
    assert training_fingerprint(matrix, SMALL, 0) != training_fingerprint(matrix, SMALL, 0, warm=True)
