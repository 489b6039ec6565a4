"""How sensors request runs: one for each state, and further ones with increasing pauses until the state changes."""

import datetime as dt
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from gh_assets.assets.definition import TAG
from gh_assets.instance.internals import UnresolvedAssetJobDefinition
from gh_assets.instance.launcher import fail_dead_runs
from gh_assets.local.backoff import Backoff

STATE = f"{TAG}about"
"""Tag of a run that a sensor requested: the state that the run is to change."""

LONGEST_PAUSE = dt.timedelta(hours=6)

MAX_REASON = 200
"""Characters of the reason in a run's tags."""

NO_PLAN = "There is no plan yet: materialize repos and collection_plan (the job read_lists)."

_ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class RunReason:
    """Why a job has to run.

    Attributes
    ----------
    state : str
        What the run is to change; equal for equal states.
    text : str
        A sentence.
    run_config : mapping
    """

    state: str
    text: str
    run_config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobSensor:
    """A sensor that requests runs of one job. It is off until the user turns it on.

    Attributes
    ----------
    evaluate : callable
        Called at each tick with the context and the resources that its parameters name; returns a `RunReason`, or a
        `SkipReason` if there is nothing to do. Its docstring is the sensor's description.
    job : job
    every : timedelta
        Minimum interval between two ticks.
    pause : timedelta
        Pause before a run that changed nothing is requested again; it doubles each time.
    pause_ticks : int
        Maximum length of the first pause, in intervals, if the settings choose the interval.
    blocked_by : tuple of str
        Jobs that do the same among other things: nothing is requested while one of them is active.
    """

    evaluate: Callable[..., RunReason | dg.SkipReason]
    job: dg.JobDefinition | UnresolvedAssetJobDefinition
    every: dt.timedelta
    pause: dt.timedelta
    pause_ticks: int
    blocked_by: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.evaluate.__name__)

    def build(self, interval: dt.timedelta | None) -> dg.SensorDefinition:
        """Return the sensor, with another interval than its own unless `interval` is None."""
        pause = self.pause if interval is None else min(self.pause, interval * self.pause_ticks)

        @functools.wraps(self.evaluate)
        def tick(context: dg.SensorEvaluationContext, **resources: Any) -> dg.SensorResult | dg.SkipReason:
            reason = self.evaluate(context, **resources)
            if isinstance(reason, dg.SkipReason):
                return reason
            return request_run(context, self.job.name, reason, pause=pause, blocked_by=self.blocked_by)

        make = dg.sensor(
            name=self.name,
            job=self.job,
            minimum_interval_seconds=interval_seconds(self.every, interval),
            default_status=dg.DefaultSensorStatus.STOPPED,
            description=inspect.getdoc(self.evaluate),
        )
        return make(tick)


def job_sensor(**options: Any) -> Callable[[Callable[..., RunReason | dg.SkipReason]], JobSensor]:
    """Return a decorator that makes a `JobSensor` of a function; the options are its attributes."""
    return lambda evaluate: JobSensor(evaluate, **options)


def interval_seconds(own: dt.timedelta, chosen: dt.timedelta | None) -> int:
    """Return the interval of a sensor in seconds: the one that the settings choose, else its own."""
    return max(1, int((own if chosen is None else chosen).total_seconds()))


def request_run(
    context: dg.SensorEvaluationContext,
    job: str,
    reason: RunReason,
    *,
    pause: dt.timedelta,
    blocked_by: Collection[str] = (),
) -> dg.SensorResult | dg.SkipReason:
    """Request one run, unless it is active or paused.

    If a run for the same state ended before, the next one is requested after `pause`, then after twice that, and so on.
    A tick that is repeated after a crash requests the same run key, for which Dagster starts no second run.

    Parameters
    ----------
    context : SensorEvaluationContext
    job : str
    reason : RunReason
    pause : timedelta
    blocked_by : collection of str
        Further jobs of which no run may be active.
    """
    instance = context.instance
    for other in (job, *blocked_by):
        active = _active_run(instance, other)
        if active is not None:
            return dg.SkipReason(f"{reason.text} A run of {other} is active: {active.run_id[:8]}.")
    before = instance.get_run_records(dg.RunsFilter(job_name=job, tags={STATE: reason.state}), limit=32)
    if before:
        ended = max(record.update_timestamp for record in before)
        backoff = Backoff(pause.total_seconds(), LONGEST_PAUSE.total_seconds())
        again = ended.replace(tzinfo=ended.tzinfo or dt.UTC) + dt.timedelta(seconds=backoff.wait(len(before)))
        if dt.datetime.now(dt.UTC) < again:
            runs = "a run" if len(before) == 1 else f"{len(before)} runs"
            return dg.SkipReason(
                f"{reason.text} After {runs} that did not change it, the next is at {again:%H:%M:%S} UTC."
            )
    request = dg.RunRequest(
        run_key=f"{reason.state}/{len(before)}",
        run_config=dict(reason.run_config),
        tags={STATE: reason.state, f"{TAG}why": reason.text[:MAX_REASON]},
    )
    return dg.SensorResult(run_requests=[request])


def _active_run(instance: dg.DagsterInstance, job: str) -> dg.DagsterRun | None:
    """Return an active run of a job, after marking those as failed whose process died."""
    active = dg.RunsFilter(job_name=job, statuses=_ACTIVE)
    records = instance.get_run_records(active, limit=1)
    if records and fail_dead_runs(instance):
        records = instance.get_run_records(active, limit=1)
    return records[0].dagster_run if records else None


def materialization_metadata(event: dg.EventLogEntry | None) -> Mapping[str, Any]:
    """Return the metadata of a materialization as plain values."""
    materialization = None if event is None else event.asset_materialization
    return {} if materialization is None else {name: entry.value for name, entry in materialization.metadata.items()}
