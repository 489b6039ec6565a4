"""What is known of users' lists: their states in Mongo, and segments, which hold the lists of some hundred users."""

import datetime as dt
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import polars as pl
from pymongo.database import Database

from gh_assets.collector.list_state import HAS_STATE, ListState
from gh_assets.errors import StoredDataError
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STARRED
from gh_assets.storage.asset_store import PartitionTables
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections

logger = logging.getLogger(__name__)

RECENT_DAYS = 90
"""Days before the reading of a list from which the rate of new stars is taken."""


@dataclass(frozen=True)
class SeedUser:
    """A user whose list may be read.

    Attributes
    ----------
    login : str
    user_id : int or None
        GitHub's database id, if it is known.
    weight : int
        Number of wanted repositories that the user is connected with.
    source : str
        How the user was found: one of `gh_assets.collector.star_sources.frontier.SOURCES`.
    smallest : int
        Stars of the smallest of these repositories; 0 if they are not known.
    """

    login: str
    user_id: int | None = None
    weight: int = 1
    source: str = field(default="known", compare=False)
    smallest: int = field(default=0, compare=False)

    @property
    def key(self) -> int | str:
        """Id of the user's state: the database id, or the login if that is unknown."""
        return self.user_id if self.user_id is not None else f"login:{self.login.lower()}"

    @property
    def known_stars(self) -> int:
        """Number of the user's stars on wanted repositories that are known without the list."""
        return self.weight if self.source in ("events", "gharchive", "known") else 0


class UserState(ListState):
    """State of the list of one user; `user_id` is ``login:…`` for logins whose id is unknown.

    Attributes
    ----------
    segment : str or None
        Name of the segment that holds the list.
    stars : int
        Number of stars in the segment.
    etag : str or None
        Of the first page, by REST.
    hits : int or None
        Number of these stars that are on wanted repositories; None in states of earlier versions.
    hits_a_day : float or None
        Those of the `RECENT_DAYS` before it was read, a day.
    """

    collection: ClassVar[Collections] = Collections.STARRED_STATE
    id_field: ClassVar[str] = "user_id"

    user_id: int | str
    login: str
    segment: str | None = None
    stars: int = 0
    etag: str | None = None
    hits: int | None = None
    hits_a_day: float | None = None

    @property
    def holds_all_stars(self) -> bool:
        """Whether the stored list has every star that the user had given when it was read."""
        was_read = self.collected_at is not None and self.outcome is Outcome.OK
        return was_read and self.complete and not self.null_entries and not self.failed_entries

    @property
    def is_unread(self) -> bool:
        """Whether the last attempt could not read the list, or could not prove it."""
        return self.outcome is Outcome.UNKNOWN or (self.outcome is Outcome.OK and not self.proven)

    def ends_early(self, max_pages: int) -> bool:
        """Return whether the list was cut after fewer pages than `max_pages`."""
        return not self.complete and self.max_pages < max_pages

    def expected_hits(self, now: dt.datetime) -> float | None:
        """Return the number of new stars on wanted repositories that are expected since the list was read."""
        if self.hits_a_day is None or self.collected_at is None:
            return None
        return self.hits_a_day * ((now - self.collected_at) / dt.timedelta(days=1))


class StarredState:
    """The states of all users' lists, and the users that were seen but not collected yet, in Mongo.

    Parameters
    ----------
    database : pymongo.database.Database
        Its collection ``starred_state`` has one document per user, by database id.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self.collection = database[Collections.STARRED_STATE]
        self._consumer = Consumer(database)

    def load(self) -> dict[int | str, UserState]:
        """Return all states by `UserState.user_id`."""
        documents = self.collection.find(HAS_STATE, {"state": 1})
        return {document["_id"]: UserState.from_document(document) for document in documents}

    def seeds(self) -> list[SeedUser]:
        """Return the users that were seen."""
        documents = self.collection.find({"seed": {"$exists": True}}, {"seed": 1})
        # Earlier versions stored nothing but owners of forks.
        return [
            SeedUser(
                (seed := document["seed"])["login"], document["_id"], int(seed["weight"]), seed.get("source", "forks"),
                int(seed.get("smallest", 0)),
            )
            for document in documents
        ]  # fmt: skip

    def save(self, states: Iterable[UserState]) -> None:
        """Write states."""
        self._consumer.apply(state.message() for state in states)

    def remember_seeds(self, seeds: Iterable[SeedUser], seen_at: dt.datetime) -> None:
        """Store users that were seen, for later runs."""
        known = {
            seed.user_id: {name: getattr(seed, name) for name in ("login", "weight", "source", "smallest")}
            for seed in seeds
            if seed.user_id is not None
        }
        self._consumer.apply(
            Message(update=versioned(Collections.STARRED_STATE, user_id, "seed", value, seen_at))
            for user_id, value in known.items()
        )


class StoredLists:
    """Reads stored lists. Lists of one segment that are read one after another cost one reading of it."""

    def __init__(self, segments: PartitionTables) -> None:
        self.segments = segments
        self._name: str | None = None
        self._lists: dict[int, pl.DataFrame] = {}

    def read(self, state: UserState) -> pl.DataFrame | None:
        """Return a user's list of schema `STARRED`; None if it was never read, or is lost."""
        if state.collected_at is None:
            return None
        if state.segment is None:
            return STARRED.empty()
        if state.segment != self._name:
            try:
                stored = self.segments.read(state.segment)[0]
            except StoredDataError as error:
                logger.warning("%s The lists of its users are read again.", error)
                stored = STARRED.empty()
            parts = stored.partition_by("user_id", as_dict=True, maintain_order=True)
            self._lists = {int(key[0]): rows for key, rows in parts.items()}
            self._name = state.segment
        return self._lists.get(state.user_id) if isinstance(state.user_id, int) else None
