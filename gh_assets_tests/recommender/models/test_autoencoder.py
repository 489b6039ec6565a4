"""Training as a whole: resumed after kill -9, shared by processes, and on a GPU as on the CPU."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from safetensors.numpy import load_file

from gh_assets.errors import ConfigurationError
from gh_assets.recommender import (
    MultVAE,
    MultVAEConfig,
    RecVAE,
    RecVAEConfig,
    StrongGeneralizationSplit,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.engine import precision
from gh_assets.recommender.engine.adam import AdamStep, RowAdam
from gh_assets.recommender.engine.bags import Bags
from gh_assets.recommender.engine.checkpoints import FILE
from gh_assets.recommender.engine.softmax import SoftmaxOutput
from gh_assets.recommender.models import autoencoder
from gh_assets.recommender.models.autoencoder import Autoencoder
from gh_assets.recommender.models.base import WEIGHTS_FILE
from gh_assets_tests.support.matrices import taste_matrix, twelve_users
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.reference_models import relative_error, with_arbitrary_weights

SMALL: dict[str, Any] = {"epochs": 6, "hidden_size": 24, "latent_size": 8, "batch_size": 60, "learning_rate": 2e-3}


EXACTLY = {**SMALL, "precision": "bfloat16"}  # "auto" may choose differently on a busy machine


def many_items() -> sp.csr_array:
    """A matrix of which a batch touches few items."""
    rng = np.random.default_rng(5)
    rows = np.repeat(np.arange(90), 8)
    columns = np.concatenate([rng.choice(3000, 8, replace=False) for _ in range(90)])
    return sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(90, 3000))


CASES: dict[str, tuple[type[Autoencoder], RecVAEConfig | MultVAEConfig, sp.csr_array]] = {
    "recvae": (RecVAE, RecVAEConfig(**EXACTLY), taste_matrix(users=200)),
    "recvae, lazy rows": (RecVAE, RecVAEConfig(**{**EXACTLY, "batch_size": 30}), many_items()),
    "multvae": (MultVAE, MultVAEConfig(**EXACTLY), taste_matrix(users=200)),
}


SCRIPT = """
import os, sys
from pathlib import Path
from typing import Any
import numpy as np
from gh_assets_tests.recommender.models.test_autoencoder import CASES, split_of
case, folder, stop_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
kind, config, matrix = CASES[case]
def report(row):
    print(f"epoch {row['epoch']:.0f}", flush=True)
    if row["epoch"] == stop_at:
        os.kill(os.getpid(), 9)
split = split_of(matrix)
model = kind(config, on_epoch=report, checkpoints=folder / "checkpoints")
model.fit(split.train, split.validation).save(folder / "model")
assert "torch._dynamo" not in sys.modules, "an unused compiler takes seconds to load"
"""


def split_of(matrix: sp.csr_array) -> StrongGeneralizationSplit:
    return strong_generalization_split(matrix, validation_users=20, test_users=20)


def epochs_of(model: Autoencoder, *data: Any) -> list[float]:
    """Return the epochs that are trained rather than resumed."""
    seen: list[float] = []
    model.on_epoch = lambda row: seen.append(row["epoch"])
    model.fit(*data)
    return seen


def train_in_a_process(case: str, folder: Path, stop_at: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, case, str(folder), str(stop_at)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=CHECKOUT,
    )


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case != "recvae")) for case in CASES])
def test_killed_and_resumed_training_ends_with_identical_weights(case: str, tmp_path: Path) -> None:
    killed = train_in_a_process(case, tmp_path, stop_at=3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "checkpoints" / FILE).is_file()
    resumed = train_in_a_process(case, tmp_path, stop_at=0)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.split("\n")[0] == "epoch 4", "it resumes after the last epoch"
    assert not (tmp_path / "checkpoints" / FILE).exists(), "a finished training leaves no state"
    whole = train_in_a_process(case, tmp_path / "whole", stop_at=0)
    assert whole.stdout.split("\n")[0] == "epoch 1", whole.stderr
    expected = load_file(tmp_path / "whole" / "model" / WEIGHTS_FILE)
    for name, array in load_file(tmp_path / "model" / WEIGHTS_FILE).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def stop_at_four(row: dict[str, float]) -> None:
    if row["epoch"] == 4:
        raise InterruptedError


def test_a_resumed_training_keeps_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may continue on another machine."""
    config, matrix = RecVAEConfig(**SMALL), taste_matrix(users=60)

    able = {"first": True, "later": False, "whole": True}
    models = {}
    for name, multiplies in able.items():
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device, answer=multiplies: answer)
        folder = tmp_path / ("whole" if name == "whole" else "interrupted")
        models[name] = RecVAE(config, on_epoch=stop_at_four if name == "first" else None, checkpoints=folder)
        with pytest.raises(InterruptedError) if name == "first" else nullcontext():
            models[name].fit(matrix)
    for name, array in models["whole"].weights().items():
        np.testing.assert_array_equal(models["later"].weights()[name], array, err_msg=name)


