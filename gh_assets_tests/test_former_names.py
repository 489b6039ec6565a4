"""Former names of modules, which users' own configuration may contain."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from gh_assets_tests.support.paths import CHECKOUT

FORMER = {
    "dagster_home": ("gh_assets.instance.storage", "HomeStorage"),
    "dagster_runs": ("gh_assets.instance.launcher", "HomeRunLauncher"),
    "celery_app": ("gh_assets.instance.celery_app", "app"),
    "train_together": ("gh_assets.cli.train_together", "main"),
}


@pytest.mark.parametrize("name", FORMER)
def test_former_names_provide_the_same_objects_and_warn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_ASSETS_CELERY_BROKER", "redis://127.0.0.1:1/0")
    module, attribute = FORMER[name]
    pytest.importorskip("dagster_celery" if name == "celery_app" else "dagster")
    sys.modules.pop(f"gh_assets.{name}", None)
    now = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"gh_assets.{name} is now {module}"):
        former = importlib.import_module(f"gh_assets.{name}")
    assert getattr(former, attribute) is getattr(now, attribute)


def test_dagster_yaml_of_an_earlier_version_opens_its_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CHECKOUT / "dagster.yaml").read_text()
    earlier = text.replace("gh_assets.instance.storage", "gh_assets.dagster_home")
    earlier = earlier.replace("gh_assets.instance.launcher", "gh_assets.dagster_runs")
    assert yaml.safe_load(earlier) != yaml.safe_load(text)
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "dagster.yaml").write_text(earlier)
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "instance"))
    with DagsterInstance.get() as instance:
        assert type(instance.run_launcher).__module__ == "gh_assets.instance.launcher"
        assert instance.get_runs_count() == 0


def test_torchrun_command_line_with_the_former_name_starts() -> None:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "gh_assets.train_together", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--epochs" in done.stdout
