"""The command, run in a new process or in this one."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gh_assets.cli import main
from gh_assets_tests.conftest import SETTINGS

USERS = 160


def write_stars(
    path: Path, users: int = USERS, repositories: int = 45, stars: tuple[int, int] = (8, 18)
) -> pl.DataFrame:
    """Write stars of users with three tastes; by default, some repositories have more than a page of stargazers."""
    rng = np.random.default_rng(3)
    rows = []
    places = np.arange(repositories)
    for user in range(users):
        weights = np.where(places % 3 == user % 3, 1.0, 0.08) + 1.5 * (places < 4)
        for repo in rng.choice(repositories, size=rng.integers(*stars), replace=False, p=weights / weights.sum()):
            rows.append((f"Owner{repo % 5}/repo-{repo}", f"Login-{user}"))
    table = pl.DataFrame(rows, schema=["repo", "login"], orient="row")
    table.write_parquet(path)
    return table


def command(
    home: Path, *arguments: str, program: Sequence[str] = ("-m", "gh_assets"), **environment: str
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, *program, *arguments],
        env=clean | {"GH_ASSETS_HOME": str(home)} | environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


def run_json(home: Path, *arguments: str) -> Any:
    done = command(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answer_json(home: Path, *arguments: str) -> Any:
    """Return what `run_json` returns, from the command in this process, which saves the start of a new one."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.setenv("GH_ASSETS_HOME", str(home))
        main([*arguments, "--json"])
    return json.loads(output.getvalue())


def stored_file(home: Path, bucket: str, name: str) -> Path:
    """Return the path of an object's content in the embedded bucket of a home."""
    with closing(sqlite3.connect(f"file:{home}/bucket/index.sqlite?mode=ro", uri=True)) as index:
        file: str
        (file,) = index.execute("SELECT file FROM objects WHERE bucket = ? AND name = ?", (bucket, name)).fetchone()
    return home / "bucket" / "content" / file[:2] / file


def fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run a command that fails in this process; return its exit code and its message on stderr."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    captured = capsys.readouterr()
    assert captured.out == "", "a command that fails prints no result"
    lines = [line for line in captured.err.splitlines() if line.startswith(("Error", "Usage"))]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return int(caught.value.code or 0), captured.err
