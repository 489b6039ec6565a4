"""Whether the services respond: each is checked by a thread of its own, so that one that hangs delays no other."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

MONGO, GCS, GITHUB = "MongoDB", "Cloud Storage", "GitHub"

ANSWER_TIMEOUT = 4.0
"""Seconds after which a check without a response counts as failed."""

log = logging.getLogger(__name__)


@dataclass
class ServiceHealth:
    """Health of a service.

    Attributes
    ----------
    name : str
    ok : bool or None
        Result of the last check; None: not checked yet.
    changed : datetime
        When the result last changed (UTC).
    asked : float or None
        Start of a check that is in progress, in seconds of the monotonic clock.
    """

    name: str
    ok: bool | None = None
    changed: datetime = field(default_factory=lambda: datetime.now(UTC))
    asked: float | None = None

    def record(self, ok: bool) -> None:
        """Record the result of a check."""
        self.asked = None
        if ok != self.ok:
            self.ok, self.changed = ok, datetime.now(UTC)
            log.info("service", extra={"fields": {"service": self.name, "answers": ok}})

    @property
    def answers(self) -> bool | None:
        """Whether the service responds; not if a check takes longer than `ANSWER_TIMEOUT`."""
        if self.asked is not None and time.monotonic() - self.asked > ANSWER_TIMEOUT:
            return False
        return self.ok


class Repeater(threading.Thread):
    """A daemon thread that repeats a task until it is stopped.

    An error of the task does not end the thread: it is logged with its traceback and handed to `on_error`.

    Parameters
    ----------
    name : str
    task : callable
    interval : float
        Seconds between two calls.
    on_error : callable
    """

    def __init__(
        self, name: str, task: Callable[[], None], interval: float, on_error: Callable[[Exception], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._task, self._interval, self._on_error = task, interval, on_error
        self._ending, self._wake = False, threading.Event()

    def run(self) -> None:
        while True:
            self._wake.clear()
            if self._ending:
                return
            try:
                self._task()
            except Exception as error:
                log.exception("a repeated task failed", extra={"fields": {"task": self.name}})
                self._on_error(error)
            self._wake.wait(self._interval)

    def wake(self) -> None:
        """Repeat the task now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop repeating; a call in progress is completed."""
        self._ending = True
        self._wake.set()

    def wait_stopped(self, timeout: float = 5.0) -> None:
        """Wait until a call in progress has ended."""
        if self.is_alive():
            self.join(timeout)


class ServiceMonitor:
    """Checks services repeatedly.

    Parameters
    ----------
    checks : mapping of callable
        Checks by the names of services; each returns whether the service responds, or raises one of `failures`.
    failures : tuple of exception types
        Errors that mean that a service does not respond; others are logged with their traceback as well.
    interval : float
        Seconds between two checks.
    on_result : callable
        Receives the name of a service and the result of each check.
    """

    def __init__(
        self,
        checks: Mapping[str, Callable[[], bool]],
        failures: tuple[type[Exception], ...],
        interval: float,
        on_result: Callable[[str, bool], None],
    ) -> None:
        self.services: Mapping[str, ServiceHealth] = {name: ServiceHealth(name) for name in checks}
        self._checks, self._failures, self._on_result = checks, failures, on_result
        self._threads = [self._thread(name, interval) for name in checks]

    def _thread(self, name: str, interval: float) -> Repeater:
        return Repeater(name, lambda: self._check(name), interval, on_error=lambda _: self._record(name, False))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        for thread in self._threads:
            thread.stop()
        for thread in self._threads:
            thread.wait_stopped()

    def unavailable(self) -> list[str]:
        """Return the services that do not respond."""
        return [name for name, service in self.services.items() if service.answers is False]

    def _check(self, name: str) -> None:
        self.services[name].asked = time.monotonic()
        try:
            ok = self._checks[name]()
        except self._failures as error:
            log.debug("no answer", extra={"fields": {"service": name, "error": type(error).__name__}})
            ok = False
        self._record(name, ok)

    def _record(self, name: str, ok: bool) -> None:
        self.services[name].record(ok)
        self._on_result(name, ok)
