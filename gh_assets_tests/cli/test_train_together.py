"""Tests of the trainer under `torchrun`: two processes train one model, which the asset takes over."""

import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gh_assets.cli import train_together
from gh_assets.registry import open_registry
from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings
from gh_assets_tests.support.commands import environment_of
from gh_assets_tests.support.dagster_dev import BIN, ROOT
from gh_assets_tests.support.registered_models import matrix_of


@pytest.mark.slow
def test_two_processes_register_one_model(fresh_home: Path) -> None:
    settings = load_settings()
    asset_store(settings).write_matrix("user_item_matrix", matrix_of(300))

    def train() -> str:
        trainer = ["--nproc-per-node", "2", "--standalone", "-m", "gh_assets.cli.train_together", "--epochs", "3"]
        environment = environment_of(fresh_home, GLOO_SOCKET_IFNAME="lo", OMP_NUM_THREADS="1")
        command = [str(BIN / "torchrun"), *trainer]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    assert train() == "recvae 1"
    with open_registry(settings) as registry:
        (model,) = registry.list()
    assert model.data["users"] == 300
    assert "matrix" in model.lineage
    assert train() == "recvae 1, trained before"


@pytest.mark.slow
def test_start_without_torchrun_is_explained() -> None:
    done = subprocess.run(
        [BIN / "python", "-m", "gh_assets.cli.train_together"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "start it with torchrun" in done.stderr


def test_each_process_gets_its_own_gpu_and_more_processes_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen: list[int] = []

    def begun(backend: str) -> None:
        raise InterruptedError(backend)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(dist, "init_process_group", begun)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InterruptedError, match="nccl"):
        train_together.main([])
    assert chosen == [1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SystemExit):
        train_together.main([])
    assert "no more processes on this machine than it has GPUs: 2" in capsys.readouterr().err
