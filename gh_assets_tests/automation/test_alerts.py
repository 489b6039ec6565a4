"""Alerts: each failure once, limited, delivered when the webhook is back, without secrets."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gh_assets.automation.alert_sensor import run_alerts
from gh_assets.automation.alerts import Alert, Alerts
from gh_assets.errors import InputError
from gh_assets_tests.conftest import serving

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


class Hook:
    """Where alerts are posted to."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.status = 200
        self.url = ""

    async def receive(self, request: Request) -> PlainTextResponse:
        if self.status == 200:
            self.posted.append(await request.json())
        return PlainTextResponse("", self.status)


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    with serving(Starlette(routes=[Route("/secret-path", hook.receive, methods=["POST"])])) as url:
        hook.url = f"{url}/secret-path"
        yield hook


def failure(subject: str = "a_job") -> Alert:
    return Alert(subject, "failure", f"{subject} failed", {"run_id": "1"})


def test_one_an_hour_and_subject_and_the_next_tells_how_many_were_left_out(hook: Hook, tmp_path: Path) -> None:
    def alerts() -> Alerts:  # as after a restart
        return Alerts(tmp_path, SecretStr(hook.url), HOUR)

    assert alerts().failure(failure(), NOW)
    assert not alerts().failure(failure(), NOW + HOUR / 2)
    assert not alerts().failure(failure(), NOW + HOUR * 0.9)
    assert alerts().failure(failure("another"), NOW + HOUR / 2), "subjects do not silence each other"
    assert alerts().failure(failure(), NOW + HOUR * 1.1)
    assert [post["text"] for post in hook.posted] == [
        "a_job failed",
        "another failed",
        "a_job failed (2 more since the last alert)",
    ]
    assert hook.posted[0]["run_id"] == "1"


def test_recovery_is_told_once_and_only_after_a_failure(hook: Hook, tmp_path: Path) -> None:
    alerts = Alerts(tmp_path, SecretStr(hook.url), HOUR)
    well = Alert("a_job", "recovery", "a_job works again.")
    assert not alerts.recovery(well)
    alerts.failure(failure(), NOW)
    alerts.failure(failure(), NOW)
    assert alerts.recovery(well)
    assert not alerts.recovery(well)
    assert alerts.failure(failure(), NOW + HOUR / 10), "a failure after a recovery is news"
    assert [post["kind"] for post in hook.posted] == ["failure", "recovery", "failure"]
    assert hook.posted[1]["failures"] == 2
    assert hook.posted[1]["text"] == "a_job works again. After 2 failures."


def test_what_could_not_be_posted_waits_in_order(hook: Hook, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hook.status = 500
    alerts = Alerts(tmp_path, SecretStr(hook.url), HOUR)
    assert alerts.failure(failure("first"), NOW)
    assert alerts.failure(failure("second"), NOW)
    assert alerts.flush() == 2
    hook.status = 200
    assert Alerts(tmp_path, SecretStr(hook.url), HOUR).flush() == 0
    assert [post["subject"] for post in hook.posted] == ["first", "second"]
    assert "secret-path" not in "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())


def test_a_broken_file_and_no_webhook_are_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "alerts.json").write_text("{ not json")
    alerts = Alerts(tmp_path, None, HOUR)
    assert alerts.failure(failure(), NOW)
    assert alerts.flush() == 0
    assert json.loads((tmp_path / "alerts.json").read_text())["failing"] == {"a_job": 1}


@dg.op
def fails() -> None:
    raise InputError("the list is empty: name one")


@dg.op
def works() -> None: ...


@pytest.fixture
def look(hook: Hook, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Looks of the sensor, each going on from the cursor of the one before; and the instance."""
    monkeypatch.setenv("GH_ASSETS_ALERT_WEBHOOK", hook.url)
    with dg.instance_for_test() as instance:
        cursor: list[str | None] = [None]

        def look(repeat: bool = False) -> str:
            context = dg.build_sensor_context(instance=instance, cursor=cursor[0])
            told = run_alerts(context)
            if not repeat:
                cursor[0] = context.cursor
            return str(told.skip_message)

        look.instance = instance  # type: ignore[attr-defined]
        yield look


def execute(instance: dg.DagsterInstance, op: dg.OpDefinition) -> None:
    job = dg.JobDefinition(name="a_job", graph_def=dg.GraphDefinition(name="a_job", node_defs=[op]))
    job.execute_in_process(instance=instance, raise_on_error=False)


def test_each_run_that_failed_is_told_once_with_its_reason(hook: Hook, look: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("GH_ASSETS_ALERT_EVERY", "0s")
    execute(look.instance, fails)
    assert look() == "From now on, runs that fail are told."
    assert look() == "0 runs ended, 0 of them failed."
    execute(look.instance, fails)
    assert look() == "1 runs ended, 1 of them failed."
    assert look() == "0 runs ended, 0 of them failed.", "runs of the same moment are not told twice"
    execute(look.instance, fails)
    execute(look.instance, works)
    assert look() == "2 runs ended, 1 of them failed."
    assert [post["kind"] for post in hook.posted] == ["failure", "failure", "recovery"]
    assert "the list is empty: name one" in hook.posted[0]["text"]
    assert "The job a_job works again" in hook.posted[2]["text"]


def test_a_sensor_that_cannot_look_is_told_and_so_is_when_it_can(hook: Hook, look: Any) -> None:
    from dagster._core.definitions.run_request import InstigatorType
    from dagster._core.remote_origin import (
        InProcessCodeLocationOrigin,
        RemoteInstigatorOrigin,
        RemoteRepositoryOrigin,
    )
    from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickData, TickStatus
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._utils.error import SerializableErrorInfo

    place = InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="x"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(place, "__repository__"), "stale_stars")
    state = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING)
    look.instance.add_instigator_state(state)
    now = dt.datetime.now(dt.UTC).timestamp()

    def tick(number: int, status: TickStatus) -> None:
        error = SerializableErrorInfo("MongoDB does not answer\n", [], "ServiceUnavailableError")
        look.instance.create_tick(
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

    look()
    tick(1, TickStatus.FAILURE)
    tick(2, TickStatus.FAILURE)
    look()
    assert hook.posted == [], "one that fails now and then is no news"
    tick(3, TickStatus.FAILURE)
    look()
    look()
    assert [post["text"] for post in hook.posted] == ["stale_stars cannot look any more: MongoDB does not answer"]
    tick(4, TickStatus.SKIPPED)
    look()
    assert hook.posted[-1]["text"] == "stale_stars looks again. After 2 failures."
