"""What is known of each repository's star history, in Mongo; its days are a table in the bucket."""

import datetime as dt
from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from gh_assets.collector.list_state import HAS_STATE, ListState
from gh_assets.collector.star_history import Trend, gained_since, trend_of
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.mongo import Collections, MongoDatabase


class HistoryState(ListState):
    """State of one repository's star history.

    It is ``complete`` if it was read back to the week of the repository's creation, and ``proven`` if the sum of its
    days agrees with GitHub's count as well; ``entries`` is the number of its weeks.

    Attributes
    ----------
    etag : str or None
        Of the first page.
    first_week : datetime or None
        First day of the oldest week, a Sunday (00:00 UTC).
    read_until : datetime or None
        Last day that was counted (00:00 UTC), which was not over.
    sum : int
        Stars of all days.
    gap : int or None
        GitHub's count minus the sum, when the whole history was read.
    recent : list of int
        Stars of the last days to `read_until`, oldest first.
    checksum : str or None
        Checksum of the table that the state describes.
    """

    collection: ClassVar[Collections] = Collections.STAR_HISTORY_STATE
    id_field: ClassVar[str] = "repo_id"

    repo_id: int
    partition: str
    full_name: str
    etag: str | None = None
    first_week: dt.datetime | None = None
    read_until: dt.datetime | None = None
    sum: int = 0
    gap: int | None = None
    recent: list[int] = Field(default_factory=list)
    checksum: str | None = None

    @property
    def trend(self) -> Trend | None:
        """The stars of the last 30 whole days and of a usual month; None if they are unknown."""
        return trend_of(self.recent)

    def gained_since(self, day: dt.date) -> int | None:
        """Return the stars of the days after a day of Los Angeles; None if they are unknown."""
        return None if self.read_until is None else gained_since(self.recent, self.read_until.date(), day)


class HistoryStates:
    """The states of all star histories.

    Parameters
    ----------
    database : pymongo.database.Database
        Its collection ``star_history_state`` has one document per repository, by database id.
    """

    def __init__(self, database: MongoDatabase) -> None:
        self._collection = database[Collections.STAR_HISTORY_STATE]
        self._consumer = Consumer(database)

    def load(self) -> dict[int, HistoryState]:
        """Return all states by repository id."""
        states = (HistoryState.from_document(document) for document in self._collection.find(HAS_STATE))
        return {state.repo_id: state for state in states}

    def asked_at(self) -> dict[int, dt.datetime]:
        """Return when each history was last requested, by repository id."""
        documents = self._collection.find(HAS_STATE, {"state.asked_at": 1})
        return {document["_id"]: document["state"]["asked_at"] for document in documents}

    def save(self, states: Sequence[HistoryState]) -> None:
        """Store states."""
        self._consumer.apply(state.message() for state in states)
