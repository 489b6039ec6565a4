"""A GitHub in virtual time with one repository, whose stars are given and taken back."""

import datetime as dt
from collections import Counter

import numpy as np

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.world import World
from gh_assets.github.times import star_day
from gh_assets_tests.support.worlds import world_of

NOON = dt.datetime(2026, 9, 9, 20, tzinfo=dt.UTC)
"""A Wednesday in Los Angeles, at 13:00."""

ZERO = dt.date(1970, 1, 1)


class StarredRepository:
    """The repository ``a/b`` (id 1), created some days before `NOON`, and its GitHub's clock.

    Parameters
    ----------
    age : int
        Days since it was created.
    """

    def __init__(self, age: int) -> None:
        self.clock = VirtualClock(NOON.timestamp())
        self.world: World = world_of({"a/b": []}, users=1)
        self.repository = self.world.by_name["a/b"]
        self.repository.created_at = (NOON - dt.timedelta(days=age)).isoformat()
        self.standin: Standin | None = None

    @property
    def today(self) -> dt.date:
        return star_day(self.clock.now())

    @property
    def count(self) -> int:
        return len(self.repository.stargazers)

    def star(self, *days_ago: int) -> None:
        """Give stars at this time of earlier days."""
        times = [int(self.clock.now()) - 86_400 * days for days in days_ago]
        self._set(np.sort(np.append(self.repository.starred_at, times)))

    def take_back(self, *places: int) -> None:
        """Take back the stars at these places, oldest first."""
        self._set(np.delete(self.repository.starred_at, places))

    def pass_days(self, days: int) -> None:
        self.clock.advance(self.clock.now() + 86_400 * days)

    def _set(self, times: np.ndarray) -> None:
        self.repository.starred_at = times.astype(np.int64)
        self.repository.stargazers = np.zeros(len(times), np.int64)

    def stars_by_day(self) -> Counter[dt.date]:
        """Return the true number of stars of each day in Los Angeles that has any."""
        return Counter(star_day(float(time)) for time in self.repository.starred_at)
