"""Tests of `gh-assets github-standin`."""

from pathlib import Path

import pytest

from gh_assets.embedded.guardian import free_port
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.commands import started
from gh_assets_tests.support.paths import CHECKOUT

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--awesome", "list.md"], "--awesome needs --stars"),
        (["--awesome", "nope.md", "--stars", str(CASES / "impossible.csv")], "File 'nope.md' does not exist."),
    ],
)
def test_awesome_list_needs_stars_and_must_exist(
    tmp_path: Path, failure: Failure, arguments: list[str], message: str
) -> None:
    (tmp_path / "list.md").write_text("https://github.com/a/b")
    assert message in failure("github-standin", *arguments, code=2)


def test_skipped_rows_are_reported(home: Path) -> None:
    output = ""
    arguments = ["github-standin", "--stars", str(CASES / "impossible.csv"), "--port", str(free_port())]
    with started(home, *arguments) as process:
        assert process.stderr is not None
        while "Serving" not in output and (line := process.stderr.readline()):
            output += line
        process.kill()
    skipped = "6 of 8 rows of impossible.csv were skipped: 2 rows have a repo that is not owner/name"
    assert skipped in " ".join(output.split())
