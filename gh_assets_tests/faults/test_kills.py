"""`kill -9` at every step of every piece of work, and at random moments: nothing is lost, nothing is half."""

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
    """Servers, proxies before them, and what was acknowledged so far."""

    ports: tuple[Path, int, int]
    database: str
    bucket: str
    folder: Path
    proxies: tuple[Proxy, Proxy]
    number: int = 0
    acknowledged: dict[str, list[Any]] = field(default_factory=dict)
    began: dict[str, list[int]] = field(default_factory=dict)

    def clients(self) -> ServiceClients:
        """A direct way to the servers."""
        return ServiceClients(*self.ports, self.database, self.bucket, self.folder / "direct")

    def do(self, work: str, plan: KillAt, *, kill_after: float | None = None) -> object:
        """Let a process do it, and be killed as planned; gives what it acknowledged, None if it was killed."""
        self.number += 1
        self.began.setdefault(work, []).append(self.number)
        ours, theirs = socket.socketpair()
        said, saying = FORKS.Pipe()
        for proxy in self.proxies:
            proxy.plan = KillAt(NEVER)
        place = self.database, self.bucket, self.folder / "work"
        ports = self.ports[0], self.proxies[0].port, self.proxies[1].port
        process = FORKS.Process(target=run, args=(work, self.number, ports, place, saying, theirs))
        process.start()
        theirs.close()
        saying.close()
        assert said.recv() == "ready"
        plan.pid = process.pid
        for proxy in self.proxies:
            proxy.plan = plan
        threading.Thread(target=follow_steps, args=(plan, ours), daemon=True).start()
        said.send("go")
        result: object = None
        if kill_after is not None and not said.poll(kill_after):
            process.kill()
        with suppress(EOFError, ConnectionError):  # it was killed: which of them it is depends on where
            result = said.recv()
            self.acknowledged.setdefault(work, []).append(result)
            said.send("thanks")
        process.join(30)
        assert process.exitcode in (0, -9), f"{work} failed by itself: see its output"
        return result

    def check(self) -> None:
        """What must hold at any moment, seen by somebody who was not there."""
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
            # Everything visible loads, but reading all again after each kill would take long: the newest is in doubt.
            model = max(newest, key=lambda one: one.version)
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
            assert found.equals(table(number)), "half of a table"
        for name, found in data.read_tables("parts", data.partitions("parts")).items():
            assert found.height == ROWS, name
            assert found.equals(table(self._is_one("write_partitions", int(found["number"][0]))))
        if data.exists("user_item_matrix", "npz"):
            columns = data.read_matrix("user_item_matrix").stars.shape[1]
            numbers = [n for n in self.began["write_matrix"] if matrix(n).stars.shape[1] == columns]
            assert numbers, "a matrix that nobody wrote"

    def _is_one(self, work: str, number: int) -> int:
        """What is there was written by the last acknowledged work, or by one that began after it."""
        assert number >= max(self.acknowledged.get(work, [0]))
        assert number in self.began[work]
        return number

    def _check_files(self, clients: ServiceClients) -> None:
        """Whatever a reader can see by its name is whole."""
        work = self.folder / "work"
        for folder in [work / "out" / "model", *(work / "cache").glob("*/model")]:
            if folder.exists():
                found = (folder / "weights.bin").read_bytes()
                assert found == content(int(found[6:].split()[0]))


@pytest.fixture
def scenario(home: Path, tmp_path: Path, gcs_client, monkeypatch: pytest.MonkeyPatch) -> Iterator[KillScenario]:
    mongo = int(embedded.mongo_uri(home).split(":")[2].split("/")[0])
    gcs = int(embedded.cloud_storage(home)[0].rsplit(":", 1)[1])
    # The server that forks imports the work once; it is not told the path of the modules otherwise.
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
    """What the work needs to have something to do."""
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
"""Works that the fast tests kill; the others are killed with the slow ones."""


@pytest.mark.parametrize("work", [pytest.param(work, marks=[pytest.mark.slow] * (work not in FAST)) for work in WORKS])
def test_a_kill_at_every_step_loses_nothing_and_leaves_nothing_half(scenario: KillScenario, work: str) -> None:
    prepare(scenario, work)
    plan = KillAt(NEVER)
    assert scenario.do(work, plan) is not None
    steps = plan.steps
    assert steps >= 2, "nothing was seen: the watch does not work"
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
    assert scenario.do(work, KillAt(NEVER)) is not None, "a rerun does not succeed"
    scenario.check()
    print(f"{work}: killed at {steps} steps: {', '.join(sorted(killed))}")


def random_kills(scenario: KillScenario, count: int) -> int:
    """Kill random works at random moments; gives how many were killed."""
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


def test_kills_at_random_moments(scenario: KillScenario) -> None:
    assert random_kills(scenario, 20) == 20


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(scenario: KillScenario) -> None:
    assert random_kills(scenario, 200) == 200


def test_the_watch_sees_a_kill_that_matters(scenario: KillScenario) -> None:
    """The harness itself: a save whose document is never sent leaves nothing visible, and an orphan."""
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
