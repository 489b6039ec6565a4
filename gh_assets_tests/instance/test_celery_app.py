"""Postgres for Dagster's history, Redis and two Celery workers for the steps give the same data as one process."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from dagster import DagsterInstance

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.world import World, read_world
from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore, make_client
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.commands import environment_of, run_json
from gh_assets_tests.support.dagster_dev import ROOT, start_tool
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
    """Shared services, the stand-in that they collect from, and workers with homes of their own."""

    folder: Path
    environment: dict[str, str]
    endpoint: str
    standin: Standin
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, home: str, log: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process with a home of its own."""
        place = self.folder / home
        place.mkdir(exist_ok=True)
        return start_tool(self.folder / f"{log}.log", environment_of(place, **self.environment), *command)

    def start_workers(self) -> None:
        for name in ("one", "two"):
            worker = ["-A", "gh_assets.instance.celery_app", "worker", "-n", f"{name}@here", "-c", "1", "-l", "INFO"]
            self.workers[name] = self.start(name, name, "celery", *worker)
            until(lambda name=name: "ready." in (self.folder / f"{name}.log").read_text())  # type: ignore[misc]

    def kill(self, name: str) -> None:
        os.killpg(self.workers[name].pid, signal.SIGKILL)
        self.workers.pop(name).wait(30)

    @contextmanager
    def executing(self, job: str, **ops: dict[str, object]) -> Iterator[None]:
        """Execute a job, whose steps the workers execute, during a block; wait for its end."""
        path = self.folder / f"{job}.yaml"
        path.write_text(yaml.safe_dump({"ops": {op: {"config": config} for op, config in ops.items()}}))
        command = ["dagster", "job", "execute", "-m", "gh_assets.definitions", "-j", job, "-c", str(path)]
        process = self.start("driver", job, *command)
        yield
        assert process.wait(900) == 0, (self.folder / f"{job}.log").read_text()[-4000:]

    def execute(self, job: str, **ops: dict[str, object]) -> None:
        with self.executing(job, **ops):
            pass

    def one_process(self) -> dict[str, pl.DataFrame]:
        """Return what one process makes of the same world in a home of its own."""
        names = ("GITHUB_API_URL", "GITHUB_TOKENS", "GH_ASSETS_AWESOME", "GH_ASSETS_SOURCE")
        home = self.folder / "one-process"
        status = run_json(home, "run", "--epochs", "2", **{name: self.environment[name] for name in names})
        assert status["stars"] > 0
        return contents(asset_store(load_settings().model_copy(update={"home": home})))

    def store(self) -> AssetStore:
        return AssetStore(ObjectStore(make_client(endpoint=self.endpoint), "team-data"))


@pytest.fixture
def team(
    fresh_home: Path, emulator: str, tmp_path: Path, serve_world: ServeWorld, request: pytest.FixtureRequest
) -> Iterator[Team]:
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
        environment = {
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
        team = Team(tmp_path, environment, emulator, standin)
        try:
            yield team
        finally:
            for name in list(team.workers):
                team.kill(name)


def contents(store: AssetStore) -> dict[str, pl.DataFrame]:
    """Return the stored stars, users and the fingerprint of the matrix."""
    names = sorted(store.partitions("stargazers"))
    tables = {name: store.read_table("stargazers", name).sort("user_id") for name in names}
    matrix = pl.DataFrame({"sha256": [store.read_matrix("user_item_matrix").fingerprint]})
    return tables | {"users": store.read_table("users").sort("user_id"), "matrix": matrix}


def assert_equal(actual: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert actual.keys() == expected.keys()
    different = [name for name in actual if not actual[name].equals(expected[name])]
    assert not different


def steps_by_worker(team: Team) -> dict[str, list[str]]:
    """Return the steps of all runs by the worker that executed them."""
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


def test_two_workers_give_the_same_data_as_one_process(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    team.start_workers()
    team.execute("read_lists")
    team.execute("collect_due_repositories", choose_due={"shares": 6})
    team.execute("rebuild_from_stars", recvae_model={"epochs": 2})
    with monkeypatch.context() as patch:
        for name in ("DAGSTER_PG_USER", "DAGSTER_PG_PASSWORD", "DAGSTER_PG_HOST", "DAGSTER_PG_DB"):
            patch.setenv(name, team.environment[name])
        worked = steps_by_worker(team)
    assert set(worked) == {"one@here", "two@here"}
    steps = {step for steps in worked.values() for step in steps}
    assert {f"collect_share[{number}]" for number in range(6)} <= steps
    assert all(any(step.startswith("collect_share") for step in steps) for steps in worked.values())
    assert_equal(contents(team.store()), team.one_process())


def test_a_killed_worker_costs_only_its_unfinished_work(team: Team) -> None:
    standin = team.standin
    team.start_workers()
    team.execute("read_lists")
    standin.faults.probabilities = {"slow": 1.0}
    standin.faults.slow_seconds = 0.15
    before = standin.served["stargazers"]
    with team.executing("collect_due_repositories", choose_due={"shares": 6}):
        until(lambda: standin.served["stargazers"] - before >= 50)
        team.kill("one")
        started = time.monotonic()
        standin.faults.probabilities = {}
    assert time.monotonic() - started < 240
    team.execute("rebuild_from_stars", recvae_model={"epochs": 2})
    # A share has some 27 repositories. What the dead worker had stored is not read again, except for what it had not
    # yet written to MongoDB.
    assert standin.served["stargazers"] - before <= REPOSITORIES + REPOSITORIES // 6 + 4
    assert_equal(contents(team.store()), team.one_process())


STARS = os.environ.get("GH_ASSETS_TEST_STARS", "")
"""A file of stars, for the test with real data."""


@pytest.mark.skipif(not STARS, reason="set GH_ASSETS_TEST_STARS to a file of stars")
@pytest.mark.parametrize("team", [STARS], indirect=True)
def test_a_large_collection_with_a_killed_worker(team: Team, record_property: Callable[[str, object], None]) -> None:
    spent = team.standin.quota.spent
    # REST would take seventeen minutes at GitHub's pace. A share takes less than 60 s.
    team.environment |= {"GH_ASSETS_SOURCE": "graphql", "GH_ASSETS_CELERY_LOST_AFTER": "60s"}
    team.start_workers()
    team.execute("read_lists")
    before = spent["graphql"]
    with team.executing("collect_due_repositories", choose_due={"shares": 16}):
        until(lambda: spent["graphql"] - before >= 60, 600)
        team.kill("one")
    together = spent["graphql"] - before
    team.execute("rebuild_from_stars", recvae_model={"epochs": 2})
    before = spent["graphql"]
    expected = team.one_process()
    once = spent["graphql"] - before
    assert_equal(contents(team.store()), expected)
    # Each share rounds its pages up to whole queries, at its start and for lists of several pages; what the dead worker
    # had not written to MongoDB is read twice.
    record_property("points", f"{together} together, {once} alone")
    assert together <= 2 * once
