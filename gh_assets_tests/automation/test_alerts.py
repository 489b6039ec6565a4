"""The sender of alerts: limited, delivered when the webhook is back, without secrets."""

import datetime as dt
import json
import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from gh_assets.automation.alerts import Alerts
from gh_assets_tests.automation.conftest import Webhook

NOW = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def fail(alerts: Alerts, subject: str = "a_job", now: dt.datetime = NOW) -> bool:
    return alerts.failure(subject, f"{subject} failed", now, run_id="1")


def test_failures_are_limited_for_each_subject_and_the_next_counts_the_suppressed(
    webhook: Webhook, tmp_path: Path
) -> None:
    def alerts() -> Alerts:  # as after a restart
        return Alerts(tmp_path, SecretStr(webhook.url), HOUR)

    assert fail(alerts())
    assert not fail(alerts(), now=NOW + HOUR / 2)
    assert not fail(alerts(), now=NOW + HOUR * 0.9)
    assert fail(alerts(), "another", NOW + HOUR / 2), "subjects do not silence each other"
    assert fail(alerts(), now=NOW + HOUR * 1.1)
    texts = [post["text"] for post in webhook.posted]
    assert texts == ["a_job failed", "another failed", "a_job failed (2 more since the last alert)"]
    assert webhook.posted[0]["run_id"] == "1"


def test_a_recovery_is_posted_once_and_only_after_a_failure(webhook: Webhook, tmp_path: Path) -> None:
    alerts = Alerts(tmp_path, SecretStr(webhook.url), HOUR)
    recovery = "a_job", "a_job works again."
    assert not alerts.recovery(*recovery)
    fail(alerts)
    fail(alerts)
    assert alerts.recovery(*recovery)
    assert not alerts.recovery(*recovery)
    assert fail(alerts, now=NOW + HOUR / 10), "a failure after a recovery is not suppressed"
    assert [post["kind"] for post in webhook.posted] == ["failure", "recovery", "failure"]
    assert webhook.posted[1]["failures"] == 2
    assert webhook.posted[1]["text"] == "a_job works again. After 2 failures."


def test_undelivered_alerts_are_posted_later_in_order(
    webhook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    webhook.status = 500
    alerts = Alerts(tmp_path, SecretStr(webhook.url), HOUR)
    assert fail(alerts, "first")
    assert fail(alerts, "second")
    assert alerts.flush() == 2
    webhook.status = 200
    assert Alerts(tmp_path, SecretStr(webhook.url), HOUR).flush() == 0
    assert [post["subject"] for post in webhook.posted] == ["first", "second"]
    assert "secret-path" not in "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())


def test_a_broken_file_and_a_missing_webhook_are_no_errors(tmp_path: Path) -> None:
    (tmp_path / "alerts.json").write_text("{ not json")
    alerts = Alerts(tmp_path, None, HOUR)
    assert fail(alerts)
    assert alerts.flush() == 0
    assert json.loads((tmp_path / "alerts.json").read_text())["failing"] == {"a_job": 1}