@pytest.mark.parametrize("changed", ["nothing", "configuration", "data", "layout", "content"])
def test_a_checkpoint_of_another_training_or_that_cannot_be_read_is_ignored(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, matrix = RecVAEConfig(**SMALL), taste_matrix(users=60)
    with pytest.raises(InterruptedError):
        RecVAE(config, on_epoch=stop_at_four, checkpoints=tmp_path).fit(matrix)
    if changed == "configuration":
        config = replace(config, gamma=0.1)
    elif changed == "data":
        matrix = matrix[:-1]
    elif changed == "layout":
        monkeypatch.setattr(autoencoder, "LAYOUT", 1)
    elif changed == "content":
        (tmp_path / FILE).write_bytes(b"half a che")
    expected = [5, 6] if changed == "nothing" else [1, 2, 3, 4, 5, 6]
    assert epochs_of(RecVAE(config, checkpoints=tmp_path), matrix) == expected


def test_few_touched_items_are_updated_lazily_and_many_are_not() -> None:
    for case, lazy in (("recvae", False), ("recvae, lazy rows", True)):
        kind, config, matrix = CASES[case]
        model = kind(config)
        model.build(matrix.shape[1])
        assert model.training_run(matrix).rows.lazy == lazy, case


TOGETHER = """
import sys
from dataclasses import replace
import torch.distributed as dist
from gh_assets_tests.recommender.models.test_autoencoder import CASES, split_of
case, rank, count, port, folder = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
kind, config, matrix = CASES[case]
split = split_of(matrix)
kind(replace(config, precision="float32")).fit(split.train, split.validation).save(f"{folder}/{rank}")
dist.barrier()  # a process that leaves early would cut off the last sum of the other
dist.destroy_process_group()
"""


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case != "recvae")) for case in CASES])
def test_several_processes_train_as_one(case: str, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    workers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", TOGETHER, case, str(rank), "2", str(port), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n--\n".join(errors)
    first, second = (load_file(tmp_path / str(rank) / WEIGHTS_FILE) for rank in range(2))
    kind, config, matrix = CASES[case]
    split = split_of(matrix)
    # In bfloat16 some processors round products of half a batch so differently that another epoch is the best one.
    alone = kind(replace(config, precision="float32")).fit(split.train, split.validation)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    together = kind.load(tmp_path / "0")
    fold_in, held_out = split.test
    assert evaluate(together, fold_in, held_out) == pytest.approx(evaluate(alone, fold_in, held_out), abs=0.03)
    distance = np.abs(together.predict(fold_in) - alone.predict(fold_in)).max()
    assert distance < 0.05 * np.ptp(alone.predict(fold_in)), "sums in another order differ by rounding only"


def test_a_model_remembers_its_configuration(tmp_path: Path) -> None:
    config = RecVAEConfig(**SMALL, gamma=0.02, device="cpu")
    model = RecVAE(config).fit(taste_matrix(users=60))
    loaded = RecVAE.load(model.save(tmp_path / "model"))
    assert model.config.precision != config.precision == "auto"
    assert asdict(loaded.config) == {**asdict(model.config), "device": "auto"}


def test_an_unknown_device_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="'warp' is no device"):
        RecVAE(RecVAEConfig(device="warp"))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

DEVICES = ("cpu", "cuda")


KINDS = {
    "recvae": (RecVAE, RecVAEConfig(epochs=12, hidden_size=64, latent_size=16, batch_size=200, learning_rate=2e-3)),
    "multvae": (MultVAE, MultVAEConfig(epochs=12, hidden_size=64, latent_size=16, batch_size=200, learning_rate=2e-3)),
}


