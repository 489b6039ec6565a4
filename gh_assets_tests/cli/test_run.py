"""Tests of `gh-assets run`: its files, lists and sources."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.limits import Limits
from gh_assets.instance.configuration import open_instance
from gh_assets.services.connections import asset_store, open_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.chain_runs import latest_materialization
from gh_assets_tests.support.commands import answer_json, command, run_json, started
from gh_assets_tests.support.gharchive import packed, star_event
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.worlds import LIST, world_of

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


def github_at(url: str) -> dict[str, str]:
    return {"GITHUB_API_URL": url, "GITHUB_TOKENS": "token"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("huge-ids.csv", "which is no whole number from 1 to 2^63 - 1"), ("ambiguous-date.csv", "'01/02/2020'")],
)
@pytest.mark.parametrize("arguments", [["run"], ["run", "--source", "file"], ["github-standin"]], ids=" ".join)
def test_invalid_value_in_a_stars_file_is_reported_before_anything_starts(
    fresh_home: Path, failure: Failure, arguments: list[str], name: str, message: str
) -> None:
    output = failure(*arguments, "--stars", str(CASES / name))
    assert "Row 2 of the stars file" in output
    assert message in output
    assert list(fresh_home.iterdir()) == []


@pytest.mark.parametrize("arguments", [["run"], ["run", "--source", "graphql"]], ids=" ".join)
def test_missing_users_file_is_reported_before_anything_starts(
    fresh_home: Path, failure: Failure, arguments: list[str]
) -> None:
    output = failure(*arguments, "--seed-users", "nope.txt")
    assert "The file of users nope.txt does not exist." in output
    assert list(fresh_home.iterdir()) == []


def test_ctrl_c_ends_a_run_that_waits_for_new_quota(serve_world: ServeWorld, fresh_home: Path) -> None:
    """A worker that waits an hour for quota delays neither the other workers nor the exit."""
    world = world_of({f"a/{n}": [1, 2] for n in range(60)})
    standin, url = serve_world(world, limits=Limits(requests=30))
    process = started(fresh_home, "run", "--awesome", LIST, "--source", "stargazers", environment=github_at(url))
    while standin.quota.spent["core"] < 30:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)  # new quota would come in an hour
    assert process.returncode == 1
    assert "Stopped. What was collected is kept" in output
    assert standin.quota.violations == {}
    with open_mongo(load_settings()) as database:
        assert len(CollectionState(database).load()) >= 20


@pytest.mark.slow
def test_stars_file_with_logins_is_combined_with_github(
    serve_world: ServeWorld, fresh_home: Path, tmp_path: Path
) -> None:
    world = world_of({f"a/{n}": [user for user in range(60) if (user * 7 + n) % 4] for n in range(12)}, users=60)
    standin, url = serve_world(world)
    standin.restricted = True
    stars = tmp_path / "stars.csv"
    rows = [f"{r.full_name};@{world.logins[user]}" for r in world.repositories[:-1] for user in r.stargazers]
    stars.write_text("Repo;Login\n" + "\n".join(rows) + "\na/0;missing-1\n../..;ann\n", encoding="utf-8-sig")
    arguments = ["run", "--source", "file", "--stars", str(stars), "--awesome", LIST, "--epochs", "1"]
    done = command(fresh_home, *arguments, **github_at(url))
    assert done.returncode == 0, done.stderr
    message = " ".join(done.stderr.split())
    skipped = f"1 of {len(rows) + 2} rows of stars.csv was skipped: 1 row has a repo that is not owner/name"
    assert message.count(skipped) == 1
    unknown = "1 star of stars.csv was left out: GitHub has no user 'missing-1'."
    assert unknown in message
    with open_mongo(load_settings()) as database:
        logins = {user["_id"]: user["login"] for user in database["users"].find()}
    assert logins == dict(zip(world.user_ids, world.logins, strict=True))
    assert asset_store(load_settings()).read_table("users")["user_id"].to_list() == world.user_ids
    with open_instance(load_settings()) as instance:
        left_out = str(latest_materialization(instance, "stargazers").metadata["run_rows_left_out"].value)
    assert skipped in left_out
    assert unknown in left_out


@pytest.mark.slow
def test_archive_alone_yields_exactly_its_stars(fresh_home: Path, tmp_path: Path, failure: Failure) -> None:
    """Without lists, tokens and GitHub, repositories and stars are those of the archive's hours."""
    rng = np.random.default_rng(2)
    pairs = sorted({(int(rng.integers(1, 30)), int(rng.integers(1, 90))) for _ in range(1200)})
    for hour in (3, 4):
        day = f"2024-02-0{hour - 2}"
        starred = enumerate(pairs[hour % 2 :: 2])
        events = [star_event(repo, user, f"{day}T{hour:02d}:00:{n % 60:02d}Z") for n, (repo, user) in starred]
        (tmp_path / f"{day}-{hour}.json.gz").write_bytes(packed(*events))
    hours = str(tmp_path / "2024-02-01-{3..3}.json.gz")
    arguments = ["run", "--source", "gharchive", "--epochs", "1", "--archive", hours]
    first = run_json(fresh_home, *arguments)
    assert (first["stars"], first["archive_days"]) == (len(pairs[1::2]), 1)
    second = run_json(fresh_home, *arguments, "--archive", str(tmp_path / "2024-02-02-4.json.gz"))
    assert (second["stars"], second["archive_days"]) == (len(pairs), 2)
    assert second["matrix"]["nnz"] == len(pairs)
    assert second["world"] == "github.com, by GH Archive"
    assert second["star_sources"] == {"gharchive": second["repos"]}
    assert answer_json("status")["stars"] == len(pairs)
    assert "not used: the data" in command(fresh_home, "doctor").stdout
    assert "set GITHUB_TOKENS" in failure("run", "--source", "graphql")


