"""The sensor of alerts: runs and ticks that fail are reported once, and so is that they work again."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

# Dagster has no public way to record the tick of a sensor.
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from gh_assets.automation.alert_sensor import run_alerts
from gh_assets.errors import InputError
from gh_assets.instance.internals import RemoteRepositoryOrigin, SerializableErrorInfo, TickStatus
from gh_assets.resources import AlertsResource
from gh_assets.settings import load_settings
from gh_assets_tests.automation.conftest import Webhook


@dg.op
def fails() -> None:
    raise InputError("the list is empty: name one")


@dg.op
def works() -> None: ...


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def tick(
    webhook: Webhook, instance: dg.DagsterInstance, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """Evaluate the sensor with the cursor of the evaluation before; returns its message."""
    monkeypatch.setenv("GH_ASSETS_ALERT_WEBHOOK", webhook.url)
    cursor: list[str | None] = [None]

    def evaluate() -> str:
        context = dg.build_sensor_context(instance=instance, cursor=cursor[0])
        alerts = AlertsResource.of(load_settings()).process_config_and_initialize()
        result = run_alerts(context, alerts)
        cursor[0] = context.cursor
        return str(result.skip_message)

    return evaluate


def execute(instance: dg.DagsterInstance, op: dg.OpDefinition) -> None:
    job = dg.JobDefinition(name="a_job", graph_def=dg.GraphDefinition(name="a_job", node_defs=[op]))
    job.execute_in_process(instance=instance, raise_on_error=False)


def test_each_failed_run_is_reported_once_with_its_reason(
    webhook: Webhook, instance: dg.DagsterInstance, tick: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_ASSETS_ALERT_EVERY", "0s")
    execute(instance, fails)
    assert tick() == "Alerts start now: runs that ended before are not reported."
    assert tick() == "0 runs ended, 0 of them failed."
    execute(instance, fails)
    assert tick() == "1 runs ended, 1 of them failed."
    assert tick() == "0 runs ended, 0 of them failed.", "runs of the same moment are not reported twice"
    execute(instance, fails)
    execute(instance, works)
    assert tick() == "2 runs ended, 1 of them failed."
    assert [post["kind"] for post in webhook.posted] == ["failure", "failure", "recovery"]
    assert "the list is empty: name one" in webhook.posted[0]["text"]
    assert "The job a_job works again" in webhook.posted[2]["text"]


def test_ticks_that_fail_three_times_are_reported_and_so_is_their_recovery(
    webhook: Webhook, instance: dg.DagsterInstance, tick: Callable[[], str]
) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="x"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), "stale_stars")
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    instance.add_instigator_state(state)
    now = dt.datetime.now(dt.UTC).timestamp()

    def record(number: int, status: TickStatus) -> None:
        error = SerializableErrorInfo("MongoDB does not answer\n", [], "ServiceUnavailableError")
        instance.create_tick(
            TickData(
                instigator_origin_id=origin.get_id(),
                instigator_name="stale_stars",
                instigator_type=InstigatorType.SENSOR,
                status=status,
                timestamp=now + number,
                selector_id=state.selector_id,
                error=error if status is TickStatus.FAILURE else None,
            )
        )

    tick()
    record(1, TickStatus.FAILURE)
    record(2, TickStatus.FAILURE)
    tick()
    assert webhook.posted == [], "occasional failures are not reported"
    record(3, TickStatus.FAILURE)
    tick()
    tick()
    assert [post["text"] for post in webhook.posted] == ["The ticks of stale_stars fail: MongoDB does not answer"]
    record(4, TickStatus.SKIPPED)
    tick()
    assert webhook.posted[-1]["text"] == "The ticks of stale_stars succeed again. After 2 failures."
