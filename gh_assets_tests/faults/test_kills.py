"""Processes are killed at every step of all kinds of work, and at random times: no acknowledged result is lost."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import random
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from gh_assets.embedded import servers as embedded
from gh_assets.embedded.certificate import home_certificate
from gh_assets.errors import ModelNotFoundError
from gh_assets.registry import CHAMPION, PURPOSE, ModelCard
from gh_assets_tests.faults.proxy import KillAt, Proxy, follow_steps
from gh_assets_tests.faults.work import ROWS, WORKS, ServiceClients, content, matrix, run, table

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["gh_assets_tests.faults.work"])

NEVER = 1 << 30


@dataclass
class KillScenario:
    """Servers behind proxies, and the results acknowledged so far."""

    ports: tuple[Path, int, int]
    database: str
    bucket: str
    folder: Path
    proxies: tuple[Proxy, Proxy]
    number: int = 0
    acknowledged: dict[str, list[Any]] = field(default_factory=dict)
    started: dict[str, list[int]] = field(default_factory=dict)

    def clients(self) -> ServiceClients:
        """Return clients that are connected directly to the servers."""
        return ServiceClients(*self.ports, self.database, self.bucket, self.folder / "direct")

    def do(self, work: str, plan: KillAt, *, kill_after: float | None = None) -> object:
        """Do work in a process that is killed by a plan; return its acknowledged result, None if it was killed."""
        self.number += 1
        self.started.setdefault(work, []).append(self.number)
        own_steps, process_steps = socket.socketpair()
        results, process_results = FORKS.Pipe()
        for proxy in self.proxies:
            proxy.plan = KillAt(NEVER)
        names = self.database, self.bucket, self.folder / "work"
        ports = self.ports[0], self.proxies[0].port, self.proxies[1].port
        arguments = work, self.number, ports, names, process_results, process_steps
        process = FORKS.Process(target=run, args=arguments)
        process.start()
        process_steps.close()
        process_results.close()
        assert results.recv() == "ready"
        plan.pid = process.pid
        for proxy in self.proxies:
            proxy.plan = plan
        threading.Thread(target=follow_steps, args=(plan, own_steps), daemon=True).start()
        results.send("go")
        result: object = None
        if kill_after is not None and not results.poll(kill_after):
            process.kill()
        with suppress(EOFError, ConnectionError):  # the process was killed
            result = results.recv()
            self.acknowledged.setdefault(work, []).append(result)
            results.send("received")
        process.join(30)
        assert process.exitcode in (0, -9), f"{work} failed: see its output"
        return result

    def check(self) -> None:
        """Check the invariants that hold at any time."""
        clients = self.clients()
        try:
            self._check_models(clients)
            self._check_champion(clients)
            self._check_assets(clients)
            self._check_files(clients)
        finally:
            clients.close()

    def _check_models(self, clients: ServiceClients) -> None:
        registry = clients.registry
        models = registry.list()
        for model in models:
            assert registry.problem(model) is None
        for name in ("recvae", "same", "deleted"):
            versions = [int(d["version"]) for d in registry.documents.find({"name": name}, {"version": 1})]
            assert sorted(versions) == list(range(1, len(versions) + 1)), name
        by_version = {(model.name, model.version): model for model in models}
        for version, number in self.acknowledged.get("save", []):
            assert by_version["recvae", version].score == number
        for version, _ in self.acknowledged.get("save_again", []):
            assert ("same", version) in by_version
        for version in self.acknowledged.get("delete", []):
            assert ("deleted", version) not in by_version
        newest = [model for model in models if model.name == "recvae"]
        if newest:
            # Only the newest model may have been affected by the last kill.
            model = max(newest, key=lambda model: model.version)
            path = registry.download(model, self.folder / "check", unpack=True)
            assert (path / "weights.bin").read_bytes() == content(int(model.score or 0))

    def _check_champion(self, clients: ServiceClients) -> None:
        moves = clients.registry.aliases.history(PURPOSE, CHAMPION)
        assert [move.revision for move in moves] == list(range(len(moves), 0, -1))
        by_revision = {move.revision: move for move in moves}
        for work in ("promote", "rollback"):
            for revision, version in self.acknowledged.get(work, []):
                assert by_revision[revision].version == version
        if moves:
            assert clients.registry.champion().version == moves[0].version

    def _check_assets(self, clients: ServiceClients) -> None:
        data = clients.assets
        if clients.assets.exists("anything", "parquet"):
            found = data.read_table("anything")
            number = self._is_one("write_table", int(found["number"][0]))
            assert found.equals(table(number)), "the table mixes two writes"
        for name, found in data.read_tables("parts", data.partitions("parts")).items():
            assert found.height == ROWS, name
            assert found.equals(table(self._is_one("write_partitions", int(found["number"][0]))))
        if data.exists("user_item_matrix", "npz"):
            columns = data.read_matrix("user_item_matrix").stars.shape[1]
            numbers = [n for n in self.started["write_matrix"] if matrix(n).stars.shape[1] == columns]
            assert numbers, "no process wrote this matrix"

    def _is_one(self, work: str, number: int) -> int:
        """Check that a number is of the last acknowledged work, or of work that started later; return it."""
        assert number >= max(self.acknowledged.get(work, [0]))
        assert number in self.started[work]
        return number

    def _check_files(self, clients: ServiceClients) -> None:
        """Check that files with their final name are complete."""
        work = self.folder / "work"
        for folder in [work / "out" / "model", *(work / "cache").glob("*/model")]:
            if folder.exists():
                found = (folder / "weights.bin").read_bytes()
                assert found == content(int(found[6:].split()[0]))


@pytest.fixture
def scenario(home: Path, tmp_path: Path, gcs_client, monkeypatch: pytest.MonkeyPatch) -> Iterator[KillScenario]:
    mongo = int(embedded.mongo_uri(home).split(":")[2].split("/")[0])
    gcs = int(embedded.cloud_storage(home)[0].rsplit(":", 1)[1])
    # The fork server imports the work once, and finds the modules only by this path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    forkserver.ensure_running()
    proxies = Proxy("mongo", mongo, KillAt(NEVER), home_certificate(home)), Proxy("http", gcs, KillAt(NEVER))
    name = secrets.token_hex(6)
    made = KillScenario((home, mongo, gcs), f"test_{name}", f"test-{name}", tmp_path, proxies)
    yield made
    for proxy in proxies:
        proxy.close()
    clients = made.clients()
    clients.client.drop_database(made.database)
    clients.close()


def prepare(scenario: KillScenario, work: str) -> None:
    """Create what the work needs."""
    if work in ("promote", "rollback", "download"):
        scenario.do("save", KillAt(NEVER))
    if work == "rollback":
        for _ in range(2):
            scenario.do("promote", KillAt(NEVER))
    if work in ("save_again", "sweep"):
        clients = scenario.clients()
        path = scenario.folder / "same.bin"
        path.write_bytes(content(0))
        orphan = clients.registry.save(path, ModelCard("same", 0.5))
        clients.registry.delete("same", orphan.version, why="an orphan")
        clients.close()


FAST = "save", "promote", "sweep", "write_table"
"""Work in the fast tests; the others are slow tests."""


@pytest.mark.parametrize("work", [pytest.param(work, marks=[pytest.mark.slow] * (work not in FAST)) for work in WORKS])
def test_kill_at_every_step_loses_nothing_and_leaves_nothing_incomplete(scenario: KillScenario, work: str) -> None:
    prepare(scenario, work)
    plan = KillAt(NEVER)
    assert scenario.do(work, plan) is not None
    steps = plan.steps
    assert steps >= 2, "the steps are not traced"
    killed = set()
    for step in range(1, steps + 1):
        if work in ("rollback", "sweep", "save_again"):
            prepare(scenario, work)
        plan = KillAt(step)
        scenario.do(work, plan)
        if plan.killed_at is not None:
            killed.add(plan.killed_at)
        scenario.check()
    assert len(killed) >= min(steps, 2) // 2
    assert scenario.do(work, KillAt(NEVER)) is not None, "a rerun succeeds"
    scenario.check()
    print(f"{work}: killed at {steps} steps: {', '.join(sorted(killed))}")


def random_kills(scenario: KillScenario, count: int) -> int:
    """Kill random work at random times, and return the number of kills."""
    rng = random.Random(count)
    tasks = [work for work in WORKS if work != "rollback"]
    scenario.do("save", KillAt(NEVER))
    killed = 0
    for _ in range(10 * count):
        result = scenario.do(rng.choice(tasks), KillAt(NEVER), kill_after=rng.uniform(0.0, 0.08))
        killed += result is None
        if killed % 5 == 0:
            scenario.check()
        if killed == count:
            break
    scenario.check()
    clients = scenario.clients()
    for model in clients.registry.list():
        assert clients.registry.verify(model) is None
    gone = clients.registry.sweep(dt.timedelta(0))
    for model in clients.registry.list():
        assert clients.registry.verify(model) is None, "the sweep took too much"
    named = {model.object for model in clients.registry.list()}
    assert set(clients.objects.names("")) == named, "orphans are left"
    print(f"{killed} kills, {len(named)} objects of {len(clients.registry.list())} models, {len(gone)} orphans swept")
    clients.close()
    return killed


def test_kills_at_random_times(scenario: KillScenario) -> None:
    assert random_kills(scenario, 20) == 20


@pytest.mark.slow
def test_two_hundred_kills_at_random_times(scenario: KillScenario) -> None:
    assert random_kills(scenario, 200) == 200


def test_kill_before_the_insert_of_a_save_leaves_only_an_orphan(scenario: KillScenario) -> None:
    """Test the harness: such a save has an effect that a later kill would not have."""
    plan = KillAt(NEVER)
    scenario.do("save", plan)
    insert = next(n for n, call in enumerate(plan.calls) if call == "insert models")
    assert insert > 0, plan.calls
    clients = scenario.clients()
    step = 0
    while True:
        step += 1
        plan = KillAt(step)
        scenario.do("save", plan)
        if plan.killed_at == "before insert models":
            break
    with pytest.raises(ModelNotFoundError):
        clients.registry.get("recvae", 1 + len(scenario.acknowledged["save"]))
    assert len(clients.registry.sweep(dt.timedelta(0), dry_run=True)) >= 1
    clients.close()
