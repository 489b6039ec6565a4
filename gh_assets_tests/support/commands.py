"""The command, run in a new process or in this one."""

import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gh_assets.cli import main
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.paths import CHECKOUT

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


def environment_of(home: Path, **more: str) -> dict[str, str]:
    """Return the environment of this process, with a home and further settings in place of its own ones."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return clean | {"GH_ASSETS_HOME": str(home)} | more


def command(
    home: Path, *arguments: str, program: Sequence[str] = ("-m", "gh_assets"), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process."""
    argv, own = [sys.executable, *program, *arguments], environment_of(home, **environment)
    return subprocess.run(argv, env=own, cwd=home.parent, capture_output=True, text=True, timeout=900)


def started(
    home: Path, *arguments: str, environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start the command in a new process as a shell does, as the leader of its own process group."""
    argv, own = [sys.executable, "-m", "gh_assets", *arguments], environment_of(home, **(environment or {}))
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(argv, env=own, cwd=home.parent, text=True, start_new_session=True, **options)


def script(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start a program of the tests in a new process, whose input and output are pipes."""
    argv = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    own = os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment
    return subprocess.Popen(argv, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_json(home: Path, *arguments: str, **environment: str) -> Any:
    """Run the command in a new process; return the document that it prints."""
    done = command(home, *arguments, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answer_json(*arguments: str, code: int = 0) -> Any:
    """Return what `run_json` returns, from the command in this process, which saves the start of a new one."""
    end = pytest.raises(SystemExit, check=lambda ended: ended.code == code) if code else nullcontext()
    with redirect_stdout(io.StringIO()) as output, end:
        main([*arguments, "--json"])
    return json.loads(output.getvalue())


def stored_file(home: Path, bucket: str, name: str) -> Path:
    """Return the path of an object's content in the embedded bucket of a home."""
    with closing(sqlite3.connect(f"file:{home}/bucket/index.sqlite?mode=ro", uri=True)) as index:
        file: str
        (file,) = index.execute("SELECT file FROM objects WHERE bucket = ? AND name = ?", (bucket, name)).fetchone()
    return home / "bucket" / "content" / file[:2] / file
