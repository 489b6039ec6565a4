"""Runs whose process died: noticed, so that none stays "started" for ever.

Dagster's own launcher for one machine does not look whether a run's process is still there. After `kill -9`, or when
the machine went down, such a run would count as running, hold its pool, and keep sensors waiting.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    JobExecutionResult,
    RunsFilter,
    in_process_executor,
)
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.events import DagsterEventType
from dagster._core.execution.api import execute_run
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.runs.sqlite import SqliteRunStorage
from dagster._core.storage.tags import MAX_RETRIES_TAG

import gh_assets.instance.storage  # noqa: F401 - sets how events are written, whatever stores them

WORKER_EVENTS = 20
"""Engine events of a run that may name its process: it is among the first."""

CODE_LOCATION = "gh_assets"
"""The name of the code location in workspace.yaml."""

OWN_PROCESS = {MAX_RETRIES_TAG: "0"}
"""Tags of runs that a command executes itself: the daemon has no way to start them again."""

PROCESS = "gh_assets/process"
"""Tag of a run that a command executes itself: its process and machine, known before the run has begun.

It names the run, too, since a run that is started again from the UI gets the tags of the first.
"""


class HomeRunLauncher(DefaultRunLauncher):
    """Dagster's launcher for one machine, which also knows whether a run's process is still alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        record = self._instance.get_run_record_by_id(run.run_id)
        pid = None if record is None else process_of(self._instance, record)
        if pid is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its process is not known")
        if is_alive(*pid):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the process {pid[0]} is gone")


def execute_job(
    job: JobDefinition,
    instance: DagsterInstance,
    *,
    run_id: str,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> JobExecutionResult:
    """Execute a job in this process, as a run that the UI shows like those that it started itself.

    `JobDefinition.execute_in_process` does not say which code location a run belongs to, so that the UI shows such runs
    neither on its timeline nor beside their jobs.
    """
    here = job.with_executor_def(in_process_executor)
    location = RegisteredCodeLocationOrigin(CODE_LOCATION)
    run = instance.create_run_for_job(
        job_def=here,
        run_id=run_id,
        run_config=run_config,
        tags={**job.run_tags, **tags, PROCESS: f"{os.getpid()} on {socket.gethostname()} for {run_id}"},
        remote_job_origin=RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME).get_job_origin(job.name),
    )
    return execute_run(InMemoryJob(here), run, instance, raise_on_error=True)


def is_shared(instance: DagsterInstance) -> bool:
    """Whether other machines may write into the same history: it is in a database server."""
    return not isinstance(instance.run_storage, SqliteRunStorage)


def process_of(instance: DagsterInstance, record: RunRecord) -> tuple[int, float] | None:
    """The process on this machine that executes a run: its number, and a time at which it was there (s since 1970).

    None if it is not known, or is another machine's: nobody here can tell whether that one is alive.
    """
    run = record.dagster_run
    named = re.fullmatch(r"(\d+) on (.*) for (\S+)", run.tags.get(PROCESS, ""), re.DOTALL)
    if named and named[3] == run.run_id:
        if is_shared(instance) and named[2] != socket.gethostname():
            return None
        return int(named[1]), record.create_timestamp.timestamp()
    found = None
    for entry in instance.get_records_for_run(
        run.run_id, of_type=DagsterEventType.ENGINE_EVENT, limit=WORKER_EVENTS
    ).records:
        event = entry.event_log_entry.get_dagster_event()
        if event.step_key is not None:  # processes of single steps come and go
            continue
        value = event.engine_event_data.metadata.get("pid")
        if value is not None:
            found = int(str(value.value)), entry.event_log_entry.timestamp
    return found


def is_alive(pid: int, since: float) -> bool:
    """Whether the process that had this number at a moment still runs; another one may have it by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, so not the one that wrote into our storage
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:  # no such files here: the number has to do
        return True
    if fields[0] == "Z":
        return False
    began = time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return began <= since + 2.0


def fail_dead_runs(instance: DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone; gives their ids.

    For the command, beside which there may be no daemon, and for runs that it was killed before it started them: at
    those the daemon does not look. In a history that machines share, the runs that others launched are left to them.
    """
    dead = []
    statuses = [DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
    for record in instance.get_run_records(RunsFilter(statuses=statuses)):
        run = record.dagster_run
        if is_shared(instance) and PROCESS not in run.tags:
            continue
        pid = process_of(instance, record)
        if pid is not None and not is_alive(*pid):
            instance.report_run_failed(run, f"The process {pid[0]} that executed this run is gone.")
            dead.append(run.run_id)
    return dead
