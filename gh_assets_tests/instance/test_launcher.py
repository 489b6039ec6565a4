"""The run launcher: runs whose process died are noticed."""

import os
import socket
import subprocess
import sys
import time
import uuid

import dagster as dg
import pytest
from dagster import DagsterInstance

from gh_assets.instance import launcher as launcher_module
from gh_assets.instance.internals import EngineEventData, WorkerStatus
from gh_assets.instance.launcher import HomeRunLauncher, execute_job, fail_dead_runs, is_alive
from gh_assets_tests.support.waiting import until


@dg.op
def step() -> None: ...


@dg.job
def a_job() -> None:
    step()


def run_of_process(instance: DagsterInstance, pid: int) -> dg.DagsterRun:
    """A started run whose events name a process."""
    run = instance.create_run_for_job(a_job, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event("Started", run, EngineEventData.in_process(pid))
    return run


def test_a_run_whose_process_died_is_marked_as_failed(instance: DagsterInstance) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    alive = run_of_process(instance, os.getpid())
    dying = run_of_process(instance, gone.pid)
    unknown = instance.create_run_for_job(a_job, status=dg.DagsterRunStatus.STARTED)
    launcher = instance.run_launcher
    assert isinstance(launcher, HomeRunLauncher)
    assert launcher.supports_check_run_worker_health

    def health(run: dg.DagsterRun) -> WorkerStatus:
        return launcher.check_run_worker_health(run).status

    assert health(dying) is WorkerStatus.RUNNING
    gone.kill()
    # A zombie: the kernel still knows its number.
    until(lambda: not is_alive(gone.pid, time.time()))
    assert health(dying) is WorkerStatus.FAILED
    gone.wait()
    assert health(dying) is WorkerStatus.FAILED
    assert health(alive) is WorkerStatus.RUNNING
    assert health(unknown) is WorkerStatus.RUNNING, "an unknown process is not a dead one"
    assert fail_dead_runs(instance) == [dying.run_id]
    assert {run.run_id: run.status for run in instance.get_runs()} == {
        alive.run_id: dg.DagsterRunStatus.STARTED,
        dying.run_id: dg.DagsterRunStatus.FAILURE,
        unknown.run_id: dg.DagsterRunStatus.STARTED,
    }


def test_a_run_whose_command_was_killed_before_it_started_is_marked_as_failed(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon does not check such runs, and they would block sensors for ever."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    alive, dying, again = (str(uuid.uuid4()) for _ in range(3))
    monkeypatch.setattr(
        "gh_assets.instance.internals.execute_run", lambda *_, **__: None
    )  # the command is killed first
    for pid, run_id in ((os.getpid(), alive), (child.pid, dying)):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        execute_job(a_job, instance, run_id=run_id, run_config={}, tags={})
    monkeypatch.undo()
    assert fail_dead_runs(instance) == []
    child.kill()
    child.wait()
    (left,) = instance.get_runs(dg.RunsFilter(run_ids=[dying]))
    instance.create_run_for_job(a_job, run_id=again, tags=left.tags)
    monkeypatch.setattr(launcher_module, "is_shared", lambda _: True)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert fail_dead_runs(instance) == [], "the processes of another machine are not known here"
    monkeypatch.undo()
    assert fail_dead_runs(instance) == [dying]
    statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses == {
        alive: dg.DagsterRunStatus.NOT_STARTED,
        dying: dg.DagsterRunStatus.FAILURE,
        again: dg.DagsterRunStatus.NOT_STARTED,
    }, "a run that was re-executed from the UI has another process"


def test_a_process_that_is_younger_than_the_run_is_another_one() -> None:
    assert is_alive(os.getpid(), time.time())
    assert not is_alive(os.getpid(), time.time() - 86_400), "this process is younger than that"
