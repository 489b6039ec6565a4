"""Tests of `gh-assets serve`, started as a process."""

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from gh_assets_tests.support.commands import command, started
from gh_assets_tests.support.served_home import ServedHome
from gh_assets_tests.support.waiting import until


@contextmanager
def serving(
    served_home: ServedHome, *arguments: str, **settings: str
) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """Start a server without live lookups; yield the process, its address, and the lines that it logs."""
    environment = {"GH_ASSETS_SERVE_RATE": "0", "GH_ASSETS_LIVE_REQUESTS": "0"} | settings
    lines: list[str] = []
    with started(
        served_home.settings.home, "serve", "--port", "0", *arguments, environment=environment, stdout=None
    ) as process:
        assert process.stderr is not None
        stream = process.stderr
        reader = threading.Thread(target=lambda: lines.extend(iter(stream.readline, "")), daemon=True)
        reader.start()
        try:
            line = until(lambda: next((line for line in list(lines) if line.startswith("Serving on")), None))
            yield process, line.split()[-1], lines
        finally:
            process.kill()
            reader.join(10)


def wait_until_ready(url: str) -> None:
    until(lambda: requests.get(f"{url}/readyz", timeout=10).status_code == 200)


@pytest.mark.parametrize("signal_number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_running_requests_are_answered_on_shutdown(served_home: ServedHome, signal_number: signal.Signals) -> None:
    with serving(served_home) as (process, url, lines):
        wait_until_ready(url)
        answers: list[Any] = []

        def ask(user: int) -> None:
            answers.append(requests.get(f"{url}/api/v1/users/person-{user}/recommendations", timeout=30))

        # The body of this request is incomplete when the shutdown begins.
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as stream:
            body = json.dumps({"repositories": ["painters/painting-0"], "n": 3}).encode()
            head = f"POST /api/v1/recommendations HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
            stream.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:5])
            threads = [threading.Thread(target=ask, args=(user,)) for user in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            process.send_signal(signal_number)
            until(lambda: any("Shutting down" in line or "Waiting" in line for line in list(lines)))
            stream.sendall(body[5:])
            received = b""
            while part := stream.recv(65536):
                received += part
        assert received.startswith(b"HTTP/1.1 200")
        assert received.endswith(b"}")
        assert [answer.status_code for answer in answers] == [200] * 8
        assert process.wait(30) in (0, -signal_number)
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"time", "level", "logger", "event"} <= set(logged[0])
    assert any(line["event"] == "serving" and line["model"] == "hybrid 1" for line in logged)
    assert sum(line["event"] == "request" for line in logged) >= 9
    assert [line for line in lines if not line.startswith(("{", "Serving on"))] == [], "nothing else is printed"


@dataclass(frozen=True)
class OpenServer:
    """What a server on all interfaces, which was killed afterwards, logged and answered."""

    lines: list[str]
    health: int
    page: int
    recommendations: Any


@pytest.fixture(scope="module")
def open_servers(served_home: ServedHome) -> list[OpenServer]:
    """A server without a key, and the next one of the same home, which has a key."""
    seen = []
    for settings in ({}, {"GH_ASSETS_API_KEYS": "k"}):
        with serving(served_home, "--host", "0.0.0.0", **settings) as (_, url, lines):  # it is killed at the end
            address = url.replace("0.0.0.0", "127.0.0.1")
            wait_until_ready(address)
            own = {"authorization": "Bearer k"} if settings else {}
            path = "/api/v1/users/person-11/recommendations"
            answer = requests.get(address + path, headers=own, timeout=30).json()
            health = requests.get(f"{address}/healthz", headers={"host": "any.example"}, timeout=10).status_code
            page = requests.get(f"{address}/", timeout=10).status_code
            seen.append(OpenServer(lines, health, page, answer))
    return seen


def test_restarted_server_serves_the_same_results(open_servers: list[OpenServer]) -> None:
    before, after = (server.recommendations for server in open_servers)
    assert before == after
    assert before["recommendations"]


THEN_LOADED = """
import sys
from gh_assets.cli import main
try:
    main()
finally:
    print([name for name in ("dagster", "fastapi", "sqlalchemy", "torch") if name in sys.modules])
"""
"""The command, which then prints what it has loaded."""


def test_occupied_port_is_one_clear_error_at_once(served_home: ServedHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command(served_home.settings.home, "serve", "--port", str(port), program=("-c", THEN_LOADED))
    assert done.stdout == "[]\n"
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"Cannot listen on 127.0.0.1 port {port}: Address already in use.")
    assert "Traceback" not in done.stderr


def test_listening_on_all_interfaces_without_a_key_is_warned_about(open_servers: list[OpenServer]) -> None:
    without, with_key = open_servers
    assert "without a key" in without.lines[0]
    assert without.health == 200
    assert "without a key" not in "".join(with_key.lines)
    assert with_key.page == 401
