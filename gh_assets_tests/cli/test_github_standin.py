"""Tests of `gh-assets github-standin`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gh_assets.cli import main
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.paths import CHECKOUT

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


def test_awesome_list_needs_stars_and_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    list_file = tmp_path / "list.md"
    list_file.write_text("https://github.com/a/b")
    for arguments, message in (
        (["--awesome", str(list_file)], "--awesome needs --stars"),
        (["--awesome", "nope.md", "--stars", str(CASES / "impossible.csv")], "File 'nope.md' does not exist."),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["github-standin", *arguments])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_skipped_rows_are_reported(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "gh_assets", "github-standin", "--stars", str(CASES / "impossible.csv")]
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = ""
    with subprocess.Popen(
        [*command_line, "--port", str(port)], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "Serving" not in output and (line := process.stderr.readline()):
            output += line
        process.terminate()
    skipped = "6 of 8 rows of impossible.csv were skipped: 2 rows have a repo that is not owner/name"
    assert skipped in " ".join(output.split())
