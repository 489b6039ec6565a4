"""Budgets shared between processes, in a Mongo collection: two concurrent runs never spend a point twice.

One document for each account and resource holds what was left by the last response, and how many points each process
claims. A process claims small blocks, and reports what it observed with each claim. What another process claims counts
as spent until that process says otherwise, so that the sum may be too low for a moment, but never too high. The claims
of a killed process end after `LEASE_SECONDS`.
"""

import datetime as dt
import math
import os
import secrets
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from gh_assets.github.budgets import Account, Budget
from gh_assets.github.rate_limits import LONGEST_WINDOW, WINDOW_SLACK, Observation, Resource

LEASE_SECONDS = 60.0

RENEWAL_SECONDS = 5.0
"""How often a process that uses a shared budget reports to the others, and reads what they reported."""

RETRY_SECONDS = 0.2
"""How often points are claimed again while other processes hold them."""

_PAUSE = "pause"


@dataclass(frozen=True)
class Grant:
    """What the ledger lets this process use of an account's budget.

    Attributes
    ----------
    points : int
        Including those of requests in flight.
    observation : Observation or None
        What the processes together know of the budget; None if it has to be requested.
    processes : int
        Number of processes that use the budget, this one included.
    paused_until : float
        No process may send a request before (seconds since 1970): one of them met a secondary limit.
    """

    points: int
    observation: Observation | None
    processes: int
    paused_until: float