def bags_on(device: str) -> Bags:
    return Bags.of(twelve_users(), torch.device(device), torch.float64)


def dropped_on(device: str) -> Bags:
    """Some items hidden, the same on every device."""
    dropped = bags_on("cpu").dropped(0.5, torch.Generator().manual_seed(3))
    return Bags(*(getattr(dropped, name).to(device) for name in ("items", "weights", "offsets", "lengths")))


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same(actual: Sequence[torch.Tensor | None], expected: Sequence[torch.Tensor | None]) -> None:
    for there, here in zip(actual, expected, strict=True):
        assert there is not None
        assert here is not None
        assert there.is_cuda
        assert relative_error(there.cpu(), here) < 1e-9


@needs_gpu
def test_gradients_of_the_encoder_are_those_of_the_cpu() -> None:
    """Those of the CPU are compared with the paper in `test_recvae`."""
    results = []
    for device in DEVICES:
        config = RecVAEConfig(hidden_size=16, latent_size=6, precision="float64", device=device, gamma=0.01)
        model = with_arbitrary_weights(RecVAE(config))
        output = SoftmaxOutput(model.decoder.weight, model.decoder.bias, torch.float64)
        loss, first = model.encoder_gradients(
            output, bags_on(device), dropped_on(device), numbers(12, 6).to(device), numbers(12, 12).to(device) * 0.5, 12
        )
        inner = [parameter.grad for parameter in model.encoder.parameters() if parameter.grad is not None]
        results.append((float(loss), (first, dropped_on(device).gradient(first, 30), *inner)))
    (here, expected), (there, actual) = results
    assert there == pytest.approx(here, rel=1e-9)
    assert len(actual) > 20
    assert_same(actual, expected)


@needs_gpu
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_gradients_of_the_softmax_are_those_of_the_cpu(size: float) -> None:
    results = []
    for device in DEVICES:
        weight, bias, z = (part.to(device) for part in (numbers(30, 5), numbers(30, seed=1) * size, numbers(12, 5)))
        output = SoftmaxOutput(weight, bias, torch.float64)
        gradients = output.likelihood_gradients(z, bags_on(device), 0.1)
        results.append((*gradients, *output.likelihood(z, bags_on(device))))
    assert_same(results[1], results[0])


@needs_gpu
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


@needs_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_models_are_as_good_as_those_of_the_cpu(kind: str, precision: str) -> None:
    """The difference of the means over seeds is within the noise of seeds."""
    make, config = KINDS[kind]
    split = strong_generalization_split(taste_matrix(users=1500, items=200), validation_users=200, test_users=200)
    scores: dict[str, list[float]] = {device: [] for device in DEVICES}
    for device, metrics in scores.items():
        for seed in range(4):
            model = make(replace(config, seed=seed, device=device, precision=precision))
            model.fit(split.train, split.validation)
            assert model.encoder.embeddings.device.type == device
            metrics.append(evaluate(model, *split.test)["ndcg@100"])
    here, there = (np.array(metrics) for metrics in scores.values())
    assert abs(there.mean() - here.mean()) < max(0.01, 3 * (here.std(ddof=1) + there.std(ddof=1)) / 2)


@needs_gpu
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
            model.contributions(matrix, items), there.contributions(matrix, items), rtol=1e-2, atol=2e-3
        )


@needs_gpu
@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_is_resumed(kind: str, tmp_path: Path) -> None:
    make, config = KINDS[kind]
    split = strong_generalization_split(taste_matrix(users=600), validation_users=60, test_users=60)

    def model(folder: str) -> Autoencoder:
        return make(replace(config, device="cuda"), checkpoints=tmp_path / folder)

    first = model("interrupted")
    first.on_epoch = stop_at_four
    with pytest.raises(InterruptedError):
        first.fit(split.train, split.validation)
    resumed, whole = (model(folder).fit(split.train, split.validation) for folder in ("interrupted", "whole"))
    assert [row["epoch"] for row in resumed.history] == [row["epoch"] for row in whole.history]
    for name, array in whole.weights().items():
        np.testing.assert_allclose(resumed.weights()[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
