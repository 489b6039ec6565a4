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
        (["--users", "50", "--stars", str(CASES / "impossible.csv")], "leave out --world, --repositories and --users"),
        (["--world", "large", "--users", "5"], "not in the range x>=20"),
        (["--awesome", "nope.md", "--stars", str(CASES / "impossible.csv")], "File 'nope.md' does not exist."),
    ],
)
def test_awesome_list_needs_stars_and_must_exist(
    tmp_path: Path, failure: Failure, arguments: list[str], message: str
) -> None:
    (tmp_path / "list.md").write_text("https://github.com/a/b")
    assert message in failure("github-standin", *arguments, code=2)


def printed_at_start(home: Path, *arguments: str) -> str:
    output = ""
    with started(home, "github-standin", *arguments, "--port", str(free_port())) as process:
        assert process.stderr is not None
        while "To use it" not in output and (line := process.stderr.readline()):
            output += line
        process.kill()
    return " ".join(output.split())


def test_a_large_world_has_the_given_size(home: Path) -> None:
    output = printed_at_start(home, "--world", "large", "--seed", "4", "--repositories", "40", "--users", "70")
    # Three of the repositories are the lists.
    assert "Serving the large synthetic world with seed 4: 43 repositories, 70 users, " in output


def test_skipped_rows_are_reported(home: Path) -> None:
    output = printed_at_start(home, "--stars", str(CASES / "impossible.csv"))
    skipped = "6 of 8 rows of impossible.csv were skipped: 2 rows have a repo that is not owner/name"
    assert skipped in output
