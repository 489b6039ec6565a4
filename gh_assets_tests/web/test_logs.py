"""Logs are JSON lines without personal data, addresses or credentials."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

from pydantic import SecretStr

from gh_assets.web.logs import JsonLines
from gh_assets_tests.support.served_home import ServedHome, opened
from gh_assets_tests.support.waiting import until


def test_logs_are_json_without_personal_data(served_home: ServedHome) -> None:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("gh_assets")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with opened(served_home.settings.model_copy(update={"api_keys_text": SecretStr("the-secret-key")})) as server:
            key = {"authorization": "Bearer the-secret-key"}
            server.get("/u/person-1?language=go", headers=key)
            server.get("/u/person-1", headers={"authorization": "Bearer wrong-one"})
            until(lambda: sink.getvalue().count('"event":"request"') >= 2)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    entries = [line for line in lines if line["event"] == "request" and line["route"] == "/u/{login}"]
    assert entries[0].keys() >= {"time", "level", "logger", "event", "route", "status", "ms", "method"}
    for secret in ("person-1", "language=go", "the-secret-key", "wrong-one", "127.0.0.1:"):
        assert secret not in sink.getvalue()


def test_error_is_logged_with_type_and_location_but_without_its_message() -> None:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("some.test")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        raise ValueError("mongodb://user:password@host")
    except ValueError:
        logger.exception("failed")
    line = json.loads(sink.getvalue())
    assert line["error"] == "ValueError"
    assert line["where"].startswith(f"{Path(__file__).name}:")
    assert "password" not in sink.getvalue()
