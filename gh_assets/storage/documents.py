"""Documents as Mongo keeps them, and a collection kept equal to a set of them, writing only what changed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pymongo
from pymongo.collection import Collection

BATCH = 1000


@dataclass(frozen=True)
class SyncCounts:
    """What `sync_documents` did."""

    inserted: int
    replaced: int
    unchanged: int


def sync_documents(
    collection: Collection[dict[str, Any]],
    documents: Iterable[Mapping[str, Any]],
    present: Mapping[Any, Mapping[str, Any]] | None = None,
) -> SyncCounts:
    """Insert what is new, replace what differs, leave the rest alone. Doing it twice changes nothing.

    Parameters
    ----------
    collection : pymongo collection
    documents : iterable of mapping
        Each with its ``_id``.
    present : mapping, optional
        The collection's documents by ``_id``, if the caller has read them; else they are read here.
    """
    if present is None:
        present = {document["_id"]: document for document in collection.find()}
    operations: list[pymongo.InsertOne[dict[str, Any]] | pymongo.ReplaceOne[dict[str, Any]]] = []
    inserted = replaced = unchanged = 0
    for raw in documents:
        document = {name: as_stored(value) for name, value in raw.items()}
        before = present.get(document["_id"])
        if before is None:
            # A replacement, not an insert: another process may have brought the same document meanwhile.
            operations.append(pymongo.ReplaceOne({"_id": document["_id"]}, document, upsert=True))
            inserted += 1
        elif before != document:
            operations.append(pymongo.ReplaceOne({"_id": document["_id"]}, document, upsert=True))
            replaced += 1
        else:
            unchanged += 1
        if len(operations) >= BATCH:
            collection.bulk_write(operations, ordered=False)
            operations = []
    if operations:
        collection.bulk_write(operations, ordered=False)
    return SyncCounts(inserted, replaced, unchanged)


def as_stored(value: Any) -> Any:
    """A value as Mongo gives it back: times in UTC with milliseconds, tuples as lists."""
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC)
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    if isinstance(value, Mapping):
        return {name: as_stored(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_stored(entry) for entry in value]
    return value