@pytest.mark.slow
def test_closed_lists_are_completed_from_users_and_reported(
    serve_world: ServeWorld, fresh_home: Path, tmp_path: Path
) -> None:
    stars = {f"a/{n}": [user for user in range(120) if (user * 7 + n) % 4] for n in range(25)}
    world = world_of(stars, users=120)
    standin, url = serve_world(world)
    standin.restricted = True

    def run(*arguments: str) -> str:
        done = command(fresh_home, "run", "--awesome", LIST, "--epochs", "1", *arguments, **github_at(url))
        assert done.returncode == 0, done.stderr
        return " ".join(done.stderr.split())

    message = run("--max-users", "60")
    assert "25 of 25 repositories do not let their stargazers be listed; 25 of them were completed" in message
    assert "users' lists of starred repositories to be read:" in message
    status = run_json(fresh_home, "status", **github_at(url))
    assert (status["partition_outcomes"], status["lists_closed"]) == ({"ok": 25}, 25)
    known = status["stars"]
    users = tmp_path / "users.txt"
    users.write_text("\n".join(world.logins))
    run("--max-requests", "3")
    run("--seed-users", str(users))
    status = run_json(fresh_home, "status", **github_at(url))
    assert known < status["stars"] == world.star_count
    trained = [model["name"] for model in status["models"] if model["name"] in ("hybrid", "recvae")]
    assert trained == ["hybrid", "recvae"] * 2


@pytest.mark.slow
def test_run_on_github_enterprise_ends_without_star_histories(serve_world: ServeWorld, fresh_home: Path) -> None:
    world = world_of({f"a/{n}": [user for user in range(60) if (user * 7 + n) % 4] for n in range(12)}, users=60)
    standin, url = serve_world(world)
    standin.enterprise = True
    arguments = ["run", "--source", "graphql", "--awesome", LIST, "--epochs", "1"]
    document = run_json(fresh_home, *arguments, **github_at(url))
    assert document["stars"] == world.star_count
    assert document["runs"] == {"SUCCESS": 3}, "the run that finds no star histories is no failure"
