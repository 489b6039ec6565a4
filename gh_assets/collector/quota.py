"""Quota of a source of stars: what is left for automation now, and samples of what was left after each collection."""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gh_assets.collector.star_sources.base import SOURCES
from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import CONNECTIONS_A_POINT, UNLIMITED
from gh_assets.github.rate_limits import Resource
from gh_assets.storage.mongo import Collections, MongoDatabase

MAX_SAMPLES = 400
"""Number of samples that are kept."""

_SAMPLES_ID = "quota samples"


@dataclass(frozen=True)
class QuotaSample:
    """What was left of the quota at the end of a collection, and what the collection spent.

    Attributes
    ----------
    at : datetime
        UTC.
    resource : str
    left, limit : int
        Points over all accounts.
    spent : int
        REST requests, or GraphQL points.
    """

    at: dt.datetime
    resource: str
    left: int
    limit: int
    spent: int


def record_quota(database: MongoDatabase, client: GitHubClient) -> None:
    """Store a sample of each limited resource; the last `MAX_SAMPLES` are kept."""
    spent = {Resource.REST: client.usage.requests, Resource.GRAPHQL: client.usage.graphql_points}
    samples = []
    for resource, points in spent.items():
        left, limit = client.pool.remaining(resource), client.pool.limit(resource)
        if left is not None and limit is not None and limit < UNLIMITED:
            now = dt.datetime.now(dt.UTC)
            samples.append({"at": now, "resource": resource.value, "left": left, "limit": limit, "spent": points})
    if samples:
        database[Collections.META].update_one(
            {"_id": _SAMPLES_ID}, {"$push": {"samples": {"$each": samples, "$slice": -MAX_SAMPLES}}}, upsert=True
        )


def quota_samples(database: MongoDatabase) -> list[QuotaSample]:
    """Return the samples of past collections, oldest first."""
    document = database[Collections.META].find_one({"_id": _SAMPLES_ID}) or {}
    return [QuotaSample(**sample) for sample in document.get("samples", ())]


@dataclass(frozen=True)
class Quota:
    """What all accounts together may still spend in this window, as far as is known without a request.

    Attributes
    ----------
    resource : Resource or None
        None if the source spends no quota.
    left, limit : int or None
        Points; None before the first request, or without a limit.
    reserved : int
        Points that automation leaves to people.
    reset : datetime or None
        When the first window ends (UTC).
    """

    resource: Resource | None
    left: int | None = None
    limit: int | None = None
    reserved: int = 0
    reset: dt.datetime | None = None

    @property
    def spendable(self) -> int | None:
        """Points that automation may spend; None is unlimited."""
        return None if self.left is None else max(0, self.left - self.reserved)

    @property
    def pages(self) -> int | None:
        """Pages of 100 stars that automation may request; None is unlimited."""
        pages_a_point = CONNECTIONS_A_POINT if self.resource is Resource.GRAPHQL else 1
        return None if self.spendable is None else self.spendable * pages_a_point

    def summary(self) -> str:
        """Describe the quota in a sentence's part."""
        if self.resource is None:
            return "the source of stars spends no quota"
        if self.left is None or self.limit is None:
            return "no limit is known"
        until = "" if self.reset is None else f" until {self.reset:%H:%M} UTC"
        unit = "GraphQL points" if self.resource is Resource.GRAPHQL else "requests"
        return f"{self.left:,} of {self.limit:,} {unit} left{until}, {self.reserved:,} of them reserved for people"


def quota_of(source: str, reserve: float, known: Sequence[dict[str, Any]], now: dt.datetime) -> Quota:
    """Return the quota of a source of stars.

    Parameters
    ----------
    source : str
        A key of `SOURCES`.
    reserve : float
        Share of the limit that is left to people.
    known : sequence of dict
        Budgets from `gh_assets.github.ledger.MongoLedger.known`.
    now : datetime
        With a time zone.
    """
    resource = SOURCES[source].resource
    budgets = [budget for budget in known if resource is not None and budget["resource"] == resource.value]
    if not budgets or any(budget["limit"] >= UNLIMITED for budget in budgets):
        return Quota(resource)
    resets = [budget["reset"] and dt.datetime.fromisoformat(budget["reset"]) for budget in budgets]
    # A window that has ended is full again.
    is_over = [reset is not None and reset <= now for reset in resets]
    left = sum(b["limit" if over else "left"] for b, over in zip(budgets, is_over, strict=True))
    limit = sum(budget["limit"] for budget in budgets)
    reset = min((reset for reset in resets if reset is not None and reset > now), default=None)
    return Quota(resource, left, limit, math.ceil(limit * reserve), reset)
