"""`dagster dev` from an empty home, and under kill -9. Slow: every step is a process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gh_assets.assets import CHAIN_ASSETS
from gh_assets.collector.stargazers import CollectionState
from gh_assets.dagster_home import open_instance
from gh_assets.dagster_runs import is_alive, process_of
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.services import connect_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.dev import BIN, ROOT, Dev, until
from gh_assets_tests.worlds import LIST, world_of

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
        one = dev.launch(assets=["stargazers"], tags={"dagster/partition": partitions[5]})
        assert dev.end_of(one) == "SUCCESS", "one partition alone"
        assert dev.end_of_backfill(dev.backfill(ASSETS, partitions)) == "COMPLETED_SUCCESS"
        assert all(dev.materialized()[asset] for asset in ASSETS)
    finally:
        dev.stop()


@pytest.fixture
def waiting(
    tmp_path: Path, serve_world: Callable[..., tuple[Standin, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Dev, Standin, str]]:
    """A run that has collected some repositories and waits an hour for new quota; its id."""
    world = world_of({f"a/{number}": [1, 2] for number in range(200)})
    standin, url = serve_world(world, limits=Limits(requests=60))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    environment = {
        "GITHUB_API_URL": url,
        "GITHUB_TOKENS": "token",
        "GH_ASSETS_AWESOME": LIST,
        "GH_ASSETS_SOURCE": "stargazers",
    }
    dev = Dev(home, environment)
    try:
        assert dev.end_of(dev.launch("read_lists")) == "SUCCESS"
        run_id = dev.launch("collect_due_repositories")
        until(lambda: standin.quota.spent["core"] >= 60)
        until(lambda: kept() >= 40)
        yield dev, standin, run_id
    finally:
        dev.stop()


def kept() -> int:
    """Repositories whose stars are known to be stored."""
    database = connect_mongo(load_settings())
    try:
        return len(CollectionState(database).load())
    finally:
        database.client.close()


def worker_of(run_id: str) -> int:
    with open_instance() as instance:
        found = process_of(instance, run_id)
    assert found is not None
    return found[0]


def give_quota(standin: Standin) -> None:
    standin.quota.limits = Limits()
    standin.quota.windows.clear()


def test_a_run_that_is_cancelled_ends_within_seconds_and_loses_nothing(
    waiting: tuple[Dev, Standin, str], record_property: Callable[[str, object], None]
) -> None:
    dev, standin, run_id = waiting
    before = kept()
    began = time.monotonic()
    dev.cancel(run_id)
    assert dev.end_of(run_id) == "CANCELED"
    record_property("seconds until it was cancelled", round(time.monotonic() - began, 1))
    until(lambda: not is_alive(worker_of(run_id), time.time()), 30)
    assert kept() >= before
    assert standin.quota.violations == {}


def test_a_worker_that_is_killed_is_noticed_and_its_run_goes_on(waiting: tuple[Dev, Standin, str]) -> None:
    dev, standin, run_id = waiting
    os.kill(worker_of(run_id), signal.SIGKILL)
    give_quota(standin)
    assert dev.end_of(run_id, 120) == "FAILURE"
    again = until(lambda: next((run for run in dev.runs() if run["parentRunId"] == run_id), None))
    assert dev.end_of(again["runId"]) == "SUCCESS"
    assert kept() == 200
    assert standin.served["stargazers"] <= 200 + 8 + 1, "asked again: only what was in flight"


def test_all_of_it_killed_resumes_after_a_start(waiting: tuple[Dev, Standin, str]) -> None:
    dev, standin, run_id = waiting
    worker = worker_of(run_id)
    dev.kill()
    os.kill(worker, signal.SIGKILL)
    give_quota(standin)
    dev.start()
    assert dev.end_of(run_id, 180) == "FAILURE"
    again = until(lambda: next((run for run in dev.runs() if run["parentRunId"] == run_id), None))
    assert dev.end_of(again["runId"]) == "SUCCESS"
    assert kept() == 200
