"""The command in homes of their own: other sources, searches, and what goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gh_assets.cli import main
from gh_assets.collector.pipeline import CollectionState
from gh_assets.embedded.standin.limits import Limits
from gh_assets.services.connections import connect_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.commands import command, fails, let_go, run_json, write_stars
from gh_assets_tests.support.worlds import LIST, world_of

SECRET = "ghp_verysecret0123456789wxyz"


@pytest.mark.slow
def test_a_search_is_recorded_and_later_runs_train_with_what_it_found(
    tmp_path: Path,
) -> None:
    home, stars = tmp_path / "home", tmp_path / "stars.parquet"
    write_stars(stars)
    run_json(home, "run", "--stars", str(stars), "--epochs", "2")
    found = run_json(home, "tune", "--minutes", "0.05", "--epochs", "2")
    assert (found["name"], found["tag"], found["metric"]) == ("recvae", "tuned", "ndcg@100")
    trials = found["config"]["search"]["trials"]
    assert trials[0]["parameters"]["gamma"] == 0.005, "the defaults are tried first"
    best = max((trial for trial in trials if trial["score"] is not None), key=lambda trial: trial["score"])
    assert found["config"]["search"]["score"] == best["score"]
    again = run_json(home, "run", "--stars", str(stars), "--epochs", "2")
    newest = next(model for model in again["models"] if model["name"] == "recvae" and not model["tag"])
    for name, value in best["parameters"].items():
        assert newest["config"][name] == value
    let_go(home)


def test_a_wrong_token_is_one_line_that_names_its_end_only(
    fresh_home: Path, serve_world, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, url = serve_world(world_of({"a/b": [0]}))
    monkeypatch.setenv("GITHUB_TOKENS", SECRET)
    monkeypatch.setenv("GITHUB_API_URL", url)
    code, said = fails(["run", "--awesome", LIST], capsys)
    assert code == 1
    assert "GitHub refused the token ending in …wxyz (401 Bad credentials)" in said
    assert SECRET not in said
    let_go(fresh_home)
    kept = [path for path in fresh_home.rglob("*") if path.is_file()]
    assert len(kept) > 5
    for path in kept:  # Dagster's events, Mongo's files, logs
        assert SECRET.encode() not in path.read_bytes(), f"the token was written to {path}"


def test_an_unreachable_mongo_is_one_line_without_its_password(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.3)
    monkeypatch.setenv("MONGO_URI", "mongodb://someone:hunter2secret@127.0.0.1:9/")
    for arguments in (["run"], ["status"], ["recommend", "x"]):
        code, said = fails(arguments, capsys)
        assert code == 1
        assert "the MongoDB of MONGO_URI at 127.0.0.1:9 does not answer" in said
        assert "hunter2secret" not in said
    monkeypatch.setenv("MONGO_URI", "postgres://someone:hunter2secret@127.0.0.1/")
    code, said = fails(["status"], capsys)
    assert "MONGO_URI is no valid connection string" in said
    assert "hunter2secret" not in said


def test_doctor_finds_what_is_wrong(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    main(["doctor", "--settings", "--json"])
    assert json.loads(capsys.readouterr().out)["GH_ASSETS_HOME"] == str(fresh_home)
    assert {finding["service"]: finding["ok"] for finding in findings} == dict.fromkeys(
        ["home", "MongoDB", "Cloud Storage", "GitHub", "Dagster", "compute"], True
    )
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.3)
    monkeypatch.setenv("MONGO_URI", "mongodb://127.0.0.1:9/")
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--json"])
    assert caught.value.code == 1
    findings = {finding["service"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert not findings["MongoDB"]["ok"]
    assert findings["Cloud Storage"]["ok"], "one service that is away hides no other"
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
    assert second["world"] == "github.com, as GH Archive tells of it"
    assert second["star_sources"] == {"gharchive": second["repos"]}
    again = run_json(fresh_home, "status")
    assert again["stars"] == len(pairs)
    doctor = command(fresh_home, "doctor")
    assert (doctor.returncode, "nobody to ask" in doctor.stdout) == (0, True)
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
