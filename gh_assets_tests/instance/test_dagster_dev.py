"""`dagster dev` from an empty home, and under kill -9. Slow: every step is a process."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gh_assets.assets import CHAIN_ASSETS
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.instance.configuration import open_instance
from gh_assets.instance.launcher import is_alive, process_of
from gh_assets.services.connections import open_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.dagster_dev import BIN, ROOT, Dev, start_tool
from gh_assets_tests.support.waiting import until
from gh_assets_tests.support.worlds import LIST, world_of

pytestmark = pytest.mark.slow

ASSETS = [asset.key.to_user_string() for asset in CHAIN_ASSETS]


def test_definitions_validate() -> None:
    done = subprocess.run([str(BIN / "dagster"), "definitions", "validate"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr


def test_from_an_empty_home_to_recommendations_in_the_ui(tmp_path: Path) -> None:
    dev = Dev(tmp_path)
    try:
        assert dev.partitions() == []
        assert dev.end_of(dev.launch(assets=["repos"])) == "SUCCESS"
        partitions = dev.partitions()
        assert len(partitions) > 500
        one = dev.launch(assets=["stargazers"], **{"dagster/partition": partitions[5]})
        assert dev.end_of(one) == "SUCCESS", "one partition alone"
        assert dev.end_of_backfill(dev.backfill(ASSETS, partitions)) == "COMPLETED_SUCCESS"
        assert all(dev.materialized()[asset] for asset in ASSETS)
    finally:
        dev.stop()


@pytest.fixture
def waiting(
    tmp_path: Path, serve_world: ServeWorld, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Dev, Standin, str]]:
    """A run that has collected some repositories and waits an hour for quota, with its id."""
    world = world_of({f"a/{number}": [1, 2] for number in range(200)})
    standin, url = serve_world(world, limits=Limits(requests=60))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    dev = Dev(home, github_at(url))
    try:
        assert dev.end_of(dev.launch("read_lists")) == "SUCCESS"
        run_id = dev.launch("collect_due_repositories")
        until(lambda: standin.quota.spent["core"] >= 60)
        until(lambda: stored_repositories() >= 40)
        yield dev, standin, run_id
    finally:
        dev.stop()


def github_at(url: str) -> dict[str, str]:
    """Return settings to collect from a stand-in by REST."""
    chosen = {"GH_ASSETS_AWESOME": LIST, "GH_ASSETS_SOURCE": "stargazers"}
    return {"GITHUB_API_URL": url, "GITHUB_TOKENS": "token"} | chosen


def stored_repositories() -> int:
    """Return the number of repositories whose stars are stored."""
    with open_mongo(load_settings()) as database:
        return len(CollectionState(database).load())


def worker_of(run_id: str) -> int:
    with open_instance(load_settings()) as instance:
        record = instance.get_run_record_by_id(run_id)
        process = None if record is None else process_of(instance, record)
    assert process is not None
    return process[0]


def give_quota(standin: Standin) -> None:
    standin.quota.limits = Limits()
    standin.quota.windows.clear()


def assert_fails_and_succeeds_again(dev: Dev, run_id: str) -> None:
    assert dev.end_of(run_id, 180) == "FAILURE"
    again = until(lambda: next((run for run in dev.runs() if run["parentRunId"] == run_id), None))
    assert dev.end_of(again["runId"]) == "SUCCESS"
    assert stored_repositories() == 200


def test_a_cancelled_run_ends_within_seconds_and_loses_nothing(
    waiting: tuple[Dev, Standin, str], record_property: Callable[[str, object], None]
) -> None:
    dev, standin, run_id = waiting
    before = stored_repositories()
    started = time.monotonic()
    dev.cancel(run_id)
    assert dev.end_of(run_id) == "CANCELED"
    record_property("seconds until it was cancelled", round(time.monotonic() - started, 1))
    until(lambda: not is_alive(worker_of(run_id), time.time()), 30)
    assert stored_repositories() >= before
    assert standin.quota.violations == {}


def test_a_killed_worker_is_noticed_and_its_run_is_retried(waiting: tuple[Dev, Standin, str]) -> None:
    dev, standin, run_id = waiting
    os.kill(worker_of(run_id), signal.SIGKILL)
    give_quota(standin)
    assert_fails_and_succeeds_again(dev, run_id)
    assert standin.served["stargazers"] <= 200 + 8 + 1, "only what was in flight is read again"


def test_a_killed_dagster_dev_resumes_after_a_start(waiting: tuple[Dev, Standin, str]) -> None:
    dev, standin, run_id = waiting
    worker = worker_of(run_id)
    dev.kill()
    os.kill(worker, signal.SIGKILL)
    give_quota(standin)
    dev.start()
    assert_fails_and_succeeds_again(dev, run_id)


def test_a_killed_daemon_stops_no_run_and_resumes_after_a_start(
    tmp_path: Path, serve_world: ServeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon is a service of its own, with DAGSTER_HOME set."""
    limits = Limits(requests=60, window_seconds=30.0)
    standin, url = serve_world(world_of({f"a/{n}": [1, 2] for n in range(120)}), limits=limits)
    home, configuration = tmp_path / "home", tmp_path / "configuration"
    home.mkdir()
    configuration.mkdir()
    shutil.copy(ROOT / "dagster.yaml", configuration)
    places = {"GH_ASSETS_HOME": str(home), "DAGSTER_HOME": str(configuration)}
    for name, value in (places | github_at(url)).items():
        monkeypatch.setenv(name, value)

    def start() -> subprocess.Popen[bytes]:
        return start_tool(home / "daemon.log", os.environ, "dagster-daemon", "run")

    def launch(job: str) -> str:
        with open_instance(load_settings()) as instance:
            before = {run.run_id for run in instance.get_runs()}
            command = [str(BIN / "dagster"), "job", "launch", "-w", "workspace.yaml", "-j", job]
            done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (run_id,) = {run.run_id for run in instance.get_runs()} - before
        return run_id

    def status(run_id: str) -> str:
        with open_instance(load_settings()) as instance:
            run = instance.get_run_by_id(run_id)
        assert run is not None
        return run.status.value

    daemons = [start()]
    try:
        lists = launch("read_lists")
        until(lambda: status(lists) == "SUCCESS")
        collecting = launch("collect_due_repositories")
        until(lambda: standin.quota.spent["core"] >= 60)
        worker = worker_of(collecting)
        daemons[0].kill()
        daemons[0].wait(30)
        assert is_alive(worker, time.time()), "the run has a process of its own"
        until(lambda: status(collecting) == "SUCCESS", 240)
        assert stored_repositories() == 120
        daemons.append(start())
        again = launch("read_lists")
        until(lambda: status(again) == "SUCCESS")
    finally:
        for daemon in daemons:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait(30)
