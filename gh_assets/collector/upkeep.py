"""What keeps the data current: the plan of the collection, and what the quota allows now. Knows no Dagster.

The plan is a table in the bucket and not a question to Mongo, because sensors look at it every minute: fifty thousand
repositories are read in hundredths of a second there, and in three seconds from Mongo.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from gh_assets.collector import plan as planning
from gh_assets.collector.collection import UNLIMITED, QuotaSample, quota_samples
from gh_assets.collector.forecast import CONNECTIONS_A_POINT
from gh_assets.collector.star_sources.base import SOURCES
from gh_assets.collector.state import CollectionState
from gh_assets.errors import StoredDataError
from gh_assets.github.rate_limits import Resource
from gh_assets.schemas import COLLECTION_PLAN
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase

PLAN = COLLECTION_PLAN.name


@dataclass(frozen=True)
class Plan:
    """A plan as of now.

    Attributes
    ----------
    table : polars.DataFrame
        Of the schema `COLLECTION_PLAN`.
    stars_collected : int
        Stars that are stored, those of repositories that no list names any more included.
    quota : list of QuotaSample
        What was left after the last collections.
    """

    table: pl.DataFrame
    stars_collected: int
    quota: list[QuotaSample] = field(default_factory=list)


def make_plan(database: MongoDatabase, repos: pl.DataFrame) -> Plan:
    """The plan as of now, from `repos` and the states in Mongo."""
    states = CollectionState(database).load()
    stars = sum(state.stars or 0 for state in states.values())
    return Plan(planning.facts(repos, states), stars, quota_samples(database))


@dataclass(frozen=True)
class StoredPlan:
    """A plan and the generation of its object: another plan has another."""

    table: pl.DataFrame
    generation: int


def read_plan(store: AssetStore) -> StoredPlan | None:
    """The stored plan; None if there is none yet."""
    found = store.describe(PLAN, "parquet")
    if found is None:
        return None
    try:
        return StoredPlan(store.read_table(PLAN), found.generation)
    except StoredDataError:
        if store.describe(PLAN, "parquet") is None:  # it went between the two
            return None
        raise


@dataclass(frozen=True)
class Quota:
    """What the accounts may still ask this hour, as far as is known without asking.

    Attributes
    ----------
    resource : Resource or None
        None: the source spends none.
    left, limit : int or None
        Points in all; None: nobody has asked yet, or there is no limit.
    reserved : int
        Of these, what automation leaves to people.
    reset : datetime or None
        When the first window ends (UTC).
    """

    resource: Resource | None
    left: int | None
    limit: int | None
    reserved: int
    reset: dt.datetime | None

    @property
    def spendable(self) -> int | None:
        """Points that automation may spend; None: any number."""
        return None if self.left is None else max(0, self.left - self.reserved)

    @property
    def pages(self) -> int | None:
        """Pages of 100 stars that they buy."""
        points = self.spendable
        return None if points is None else points * self._pages_a_point

    @property
    def _pages_a_point(self) -> int:
        return CONNECTIONS_A_POINT if self.resource is Resource.GRAPHQL else 1

    def words(self) -> str:
        """For people."""
        if self.resource is None:
            return "the source of stars spends no quota"
        if self.left is None or self.limit is None:
            return "no limit is known"
        until = "" if self.reset is None else f" until {self.reset:%H:%M} UTC"
        unit = "GraphQL points" if self.resource is Resource.GRAPHQL else "requests"
        return f"{self.left:,} of {self.limit:,} {unit} left{until}, {self.reserved:,} of them reserved for people"


def quota_of(source: str, reserve: float, known: Sequence[dict[str, Any]], now: dt.datetime) -> Quota:
    """What a source of stars may spend.

    Parameters
    ----------
    source : str
    reserve : float
        Share of the limit that is left to people.
    known : sequence of dict
        `gh_assets.github.ledger.MongoLedger.known`.
    now : datetime
        With a time zone.
    """
    resource = SOURCES[source].resource
    if resource is None:
        return Quota(None, None, None, 0, None)
    left = limit = 0
    resets = []
    for budget in known:
        if budget["resource"] != resource.value:
            continue
        if budget["limit"] >= UNLIMITED:
            return Quota(resource, None, None, 0, None)
        reset = None if budget["reset"] is None else dt.datetime.fromisoformat(budget["reset"])
        over = reset is not None and reset <= now
        left += budget["limit"] if over else budget["left"]
        limit += budget["limit"]
        if reset is not None and not over:
            resets.append(reset)
    if not limit:
        return Quota(resource, None, None, 0, None)
    return Quota(resource, left, limit, math.ceil(limit * reserve), min(resets, default=None))
