"""Budgets shared between processes, in a Mongo collection: two runs at once never spend a point twice.

One document an account and resource holds what GitHub last said was left, and how many points each process holds. A
process claims small blocks and tells what it saw at each claim. What another process holds counts as spent until it
says otherwise: the sum can be too careful for a moment, never too generous. A process that dies holds its block for
`LEASE_SECONDS`.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import secrets
import socket
from collections.abc import Mapping
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from gh_assets.github.rate_limits import WINDOW_SLACK, Grant, Observation, Resource

LEASE_SECONDS = 60.0
_PAUSE = "pause"


class MongoLedger:
    """A `Ledger` in a Mongo collection.

    Parameters
    ----------
    collection : pymongo.collection.Collection
        Small: a document an account and resource, with an entry a live process.
    owner : str, optional
        Names this process; made up if not given.
    """

    def __init__(self, collection: Collection[dict[str, Any]], owner: str | None = None) -> None:
        self.collection = collection
        # Field names in Mongo must not hold dots.
        self.owner = owner or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}".replace(".", "-")
        self._used: set[str] = set()

    def claim(
        self, account: str, resource: Resource, observation: Observation | None, used: int, want: int, now: float
    ) -> Grant:
        """Tell what was seen of a budget, keep `used` points that are in flight, and ask for `want` more.

        Parameters
        ----------
        account : str
            Identity of the user or app installation.
        observation : Observation or None
            What this process last read in an answer.
        used, want : int
            Points.
        now : float
            Seconds since 1970.
        """
        key = f"{account} {resource.value}"
        self._used.add(key)
        while True:
            before = self.collection.find_one({"_id": key})
            document, points = self._claimed(before or {"_id": key, "revision": 0}, observation, used, want, now)
            if self._written(before, document):
                break
        known = None
        if document["remaining"] is not None:
            reset = math.inf if document["reset"] is None else document["reset"]
            known = Observation(document["limit"], document["remaining"], reset, 0.0)  # hearsay is no news
        paused = self.collection.find_one({"_id": _PAUSE}) or {}
        return Grant(points, known, len(document["leases"]), float(paused.get("until", 0.0)))

    def _claimed(
        self, before: Mapping[str, Any], seen: Observation | None, used: int, want: int, now: float
    ) -> tuple[dict[str, Any], int]:
        limit, remaining, reset = before.get("limit"), before.get("remaining"), before.get("reset")
        unknown_since = before.get("unknown_since", 0.0)
        others = {owner: lease for owner, lease in before.get("leases", {}).items() if owner != self.owner}
        leases = {owner: lease for owner, lease in others.items() if lease["until"] > now}
        if len(leases) < len(others):
            # A process died: nobody told what it spent at last, so it has to be found out.
            remaining, unknown_since = None, now
        if remaining is not None and reset is not None and now >= reset + 1.0:
            remaining, reset = limit, None  # a new window; its first answer tells when it ends
        if seen is not None and seen.reset > now - WINDOW_SLACK and seen.at >= unknown_since:
            limit = seen.limit
            if reset is not None and seen.reset > reset + WINDOW_SLACK:
                remaining, reset = seen.remaining, seen.reset
            elif reset is None or seen.reset >= reset - WINDOW_SLACK:
                remaining = seen.remaining if remaining is None else min(remaining, seen.remaining)
                reset = seen.reset if reset is None else reset
        held = sum(lease["points"] for lease in leases.values())
        points = used if remaining is None else max(used, min(used + want, remaining - held))
        leases[self.owner] = {"points": points, "until": now + LEASE_SECONDS}
        return {
            "_id": before["_id"],
            "limit": limit,
            "remaining": remaining,
            "reset": reset,
            "unknown_since": unknown_since,
            "leases": leases,
            "revision": before["revision"] + 1,
        }, points

    def _written(self, before: Mapping[str, Any] | None, document: dict[str, Any]) -> bool:
        """Write unless another process wrote meanwhile."""
        if before is None:
            try:
                self.collection.insert_one(document)
            except DuplicateKeyError:
                return False
            return True
        unchanged = {"_id": before["_id"], "revision": before["revision"]}
        return self.collection.replace_one(unchanged, document).matched_count == 1

    def give_back(self, seen: Mapping[tuple[str, Resource], int]) -> None:
        """Leave all claims of this process to the others.

        Parameters
        ----------
        seen : mapping
            Points that the last answers told to be left, by account and resource.
        """
        for (account, resource), remaining in seen.items():
            key = f"{account} {resource.value}"
            if key in self._used:
                change: dict[str, Any] = {"$unset": {f"leases.{self.owner}": ""}, "$inc": {"revision": 1}}
                self.collection.update_one(
                    {"_id": key, "remaining": {"$gt": remaining}}, {"$set": {"remaining": remaining}}
                )
                self.collection.update_one({"_id": key}, change)
        self._used.clear()

    def identity_of(self, digest: str) -> str | None:
        """Whose a token is, if any process has found that out: it costs a request, and never changes."""
        found = self.collection.find_one({"_id": f"token {digest}"})
        return None if found is None else str(found["identity"])

    def remember_identity(self, digest: str, identity: str) -> None:
        """Tell the others whose a token is. A digest of a token tells nothing about the token."""
        self.collection.update_one({"_id": f"token {digest}"}, {"$set": {"identity": identity}}, upsert=True)

    def known(self) -> list[dict[str, Any]]:
        """What is known of all budgets, for people: whose, of what, and what is left until when (UTC)."""
        found = []
        for document in self.collection.find({"limit": {"$ne": None}, "remaining": {"$ne": None}}).sort("_id", 1):
            account, _, resource = str(document["_id"]).rpartition(" ")
            reset = document["reset"]
            found.append(
                {
                    "account": account,
                    "resource": resource,
                    "limit": document["limit"],
                    "left": document["remaining"],
                    "reset": None if reset is None else dt.datetime.fromtimestamp(reset, dt.UTC).isoformat(),
                }
            )
        return found

    def pause(self, until: float) -> None:
        """Let no process ask before `until` (seconds since 1970)."""
        self.collection.update_one({"_id": _PAUSE}, {"$max": {"until": until}}, upsert=True)
