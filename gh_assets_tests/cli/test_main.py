"""Tests of the command as a whole: usage, homes, disks and Ctrl-C."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gh_assets.cli import cli
from gh_assets.embedded.supervision import release_all
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.commands import run_json, started, write_stars
from gh_assets_tests.support.paths import CHECKOUT

STOPPED = "Stopped. What was collected is kept; run again to go on."


def groups(group: click.Group) -> Iterator[click.Group]:
    yield group
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from groups(command)


@pytest.mark.parametrize("group", [*groups(cli)], ids=lambda group: group.name)
def test_summaries_of_commands_are_not_cut_off(group: click.Group) -> None:
    output = CliRunner().invoke(group, ["--help"], terminal_width=80).output
    assert all(f"  {name}" in output for name in group.commands)
    assert "..." not in output.replace("[ARGS]...", "")


def test_help_loads_no_service_and_no_model() -> None:
    heavy = ["dagster", "google.cloud", "numpy", "polars", "pymongo", "requests", "sqlalchemy", "starlette", "torch"]
    code = f"import sys, gh_assets.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "arguments", [["recommend"], ["recommend", "a", "--repos", "b/c"], ["run", "--max-pages", "0"], ["nonsense"]]
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], failure: Failure) -> None:
    assert "Usage:" in failure(*arguments, code=2)


@pytest.mark.parametrize(
    "arguments", [["status"], ["run"], ["recommend", "octocat"], ["models", "list"], ["data", "backup", "x"]]
)
@pytest.mark.parametrize("below", ["", "inner/home"])
def test_home_that_is_a_file_is_explained(
    arguments: list[str], below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    (tmp_path / "file").write_text("content")
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path / "file" / below))
    output = failure(*arguments)
    assert "GH_ASSETS_HOME" in output
    assert "folder that you can write to" in output
    assert (tmp_path / "file").read_text() == "content"


def test_read_only_home_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    assert "cannot be written to" in failure("status")


def test_unwritable_output_is_one_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = started(tmp_path / "home", "doctor", "--settings", stdout=full)
        output = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert output.startswith("Error: The disk is full")
    assert output.count("\n") == 1


def test_full_disk_is_one_sentence_and_the_next_command_works(tmp_path: Path) -> None:
    home = tmp_path / "home"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    process = started(home, "status", preexec_fn=limit)
    output = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Traceback" not in output
    assert output.startswith("Error: ")
    shown = run_json(home, "status")
    release_all(home)
    assert shown["stars"] == 0


def test_ctrl_c_during_a_run_is_one_sentence(tmp_path: Path) -> None:
    write_stars(tmp_path / "stars.parquet")
    home = tmp_path / "home"
    process = started(home, "run", "--stars", "stars.parquet", "--epochs", "2")
    assert process.stderr is not None
    output = ""
    while "users: 1" not in output:
        line = process.stderr.readline()
        assert line, output
        output += line
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    release_all(home)
    assert process.returncode == 1
    assert rest.strip().endswith(STOPPED)
    assert "Traceback" not in rest


def test_ctrl_c_while_modules_are_loaded_is_one_sentence(tmp_path: Path) -> None:
    """Loading the modules takes most of a second, in which Python itself would print a stack trace."""
    (tmp_path / "interrupted.py").write_text(
        "import builtins\nload = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'rich.console': raise KeyboardInterrupt\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "from gh_assets.__main__ import main\nmain()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "interrupted.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (1, STOPPED)
