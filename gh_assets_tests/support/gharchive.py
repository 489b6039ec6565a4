"""Hours of GH Archive."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path

from gh_assets.embedded.standin.world import World


def write_hour(path: Path, world: World) -> None:
    """Write all stars of a world as an hour of GH Archive."""
    with gzip.open(path, "wb") as file:
        for r in world.repositories:
            for user, when in zip(r.stargazers.tolist(), r.starred_at.tolist(), strict=True):
                event = {
                    "type": "WatchEvent",
                    "actor": {"id": world.user_ids[user], "login": world.logins[user]},
                    "repo": {"id": r.repo_id, "name": r.full_name},
                    "payload": {"action": "started"},
                    "created_at": dt.datetime.fromtimestamp(when, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                file.write(json.dumps(event).encode() + b"\n")
