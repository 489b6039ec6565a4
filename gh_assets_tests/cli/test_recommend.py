"""Tests of `gh-assets recommend`."""

import polars as pl
import pytest

from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.chain_runs import ChainRun
from gh_assets_tests.support.commands import USERS, answer_json


def test_command_and_asset_recommend_what_is_new_to_the_user_for_own_stars(chain_run: ChainRun) -> None:
    table = asset_store(load_settings()).read_table("recommendations")
    assert table["login"].n_unique() == USERS
    starred = set(zip(chain_run.stars["login"], chain_run.stars["repo"], strict=True))
    assert not starred & set(zip(table["login"], table["full_name"], strict=True)), "only what is not starred yet"
    rows = table.filter(pl.col("login") == "Login-7").sort("rank").head(10)
    own = {repo for login, repo in starred if login == "Login-7"}
    answer = answer_json("recommend", "login-7", "-n", "10")
    assert answer["known_stars"] == len(own)
    assert [entry["rank"] for entry in answer["recommendations"]] == list(range(1, 11))
    assert [entry["full_name"] for entry in answer["recommendations"]] == rows["full_name"].to_list()
    because = [[reason["full_name"] for reason in entry["because"]] for entry in answer["recommendations"]]
    assert because == rows["because"].to_list()
    assert {name for names in because for name in names} <= own
    for entry in answer["recommendations"]:
        assert 0 < sum(reason["share"] for reason in entry["because"]) <= 1.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-user"], "'no-such-user' is not among the 160 collected users"),
        (["--repos", "no/such,also/not"], "The model knows none of no/such, also/not"),
        (["--repos", "not a repo"], "is no repository: give owner/name"),
    ],
)
def test_unknown_users_and_repositories_are_explained_in_one_line(
    chain_run: ChainRun, failure: Failure, arguments: list[str], message: str
) -> None:
    assert message in failure("recommend", *arguments)
