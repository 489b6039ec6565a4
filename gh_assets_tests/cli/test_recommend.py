"""Tests of `gh-assets recommend`."""

from __future__ import annotations

import polars as pl
import pytest

from gh_assets_tests.support.chain_runs import ChainRun
from gh_assets_tests.support.commands import answer_json, fails


def test_recommendations_are_new_to_the_user_and_explained_by_own_stars(chain_run: ChainRun) -> None:
    own = set(chain_run.stars.filter(pl.col("login") == "Login-7")["repo"])
    answer = answer_json(chain_run.home, "recommend", "login-7", "-n", "10")
    assert answer["known_stars"] == len(own)
    assert [entry["rank"] for entry in answer["recommendations"]] == list(range(1, 11))
    for entry in answer["recommendations"]:
        assert entry["full_name"] not in own
        assert {reason["full_name"] for reason in entry["because"]} <= own
        assert 0 < sum(reason["share"] for reason in entry["because"]) <= 1.001


def test_recommendations_for_repositories_instead_of_a_login(chain_run: ChainRun) -> None:
    answer = answer_json(chain_run.home, "recommend", "--repos", "owner4/REPO-9,Owner2/repo-12,no/such", "-n", "5")
    assert answer["known_stars"] == 2
    assert answer["warnings"] == ["Unknown repositories were ignored: no/such."]
    names = {entry["full_name"] for entry in answer["recommendations"]}
    assert len(names) == 5
    assert not names & {"Owner4/repo-9", "Owner2/repo-12"}


def test_unknown_users_get_popular_repositories_with_a_warning(chain_run: ChainRun) -> None:
    answer = answer_json(chain_run.home, "recommend", "--popular", "-n", "5")
    assert {entry["kind"] for entry in answer["recommendations"]} == {"popular"}
    assert len(answer["recommendations"]) == 5
    assert any("popular repositories" in warning for warning in answer["warnings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-user"], "'no-such-user' is not among the 160 collected users"),
        (["--repos", "no/such,also/not"], "The model knows none of no/such, also/not"),
        (["--repos", "not a repo"], "is no repository: give owner/name"),
    ],
)
def test_unknown_users_and_repositories_are_explained_in_one_line(
    chain_run: ChainRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(chain_run.home))
    code, output = fails(["recommend", *arguments], capsys)
    assert code == 1
    assert message in output
