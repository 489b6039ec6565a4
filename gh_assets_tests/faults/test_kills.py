"""Processes are killed at every step of all kinds of work, and at random times: no acknowledged result is lost."""

import datetime as dt
import itertools
import multiprocessing
import os
import random
import socket
import sys
import threading
from contextlib import suppress
from multiprocessing import forkserver

import pytest

from gh_assets.errors import ModelNotFoundError
from gh_assets_tests.faults.conftest import ProxiedServers
from gh_assets_tests.faults.proxy import KillAt, Plan, follow_steps
from gh_assets_tests.faults.work import WORKS, run, save_again

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["gh_assets_tests.faults.work"])

NEVER = 1 << 30


class Killer:
    """Does work in processes that are killed."""

    def __init__(self, servers: ProxiedServers) -> None:
        self.servers = servers
        self.numbers = itertools.count(1)

    def do(self, work: str, plan: KillAt | None = None, *, kill_after: float | None = None) -> object:
        """Do work in a process that is killed by a plan; return its acknowledged result, None if it was killed."""
        plan, number = plan or KillAt(NEVER), next(self.numbers)
        self.servers.started[work].append(number)
        own_steps, process_steps = socket.socketpair()
        results, process_results = FORKS.Pipe()
        self.servers.plan(Plan())
        arguments = work, number, self.servers.addresses, process_results, process_steps
        process = FORKS.Process(target=run, args=arguments)
        process.start()
        process_steps.close()
        process_results.close()
        assert results.recv() == "ready"
        plan.pid = process.pid
        self.servers.plan(plan)
        threading.Thread(target=follow_steps, args=(plan, own_steps), daemon=True).start()
        results.send("go")
        result: object = None
        if kill_after is not None and not results.poll(kill_after):
            process.kill()
        with suppress(EOFError, ConnectionError):  # the process was killed
            result = results.recv()
            self.servers.acknowledged[work].append(result)
            results.send("received")
        process.join(30)
        assert process.exitcode in (0, -9), f"{work} failed: see its output"
        return result

    def prepare(self, work: str) -> None:
        """Create what the work needs."""
        if work in ("promote", "rollback", "download"):
            self.do("save")
        if work == "rollback":
            self.do("promote")
            self.do("promote")
        if work in ("save_again", "sweep"):
            direct = self.servers.direct
            direct.registry.delete("same", save_again(direct, 0), why="an orphan")


@pytest.fixture
def killer(servers: ProxiedServers, monkeypatch: pytest.MonkeyPatch) -> Killer:
    # The fork server imports the work once, and finds the modules only by this path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    forkserver.ensure_running()
    return Killer(servers)


FAST = "save", "promote", "sweep", "write_table"
"""Work in the fast tests; the others are slow tests."""


@pytest.mark.parametrize("work", [pytest.param(work, marks=[pytest.mark.slow] * (work not in FAST)) for work in WORKS])
def test_kill_at_every_step_loses_nothing_and_leaves_nothing_incomplete(killer: Killer, work: str) -> None:
    killer.prepare(work)
    plan = KillAt(NEVER)
    assert killer.do(work, plan) is not None
    steps = plan.steps
    assert steps >= 2, "the steps are not traced"
    killed = set()
    for step in range(1, steps + 1):
        if work in ("rollback", "sweep", "save_again"):
            killer.prepare(work)
        plan = KillAt(step)
        killer.do(work, plan)
        if plan.killed_at is not None:
            killed.add(plan.killed_at)
        killer.servers.check()
    assert len(killed) >= min(steps, 2) // 2
    assert killer.do(work) is not None, "a rerun succeeds"
    killer.servers.check()
    print(f"{work}: killed at {steps} steps: {', '.join(sorted(killed))}")


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_kills_at_random_times(killer: Killer, count: int) -> None:
    rng = random.Random(count)
    tasks = [work for work in WORKS if work != "rollback"]
    killer.do("save")
    killed = 0
    for _ in range(10 * count):
        killed += killer.do(rng.choice(tasks), kill_after=rng.uniform(0.0, 0.08)) is None
        if killed % 5 == 0:
            killer.servers.check()
        if killed == count:
            break
    killer.servers.check()
    assert killed == count
    registry, store = killer.servers.direct.registry, killer.servers.direct.objects
    for model in registry.list():
        assert registry.verify(model) is None
    gone = registry.sweep(dt.timedelta(0))
    for model in registry.list():
        assert registry.verify(model) is None, "the sweep took too much"
    named = {model.object for model in registry.list()}
    assert set(store.names("")) == named, "orphans are left"
    print(f"{killed} kills, {len(named)} objects of {len(registry.list())} models, {len(gone)} orphans swept")


def test_kill_before_the_insert_of_a_save_leaves_only_an_orphan(killer: Killer) -> None:
    """Test the harness: such a save has an effect that a later kill would not have."""
    plan = KillAt(NEVER)
    killer.do("save", plan)
    assert "insert models" in plan.calls
    for step in itertools.count(1):
        plan = KillAt(step)
        killer.do("save", plan)
        if plan.killed_at == "before insert models":
            break
    registry = killer.servers.direct.registry
    with pytest.raises(ModelNotFoundError):
        registry.get("recvae", 1 + len(killer.servers.acknowledged["save"]))
    assert len(registry.sweep(dt.timedelta(0), dry_run=True)) >= 1
