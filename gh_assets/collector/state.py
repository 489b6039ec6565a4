"""What is known of the collection of each repository's stars, in Mongo: states, pages of interrupted runs, unstars."""

import datetime as dt
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from typing import Any, ClassVar

import polars as pl
from pydantic import Field, TypeAdapter
from pymongo.collection import Collection
from pymongo.database import Database

from gh_assets.collector.feeds import FeedState
from gh_assets.collector.list_state import HAS_STATE, ListState
from gh_assets.collector.star_sources.base import (
    Checkpoint,
    Page,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarRows,
)
from gh_assets.errors import StoredDataError
from gh_assets.github.list_reading import coverage_fields
from gh_assets.github.outcomes import Outcome
from gh_assets.storage.asset_store import PartitionTables
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.documents import as_stored
from gh_assets.storage.messages import Message, versioned
from gh_assets.storage.mongo import Collections

logger = logging.getLogger(__name__)

UNSTARS_CHECKED = "unstars checked"
"""Document of the collection ``meta`` that records that `CollectionState.check_unstars` was run."""

_PAGE = TypeAdapter(Page)


class RepositoryState(ListState):
    """State of one repository's stars.

    Attributes
    ----------
    stars : int or None
        Number of stars in the table; None without a table.
    stargazer_count : int or None
        GitHub's count when the stars were read.
    source : str or None
        Name of the source of the stars.
    pages : sequence of Page
        Pages that the next run may reuse.
    checksum : str or None
        Checksum of the table that the state describes.
    closed_at : datetime or None
        When its own list was found closed, if it was at the last request.
    feed : FeedState or None
        What is known of its event feed; None if it was not looked at since its list was read whole.
    collected_otherwise_at : datetime or None
        When it was last requested in another way than by a look at its feed, if it was (UTC).
    """

    collection: ClassVar[Collections] = Collections.STARGAZER_STATE
    id_field: ClassVar[str] = "repo_id"

    repo_id: int
    partition: str
    full_name: str
    stars: int | None = None
    stargazer_count: int | None = None
    source: str | None = None
    pages: list[Page] = Field(default_factory=list)
    checksum: str | None = None
    closed_at: dt.datetime | None = None
    feed: FeedState | None = None
    collected_otherwise_at: dt.datetime | None = None

    @property
    def refreshed_at(self) -> dt.datetime | None:
        """When it was last requested, not counting looks at its feed unless there was nothing else."""
        return self.collected_otherwise_at or self.asked_at

    def previous_stars(self, table: pl.DataFrame) -> PreviousStars:
        """Return the stars that the state describes."""
        return PreviousStars(table, self.pages, self.max_pages, self.source, **coverage_fields(self))


def state_after(
    before: RepositoryState | None, collected: StarCollection, source: str | None, max_pages: int, checksum: str | None
) -> RepositoryState:
    """Return the state of a repository after it was collected.

    Without a new table, the stored one stays, and so does what is known about it.

    Parameters
    ----------
    before : RepositoryState or None
    collected : StarCollection
    source : str or None
        Name of the source that collected the repository.
    max_pages : int
        Maximum number of pages.
    checksum : str or None
        Checksum of the stored table.
    """
    now = as_stored(dt.datetime.now(dt.UTC))
    repository = collected.repository
    closed_at = collected.closed_at
    if closed_at is None and collected.outcome is Outcome.RESTRICTED:
        closed_at = now
    elif collected.outcome is Outcome.UNKNOWN and before is not None:
        closed_at = before.closed_at
    is_look = source == "events"
    otherwise = _collected_otherwise_at(before) if is_look else now
    feed = collected.feed or (before.feed if before is not None and not collected.complete else None)
    changes: dict[str, Any] = {
        "repo_id": repository.repo_id,
        "partition": repository.partition,
        "full_name": repository.full_name,
        "outcome": collected.outcome,
        "reason": collected.reason,
        "asked_at": now,
        "closed_at": closed_at,
        "feed": feed,
        "collected_otherwise_at": otherwise,
    }
    if is_look and before is not None and collected.table is None and collected.outcome is Outcome.UNKNOWN:
        # That a look found nothing, or failed, says nothing of what other sources have found.
        changes |= {"outcome": before.outcome, "reason": before.reason}
    if collected.table is None:
        return before.model_copy(update=changes) if before is not None else RepositoryState(**changes)
    # After a look the stars that were given before are as old as they were, and due by the count of that time.
    counted = before.stargazer_count if before is not None and is_look and otherwise is not None else None
    return RepositoryState(
        **changes,
        stars=collected.table.height,
        stargazer_count=repository.stargazer_count if counted is None else counted,
        source=collected.source or source,
        max_pages=max_pages,
        pages=collected.pages,
        checksum=checksum,
        collected_at=now,
        **coverage_fields(collected),
    )


