"""The sensor that sends alerts: runs and ticks that fail, and jobs, sensors and schedules that work again."""

import datetime as dt
import json
from collections.abc import Sequence

import dagster as dg

from gh_assets.automation.alerts import Alerts
from gh_assets.automation.run_requests import interval_seconds
from gh_assets.instance.internals import IMPLICIT_ASSET_JOB_NAME, SerializableErrorInfo, TickStatus
from gh_assets.resources import AlertsResource

MAX_RUNS_PER_TICK = 200

VISIBILITY_DELAY = dt.timedelta(seconds=1)
"""Runs that end within it may become visible in another order."""

TICKS = 4
"""Ticks of a sensor or schedule that are examined; if the last three failed, that is an alert."""

_ENDED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]

NO_REASON = "no reason was given"


def build_alert_sensor(interval: dt.timedelta | None) -> dg.SensorDefinition:
    """Return the sensor `run_alerts`, with another interval than 30 s unless `interval` is None."""
    make = dg.sensor(
        minimum_interval_seconds=interval_seconds(dt.timedelta(seconds=30), interval),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "When a run failed, and when its job works again: writes it to the log and posts it to "
            "GH_ASSETS_ALERT_WEBHOOK, at most once in GH_ASSETS_ALERT_EVERY for each job. Costs nothing, and is on."
        ),
    )
    return make(run_alerts)


def run_alerts(context: dg.SensorEvaluationContext, alerts: AlertsResource) -> dg.SkipReason:
    """Process each run that ended once. The cursor holds the time of the last one, and the runs of that time."""
    sender = Alerts(alerts.settings().home_path, alerts.webhook, alerts.interval)
    cursor = json.loads(context.cursor or "{}")
    if not cursor:
        # Runs from before this sensor was first turned on are not reported.
        now = dt.datetime.now(dt.UTC)
        before = [record.dagster_run.run_id for record in _ended_since(context.instance, now)]
        context.update_cursor(json.dumps({"at": now.isoformat(), "seen": before}))
        return dg.SkipReason("Alerts start now: runs that ended before are not reported.")
    pending = sender.flush()
    at, seen = dt.datetime.fromisoformat(cursor["at"]), set(cursor["seen"])
    ended_runs = _ended_since(context.instance, at)
    records = [record for record in ended_runs if record.dagster_run.run_id not in seen][:MAX_RUNS_PER_TICK]
    for record in records:
        _alert_run(context, sender, record.dagster_run)
        ended = record.update_timestamp.replace(tzinfo=record.update_timestamp.tzinfo or dt.UTC)
        if ended > at + VISIBILITY_DELAY:
            seen = set()
        at = max(at, ended)
        seen.add(record.dagster_run.run_id)
    _alert_failing_ticks(context, sender)
    context.update_cursor(json.dumps({"at": at.isoformat(), "seen": sorted(seen)}))
    failed = sum(record.dagster_run.status is dg.DagsterRunStatus.FAILURE for record in records)
    undelivered = f" {pending} alerts are pending because the webhook does not answer." if pending else ""
    return dg.SkipReason(f"{len(records)} runs ended, {failed} of them failed.{undelivered}")


def _alert_run(context: dg.SensorEvaluationContext, alerts: Alerts, run: dg.DagsterRun) -> None:
    details = {"run_id": run.run_id, "job": run.job_name}
    if run.status is dg.DagsterRunStatus.FAILURE:
        text = f"{_title(run)} failed (run {run.run_id[:8]}): {_reason(context.instance, run.run_id)}"
        context.log.error(text)
        alerts.failure(run.job_name, text, dt.datetime.now(dt.UTC), **details)
    else:
        text = f"{_title(run)} works again (run {run.run_id[:8]})."
        if alerts.recovery(run.job_name, text, **details):
            context.log.info(text)


def _alert_failing_ticks(context: dg.SensorEvaluationContext, alerts: Alerts) -> None:
    """Send alerts for sensors and schedules whose last ticks all failed: they have no run that could fail."""
    for state in context.instance.all_instigator_state():
        ticks = context.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=TICKS)
        ended = [tick for tick in ticks if tick.status is not TickStatus.STARTED]
        name = state.instigator_name
        if len(ended) >= TICKS - 1 and all(tick.status is TickStatus.FAILURE for tick in ended):
            error = _innermost(ended[0].error)
            reason = NO_REASON if error is None else error.message.strip()
            text = f"The ticks of {name} fail: {reason}"
            context.log.error(text)
            alerts.failure(f"ticks of {name}", text, dt.datetime.now(dt.UTC), sensor=name)
        elif ended and ended[0].status is not TickStatus.FAILURE:
            alerts.recovery(f"ticks of {name}", f"The ticks of {name} succeed again.", sensor=name)


def _ended_since(instance: dg.DagsterInstance, at: dt.datetime) -> Sequence[dg.RunRecord]:
    """Return the runs that ended at a time or later, in the order in which they ended."""
    ended = dg.RunsFilter(statuses=_ENDED, updated_after=at - VISIBILITY_DELAY)
    return instance.get_run_records(ended, order_by="update_timestamp", ascending=True)


def _title(run: dg.DagsterRun) -> str:
    if run.job_name == IMPLICIT_ASSET_JOB_NAME:
        assets = sorted(key.to_user_string() for key in run.asset_selection or ())
        return f"Materializing {', '.join(assets[:3]) or 'assets'}{' and more' if len(assets) > 3 else ''}"
    return f"The job {run.job_name}"


def _innermost(error: SerializableErrorInfo | None) -> SerializableErrorInfo | None:
    """Return the first cause of an error."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return why a run failed, from the failure of its step, else from its own."""
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1).records:
            event = record.event_log_entry.get_dagster_event()
            if kind is dg.DagsterEventType.STEP_FAILURE:
                data = event.step_failure_data
                if data.user_failure_data is not None and data.user_failure_data.description:
                    return str(data.user_failure_data.description)
                error = _innermost(data.error)
                if error is not None:
                    return f"{event.step_key}: {error.message.strip()}"
            return str(record.event_log_entry.user_message or event.message or NO_REASON)
    return NO_REASON
