"""What the documentation says is so: settings, commands, files and pictures."""

from __future__ import annotations

import datetime as dt
import re
import subprocess

import click
import pytest

from gh_assets.cli import cli
from gh_assets.errors import ConfigurationError
from gh_assets.settings import load_settings, setting_rows
from gh_assets_tests.support.paths import CHECKOUT

ROOT = CHECKOUT
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()


def test_every_setting_is_in_the_table_and_the_table_has_no_other() -> None:
    lines = [
        f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {row.meaning} |" for row in setting_rows()
    ]
    documented = [line for line in README.splitlines() if re.match(r"\| `[A-Z_]+` \|", line)]
    assert [line for line in documented if "`DAGSTER_HOME`" not in line] == lines


def test_settings_are_read_from_the_environment_and_the_table_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_ASSETS_REFRESH_AFTER", "12 h")
    monkeypatch.setenv("GH_ASSETS_ALERT_WEBHOOK", "http://127.0.0.1/secret-path")
    settings = load_settings()
    assert settings.refresh_after == dt.timedelta(hours=12)
    shown = {row.name: row.value for row in setting_rows(settings)}
    assert shown["GH_ASSETS_REFRESH_AFTER"] == "12h"
    assert shown["GH_ASSETS_ALERT_WEBHOOK"] == "(set)"
    for wrong in ("soon", "-1h", "3 weeks"):
        monkeypatch.setenv("GH_ASSETS_REFRESH_AFTER", wrong)
        with pytest.raises(ConfigurationError, match="GH_ASSETS_REFRESH_AFTER"):
            load_settings()


def test_every_command_that_is_shown_exists() -> None:
    context = click.Context(cli)
    for line in re.findall(r"gh-assets ((?:models )?[a-z-]+)", README):
        command: click.Command | None = cli
        for word in line.split():
            assert isinstance(command, click.Group)
            command = command.get_command(context, word)
            assert command is not None, f"gh-assets {line} is shown, but there is no such command"


@pytest.mark.parametrize("name", re.findall(r"make ([a-z-]+)", README))
def test_every_make_target_that_is_shown_exists(name: str) -> None:
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_pictures_and_scripts_that_are_named_exist() -> None:
    for path in re.findall(r"\]\((docs/[^)]+|LICENSE)\)", README) + re.findall(r"(benchmarks/\w+\.py)", README):
        file, _, section = path.partition("#")
        assert (ROOT / file).exists(), path
        headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE) if section else []
        assert not section or section in [heading.lower().replace(" ", "-") for heading in headings], path


def test_the_rooms_of_the_architecture_exist() -> None:
    block = re.search(r"```\ngh_assets/\n(.*?)```", README, re.DOTALL)
    assert block
    for line in block[1].splitlines():
        for name in re.match(r"\s*((?:[\w/]+(?:\.py|/),?\s)*)", line)[1].replace(",", " ").split():  # type: ignore[index]
            assert (ROOT / "gh_assets" / name).exists() or (ROOT / name).exists(), name


def test_the_code_keeps_the_rules_of_the_house() -> None:
    """No Dagster in what a notebook may use, no pickle, nothing lower imports something higher."""
    imports = re.compile(r"^\s*(?:from|import) ([\w.]+)", re.MULTILINE)
    for path in (ROOT / "gh_assets").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = set(imports.findall(text))
        relative = path.relative_to(ROOT / "gh_assets").as_posix()
        assert not found & {"pickle", "cloudpickle", "joblib", "dill"}, relative
        free = (
            "collector/",
            "recommender/",
            "embedded/",
            "registry/",
            "objects.py",
            "wire.py",
            "asset_store.py",
            "services.py",
        )
        free += ("promotion.py", "champion.py", "migrations.py", "desk.py", "live.py", "web/")
        if relative.startswith(free):
            assert not any(name.split(".")[0] in ("dagster", "dagster_gcp") for name in found), relative
        below = {
            "collector/": ("recommender", "registry", "assets", "cli"),
            "recommender/": ("collector", "assets", "cli", "web", "desk"),
            "registry/": ("assets", "cli", "web", "desk"),
            "desk.py": ("assets", "cli", "web", "live"),
            "live.py": ("assets", "cli", "web"),
        }
        for room, higher in below.items():
            if relative.startswith(room):
                assert not any(name.startswith(f"gh_assets.{other}") for name in found for other in higher), relative


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_the_repository_holds_no_data_and_no_secrets() -> None:
    data = [name for name in TRACKED if name.endswith((".parquet", ".csv", ".gz", ".npz", ".pt", ".pkl", ".env"))]
    assert not [name for name in data if not name.startswith("gh_assets_tests/cases/")], "invented examples are none"
    token = re.compile(r"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60}")
    for name in TRACKED:
        if not name.endswith(".png"):
            assert not token.search((ROOT / name).read_text(encoding="utf-8")), name
