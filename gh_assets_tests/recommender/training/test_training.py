"""Training as a whole: it survives kill -9, several processes train as one, early stopping, lazy rows."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file

from gh_assets.errors import ConfigurationError
from gh_assets.recommender import MultVAE, MultVAEConfig, RecVAE, RecVAEConfig, evaluate, strong_generalization_split
from gh_assets.recommender.models import autoencoder
from gh_assets.recommender.models.autoencoder import Autoencoder, TrainingRun
from gh_assets.recommender.models.base import WEIGHTS_FILE
from gh_assets.recommender.training import precision
from gh_assets.recommender.training.checkpoints import FILE
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.paths import CHECKOUT

SMALL = {"epochs": 6, "hidden_size": 24, "latent_size": 8, "batch_size": 60, "learning_rate": 2e-3}
EXACTLY = {**SMALL, "precision": "bfloat16"}  # what is measured on a busy machine may differ from process to process


def many_items() -> sp.csr_array:
    """So many that a batch touches few of them."""
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
from gh_assets_tests.recommender.training.test_training import CASES, split_of
case, folder, stop_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
kind, config, matrix = CASES[case]
def tell(row):
    print(f"epoch {row['epoch']:.0f}", flush=True)
    if row["epoch"] == stop_at:
        os.kill(os.getpid(), 9)
split = split_of(matrix)
model = kind(config, on_epoch=tell, checkpoints=folder / "checkpoints")
model.fit(split.train, split.validation).save(folder / "model")
assert "torch._dynamo" not in sys.modules, "a compiler that nobody asked for takes seconds to load"
"""


def split_of(matrix: sp.csr_array):
    return strong_generalization_split(matrix, validation_users=20, test_users=20)


def epochs_of(model: Autoencoder, *data: Any) -> list[float]:
    """Those that are trained, not taken from a checkpoint."""
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
    assert resumed.stdout.split("\n")[0] == "epoch 4", "it goes on where it was"
    assert not (tmp_path / "checkpoints" / FILE).exists(), "a training that is over leaves no state"
    whole = train_in_a_process(case, tmp_path / "whole", stop_at=0)
    assert whole.stdout.split("\n")[0] == "epoch 1", whole.stderr
    expected = load_file(tmp_path / "whole" / "model" / WEIGHTS_FILE)
    for name, array in load_file(tmp_path / "model" / WEIGHTS_FILE).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_checkpoint_of_other_data_or_another_configuration_is_not_taken(tmp_path: Path) -> None:
    config = RecVAEConfig(**SMALL)
    killed = train_in_a_process("recvae", tmp_path, stop_at=3)
    assert killed.returncode == -signal.SIGKILL
    kept = (tmp_path / "checkpoints" / FILE).read_bytes()
    split = split_of(CASES["recvae"][2])
    for changed, train in ((replace(config, gamma=0.1), split.train), (config, split.train[:-1])):
        (tmp_path / "checkpoints" / FILE).write_bytes(kept)
        model = RecVAE(changed, checkpoints=tmp_path / "checkpoints")
        assert len(epochs_of(model, train, split.validation)) == 6


def stop_at_four(row: dict[str, float]) -> None:
    if row["epoch"] == 4:
        raise InterruptedError


def test_a_training_goes_on_in_the_precision_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is measured, and a busy machine may be measured otherwise the next time."""
    config, matrix = RecVAEConfig(**SMALL), taste_matrix(users=60)

    gains = {"first": 5.0, "later": 1.0, "whole": 5.0}
    models = {}
    for name, gain in gains.items():
        monkeypatch.setattr(precision, "_bfloat16_gain", lambda device, gain=gain: gain)
        folder = tmp_path / ("whole" if name == "whole" else "interrupted")
        models[name] = RecVAE(config, on_epoch=stop_at_four if name == "first" else None, checkpoints=folder)
        with pytest.raises(InterruptedError) if name == "first" else nullcontext():
            models[name].fit(matrix)
    for name, array in models["whole"]._weights().items():
        np.testing.assert_array_equal(models["later"]._weights()[name], array, err_msg=name)


def test_a_checkpoint_of_an_older_layout_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RecVAEConfig(**SMALL)
    matrix = taste_matrix(users=60)

    monkeypatch.setattr(autoencoder, "LAYOUT", 1)
    with pytest.raises(InterruptedError):
        RecVAE(config, on_epoch=stop_at_four, checkpoints=tmp_path).fit(matrix)
    kept = (tmp_path / FILE).read_bytes()
    assert epochs_of(RecVAE(config, checkpoints=tmp_path), matrix) == [5, 6]
    (tmp_path / FILE).write_bytes(kept)
    monkeypatch.undo()
    assert epochs_of(RecVAE(config, checkpoints=tmp_path), matrix) == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_that_cannot_be_read_is_as_none(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"half a che")
    model = RecVAE(RecVAEConfig(**SMALL), checkpoints=tmp_path)
    assert epochs_of(model, taste_matrix(users=60)) == [1, 2, 3, 4, 5, 6]


def test_few_touched_items_are_updated_lazily_and_many_are_not() -> None:
    for case, lazy in (("recvae", False), ("recvae, lazy rows", True)):
        kind, config, matrix = CASES[case]
        model = kind(config)  # type: ignore[arg-type]
        model.items = matrix.shape[1]
        model._build()
        assert TrainingRun(model, matrix).rows.lazy == lazy, case


TOGETHER = """
import sys
from dataclasses import replace
import torch.distributed as dist
from gh_assets_tests.recommender.training.test_training import CASES, split_of
case, rank, count, port, folder = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
kind, config, matrix = CASES[case]
split = split_of(matrix)
kind(replace(config, precision="float32")).fit(split.train, split.validation).save(f"{folder}/{rank}")
dist.barrier()  # whoever leaves first would cut off the other's last sum
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
    told = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n--\n".join(told)
    first, second = (load_file(tmp_path / str(rank) / WEIGHTS_FILE) for rank in range(2))
    kind, config, matrix = CASES[case]
    split = split_of(matrix)
    # In bfloat16 some processors round products of half a batch so differently that another epoch is the best one.
    alone = kind(replace(config, precision="float32")).fit(split.train, split.validation)  # type: ignore[arg-type]
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
    assert asdict(loaded.config) == {**asdict(config), "device": "auto"}


def test_a_device_that_is_not_there_is_one_error() -> None:
    with pytest.raises(ConfigurationError, match="'warp' is no device"):
        RecVAE(RecVAEConfig(device="warp"))
