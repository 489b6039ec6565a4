"""Files of stars by the commands that people type, and from Dagster's launchpad."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from gh_assets.assets.metadata import REPO_PARTITIONS
from gh_assets.automation.jobs import range_tags, refresh_job, repos_job
from gh_assets.cli import main
from gh_assets.cli.chain import _execute
from gh_assets.embedded.servers import HomeWorld, choose_world
from gh_assets.errors import WorldMismatchError
from gh_assets.instance.storage import open_instance
from gh_assets.services.connections import asset_store, connect_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.commands import command, fails, let_go
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.worlds import LIST, world_of

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


@pytest.mark.parametrize(
    ("name", "words"),
    [("huge-ids.csv", "which is no whole number from 1 to 2^63 - 1"), ("ambiguous-date.csv", "'01/02/2020'")],
)
@pytest.mark.parametrize("arguments", [["run"], ["run", "--source", "file"], ["github-standin"]], ids=" ".join)
def test_an_impossible_value_is_one_line_before_anything_is_started(
    fresh_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], name: str, words: str
) -> None:
    code, said = fails([*arguments, "--stars", str(CASES / name)], capsys)
    assert code == 1
    assert "Row 2 of the stars file" in said
    assert words in said
    assert list(fresh_home.iterdir()) == []


@pytest.mark.parametrize("arguments", [["run"], ["run", "--source", "graphql"]], ids=" ".join)
def test_a_missing_file_of_users_is_said_before_anything_is_started(
    fresh_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, said = fails([*arguments, "--seed-users", "nope.txt"], capsys)
    assert code == 1
    assert "The file of users nope.txt does not exist." in " ".join(said.split())
    assert list(fresh_home.iterdir()) == []


def test_a_list_for_the_stand_in_needs_stars_and_has_to_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list_file = tmp_path / "list.md"
    list_file.write_text("https://github.com/a/b")
    for arguments, words in (
        (["--awesome", str(list_file)], "--awesome needs --stars"),
        (["--awesome", "nope.md", "--stars", str(CASES / "impossible.csv")], "File 'nope.md' does not exist."),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["github-standin", *arguments])
        assert caught.value.code == 2
        assert words in capsys.readouterr().err


def test_the_stand_in_says_which_rows_it_leaves_out(tmp_path: Path) -> None:
    command_line = [sys.executable, "-m", "gh_assets", "github-standin", "--stars", str(CASES / "impossible.csv")]
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = ""
    with subprocess.Popen(
        [*command_line, "--port", str(port)], env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "Serving" not in said and (line := process.stderr.readline()):
            said += line
        process.terminate()
    skipped = "6 of 8 rows of impossible.csv were skipped: 2 rows have a repo that is not owner/name"
    assert skipped in " ".join(said.split())


@pytest.mark.slow
def test_a_file_of_logins_beside_github_by_the_command(serve_world, fresh_home: Path, tmp_path: Path) -> None:
    world = world_of({f"a/{n}": [user for user in range(60) if (user * 7 + n) % 4] for n in range(12)}, users=60)
    standin, url = serve_world(world)
    standin.restricted = True
    stars = tmp_path / "stars.csv"
    rows = [f"{r.full_name};@{world.logins[user]}" for r in world.repositories[:-1] for user in r.stargazers]
    stars.write_text("Repo;Login\n" + "\n".join(rows) + "\na/0;nobody-1\n../..;ann\n", encoding="utf-8-sig")
    real = {"GITHUB_API_URL": url, "GITHUB_TOKENS": "token"}
    done = command(
        fresh_home, "run", "--source", "file", "--stars", str(stars), "--awesome", LIST, "--epochs", "1", **real
    )
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stderr.split())
    skipped = f"1 of {len(rows) + 2} rows of stars.csv was skipped: 1 row has a repo that is not owner/name"
    assert words.count(skipped) == 1
    nobody = "1 star of stars.csv was left out: GitHub has no user 'nobody-1'."
    assert nobody in words
    database = connect_mongo(load_settings())
    assert {d["_id"]: d["login"] for d in database["users"].find()} == dict(
        zip(world.user_ids, world.logins, strict=True)
    )
    database.client.close()
    matrix_users = asset_store(load_settings()).read_table("users")["user_id"]
    assert matrix_users.to_list() == world.user_ids
    with open_instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("stargazers"))
        assert event is not None
        assert event.asset_materialization is not None
        left_out = str(event.asset_materialization.metadata["run_rows_left_out"].value)
    assert skipped in left_out
    assert nobody in left_out
    let_go(fresh_home)


def test_the_launchpad_refuses_a_file_beside_another_world(fresh_home: Path, tmp_path: Path) -> None:
    from gh_assets.definitions import defs

    own, other = tmp_path / "own.csv", tmp_path / "other.csv"
    own.write_text("repo,login\na/b,ann\na/c,bob\n")
    other.write_text("repo,login\na/b,zoe\n")
    choose_world(fresh_home, HomeWorld(str(own)))
    with open_instance() as instance:
        _execute(defs, repos_job.name, instance, {}, {})
        partitions = instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
        assert sorted(partitions) == ["a/b", "a/c"]
        config = {"stargazers": {"config": {"source": "file", "stars_file": str(other)}}}
        with pytest.raises(WorldMismatchError, match=r"data of the stars of own\.csv, whose ids are made up"):
            _execute(defs, refresh_job.name, instance, config, range_tags(partitions[0], partitions[-1]))
    database = connect_mongo(load_settings())
    assert database["users"].count_documents({}) == database["stargazer_state"].count_documents({}) == 0
    database.client.close()
    let_go(fresh_home)
