"""Files of stars by the commands that people type, and from Dagster's launchpad."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from gh_assets.assets.metadata import REPO_PARTITIONS
from gh_assets.automation.jobs import range_tags, refresh_job, repos_job
from gh_assets.cli import main
from gh_assets.cli.chain import execute
from gh_assets.collector.pipeline import CollectionState
from gh_assets.embedded.servers import HomeWorld, choose_world
from gh_assets.embedded.standin.limits import Limits
from gh_assets.errors import WorldMismatchError
from gh_assets.instance.storage import open_instance
from gh_assets.services.connections import asset_store, connect_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.commands import command, fails, let_go, run_json
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
        execute(defs, repos_job.name, instance, {})
        partitions = instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
        assert sorted(partitions) == ["a/b", "a/c"]
        config = {"stargazers": {"config": {"source": "file", "stars_file": str(other)}}}
        with pytest.raises(WorldMismatchError, match=r"data of the stars of own\.csv, whose ids are made up"):
            execute(defs, refresh_job.name, instance, config, range_tags(partitions[0], partitions[-1]))
    database = connect_mongo(load_settings())
    assert database["users"].count_documents({}) == database["stargazer_state"].count_documents({}) == 0
    database.client.close()
    let_go(fresh_home)


def test_ctrl_c_ends_a_run_that_waits_for_new_quota(serve_world, fresh_home: Path) -> None:
    """A worker that sleeps for an hour must not keep the others, or the person, waiting."""
    world = world_of({f"a/{n}": [1, 2] for n in range(60)})
    standin, url = serve_world(world, limits=Limits(requests=30))
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    process = subprocess.Popen(
        [sys.executable, "-m", "gh_assets", "run", "--awesome", LIST, "--source", "stargazers"],
        env=environment | {"GH_ASSETS_HOME": str(fresh_home), "GITHUB_API_URL": url, "GITHUB_TOKENS": "token"},
        cwd=fresh_home.parent,
        stderr=subprocess.PIPE,
        text=True,
    )
    while standin.quota.spent["core"] < 30:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)  # new quota would come in an hour
    assert process.returncode == 1
    assert "Stopped. What was collected is kept" in said
    assert standin.quota.violations == {}
    database = connect_mongo(load_settings())
    assert len(CollectionState(database).load()) >= 20
    database.client.close()
    let_go(fresh_home)


@pytest.mark.slow
def test_the_archive_alone_gives_exactly_its_stars(fresh_home: Path, tmp_path: Path) -> None:
    """No list, no token, no GitHub: repositories and stars are those of the hours."""
    rng = np.random.default_rng(2)
    pairs = sorted({(int(rng.integers(1, 30)), int(rng.integers(1, 90))) for _ in range(1200)})
    for hour in (3, 4):
        lines = [
            json.dumps(
                {
                    "type": "WatchEvent",
                    "actor": {"id": user, "login": f"user-{user}"},
                    "repo": {"id": repo, "name": f"owner/repo-{repo}"},
                    "payload": {"action": "started"},
                    "created_at": f"2024-02-0{hour - 2}T{hour:02d}:00:{n % 60:02d}Z",
                }
            )
            for n, (repo, user) in enumerate(pairs[hour % 2 :: 2])
        ]
        (tmp_path / f"2024-02-0{hour - 2}-{hour}.json.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    hours = str(tmp_path / "2024-02-01-{3..3}.json.gz")
    arguments = ["run", "--source", "gharchive", "--epochs", "1", "--archive", hours]
    first = run_json(fresh_home, *arguments)
    assert (first["stars"], first["archive_days"]) == (len(pairs[1::2]), 1)
    second = run_json(fresh_home, *arguments, "--archive", str(tmp_path / "2024-02-02-4.json.gz"))
    assert (second["stars"], second["archive_days"]) == (len(pairs), 2)
    assert second["matrix"]["nnz"] == len(pairs)
    assert second["world"] == "github.com, by GH Archive"
    assert second["star_sources"] == {"gharchive": second["repos"]}
    again = run_json(fresh_home, "status")
    assert again["stars"] == len(pairs)
    doctor = command(fresh_home, "doctor")
    assert (doctor.returncode, "not used: the data" in doctor.stdout) == (0, True)
    refused = command(fresh_home, "run", "--source", "graphql")
    assert refused.returncode == 1
    assert "set GITHUB_TOKENS" in refused.stderr
    let_go(fresh_home)


@pytest.mark.slow
def test_with_every_list_closed_a_model_is_built_from_users_and_it_is_said(
    serve_world, fresh_home: Path, tmp_path: Path
) -> None:
    stars = {f"a/{n}": [user for user in range(120) if (user * 7 + n) % 4] for n in range(25)}
    world = world_of(stars, users=120)
    standin, url = serve_world(world)
    standin.restricted = True
    real = {"GITHUB_API_URL": url, "GITHUB_TOKENS": "token"}
    by_forks = command(fresh_home, "run", "--awesome", LIST, "--epochs", "1", "--max-users", "60", **real)
    assert by_forks.returncode == 0, by_forks.stderr
    words = " ".join(by_forks.stderr.split())
    assert "25 of 25 repositories do not let their stargazers be listed; 25 of them were completed" in words
    assert "users to be asked for their starred repositories: about" in words
    status = json.loads(command(fresh_home, "status", "--json", **real).stdout)
    assert (status["partition_outcomes"], status["lists_closed"]) == ({"ok": 25}, 25)
    known = status["stars"]
    users = tmp_path / "users.txt"
    users.write_text("\n".join(world.logins))
    capped = command(fresh_home, "run", "--awesome", LIST, "--epochs", "1", "--max-requests", "3", **real)
    assert capped.returncode == 0, capped.stderr
    by_file = command(fresh_home, "run", "--awesome", LIST, "--epochs", "1", "--seed-users", str(users), **real)
    assert by_file.returncode == 0, by_file.stderr
    status = json.loads(command(fresh_home, "status", "--json", **real).stdout)
    assert known < status["stars"] == world.star_count
    assert [model["name"] for model in status["models"] if model["name"] in ("hybrid", "recvae")] == [
        "hybrid",
        "recvae",
    ] * 2
    let_go(fresh_home)
