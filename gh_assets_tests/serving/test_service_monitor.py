"""The health of services: failures, checks that hang, and errors of checks that end no thread."""

import threading
from collections.abc import Callable, Iterator

import pytest

from gh_assets.errors import ServiceUnavailableError
from gh_assets.serving.service_monitor import ServiceMonitor
from gh_assets_tests.support.waiting import until

Start = Callable[[Callable[[], bool]], ServiceMonitor]


@pytest.fixture
def results() -> list[bool]:
    return []


@pytest.fixture
def start(results: list[bool]) -> Iterator[Start]:
    """Start a monitor of one service with a given check."""
    monitors: list[ServiceMonitor] = []

    def start(check: Callable[[], bool]) -> ServiceMonitor:
        kinds = (ServiceUnavailableError,)
        monitor = ServiceMonitor({"service": check}, kinds, 0.01, lambda _, answers: results.append(answers))
        monitors.append(monitor)
        monitor.start()
        return monitor

    yield start
    for monitor in monitors:
        monitor.stop()


def test_service_is_unavailable_while_its_check_fails(start: Start, results: list[bool]) -> None:
    broken = threading.Event()

    def check() -> bool:
        if broken.is_set():
            raise ServiceUnavailableError("it is away")
        return True

    monitor = start(check)
    health = monitor.services["service"]
    until(lambda: health.answers)
    broken.set()
    until(lambda: monitor.unavailable() == ["service"])
    failed_at = health.changed
    broken.clear()
    until(lambda: monitor.unavailable() == [])
    assert health.changed > failed_at
    assert {True, False} <= set(results)


def test_unexpected_error_is_logged_and_the_service_is_checked_again(
    start: Start, results: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    errors = iter([ZeroDivisionError("a fault of a library")])

    def check() -> bool:
        for error in errors:
            raise error
        return True

    monitor = start(check)
    until(lambda: monitor.services["service"].answers)
    assert results[0] is False
    assert "a fault of a library" in caplog.text


def test_check_that_hangs_counts_as_failed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.serving.service_monitor.ANSWER_TIMEOUT", 0.05)
    proceed, hanging = threading.Event(), threading.Event()

    def check() -> bool:
        if hanging.is_set():
            proceed.wait(30)
        return True

    monitor = start(check)
    until(lambda: monitor.services["service"].answers)
    hanging.set()
    until(lambda: monitor.unavailable() == ["service"])
    proceed.set()
    until(lambda: monitor.unavailable() == [])
