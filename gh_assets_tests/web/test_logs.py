"""Logs are JSON lines without personal data, addresses or credentials."""

import json
import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from gh_assets.web.logs import JsonLines
from gh_assets_tests.support.served_home import ServedHome, opened
from gh_assets_tests.support.waiting import until


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged, as JSON lines."""
    monkeypatch.setattr(caplog.handler, "formatter", JsonLines())
    caplog.set_level(logging.INFO, "gh_assets")
    return caplog


def test_logs_are_json_without_personal_data(served_home: ServedHome, logged: pytest.LogCaptureFixture) -> None:
    with opened(served_home.settings, api_keys_text=SecretStr("the-secret-key")) as server:
        server.get("/u/person-1?language=go", headers={"authorization": "Bearer the-secret-key"})
        server.get("/u/person-1", headers={"authorization": "Bearer wrong-one"})
        until(lambda: logged.text.count('"event":"request"') >= 2)
    lines = [json.loads(line) for line in logged.text.splitlines()]
    entries = [line for line in lines if line["event"] == "request" and line["route"] == "/u/{login}"]
    assert entries[0].keys() >= {"time", "level", "logger", "event", "route", "status", "ms", "method"}
    for secret in ("person-1", "language=go", "the-secret-key", "wrong-one", "127.0.0.1:"):
        assert secret not in logged.text


def test_error_is_logged_with_type_and_location_but_without_its_message(logged: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("mongodb://user:password@host")
    except ValueError:
        logging.getLogger("some.test").exception("failed")
    line = json.loads(logged.text)
    assert line["error"] == "ValueError"
    assert line["where"].startswith(f"{Path(__file__).name}:")
    assert "password" not in logged.text
