"""The feed of events of a repository: its stars among other kinds of events, of which GitHub shows the newest alone.

Source: docs.github.com/rest/activity/events (``GET /repos/{owner}/{repo}/events``). All is derived from the world and
the time, so that equal worlds have equal feeds at equal times.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gh_assets.embedded.standin.world import NO_TIME, Repository, World, iso

MAX_EVENTS = 300
"""Number of events that a feed holds, of all kinds."""

FEED_SECONDS = 30 * 86_400
"""Age at which events leave a feed."""

POLL_SECONDS = 60
"""Pause between two requests for a feed that GitHub asks for."""

OTHER_KINDS = ("PushEvent", "DeleteEvent")

_WATCH = -1
"""Place of the kind of a star, beside places in `OTHER_KINDS`."""

_Columns = NDArray[np.int64]
"""Rows of events: time, user (index), kind, a number for the id, and seconds until the feed shows it."""


@dataclass
class EventFeeds:
    """The feeds of a world's repositories.

    Parameters
    ----------
    world : World
    delay : tuple of float
        Bounds of the seconds from an event until its feed shows it; they are drawn log-uniformly for each event.
    """

    world: World
    delay: tuple[float, float] = (30.0, 6 * 3600.0)
    _days: dict[tuple[int, float], dict[int, _Columns]] = field(default_factory=dict)

    def visible(self, repository: Repository, now: float) -> _Columns:
        """Return the events that a feed shows at a time, newest first."""
        rows = np.concatenate([self._stars(repository, now), self._others(repository, now)])
        rows = rows[(rows[:, 0] > now - FEED_SECONDS) & (rows[:, 0] + rows[:, 4] <= now)]
        newest: _Columns = rows[np.lexsort((rows[:, 3], rows[:, 0]))[::-1]][:MAX_EVENTS]
        return newest

    def entries(self, repository: Repository, rows: _Columns, base: str) -> list[dict[str, Any]]:
        """Return events as GitHub describes them."""
        return [self._entry(repository, *row[:4], base=base) for row in rows.tolist()]

    def _stars(self, repository: Repository, now: float) -> _Columns:
        times = repository.starred_at
        lately = (times != NO_TIME) & (times > now - FEED_SECONDS) & (times <= now)
        when, who = times[lately], repository.stargazers[lately]
        return self._rows(repository, when, who, np.full(len(when), _WATCH), _mixed(when, who))

    def _others(self, repository: Repository, now: float) -> _Columns:
        last = int(now // 86_400)
        days = range(last - FEED_SECONDS // 86_400, last + 1)
        key = repository.repo_id, repository.other_events_a_day
        known = self._days.get(key, {})
        self._days[key] = {day: known[day] if day in known else self._others_of_day(repository, day) for day in days}
        return np.concatenate(list(self._days[key].values()))

    def _others_of_day(self, repository: Repository, day: int) -> _Columns:
        rng = np.random.default_rng([repository.repo_id, day])
        count = int(rng.poisson(repository.other_events_a_day)) if self.world.logins else 0
        when = day * 86_400 + rng.integers(0, 86_400, count)
        who = rng.integers(0, 2**31, count)
        kinds = rng.integers(0, len(OTHER_KINDS), count)
        return self._rows(repository, when, who, kinds, _mixed(when, who + 1))

    def _rows(
        self, repository: Repository, when: NDArray[np.int64], who: NDArray[np.int64], kind: Any, mixed: Any
    ) -> _Columns:
        first, last = self.delay
        share = _mixed(mixed.astype(np.int64), np.full(len(when), repository.repo_id)) / 2.0**64
        delay = first * (last / first) ** share if first > 0 else np.zeros(len(when))
        return np.stack([when, who, kind, mixed % 1_000_000, delay], axis=1).astype(np.int64)

    def _entry(
        self, repository: Repository, when: int, user: int, kind: int, number: int, *, base: str
    ) -> dict[str, Any]:
        user %= len(self.world.logins)
        login, name = self.world.logins[user], repository.full_name
        if kind == _WATCH:
            payload: dict[str, Any] = {"action": "started"}
        elif OTHER_KINDS[kind] == "PushEvent":
            ids = {"repository_id": repository.repo_id, "push_id": number}
            payload = ids | {"ref": "refs/heads/main", "head": f"{when:040x}", "before": f"{number:040x}"}
        else:
            payload = {"ref": f"topic-{number}", "ref_type": "branch", "full_ref": f"refs/heads/topic-{number}"}
            payload["pusher_type"] = "user"
        return {
            "id": str(when * 1_000_000 + number),
            "type": "WatchEvent" if kind == _WATCH else OTHER_KINDS[kind],
            "actor": {
                "id": self.world.user_ids[user],
                "login": login,
                "display_login": login,
                "gravatar_id": "",
                "url": f"{base}/users/{login}",
                "avatar_url": f"https://avatars.githubusercontent.com/u/{self.world.user_ids[user]}?",
            },
            "repo": {"id": repository.repo_id, "name": name, "url": f"{base}/repos/{name}"},
            "payload": payload,
            "public": True,
            "created_at": iso(when),
        }


def _mixed(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return numbers that look random, the same for the same arguments (the finalizer of SplitMix64)."""
    mixed = first.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + second.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
