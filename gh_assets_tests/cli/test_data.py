"""Tests of `gh-assets data`."""

from pathlib import Path

import pytest

from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.commands import answer_json


@pytest.mark.parametrize(
    ("time", "message"),
    [("yesterday", "'yesterday' is not a time: write 2026-11-26"), ("9999-01-01", "9999-01-01 is in the future")],
)
def test_undo_needs_a_time_in_the_past(time: str, message: str, failure: Failure) -> None:
    assert message in failure("data", "undo", "stargazers", "--before", time, code=2)


def test_a_backup_counts_what_it_copied_and_replaces_nothing(tmp_path: Path, failure: Failure) -> None:
    backup = ["data", "backup", str(tmp_path / "copy")]
    assert answer_json(*backup).keys() == {"documents", "objects", "bytes"}
    assert "exists" in failure(*backup)
