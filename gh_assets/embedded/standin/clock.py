"""The stand-in's virtual clock, in which hours of quota pass in seconds."""

import threading
from collections.abc import Callable

import requests

from gh_assets.github.retries import Clock


class VirtualClock(Clock):
    """Time, shared by the stand-in and its clients, that advances only while all of them wait.

    It is also a `Clock` of the GitHub client. Waits end in the order of their targets, and none ends while a request is
    in flight (`busy`), because requests take no virtual time.

    Parameters
    ----------
    start : float
        Seconds since 1970.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._waiting: list[float] = []
        self._moved = threading.Condition()
        self.busy: Callable[[], bool] = lambda: False
        self.waits: list[tuple[float, float]] = []
        """Start and length of all waits, in seconds."""

    def now(self) -> float:
        """Return the seconds since 1970."""
        return self._now

    def wait(self, seconds: float, cancelled: threading.Event | None = None) -> None:
        """Wait for virtual seconds; concurrent waits share them."""
        with self._moved:
            target = self._now + seconds
            self.waits.append((self._now, seconds))
            self._waiting.append(target)
            try:
                while self._now < target and not (cancelled is not None and cancelled.is_set()):
                    first = min(self._waiting) == target
                    if first and not self.busy():
                        self._set(target)
                        return
                    # The end of a request is not signalled.
                    self._moved.wait(0.0005 if first else 0.05)
            finally:
                self._waiting.remove(target)
                self._moved.notify_all()

    def advance(self, moment: float) -> None:
        """Advance the time to `moment`, unless it is later already."""
        with self._moved:
            self._set(moment)
            self._moved.notify_all()

    def _set(self, moment: float) -> None:
        self._now = max(self._now, moment)


class RemoteClock(VirtualClock):
    """The virtual clock of a stand-in in another process, for a client in this one.

    Parameters
    ----------
    url : str
        Address of the stand-in.
    token : str
        A token that it accepts.
    """

    def __init__(self, url: str, token: str) -> None:
        self._session = requests.Session()
        self._session.headers["authorization"] = f"Bearer {token}"
        self._url = f"{url}/__standin__/clock"
        super().__init__(float(self._session.get(self._url, timeout=30).json()["now"]))

    def _set(self, moment: float) -> None:
        if moment > self._now:
            response = self._session.post(self._url, json={"now": moment}, timeout=30)
            self._now = max(self._now, float(response.json()["now"]))
