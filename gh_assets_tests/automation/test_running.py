"""How runs behave: what is tried again, what is not, and runs whose process died."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance
from dagster._core.events import EngineEventData
from dagster._core.launcher import WorkerStatus

from gh_assets.assets import running
from gh_assets.assets.running import retried, tag_run, without_retries
from gh_assets.dagster_home import open_instance
from gh_assets.dagster_runs import HomeRunLauncher, fail_dead_runs, is_alive
from gh_assets.errors import GhAssetsError, InputError, ServiceUnavailableError


@pytest.fixture
def instance(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    monkeypatch.setattr(running, "FIRST_WAIT", 0.01)
    with open_instance() as instance:
        yield instance


def job_that(*raised: BaseException) -> tuple[dg.JobDefinition, list[int]]:
    """A job that fails so, attempt by attempt, and then succeeds; and its attempts."""
    attempts: list[int] = []

    @dg.op
    @retried
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


def test_a_number_that_another_process_got_is_no_sign_of_life() -> None:
    assert is_alive(os.getpid(), time.time())
    assert not is_alive(os.getpid(), time.time() - 86_400), "this process is younger than that"
