"""Tests of the number of threads that compute, and of how they wait for one another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gh_assets.local import threads
from gh_assets.local.threads import VARIABLE, usable_cores, use_threads

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv(VARIABLE, "")  # restores the variable after the test
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8), ("", 8)]
)
def test_cores_are_those_of_the_affinity_within_the_quota_of_the_container(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_CONTAINER", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_the_setting_goes_before_the_variable_and_the_variable_before_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: 3)
    use_threads(None)
    assert (os.environ[VARIABLE], torch.get_num_threads()) == ("3", 3)
    use_threads(2)
    assert (os.environ[VARIABLE], torch.get_num_threads()) == ("2", 2)
    use_threads(None)
    assert (os.environ[VARIABLE], torch.get_num_threads()) == ("2", 2)


@pytest.mark.parametrize(
    "program",
    ["import gh_assets.definitions", "from gh_assets.cli.main import main; main(['github-standin', '--help'])"],
)
def test_threads_of_a_new_process_are_as_set_and_spin_only_briefly(program: str, tmp_path: Path) -> None:
    program = f"try: {program}\nfinally:\n import torch; print('threads', torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, *WAITING)}
    environment |= {"GH_ASSETS_THREADS": "1", "GH_ASSETS_HOME": str(tmp_path), "OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '50000'" in done.stderr
    assert "threads 1" in done.stdout
