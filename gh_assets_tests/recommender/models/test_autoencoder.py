"""The same on a GPU; where there is none, each test says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gh_assets.recommender import MultVAE, MultVAEConfig, RecVAE, RecVAEConfig, evaluate, strong_generalization_split
from gh_assets.recommender.models.autoencoder import Autoencoder
from gh_assets.recommender.training.engine import AdamStep, Bags, RowAdam, SoftmaxOutput
from gh_assets_tests.recommender.models.test_recvae import error, with_arbitrary_weights
from gh_assets_tests.support.matrices import taste_matrix

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

DEVICES = ("cpu", "cuda")

KINDS = {
    "recvae": (RecVAE, RecVAEConfig(epochs=12, hidden_size=64, latent_size=16, batch_size=200, learning_rate=2e-3)),
    "multvae": (MultVAE, MultVAEConfig(epochs=12, hidden_size=64, latent_size=16, batch_size=200, learning_rate=2e-3)),
}


def stars(users: int = 12) -> sp.csr_array:
    rng = np.random.default_rng(1)
    dense = (rng.random((users, 30)) < 0.25).astype(np.float32)
    dense[:, 0] = 1
    return sp.csr_array(dense)


def bags_on(device: str) -> Bags:
    return Bags.of(stars(), torch.device(device), torch.float64)


def dropped_on(device: str) -> Bags:
    """Some items hidden, the same on every device."""
    dropped = bags_on("cpu").dropped(0.5, torch.Generator().manual_seed(3))
    return Bags(*(getattr(dropped, name).to(device) for name in ("items", "weights", "offsets", "lengths")))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(found: Iterator[torch.Tensor] | tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for there, here in zip(found, expected, strict=True):
        assert there.is_cuda
        assert error(there.cpu(), here) < 1e-9


def test_gradients_of_the_encoder_are_those_of_the_cpu() -> None:
    """Which `test_recvae` compares with the paper's."""
    results = []
    for device in DEVICES:
        model = with_arbitrary_weights(
            RecVAE(RecVAEConfig(hidden_size=16, latent_size=6, precision="float64", device=device))
        )
        assert isinstance(model, RecVAE)
        output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
        loss, first = model.encoder_gradients(
            output, bags_on(device), dropped_on(device), numbers(12, 6).to(device), numbers(12, 12).to(device) * 0.5, 12
        )
        inner = [parameter.grad for parameter in model.encoder.parameters() if parameter.grad is not None]
        results.append((loss, (first, dropped_on(device).gradient(first, 30), *inner)))
    (here, expected), (there, found) = results
    assert there == pytest.approx(here, rel=1e-9)
    assert len(found) > 20
    assert_same(found, expected)


@pytest.mark.parametrize("size", [1.0, 300.0])
def test_gradients_of_the_softmax_are_those_of_the_cpu(size: float) -> None:
    results = []
    for device in DEVICES:
        weight, bias, z = (part.to(device) for part in (numbers(30, 5), numbers(30, seed=1) * size, numbers(12, 5)))
        output = SoftmaxOutput(weight, bias, torch.float64)
        found = output.likelihood_gradients(z, bags_on(device), 0.1)
        results.append((*found, *output.likelihood(z, bags_on(device))))
    assert_same(results[1], results[0])


@pytest.mark.parametrize("lazy", [False, True])
def test_adam_of_rows_is_that_of_the_cpu(lazy: bool) -> None:
    tables = []
    for device in DEVICES:
        table = numbers(30, 7).to(device)
        adam = RowAdam(table, lazy)
        for number in range(1, 6):
            adam.step(dropped_on(device), numbers(12, 7, seed=number).to(device), AdamStep(0.01, number))
        tables.append((table,))
    assert_same(tables[1], tables[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_models_are_as_good_as_those_of_the_cpu(kind: str, precision: str) -> None:
    """Within noise: over seeds, the difference of the means is within what seeds make."""
    make, config = KINDS[kind]
    split = strong_generalization_split(taste_matrix(users=1500, items=200), validation_users=200, test_users=200)
    scores: dict[str, list[float]] = {device: [] for device in DEVICES}
    for device, found in scores.items():
        for seed in range(4):
            model = make(replace(config, seed=seed, device=device, precision=precision))  # type: ignore[arg-type]
            model.fit(split.train, split.validation)
            assert model.encoder.embeddings.device.type == device
            found.append(evaluate(model, *split.test)["ndcg@100"])
    here, there = (np.array(found) for found in scores.values())
    assert abs(there.mean() - here.mean()) < max(0.01, 3 * (here.std(ddof=1) + there.std(ddof=1)) / 2)


def test_a_model_goes_from_one_device_to_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = taste_matrix(users=200)
    there = RecVAE(replace(KINDS["recvae"][1], device="cuda")).fit(matrix)
    there.save(tmp_path / "model")
    again = RecVAE.load(tmp_path / "model")
    assert again.encoder.embeddings.is_cuda, "where there is a GPU, it is used"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    here = RecVAE.load(tmp_path / "model")
    assert not here.encoder.embeddings.is_cuda
    items, _ = there.recommend(matrix, 5)
    for model in (again, here):
        np.testing.assert_allclose(model.predict(matrix), there.predict(matrix), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(
            model._contributions(matrix, items), there._contributions(matrix, items), rtol=1e-2, atol=2e-3
        )


class Interrupted(Exception):  # noqa: N818 - it is no error
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_goes_on(kind: str, tmp_path: Path) -> None:
    make, config = KINDS[kind]
    split = strong_generalization_split(taste_matrix(users=600), validation_users=60, test_users=60)

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 5:
            raise Interrupted

    def model(folder: str) -> Autoencoder:
        return make(replace(config, device="cuda"), checkpoints=tmp_path / folder)  # type: ignore[arg-type]

    first = model("interrupted")
    first.on_epoch = stop
    with pytest.raises(Interrupted):
        first.fit(split.train, split.validation)
    resumed, whole = (model(folder).fit(split.train, split.validation) for folder in ("interrupted", "whole"))
    assert [row["epoch"] for row in resumed.history] == [row["epoch"] for row in whole.history]
    for name, array in whole._weights().items():
        np.testing.assert_allclose(resumed._weights()[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