def _collected_otherwise_at(before: RepositoryState | None) -> dt.datetime | None:
    if before is None:
        return None
    # States of earlier versions, which looked at no feeds, have no such time.
    return before.collected_otherwise_at or (before.asked_at if before.feed is None else None)


class CollectionState:
    """The states of all repositories, and the pages of those that are being collected, in Mongo.

    Parameters
    ----------
    database : pymongo.database.Database
        Its collection ``stargazer_state`` has one document per repository, by database id; ``stargazer_pages`` one per
        page; ``unstars`` one per star that was taken back.
    """

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self.collection = database[Collections.STARGAZER_STATE]
        self.pages = database[Collections.STARGAZER_PAGES]
        self.unstars = database[Collections.UNSTARS]
        self._meta = database[Collections.META]
        self._consumer = Consumer(database)

    def load(self) -> dict[int, RepositoryState]:
        """Return all states by repository id."""
        states = (RepositoryState.from_document(document) for document in self.collection.find(HAS_STATE))
        return {state.repo_id: state for state in states}

    def save(self, states: Sequence[RepositoryState]) -> None:
        """Store states."""
        self._consumer.apply(state.message() for state in states)

    def add_unstars(self, stars: pl.DataFrame) -> None:
        """Store stars that were taken back; they remain as history even if they are given again."""
        self._consumer.apply(_unstar(row, dt.datetime.now(dt.UTC)) for row in stars.iter_rows(named=True))

    def unstarred(self) -> dict[int, list[str]]:
        """Return the ids of the records of stars that were taken back, by repository."""
        return _by_repository(self.unstars)

    def drop_false_unstars(self, unstars: Sequence[str], stars: pl.DataFrame) -> int:
        """Delete those unstars of a repository whose stars are still in its table, and return how many there were."""
        times = dict(stars.select("user_id", "starred_at").rows())
        wrong = []
        for document in self.unstars.find({"_id": {"$in": list(unstars)}}):
            unstar = document["unstar"]
            if unstar["user_id"] in times:
                then, now = unstar["starred_at"], times[unstar["user_id"]]
                # A star that was taken back and given again has a later time.
                if then is None or now is None or now <= then:
                    wrong.append(document["_id"])
        _delete(self.unstars, wrong)
        return len(wrong)

    def check_unstars(self, store: PartitionTables) -> None:
        """Delete, once per database, false unstars that earlier versions stored after damaged responses."""
        if self._meta.find_one({"_id": UNSTARS_CHECKED}) is not None:
            return
        partitions = {state.repo_id: state.partition for state in self.load().values() if state.checksum is not None}
        dropped = 0
        for repo_id, unstars in self.unstarred().items():
            if repo_id in partitions:
                with suppress(StoredDataError):  # it is collected again, and checked then
                    dropped += self.drop_false_unstars(unstars, store.read(partitions[repo_id])[0])
        if dropped:
            logger.warning("Deleted %d records of stars taken back: these stars are still there.", dropped)
        self._meta.update_one({"_id": UNSTARS_CHECKED}, {"$set": {"dropped": dropped}}, upsert=True)

    def interrupted(self) -> dict[int, list[str]]:
        """Return the ids of the pages of interrupted runs, in their order, by repository."""
        return _by_repository(self.pages)

    def delete_pages(self, pages: Iterable[str]) -> None:
        """Delete pages by their ids."""
        _delete(self.pages, pages)


