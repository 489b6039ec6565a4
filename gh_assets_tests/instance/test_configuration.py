"""The configuration of Dagster's instance: one for `dagster dev`, the command and a team."""

from pathlib import Path

import pytest
import yaml

from gh_assets.instance.configuration import INSTANCE_CONFIGURATION, open_instance
from gh_assets.settings import load_settings
from gh_assets_tests.support.paths import CHECKOUT


def test_the_checkouts_dagster_yaml_is_the_instance_of_the_command() -> None:
    assert yaml.safe_load((CHECKOUT / "dagster.yaml").read_text()) == INSTANCE_CONFIGURATION


def test_a_team_has_another_storage_and_is_otherwise_the_same() -> None:
    team = yaml.safe_load((CHECKOUT / "deploy/team/dagster.yaml").read_text())
    assert set(team.pop("storage")) == {"postgres"}
    assert team == {
        name: part for name, part in INSTANCE_CONFIGURATION.items() if name not in ("storage", "compute_logs")
    }


def test_dagster_home_is_used_if_it_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    with open_instance(load_settings()) as instance:
        assert instance.root_directory == str(tmp_path)


def test_the_history_is_in_the_home_of_the_given_settings(tmp_path: Path) -> None:
    settings = load_settings().model_copy(update={"home": tmp_path / "another"})
    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("repo", ["a/b"])
    assert (tmp_path / "another/dagster/history/runs/index.db").is_file()
