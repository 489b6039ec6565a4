"""Postgres for Dagster's history, Redis and two Celery workers for the steps give the same data as one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from dagster import DagsterInstance
from pydantic import SecretStr

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.world import World, read_world
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore, make_client
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.dagster_dev import BIN, ROOT
from gh_assets_tests.support.scale_services import NEEDED, available, postgres, redis
from gh_assets_tests.support.waiting import until
from gh_assets_tests.support.worlds import world_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not available(), reason=NEEDED)]

REPOSITORIES, USERS = 160, 150


def world() -> World:
    """Return a world whose users have preferences, so that a model can learn them."""
    rng = np.random.default_rng(5)
    stars = {}
    for repo in range(REPOSITORIES):
        like = np.where(np.arange(USERS) % 3 == repo % 3, 6.0, 1.0)
        stargazers = rng.choice(USERS, 12 + repo % 20, replace=False, p=like / like.sum())
        stars[f"o/r{repo}"] = stargazers.tolist()
    return world_of(stars, users=USERS)


@dataclass
class Team:
    """Shared services, and workers with homes of their own."""

    folder: Path
    environment: dict[str, str]
    endpoint: str
    bucket: str
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def home(self, name: str) -> dict[str, str]:
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return {**self.environment, "GH_ASSETS_HOME": str(place)}

    def start_worker(self, name: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        worker = ["-A", "gh_assets.instance.celery_app", "worker", "-n", f"{name}@here", "-c", "1", "-l", "INFO"]
        self.workers[name] = subprocess.Popen(
            [BIN / "celery", *worker], cwd=ROOT, env=self.home(name), stdout=log, stderr=log, start_new_session=True
        )
        until(lambda: "ready." in (self.folder / f"{name}.log").read_text())

    def kill(self, name: str) -> None:
        os.killpg(self.workers[name].pid, signal.SIGKILL)
        self.workers.pop(name).wait(30)

    def execute(self, job: str, config: dict[str, object] | None = None) -> subprocess.Popen[bytes]:
        """Start a job, whose steps the workers execute."""
        command = [str(BIN / "dagster"), "job", "execute", "-m", "gh_assets.definitions", "-j", job]
        if config is not None:
            path = self.folder / f"{job}.yaml"
            path.write_text(yaml.safe_dump(config))
            command += ["-c", str(path)]
        log = (self.folder / f"{job}.log").open("wb")
        return subprocess.Popen(command, cwd=ROOT, env=self.home("driver"), stdout=log, stderr=log)

    def wait_for(self, job: str, process: subprocess.Popen[bytes]) -> None:
        assert process.wait(900) == 0, (self.folder / f"{job}.log").read_text()[-4000:]

    def one_process(self) -> dict[str, pl.DataFrame]:
        """Return what one process makes of the same world."""
        names = ("GITHUB_API_URL", "GITHUB_TOKENS", "GH_ASSETS_AWESOME", "GH_ASSETS_SOURCE")
        return run_in_one_process(self.folder, {name: self.environment[name] for name in names})

    def store(self) -> AssetStore:
        return AssetStore(ObjectStore(make_client(endpoint=self.endpoint), self.bucket))


@pytest.fixture
def shared(
    fresh_home: Path,
    emulator: str,
    tmp_path: Path,
    serve_world: Callable[..., tuple[Standin, str]],
    request: pytest.FixtureRequest,
) -> Iterator[tuple[Team, Standin]]:
    """Shared Postgres, Redis, buckets and MongoDB, and a world: a small one, or that of a file."""
    served = read_world(Path(request.param)) if hasattr(request, "param") else world()
    standin, url = serve_world(served)
    with postgres() as pg, redis() as broker:
        configuration = tmp_path / "configuration"
        configuration.mkdir()
        team_yaml = yaml.safe_load((ROOT / "deploy/team/dagster.yaml").read_text())
        team_yaml["storage"]["postgres"]["postgres_db"]["port"] = pg
        (configuration / "dagster.yaml").write_text(yaml.safe_dump(team_yaml))
        client = make_client(endpoint=emulator)
        for bucket in ("team-data", "team-models"):
            client.create_bucket(bucket)
        clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
        environment = {
            **clean,
            "DAGSTER_HOME": str(configuration),
            "DAGSTER_PG_USER": "dagster",
            "DAGSTER_PG_PASSWORD": "",
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_DB": "dagster",
            "GH_ASSETS_EXECUTOR": "celery",
            "GH_ASSETS_CELERY_BROKER": f"redis://127.0.0.1:{broker}/0",
            "GH_ASSETS_CELERY_LOST_AFTER": "8s",
            "MONGO_URI": embedded.mongo_uri(fresh_home),
            "GCS_BUCKET": "team-data",
            "GCS_MODEL_BUCKET": "team-models",
            "GCS_PROJECT": "team",
            "STORAGE_EMULATOR_HOST": emulator,
            "GITHUB_API_URL": url,
            "GITHUB_TOKENS": "token",
            "GH_ASSETS_AWESOME": served.lists[0],
            "GH_ASSETS_SOURCE": "stargazers",
            "GH_ASSETS_WORKERS": "2",
        }
        team = Team(tmp_path, environment, emulator, "team-data")
        try:
            yield team, standin
        finally:
            for name in list(team.workers):
                team.kill(name)


def run_in_one_process(folder: Path, chosen: dict[str, str]) -> dict[str, pl.DataFrame]:
    """Return what one process makes of a world in a home of its own."""
    home = folder / "one"
    home.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment = {**clean, **chosen, "GH_ASSETS_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "gh_assets", "run", "--epochs", "2", "--json"],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stars"] > 0
    endpoint, token = embedded.cloud_storage(home)
    store = AssetStore(ObjectStore(make_client(endpoint=endpoint, token=SecretStr(token)), "gh-assets"))
    return contents(store)


def contents(store: AssetStore) -> dict[str, pl.DataFrame]:
    """Return the stored stars, users and the fingerprint of the matrix."""
    names = sorted(store.partitions("stargazers"))
    tables = {name: store.read_table("stargazers", name).sort("user_id") for name in names}
    matrix = store.read_matrix("user_item_matrix")
    return tables | {
        "users": store.read_table("users").sort("user_id"),
        "matrix": pl.DataFrame({"sha256": [matrix.fingerprint]}),
    }


def assert_equal(actual: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert actual.keys() == expected.keys()
    different = [name for name in actual if not actual[name].equals(expected[name])]
    assert not different


def steps_by_worker(team: Team) -> dict[str, list[str]]:
    """Return the steps of all runs by the worker that executed them."""
    os.environ.update({name: team.environment[name] for name in team.environment if name.startswith("DAGSTER")})
    steps: dict[str, list[str]] = {}
    with DagsterInstance.from_config(team.environment["DAGSTER_HOME"]) as instance:
        for run in instance.get_runs():
            for entry in instance.all_logs(run.run_id):
                if entry.dagster_event is None or not entry.dagster_event.is_engine_event:
                    continue
                worker = entry.dagster_event.engine_event_data.metadata.get("Celery worker")
                if worker is not None:
                    steps.setdefault(str(worker.value), []).append(str(entry.step_key))
    return steps


def test_two_workers_give_the_same_data_as_one_process(
    shared: tuple[Team, Standin], monkeypatch: pytest.MonkeyPatch
) -> None:
    team, _ = shared
    for name in ("DAGSTER_HOME", "DAGSTER_PG_USER", "DAGSTER_PG_PASSWORD", "DAGSTER_PG_HOST", "DAGSTER_PG_DB"):
        monkeypatch.setenv(name, team.environment[name])
    for name in ("one", "two"):
        team.start_worker(name)
    team.wait_for("read_lists", team.execute("read_lists"))
    shares: dict[str, object] = {"ops": {"choose_due": {"config": {"shares": 6}}}}
    team.wait_for("collect_due_repositories", team.execute("collect_due_repositories", shares))
    few: dict[str, object] = {"ops": {"recvae_model": {"config": {"epochs": 2}}}}
    team.wait_for("rebuild_from_stars", team.execute("rebuild_from_stars", few))
    worked = steps_by_worker(team)
    assert set(worked) == {"one@here", "two@here"}
    steps = {step for steps in worked.values() for step in steps}
    assert {f"collect_share[{number}]" for number in range(6)} <= steps
    assert all(any(step.startswith("collect_share") for step in steps) for steps in worked.values())
    monkeypatch.delenv("DAGSTER_HOME")
    assert_equal(contents(team.store()), team.one_process())


def test_a_killed_worker_costs_only_its_unfinished_work(
    shared: tuple[Team, Standin], monkeypatch: pytest.MonkeyPatch
) -> None:
    team, standin = shared
    for name in ("one", "two"):
        team.start_worker(name)
    team.wait_for("read_lists", team.execute("read_lists"))
    standin.faults.probabilities = {"slow": 1.0}
    standin.faults.slow_seconds = 0.15
    before = standin.served["stargazers"]
    process = team.execute("collect_due_repositories", {"ops": {"choose_due": {"config": {"shares": 6}}}})
    until(lambda: standin.served["stargazers"] - before >= 50)
    team.kill("one")
    started = time.monotonic()
    standin.faults.probabilities = {}
    team.wait_for("collect_due_repositories", process)
    assert time.monotonic() - started < 240
    few: dict[str, object] = {"ops": {"recvae_model": {"config": {"epochs": 2}}}}
    team.wait_for("rebuild_from_stars", team.execute("rebuild_from_stars", few))
    # A share has some 27 repositories. What the dead worker had stored is not read again, except for what it had not
    # yet written to MongoDB.
    assert standin.served["stargazers"] - before <= REPOSITORIES + REPOSITORIES // 6 + 4
    assert_equal(contents(team.store()), team.one_process())


STARS = os.environ.get("GH_ASSETS_TEST_STARS", "")
"""A file of stars, for the test with real data."""


@pytest.mark.skipif(not STARS, reason="set GH_ASSETS_TEST_STARS to a file of stars")
@pytest.mark.parametrize("shared", [STARS], indirect=True)
def test_a_large_collection_with_a_killed_worker(
    shared: tuple[Team, Standin], record_property: Callable[[str, object], None]
) -> None:
    team, standin = shared
    # REST would take seventeen minutes at GitHub's pace. A share takes less than 60 s.
    team.environment |= {"GH_ASSETS_SOURCE": "graphql", "GH_ASSETS_CELERY_LOST_AFTER": "60s"}
    for name in ("one", "two"):
        team.start_worker(name)
    team.wait_for("read_lists", team.execute("read_lists"))
    before = standin.quota.spent["graphql"]
    process = team.execute("collect_due_repositories", {"ops": {"choose_due": {"config": {"shares": 16}}}})
    until(lambda: standin.quota.spent["graphql"] - before >= 60, 600)
    team.kill("one")
    team.wait_for("collect_due_repositories", process)
    together = standin.quota.spent["graphql"] - before
    few: dict[str, object] = {"ops": {"recvae_model": {"config": {"epochs": 2}}}}
    team.wait_for("rebuild_from_stars", team.execute("rebuild_from_stars", few))
    before = standin.quota.spent["graphql"]
    expected = team.one_process()
    once = standin.quota.spent["graphql"] - before
    assert_equal(contents(team.store()), expected)
    # Each share rounds its pages up to whole queries, at its start and for lists of several pages; what the dead worker
    # had not written to MongoDB is read twice.
    record_property("points", f"{together} together, {once} alone")
    assert together <= 2 * once
