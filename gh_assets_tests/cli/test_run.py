"""Tests of `gh-assets run`: its files, lists and sources."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.supervision import release_all
from gh_assets.instance.configuration import open_instance
from gh_assets.services.connections import asset_store, connect_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.commands import command, fails, run_json
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.worlds import LIST, world_of

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


@pytest.mark.parametrize(
    ("name", "message"),
    [("huge-ids.csv", "which is no whole number from 1 to 2^63 - 1"), ("ambiguous-date.csv", "'01/02/2020'")],
)
@pytest.mark.parametrize("arguments", [["run"], ["run", "--source", "file"], ["github-standin"]], ids=" ".join)
def test_invalid_value_in_a_stars_file_is_reported_before_anything_starts(
    fresh_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], name: str, message: str
) -> None:
    code, output = fails([*arguments, "--stars", str(CASES / name)], capsys)
    assert code == 1
    assert "Row 2 of the stars file" in output
    assert message in output
    assert list(fresh_home.iterdir()) == []


@pytest.mark.parametrize("arguments", [["run"], ["run", "--source", "graphql"]], ids=" ".join)
def test_missing_users_file_is_reported_before_anything_starts(
    fresh_home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, output = fails([*arguments, "--seed-users", "nope.txt"], capsys)
    assert code == 1
    assert "The file of users nope.txt does not exist." in " ".join(output.split())
    assert list(fresh_home.iterdir()) == []


def test_ctrl_c_ends_a_run_that_waits_for_new_quota(serve_world, fresh_home: Path) -> None:
    """A worker that waits an hour for quota delays neither the other workers nor the exit."""
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
    _, output = process.communicate(timeout=60)  # new quota would come in an hour
    assert process.returncode == 1
    assert "Stopped. What was collected is kept" in output
    assert standin.quota.violations == {}
    database = connect_mongo(load_settings())
    assert len(CollectionState(database).load()) >= 20
    database.client.close()
    release_all(fresh_home)


@pytest.mark.slow
def test_stars_file_with_logins_is_combined_with_github(serve_world, fresh_home: Path, tmp_path: Path) -> None:
    world = world_of({f"a/{n}": [user for user in range(60) if (user * 7 + n) % 4] for n in range(12)}, users=60)
    standin, url = serve_world(world)
    standin.restricted = True
    stars = tmp_path / "stars.csv"
    rows = [f"{r.full_name};@{world.logins[user]}" for r in world.repositories[:-1] for user in r.stargazers]
    stars.write_text("Repo;Login\n" + "\n".join(rows) + "\na/0;missing-1\n../..;ann\n", encoding="utf-8-sig")
    real = {"GITHUB_API_URL": url, "GITHUB_TOKENS": "token"}
    done = command(
        fresh_home, "run", "--source", "file", "--stars", str(stars), "--awesome", LIST, "--epochs", "1", **real
    )
    assert done.returncode == 0, done.stderr
    message = " ".join(done.stderr.split())
    skipped = f"1 of {len(rows) + 2} rows of stars.csv was skipped: 1 row has a repo that is not owner/name"
    assert message.count(skipped) == 1
    unknown = "1 star of stars.csv was left out: GitHub has no user 'missing-1'."
    assert unknown in message
    database = connect_mongo(load_settings())
    assert {d["_id"]: d["login"] for d in database["users"].find()} == dict(
        zip(world.user_ids, world.logins, strict=True)
    )
    database.client.close()
    matrix_users = asset_store(load_settings()).read_table("users")["user_id"]
    assert matrix_users.to_list() == world.user_ids
    with open_instance(load_settings()) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("stargazers"))
        assert event is not None
        assert event.asset_materialization is not None
        left_out = str(event.asset_materialization.metadata["run_rows_left_out"].value)
    assert skipped in left_out
    assert unknown in left_out
    release_all(fresh_home)


@pytest.mark.slow
def test_archive_alone_yields_exactly_its_stars(fresh_home: Path, tmp_path: Path) -> None:
    """Without lists, tokens and GitHub, repositories and stars are those of the archive's hours."""
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
    release_all(fresh_home)


@pytest.mark.slow
def test_closed_lists_are_completed_from_users_and_reported(serve_world, fresh_home: Path, tmp_path: Path) -> None:
    stars = {f"a/{n}": [user for user in range(120) if (user * 7 + n) % 4] for n in range(25)}
    world = world_of(stars, users=120)
    standin, url = serve_world(world)
    standin.restricted = True
    real = {"GITHUB_API_URL": url, "GITHUB_TOKENS": "token"}
    by_forks = command(fresh_home, "run", "--awesome", LIST, "--epochs", "1", "--max-users", "60", **real)
    assert by_forks.returncode == 0, by_forks.stderr
    message = " ".join(by_forks.stderr.split())
    assert "25 of 25 repositories do not let their stargazers be listed; 25 of them were completed" in message
    assert "users' lists of starred repositories to be read:" in message
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
    release_all(fresh_home)
