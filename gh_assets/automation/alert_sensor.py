"""The sensor that tells people of runs that failed, and of jobs that work again."""

import datetime as dt
import json
from collections.abc import Sequence

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.scheduler.instigation import TickStatus
from dagster_shared.error import SerializableErrorInfo

from gh_assets.automation.alerts import Alert, Alerts
from gh_assets.automation.jobs import ASSET_JOB
from gh_assets.automation.run_requests import interval
from gh_assets.settings import load_settings

MAX_RUNS_PER_TICK = 200
"""Runs that one look goes through."""

MOMENT = dt.timedelta(seconds=1)
"""Runs that end within it may become visible in another order."""

TICKS = 4
"""Looks that are gone back; with the last three failed, somebody should know."""

_ENDED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS]


@dg.sensor(
    name="run_alerts",
    minimum_interval_seconds=interval(30),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "When a run failed, and when its job works again: writes it to the log and posts it to "
        "GH_ASSETS_ALERT_WEBHOOK, at most once in GH_ASSETS_ALERT_EVERY a job. Costs nothing, and is on."
    ),
)
def run_alerts(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Each run that ended, once: the cursor holds when the last one was, and the runs of that moment."""
    settings = load_settings()
    alerts = Alerts(settings.home_path, settings.alert_webhook, settings.alert_every)
    cursor = json.loads(context.cursor or "{}")
    if not cursor:
        # What was before this sensor was first turned on is no news.
        now = dt.datetime.now(dt.UTC)
        before = [record.dagster_run.run_id for record in _ended_since(context.instance, now)]
        context.update_cursor(json.dumps({"at": now.isoformat(), "seen": before}))
        return dg.SkipReason("From now on, runs that fail are told.")
    waiting = alerts.flush()
    at, seen = dt.datetime.fromisoformat(cursor["at"]), set(cursor["seen"])
    found = _ended_since(context.instance, at)
    records = [record for record in found if record.dagster_run.run_id not in seen][:MAX_RUNS_PER_TICK]
    failed = 0
    for record in records:
        run = record.dagster_run
        now = dt.datetime.now(dt.UTC)
        if run.status is dg.DagsterRunStatus.FAILURE:
            failed += 1
            reason = _reason(context.instance, run.run_id)
            text = f"{_title(run)} failed (run {run.run_id[:8]}): {reason}"
            context.log.error(text)
            alerts.failure(Alert(run.job_name, "failure", text, {"run_id": run.run_id, "job": run.job_name}), now)
        else:
            text = f"{_title(run)} works again (run {run.run_id[:8]})."
            if alerts.recovery(Alert(run.job_name, "recovery", text, {"run_id": run.run_id, "job": run.job_name})):
                context.log.info(text)
        ended = record.update_timestamp.replace(tzinfo=record.update_timestamp.tzinfo or dt.UTC)
        if ended > at + MOMENT:
            seen = set()
        at = max(at, ended)
        seen.add(run.run_id)
    _alert_failing_ticks(context, alerts)
    context.update_cursor(json.dumps({"at": at.isoformat(), "seen": sorted(seen)}))
    late = f" {waiting} alerts wait for the webhook to answer." if waiting else ""
    return dg.SkipReason(f"{len(records)} runs ended, {failed} of them failed.{late}")


def _alert_failing_ticks(context: dg.SensorEvaluationContext, alerts: Alerts) -> None:
    """Sensors and schedules whose looks fail one after the other: no run of theirs would ever tell."""
    for state in context.instance.all_instigator_state():
        ticks = context.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=TICKS)
        ended = [tick for tick in ticks if tick.status is not TickStatus.STARTED]
        name = state.instigator_name
        if len(ended) >= TICKS - 1 and all(tick.status is TickStatus.FAILURE for tick in ended):
            error = _innermost(ended[0].error)
            reason = "no reason was given" if error is None else error.message.strip()
            text = f"{name} cannot look any more: {reason}"
            context.log.error(text)
            alerts.failure(Alert(f"look of {name}", "failure", text, {"sensor": name}), dt.datetime.now(dt.UTC))
        elif ended and ended[0].status is not TickStatus.FAILURE:
            alerts.recovery(Alert(f"look of {name}", "recovery", f"{name} looks again.", {"sensor": name}))


def _ended_since(instance: dg.DagsterInstance, at: dt.datetime) -> Sequence[dg.RunRecord]:
    """Runs that ended after a moment, or in it, in the order of their ends."""
    wanted = dg.RunsFilter(statuses=_ENDED, updated_after=at - MOMENT)
    return instance.get_run_records(wanted, order_by="update_timestamp", ascending=True)


def _title(run: dg.DagsterRun) -> str:
    if run.job_name == ASSET_JOB:
        assets = sorted(key.to_user_string() for key in run.asset_selection or ())
        return f"Materializing {', '.join(assets[:3]) or 'assets'}{' and more' if len(assets) > 3 else ''}"
    return f"The job {run.job_name}"


def _innermost(error: SerializableErrorInfo | None) -> SerializableErrorInfo | None:
    """What all others were caused by."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """The innermost words that a person can use."""
    for kind in (DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE):
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1).records:
            event = record.event_log_entry.get_dagster_event()
            if kind is DagsterEventType.STEP_FAILURE:
                data = event.step_failure_data
                if data.user_failure_data is not None and data.user_failure_data.description:
                    return str(data.user_failure_data.description)
                error = _innermost(data.error)
                if error is not None:
                    return f"{event.step_key}: {error.message.strip()}"
            return str(record.event_log_entry.user_message or event.message or "no reason was given")
    return "no reason was given"
