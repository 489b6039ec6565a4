"""The run launcher, which notices that the process of a run died, and how the command executes runs.

Dagster's own launcher for one machine does not check whether a run's process still exists. After `kill -9`, or when the
machine went down, such a run would count as running, hold its pool, and block sensors.
"""

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

import gh_assets.instance.environment  # noqa: F401 - how events are written, whatever stores them
from gh_assets.instance import internals
from gh_assets.instance.internals import CheckRunHealthResult, WorkerStatus

WORKER_EVENTS = 20
"""Number of a run's first engine events that are searched for the id of its process."""

CODE_LOCATION = "gh_assets"
"""Name of the code location in workspace.yaml."""

OWN_PROCESS = {internals.MAX_RETRIES_TAG: "0"}
"""Tags of runs that a command executes itself: the daemon must not retry them."""

PROCESS = "gh_assets/process"
"""Tag of a run that a command executes itself: its process and machine, known before the run starts.

The value also names the run, because a run that is re-executed from the UI inherits the tags of the first.
"""

CLOCK_TOLERANCE = 2.0
"""Seconds by which the start of a process may seem to be later than its first event."""


class HomeRunLauncher(dg.DefaultRunLauncher):
    """Dagster's launcher for one machine, with a health check: whether the run's process is still alive."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        record = self._instance.get_run_record_by_id(run.run_id)
        process = None if record is None else process_of(self._instance, record)
        if process is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its process is not known")
        if is_alive(*process):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, f"the process {process[0]} is gone")


def execute_job(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    *,
    run_id: str,
    run_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> dg.JobExecutionResult:
    """Execute a job in this process, as a run that the UI shows like those that it launched itself.

    `JobDefinition.execute_in_process` does not record the code location of a run, so that the UI shows it neither on
    its timeline nor beside its job.
    """
    in_process = job.with_executor_def(dg.in_process_executor)
    location = internals.RegisteredCodeLocationOrigin(CODE_LOCATION)
    repository = internals.RemoteRepositoryOrigin(location, internals.SINGLETON_REPOSITORY_NAME)
    run = instance.create_run_for_job(
        job_def=in_process,
        run_id=run_id,
        run_config=run_config,
        tags={**job.run_tags, **tags, PROCESS: f"{os.getpid()} on {socket.gethostname()} for {run_id}"},
        remote_job_origin=repository.get_job_origin(job.name),
    )
    return internals.execute_run(internals.InMemoryJob(in_process), run, instance, raise_on_error=True)


def is_shared(instance: dg.DagsterInstance) -> bool:
    """Whether other machines may write into the same history: it is in a database server."""
    return not isinstance(instance.run_storage, internals.SqliteRunStorage)


def process_of(instance: dg.DagsterInstance, record: dg.RunRecord) -> tuple[int, float] | None:
    """Return the process on this machine that executes a run.

    Returns
    -------
    tuple of (int, float) or None
        Its id, and a time at which it existed (seconds since 1970). None if it is not known, or is on another machine.
    """
    run = record.dagster_run
    tag = re.fullmatch(r"(\d+) on (.*) for (\S+)", run.tags.get(PROCESS, ""), re.DOTALL)
    if tag and tag[3] == run.run_id:
        if is_shared(instance) and tag[2] != socket.gethostname():
            return None
        return int(tag[1]), record.create_timestamp.timestamp()
    process = None
    kind = dg.DagsterEventType.ENGINE_EVENT
    for entry in instance.get_records_for_run(run.run_id, of_type=kind, limit=WORKER_EVENTS).records:
        event = entry.event_log_entry.get_dagster_event()
        if event.step_key is not None:  # the processes of single steps come and go
            continue
        pid = event.engine_event_data.metadata.get("pid")
        if pid is not None:
            process = int(str(pid.value)), entry.event_log_entry.timestamp
    return process


def is_alive(pid: int, since: float) -> bool:
    """Whether the process that had an id at a time still runs; another process may have the id by now."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # another user's is not the one that wrote into this storage
        return False
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:  # not Linux: the id is all there is to compare
        return True
    if fields[0] == "Z":
        return False
    started = time.time() - uptime + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return started <= since + CLOCK_TOLERANCE


def fail_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs as failed whose process is gone, and return their ids.

    The daemon does not do this for runs that were never started, and the command may run without a daemon. In a history
    that several machines share, runs that others launched are left alone.
    """
    dead = []
    statuses = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for record in instance.get_run_records(dg.RunsFilter(statuses=statuses)):
        run = record.dagster_run
        if is_shared(instance) and PROCESS not in run.tags:
            continue
        process = process_of(instance, record)
        if process is not None and not is_alive(*process):
            instance.report_run_failed(run, f"The process {process[0]} that executed this run is gone.")
            dead.append(run.run_id)
    return dead
