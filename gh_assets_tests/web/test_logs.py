"""Logs are JSON lines without personal data, addresses or credentials."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from gh_assets.web.logs import JsonLines
from gh_assets_tests.support.served_home import ServedHome, opened
from gh_assets_tests.support.waiting import until


@contextmanager
def logged(name: str) -> Iterator[io.StringIO]:
    """Yield what a logger writes as JSON lines during a block."""
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield sink
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_logs_are_json_without_personal_data(served_home: ServedHome) -> None:
    keyed = opened(served_home.settings, api_keys_text=SecretStr("the-secret-key"))
    with logged("gh_assets") as sink, keyed as server:
        server.get("/u/person-1?language=go", headers={"authorization": "Bearer the-secret-key"})
        server.get("/u/person-1", headers={"authorization": "Bearer wrong-one"})
        until(lambda: sink.getvalue().count('"event":"request"') >= 2)
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    entries = [line for line in lines if line["event"] == "request" and line["route"] == "/u/{login}"]
    assert entries[0].keys() >= {"time", "level", "logger", "event", "route", "status", "ms", "method"}
    for secret in ("person-1", "language=go", "the-secret-key", "wrong-one", "127.0.0.1:"):
        assert secret not in sink.getvalue()


def test_error_is_logged_with_type_and_location_but_without_its_message() -> None:
    with logged("some.test") as sink:
        try:
            raise ValueError("mongodb://user:password@host")
        except ValueError:
            logging.getLogger("some.test").exception("failed")
    line = json.loads(sink.getvalue())
    assert line["error"] == "ValueError"
    assert line["where"].startswith(f"{Path(__file__).name}:")
    assert "password" not in sink.getvalue()
