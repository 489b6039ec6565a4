"""How runs behave: what is tried again, what is not, and runs whose process died."""

import datetime as dt
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus

from gh_assets.assets import retries as running
from gh_assets.assets.retries import retry_transient, tag_run, without_retries
from gh_assets.automation.run_requests import request_run
from gh_assets.errors import GhAssetsError, InputError, ServiceUnavailableError
from gh_assets.instance import launcher as dagster_runs
from gh_assets.instance.launcher import PROCESS, HomeRunLauncher, execute_job, fail_dead_runs, is_alive
from gh_assets.instance.storage import open_instance


@pytest.fixture
def instance(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.setattr(running, "FIRST_WAIT", 0.01)
    with open_instance() as instance:
        yield instance


def job_that(*raised: BaseException) -> tuple[dg.JobDefinition, list[int]]:
    """A job that fails so, attempt by attempt, and then succeeds; and its attempts."""
    attempts: list[int] = []

    @dg.op
    @retry_transient
    def step(context: dg.OpExecutionContext) -> None:
        attempts.append(context.retry_number)
        tag_run(context, {"attempts": len(attempts)})
        if len(attempts) <= len(raised):
            raise raised[len(attempts) - 1]

    graph = dg.GraphDefinition(name="a_job", node_defs=[step])
    return dg.JobDefinition(name="a_job", graph_def=graph), attempts


AWAY = ServiceUnavailableError("GitHub did not answer")


def test_what_may_be_over_soon_is_tried_again(instance: DagsterInstance) -> None:
    job, attempts = job_that(AWAY, AWAY)
    result = job.execute_in_process(instance=instance)
    assert result.success
    assert attempts == [0, 1, 2]
    assert instance.get_run_by_id(result.run_id).tags["gh_assets/attempts"] == "3"  # type: ignore[union-attr]


def test_there_is_an_end_to_it(instance: DagsterInstance) -> None:
    job, attempts = job_that(*[AWAY] * 10)
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    assert len(attempts) == 1 + running.RETRIES


@pytest.mark.parametrize("error", [InputError("no list"), ValueError("a mistake"), KeyboardInterrupt()])
def test_what_is_as_wrong_the_second_time_is_not(instance: DagsterInstance, error: BaseException) -> None:
    job, attempts = job_that(error)
    try:
        assert not job.execute_in_process(instance=instance, raise_on_error=False).success
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        assert isinstance(error, KeyboardInterrupt)
    assert attempts == [0]


def test_a_person_is_told_at_once(instance: DagsterInstance) -> None:
    job, attempts = job_that(AWAY)
    with without_retries(), pytest.raises(GhAssetsError, match="did not answer"):
        job.execute_in_process(instance=instance)
    assert attempts == [0]


def started_by(instance: DagsterInstance, pid: int) -> dg.DagsterRun:
    """A run that says that a process executes it."""
    job, _ = job_that()
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event("Started", run, EngineEventData.in_process(pid))
    return run


def test_a_run_whose_process_died_does_not_stay_started(instance: DagsterInstance) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    alive = started_by(instance, os.getpid())
    dying = started_by(instance, gone.pid)
    unknown = instance.create_run_for_job(job_that()[0], status=dg.DagsterRunStatus.STARTED)
    launcher = instance.run_launcher
    assert isinstance(launcher, HomeRunLauncher)
    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(dying).status is WorkerStatus.RUNNING
    gone.kill()
    # A zombie: the kernel still knows its number.
    while is_alive(gone.pid, time.time()):
        time.sleep(0.01)
    assert launcher.check_run_worker_health(dying).status is WorkerStatus.FAILED
    gone.wait()
    assert launcher.check_run_worker_health(dying).status is WorkerStatus.FAILED
    assert launcher.check_run_worker_health(alive).status is WorkerStatus.RUNNING
    assert launcher.check_run_worker_health(unknown).status is WorkerStatus.RUNNING, "not known is not dead"
    assert fail_dead_runs(instance) == [dying.run_id]
    statuses = {run.run_id: instance.get_run_by_id(run.run_id).status for run in (alive, dying, unknown)}  # type: ignore[union-attr]
    assert statuses == {
        alive.run_id: dg.DagsterRunStatus.STARTED,
        dying.run_id: dg.DagsterRunStatus.FAILURE,
        unknown.run_id: dg.DagsterRunStatus.STARTED,
    }


def test_a_run_whose_command_was_killed_before_it_began_does_not_stay_there(
    instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon never looks at it, and sensors would wait for it for ever."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    job, _ = job_that()
    left: dict[str, dg.DagsterRun] = {}
    alive, dying, again = (str(uuid.uuid4()) for _ in range(3))

    def killed(_: object, run: dg.DagsterRun, *__: object, **___: object) -> None:
        left[run.run_id] = run

    monkeypatch.setattr(dagster_runs, "execute_run", killed)
    for pid, run_id in ((os.getpid(), alive), (child.pid, dying)):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        execute_job(job, instance, run_id=run_id, run_config={}, tags={})
    monkeypatch.undo()
    assert fail_dead_runs(instance) == []
    child.kill()
    child.wait()
    instance.create_run_for_job(job, run_id=again, tags=left[dying].tags)
    monkeypatch.setattr(dagster_runs, "is_shared", lambda _: True)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert fail_dead_runs(instance) == [], "another machine cannot know"
    monkeypatch.undo()
    assert fail_dead_runs(instance) == [dying]
    statuses = {run.run_id: run.status for run in instance.get_runs()}
    assert statuses == {
        alive: dg.DagsterRunStatus.NOT_STARTED,
        dying: dg.DagsterRunStatus.FAILURE,
        again: dg.DagsterRunStatus.NOT_STARTED,
    }, "a run that was started again from the UI has another process"


def test_a_sensor_does_not_wait_for_a_command_that_was_killed(instance: DagsterInstance) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = str(uuid.uuid4())
    tags = {PROCESS: f"{child.pid} on {socket.gethostname()} for {dead}"}
    instance.create_run_for_job(job_that()[0], run_id=dead, tags=tags)
    context = dg.build_sensor_context(instance=instance)
    asked = request_run(context, "a_job", "state 1", "Why.", pause=dt.timedelta(hours=1))
    assert isinstance(asked, dg.SensorResult)
    assert len(asked.run_requests or ()) == 1
    instance.create_run_for_job(job_that()[0])
    waits = request_run(context, "a_job", "state 1", "Why.", pause=dt.timedelta(hours=1))
    assert isinstance(waits, dg.SkipReason)


def test_a_number_that_another_process_got_is_no_sign_of_life() -> None:
    assert is_alive(os.getpid(), time.time())
    assert not is_alive(os.getpid(), time.time() - 86_400), "this process is younger than that"
