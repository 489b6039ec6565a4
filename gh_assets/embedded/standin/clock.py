"""The stand-in's time: the machine's, or a virtual one in which hours of quota pass in seconds."""

from __future__ import annotations

import threading
import time

import requests


class VirtualClock:
    """Time that passes only when somebody waits: for the stand-in and its clients in one process.

    Serves as the collector's `Clock`, too.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self.waits: list[tuple[float, float]] = []
        """When somebody began to wait, and for how long."""

    def now(self) -> float:
        """Seconds since 1970."""
        return self._now

    def wait(self, seconds: float, cancelled: threading.Event | None = None) -> None:
        """Let time pass. Several who wait at once pass it together."""
        with self._lock:
            self.waits.append((self._now, seconds))
            target = self._now + seconds
        self.advance(target)

    def advance(self, moment: float) -> None:
        """Let it be `moment`, unless it is later already."""
        with self._lock:
            self._now = max(self._now, moment)


class RemoteClock(VirtualClock):
    """The virtual clock of a stand-in in another process, for a collector in this one.

    Parameters
    ----------
    url : str
        The stand-in's address.
    """

    def __init__(self, url: str) -> None:
        self._session = requests.Session()
        self._url = f"{url}/__standin__/clock"
        super().__init__(float(self._session.get(self._url, timeout=30).json()["now"]))

    def advance(self, moment: float) -> None:
        with self._lock:
            if moment > self._now:
                answer = self._session.post(self._url, json={"now": moment}, timeout=30)
                self._now = max(self._now, float(answer.json()["now"]))


class MachineClock:
    """The machine's time."""

    def now(self) -> float:
        return time.time()
