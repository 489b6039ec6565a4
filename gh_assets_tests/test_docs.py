"""The documentation matches the code: settings, commands, files and pictures."""

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
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")
}
DOCUMENTS |= {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md") if path.name != "CHANGELOG.md"}
SETTINGS = DOCUMENTS["docs/reference/settings.md"]
ARCHITECTURE = DOCUMENTS["docs/explanation/architecture.md"]
FIGURES = DOCUMENTS["docs/reference/figures.md"]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()


def test_the_table_of_settings_is_complete() -> None:
    lines = [
        f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {row.meaning} |" for row in setting_rows()
    ]
    documented = [line for line in SETTINGS.splitlines() if re.match(r"\| `[A-Z_]+` \|", line)]
    assert [line for line in documented if "`DAGSTER_HOME`" not in line] == lines


def test_settings_are_read_from_the_environment_and_shown_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_documented_commands_exist(document: str) -> None:
    context = click.Context(cli)
    for line in re.findall(
        r"gh-assets (?!gh-assets)((?:models |data )?[a-z][a-z-]+)", "\n".join(shell_blocks(DOCUMENTS[document]))
    ):
        command: click.Command | None = cli
        for word in line.split():
            assert isinstance(command, click.Group)
            command = command.get_command(context, word)
            assert command is not None, f"gh-assets {line} is documented, but the command does not exist"


def shell_blocks(text: str) -> list[str]:
    return re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_documented_make_targets_exist(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in re.findall(r"\bmake ([a-z-]+)`", DOCUMENTS[document]) + re.findall(
        r"^make ([a-z-]+)", README, re.MULTILINE
    ):
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"{document} shows make {name}"


def test_links_of_the_readme_resolve() -> None:
    """Links between the pages of the site are checked by `make docs`."""
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"):
        for path in re.findall(r"\]\((?!https?:)([^)#]+)", DOCUMENTS[name]):
            assert (ROOT / path).exists(), f"{name}: {path}"


@pytest.mark.parametrize("document", sorted(DOCUMENTS))
def test_documented_files_exist(document: str) -> None:
    named = re.findall(r"\b((?:gh_assets|gh_assets_tests|benchmarks|deploy)/[\w./-]+\w)", DOCUMENTS[document])
    for name in set(named):
        assert (ROOT / name).exists(), f"{document}: {name}"


def test_every_benchmark_has_a_figure() -> None:
    shown = set(re.findall(r"benchmarks/(\w+)\.py", "".join(DOCUMENTS.values())))
    assert shown == {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {
        "interactions"
    }  # reads files for others


def test_the_architecture_names_exactly_the_packages() -> None:
    block = re.search(r"```\ngh_assets/\n(.*?)```", ARCHITECTURE, re.DOTALL)
    assert block
    named = set()
    for line in block[1].splitlines():
        for name in re.match(r"\s*((?:[\w/]+(?:\.py|/),?\s)*)", line)[1].replace(",", " ").split():  # type: ignore[index]
            assert (ROOT / "gh_assets" / name).exists() or (ROOT / name).exists(), name
            named.add(name.rstrip("/"))
    packages = {path.parent.name for path in (ROOT / "gh_assets").glob("*/__init__.py")}
    assert packages <= named


def test_nothing_is_pickled() -> None:
    imports = re.compile(r"^\s*(?:from|import) ([\w.]+)", re.MULTILINE)
    for path in (ROOT / "gh_assets").rglob("*.py"):
        assert not {"pickle", "cloudpickle", "joblib", "dill"} & set(imports.findall(path.read_text(encoding="utf-8")))


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_the_repository_contains_no_data_and_no_secrets() -> None:
    data = [name for name in TRACKED if name.endswith((".parquet", ".csv", ".gz", ".npz", ".pt", ".pkl", ".env"))]
    assert not [name for name in data if not name.startswith("gh_assets_tests/cases/")], (
        "only invented examples are allowed"
    )
    token = re.compile(r"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60}")
    for name in TRACKED:
        if not name.endswith((".png", ".zst")):
            assert not token.search((ROOT / name).read_text(encoding="utf-8")), name
