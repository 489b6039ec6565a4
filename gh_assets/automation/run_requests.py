"""What the sensors share: one run a subject, later and later again if that changed nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

from gh_assets.assets.retries import TAG
from gh_assets.instance.launcher import fail_dead_runs
from gh_assets.settings import load_settings

ABOUT = f"{TAG}about"
"""Tag of a run that a sensor asked for: the state of things that it is to change."""

LONGEST_PAUSE = dt.timedelta(hours=6)

_ALIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def interval(seconds: int) -> int:
    """Seconds between two looks: those of the settings, if they say so."""
    chosen = load_settings().sensor_interval
    return seconds if chosen is None else max(1, int(chosen.total_seconds()))


def retry_pause(usual: dt.timedelta, ticks: int) -> dt.timedelta:
    """How long to wait before a run that changed nothing is tried again; shorter where the sensors look more often."""
    chosen = load_settings().sensor_interval
    return usual if chosen is None else min(usual, chosen * ticks)


def request_run(
    context: dg.SensorEvaluationContext,
    job: str,
    about: str,
    why: str,
    *,
    pause: dt.timedelta,
    blocked_by: Collection[str] = (),
    run_config: Mapping[str, Any] | None = None,
) -> dg.SensorResult | dg.SkipReason:
    """Ask for one run because of a state of things, unless there was one.

    The state is named by `about`: what the run is to change. If a run ended and the state is the same, it is tried
    again after `pause`, twice that, four times that and so on. A tick that is repeated after a crash asks for the same
    run key, and Dagster starts no second run for that.

    Parameters
    ----------
    context : SensorEvaluationContext
    job : str
    about : str
        Equal for equal states.
    why : str
        For people.
    pause : timedelta
    unless : collection of str
        Other jobs that do the same among other things: nothing is asked for while one of them runs.
    run_config : mapping, optional
    """
    instance = context.instance
    for other in (job, *blocked_by):
        alive = instance.get_run_records(dg.RunsFilter(job_name=other, statuses=_ALIVE), limit=1)
        if alive and fail_dead_runs(instance):
            alive = instance.get_run_records(dg.RunsFilter(job_name=other, statuses=_ALIVE), limit=1)
        if alive:
            return dg.SkipReason(f"{why} A run of {other} is under way: {alive[0].dagster_run.run_id[:8]}.")
    before = instance.get_run_records(dg.RunsFilter(job_name=job, tags={ABOUT: about}), limit=32)
    if before:
        ended = max(record.update_timestamp for record in before)
        wait = min(LONGEST_PAUSE, pause * 2 ** (len(before) - 1))
        again = ended.replace(tzinfo=ended.tzinfo or dt.UTC) + wait
        if dt.datetime.now(dt.UTC) < again:
            runs = "a run" if len(before) == 1 else f"{len(before)} runs"
            return dg.SkipReason(f"{why} After {runs} that did not change it, the next is at {again:%H:%M:%S} UTC.")
    request = dg.RunRequest(
        run_key=f"{about}/{len(before)}", run_config=dict(run_config or {}), tags={ABOUT: about, f"{TAG}why": why[:200]}
    )
    return dg.SensorResult(run_requests=[request])


def last_materialization(instance: dg.DagsterInstance, key: dg.AssetKey) -> dg.EventLogEntry | None:
    """The newest materialization of an asset."""
    return instance.get_latest_materialization_event(key)


def metadata_of(event: dg.EventLogEntry | None) -> Mapping[str, Any]:
    """What a materialization says, as plain values."""
    found = None if event is None else event.asset_materialization
    return {} if found is None else {name: value.value for name, value in found.metadata.items()}
