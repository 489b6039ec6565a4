"""Recorded steps: what they compute on a CPU is compared with the paper in `models.test_recvae`."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gh_assets.recommender import RecVAE, RecVAEConfig
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets.recommender.gpu import recorded
from gh_assets.recommender.gpu.recorded import RecordedSteps, packed, recorded_steps
from gh_assets_tests.support.matrices import random_stars, taste_matrix
from gh_assets_tests.support.reference_models import exact_bags

CONFIG = RecVAEConfig(epochs=4, hidden_size=64, latent_size=16, batch_size=100, learning_rate=2e-3)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")


@pytest.mark.parametrize("items", [1, 8, 37])
def test_stars_are_packed_as_bits(items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "PACKED_USERS", 4)
    stars = random_stars(0, 11, items)
    bits = np.unpackbits(packed(stars, torch.device("cpu")).numpy(), axis=1, bitorder="little")[:, :items]
    np.testing.assert_array_equal(bits[:11], stars.toarray())
    assert not bits[11].any(), "the last row is that of a user without stars"


@pytest.mark.parametrize("bias", [0.0, 200.0])
def test_logits_that_are_always_shifted_have_the_same_likelihood_and_gradients(bias: float) -> None:
    stars = random_stars(1, 6, 30)
    parameters = torch.randn(30, 5).double(), torch.randn(30).double() + bias
    plain, shifted = (SoftmaxOutput(*parameters, torch.float64) for _ in range(2))
    shifted.always_shift = True
    z = torch.randn(6, 5).double()
    for expected, actual in (
        (plain.likelihood(z, exact_bags(stars)), shifted.likelihood(z, exact_bags(stars))),
        (output.likelihood_gradients(z, exact_bags(stars), 0.1) for output in (plain, shifted)),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("memory", "processes", "recorded"), [(2**33, 1, True), (2**18, 1, False), (2**33, 2, False)])
def test_steps_are_recorded_if_they_fit_into_memory_and_one_process_trains(
    memory: int, processes: int, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=memory))
    model = RecVAE(replace(CONFIG, device="cpu"))
    matrix = taste_matrix(users=150)
    model.build(matrix.shape[1])
    run = model.training_run(matrix)
    run.workers.count = processes
    assert isinstance(recorded_steps(run, model), RecordedSteps if recorded else type(None))


def trained(**kwargs: object) -> RecVAE:
    model = RecVAE(replace(CONFIG, device="cuda"), **kwargs)  # type: ignore[arg-type]
    return model.fit(taste_matrix(users=430))


def assert_equal(first: RecVAE, second: RecVAE) -> None:
    weights = second.weights()
    for name, values in first.weights().items():
        np.testing.assert_array_equal(values, weights[name], err_msg=name)


@needs_gpu
def test_the_same_seed_gives_the_same_weights() -> None:
    assert_equal(trained(), trained())


@needs_gpu
def test_replayed_steps_are_those_that_were_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = trained()
    monkeypatch.setattr(recorded, "WARM_UP", 10**9)
    assert_equal(replayed, trained())


@needs_gpu
def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trained(checkpoints=tmp_path, on_epoch=stop)
    assert_equal(trained(checkpoints=tmp_path), trained())