class MongoLedger:
    """Budgets in a Mongo collection, and the claims of this process.

    Parameters
    ----------
    collection : pymongo.collection.Collection
        Small: one document for each account and resource, with an entry for each live process.
    """

    def __init__(self, collection: Collection[dict[str, Any]]) -> None:
        self.collection = collection
        # Field names in Mongo must not hold dots.
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}".replace(".", "-")
        self._used: set[str] = set()

    def renew(self, account: Account, resource: Resource, points: int, now: float) -> float:
        """Claim points of a budget if necessary; return until when all processes pause (seconds since 1970)."""
        budget = account.budgets[resource]
        age = now - budget.claimed_at
        if budget.available() >= points and age < RENEWAL_SECONDS:
            return 0.0
        if budget.unmetered or (budget.granted is not None and age < RETRY_SECONDS):
            return 0.0
        seen = None
        if budget.remaining is not None and budget.limit is not None and not math.isinf(budget.reset):
            seen = Observation(budget.limit, budget.remaining, budget.reset, budget.observed_at)
        # Small blocks, so that a process does not wait for points that another one holds unused.
        block = points + (0 if budget.remaining is None else max(10, min(500, budget.remaining // 20)))
        grant = self.claim(account.identity, resource, seen, budget.reserved, block, now)
        budget.claimed_at = now
        budget.processes = grant.processes
        if grant.observation is not None:
            budget.observe(grant.observation, now)
        else:
            budget.remaining = None
        budget.granted = grant.points
        # Another process may have believed a response that asks to wait for years.
        return min(grant.paused_until, now + LONGEST_WINDOW)

    def claim(
        self, account: str, resource: Resource, observation: Observation | None, used: int, want: int, now: float
    ) -> Grant:
        """Report an observation of a budget, keep `used` points in flight, and claim `want` more.

        Parameters
        ----------
        account : str
            Identity of the user or app installation.
        observation : Observation or None
            What this process last read in a response.
        used, want : int
            Points.
        now : float
            Seconds since 1970.
        """
        key = f"{account} {resource.value}"
        self._used.add(key)
        while True:
            before = self.collection.find_one({"_id": key})
            document, points = self._with_claim(before or {"_id": key, "revision": 0}, observation, used, want, now)
            if self._written(before, document):
                break
        known = None
        if document["remaining"] is not None:
            reset = math.inf if document["reset"] is None else document["reset"]
            known = Observation(document["limit"], document["remaining"], reset, 0.0)  # not this process's own
        paused = self.collection.find_one({"_id": _PAUSE}) or {}
        return Grant(points, known, len(document["leases"]), float(paused.get("until", 0.0)))

    def _with_claim(
        self, before: Mapping[str, Any], seen: Observation | None, used: int, want: int, now: float
    ) -> tuple[dict[str, Any], int]:
        budget, unknown_since = Budget(), before.get("unknown_since", 0.0)
        budget.limit, budget.remaining = before.get("limit"), before.get("remaining")
        budget.reset = before["reset"] if before.get("reset") is not None else math.inf
        others = {owner: lease for owner, lease in before.get("leases", {}).items() if owner != self.owner}
        leases = {owner: lease for owner, lease in others.items() if lease["until"] > now}
        if len(leases) < len(others):
            # A process was killed: what it spent last is not known, and has to be requested.
            budget.remaining, unknown_since = None, now
        budget.roll(now)
        if seen is not None and seen.reset > now - WINDOW_SLACK and seen.at >= unknown_since:
            budget.observe(seen, now)
        claimed = sum(lease["points"] for lease in leases.values())
        points = used
        if budget.remaining is not None:
            points = max(used, min(used + want, budget.remaining - claimed))
        leases[self.owner] = {"points": points, "until": now + LEASE_SECONDS}
        return {
            "_id": before["_id"],
            "limit": budget.limit,
            "remaining": budget.remaining,
            "reset": None if math.isinf(budget.reset) else budget.reset,
            "unknown_since": unknown_since,
            "leases": leases,
            "revision": before["revision"] + 1,
        }, points

    def _written(self, before: Mapping[str, Any] | None, document: dict[str, Any]) -> bool:
        """Write the document unless another process has changed it, and return whether it was written."""
        if before is None:
            try:
                self.collection.insert_one(document)
            except DuplicateKeyError:
                return False
            return True
        unchanged = {"_id": before["_id"], "revision": before["revision"]}
        return self.collection.replace_one(unchanged, document).matched_count == 1

    def give_back(self, accounts: Iterable[Account]) -> None:
        """Release all claims of this process, and report the points that were left by the last responses."""
        for account in accounts:
            for resource, budget in account.budgets.items():
                key = f"{account.identity} {resource.value}"
                if key in self._used and budget.remaining is not None:
                    change: dict[str, Any] = {"$unset": {f"leases.{self.owner}": ""}, "$inc": {"revision": 1}}
                    self.collection.update_one(
                        {"_id": key, "remaining": {"$gt": budget.remaining}}, {"$set": {"remaining": budget.remaining}}
                    )
                    self.collection.update_one({"_id": key}, change)
        self._used.clear()

    def identity_of(self, digest: str) -> str | None:
        """Return the identity of a token's account, which never changes, if any process has found it."""
        document = self.collection.find_one({"_id": f"token {digest}"})
        return None if document is None else str(document["identity"])

    def remember_identity(self, digest: str, identity: str) -> None:
        """Store the identity of a token's account. The digest does not reveal the token."""
        self.collection.update_one({"_id": f"token {digest}"}, {"$set": {"identity": identity}}, upsert=True)

    def known(self) -> list[dict[str, Any]]:
        """Return all budgets: ``account``, ``resource``, ``limit``, ``left``, and ``reset`` (ISO 8601, UTC)."""
        budgets = []
        for document in self.collection.find({"limit": {"$ne": None}, "remaining": {"$ne": None}}).sort("_id", 1):
            account, _, resource = str(document["_id"]).rpartition(" ")
            reset = document["reset"]
            budgets.append(
                {
                    "account": account,
                    "resource": resource,
                    "limit": document["limit"],
                    "left": document["remaining"],
                    "reset": None if reset is None else dt.datetime.fromtimestamp(reset, dt.UTC).isoformat(),
                }
            )
        return budgets

    def pause(self, until: float) -> None:
        """Let no process ask before `until` (seconds since 1970)."""
        self.collection.update_one({"_id": _PAUSE}, {"$max": {"until": until}}, upsert=True)
