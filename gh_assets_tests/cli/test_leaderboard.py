"""Tests of `gh-assets leaderboard`."""

import io

from rich.console import Console

from gh_assets.cli.leaderboard import leaderboard_tables
from gh_assets.schemas import LEADERBOARD
from gh_assets.serving.leaderboard import KNOWN_STARS, standings
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.support.chain_runs import ChainRun
from gh_assets_tests.support.commands import answer_json
from gh_assets_tests.support.leaderboards import leaderboard_by_known_stars


def test_every_model_is_listed_by_number_of_known_stars(chain_run: ChainRun) -> None:
    rows = answer_json("leaderboard")
    board = chain_run.first["run"]["leaderboard"]
    assert {row["model"]: row["known_stars"]["all"] for row in rows} == {
        name: metrics["ndcg@100"] for name, metrics in board.items()
    }
    assert "popularity" in board
    for row in rows:
        assert tuple(row["known_stars"]) == KNOWN_STARS
        assert all(0 < score < 1 for score in (*row["known_stars"].values(), row["as_people_have"]))


def test_tables_fit_a_narrow_terminal() -> None:
    output = io.StringIO()
    rows = standings(leaderboard_by_known_stars())
    Console(file=output, width=60).print(*leaderboard_tables(rows))
    lines = output.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 60
    text = " ".join(output.getvalue().replace("│", " ").split())
    assert "hybrid 0.201 0.202 0.203 0.205 0.210 0.250 0.210" in text
    assert "users 1,000 2,000 3,000 4,000 6,000 7,000" in text
    assert "popularity 0.100 0.110 0.120 0.130 0.150" in text
    former = leaderboard_by_known_stars().drop([name for name, kind in LEADERBOARD.columns.items() if kind.added])
    assert len(list(leaderboard_tables(standings(LEADERBOARD.completed(former))))) == 1


def test_without_a_leaderboard_there_is_nothing_to_show(failure: Failure) -> None:
    assert "There is no leaderboard yet: run gh-assets run" in failure("leaderboard")
