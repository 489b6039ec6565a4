"""Hours of GH Archive."""

import datetime as dt
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gh_assets.embedded.standin.world import World

Event = dict[str, Any]


def star_event(repo: int = 7, user: int = 9, at: str = "2015-01-01T03:00:18Z", **more: Any) -> Event:
    """Return the event of a star, with some of its fields replaced."""
    return {
        "type": "WatchEvent",
        "actor": {"id": user, "login": f"user-{user}"},
        "repo": {"id": repo, "name": f"owner/repo-{repo}"},
        "payload": {"action": "started"},
        "created_at": at,
    } | more


def packed(*lines: Event | bytes) -> bytes:
    """Return an hour with these events or lines."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return gzip.compress(b"".join(text + b"\n" for text in texts))


def write_hour(path: Path, world: World) -> None:
    """Write all stars of a world as an hour of GH Archive."""
    path.write_bytes(packed(*_events_of(world)))


def _events_of(world: World) -> Iterable[Event]:
    for r in world.repositories:
        for user, when in zip(r.stargazers.tolist(), r.starred_at.tolist(), strict=True):
            at = dt.datetime.fromtimestamp(when, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            actor = {"id": world.user_ids[user], "login": world.logins[user]}
            yield star_event(at=at) | {"actor": actor, "repo": {"id": r.repo_id, "name": r.full_name}}
