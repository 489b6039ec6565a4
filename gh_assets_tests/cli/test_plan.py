"""Tests of `gh-assets plan`."""

from pathlib import Path

import pytest

from gh_assets.cli import main
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.chain_runs import ChainRun
from gh_assets_tests.support.commands import answer_json


def test_the_cost_of_a_list_is_estimated_before_anything_is_collected(fresh_home: Path, tmp_path: Path) -> None:
    place = tmp_path / "list.md"
    place.write_text("[a](https://github.com/a/b) [again](https://github.com/A/B/issues) [c](https://github.com/c/d)")
    document = answer_json("plan", "--awesome", str(place))
    assert (document["repositories"], document["stars"]) == (2, 1000)
    ways = {way["source"]: way for way in document["ways"]}
    assert set(ways) == {"graphql", "stargazers", "starred", "events", "gharchive"}
    assert ways["stargazers"]["requests"] == 10
    assert any("2 repositories have 500 stars each" in sentence for sentence in document["assumed"])
    assert not list(fresh_home.rglob("*.parquet")), "nothing is collected"


def test_without_repositories_the_command_says_what_to_name(fresh_home: Path, failure: Failure) -> None:
    output = failure("plan")
    assert "--awesome FILE" in output
    assert "--repositories" in output
    assert "does not exist on this machine" in failure("plan", "--awesome", "nope.md")


def test_repositories_of_the_home_have_their_counts(chain_run: ChainRun, capsys: pytest.CaptureFixture[str]) -> None:
    document = answer_json("plan")
    assert document["repositories"] == chain_run.stars["repo"].n_unique()
    assert document["stars"] == chain_run.stars.height
    main(["plan", "--repositories", "10000", "--max-users", "350000"])
    output = capsys.readouterr().out
    assert "350,000" in output
    assert "10,000 repositories have 500 stars each." in output