def _unstar(star: Mapping[str, Any], noticed_at: dt.datetime) -> Message:
    value = {name: star[name] for name in ("repo_id", "user_id", "login", "starred_at")} | {"noticed_at": noticed_at}
    identity = f"{star['repo_id']}/{star['user_id']}"
    return Message(update=versioned(Collections.UNSTARS, identity, "unstar", value, noticed_at))


class MongoCheckpoint(Checkpoint):
    """Pages of one repository in Mongo, a small document each.

    `TOGETHER` pages are written at a time, so most repositories never need it.

    Parameters
    ----------
    pages : pymongo.collection.Collection
    repository : RepositoryRef
    stored : sequence of str
        The ids of the pages that an interrupted run has stored.

    Attributes
    ----------
    stored : list of str
        The ids of all pages that are in Mongo.
    """

    TOGETHER = 10
    MAX_AGE = dt.timedelta(hours=24)

    def __init__(self, pages: Collection[dict[str, Any]], repository: RepositoryRef, stored: Sequence[str]) -> None:
        self._pages = pages
        self.repo_id = repository.repo_id
        self.stored = list(stored)
        self._waiting: list[tuple[dict[str, Any], StarRows]] = []

    def pages(self, source: str) -> list[tuple[Page, pl.DataFrame]]:
        if not self.stored:
            return []
        oldest = dt.datetime.now(dt.UTC) - self.MAX_AGE
        read: list[tuple[Page, pl.DataFrame]] = []
        for document in self._pages.find({"_id": {"$in": self.stored}}).sort("_id", 1):
            fits = document["source"] == source and document["at"] >= oldest
            if not fits or document["number"] != len(read) + 1:
                break
            read.append((_PAGE.validate_python(document), pl.read_ipc(BytesIO(document["table"]))))
        if not read:
            _delete(self._pages, self.stored)
            self.stored = []
        return read

    def add(self, source: str, number: int, page: Page, rows: StarRows) -> None:
        document = {
            "_id": f"{self.repo_id}/{number:06d}",
            "number": number,
            "source": source,
            **asdict(page),
            "at": dt.datetime.now(dt.UTC),
        }
        self._waiting.append((document, rows))
        if len(self._waiting) >= self.TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write the pages that are only in memory."""
        if self._waiting:
            documents = [document | {"table": _packed(rows)} for document, rows in self._waiting]
            identities = [document["_id"] for document in documents]
            # Two transactions, whatever the number of pages; replacing each page takes one of its own.
            _delete(self._pages, identities)
            self._pages.insert_many(documents, ordered=True)
            self._waiting = []
            self.stored += identities


def _by_repository(collection: Collection[dict[str, Any]]) -> dict[int, list[str]]:
    """Return the ids of the documents of each repository, in their order.

    Documents are found by them: for a range of ids, the embedded MongoDB reads the whole collection.
    """
    found: dict[int, list[str]] = {}
    for identity in sorted(document["_id"] for document in collection.find({}, {"_id": 1})):
        found.setdefault(int(identity.partition("/")[0]), []).append(identity)
    return found


def _delete(collection: Collection[dict[str, Any]], identities: Iterable[str]) -> None:
    chosen = list(identities)
    if chosen:
        collection.delete_many({"_id": {"$in": chosen}})


def _packed(rows: StarRows) -> bytes:
    buffer = BytesIO()
    rows.table().write_ipc(buffer, compression="zstd")
    return buffer.getvalue()
