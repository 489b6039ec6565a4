"""Tests of `gh-assets data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gh_assets.cli import main
from gh_assets_tests.support.commands import fails


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("yesterday", "'yesterday' is not a time: write 2026-11-26"),
        ("9999-01-01", "9999-01-01 is in the future"),
    ],
)
def test_undo_needs_a_time_in_the_past(time: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["data", "undo", "stargazers", "--before", time])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_backup_counts_what_it_copied_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["data", "backup", str(tmp_path / "copy"), "--json"])
    assert json.loads(capsys.readouterr().out).keys() == {"documents", "objects", "bytes"}
    code, output = fails(["data", "backup", str(tmp_path / "copy")], capsys)
    assert code == 1
    assert "exists" in output
