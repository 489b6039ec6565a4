"""Write documents into a collection: only those that changed, or only those that are missing."""

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pymongo
from pymongo.errors import BulkWriteError

from gh_assets.storage.mongo import Documents

BATCH = 1000

DUPLICATE_KEY = 11000
"""MongoDB's code of the error that a unique field has the value already."""


@dataclass(frozen=True)
class SyncCounts:
    """Numbers of documents that `sync_documents` inserted, replaced and left unchanged."""

    inserted: int
    replaced: int
    unchanged: int


def sync_documents(
    collection: Documents,
    documents: Iterable[Mapping[str, Any]],
    present: Mapping[Any, Mapping[str, Any]] | None = None,
) -> SyncCounts:
    """Insert new documents and replace those that differ; other documents of the collection stay. Idempotent.

    Parameters
    ----------
    collection : pymongo collection
    documents : iterable of mapping
        Each with its ``_id``.
    present : mapping, optional
        The documents of the collection by ``_id``; read from it by default.
    """
    if present is None:
        present = {document["_id"]: document for document in collection.find()}
    counts = dict.fromkeys(("inserted", "replaced", "unchanged"), 0)
    operations: list[pymongo.ReplaceOne[dict[str, Any]]] = []
    for raw in documents:
        document = {name: as_stored(value) for name, value in raw.items()}
        before = present.get(document["_id"])
        outcome = "inserted" if before is None else "unchanged" if before == document else "replaced"
        counts[outcome] += 1
        if outcome != "unchanged":
            # An upsert, because another process may insert the same document at the same time.
            operations.append(pymongo.ReplaceOne({"_id": document["_id"]}, document, upsert=True))
    for start in range(0, len(operations), BATCH):
        collection.bulk_write(operations[start : start + BATCH], ordered=False)
    return SyncCounts(**counts)


def insert_missing(collection: Documents, documents: Sequence[dict[str, Any]]) -> None:
    """Insert the documents whose ``_id`` the collection does not have."""
    try:
        if documents:
            collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(fault["code"] != DUPLICATE_KEY for fault in error.details["writeErrors"]):
            raise


def as_stored(value: Any) -> Any:
    """Convert a value to what MongoDB returns for it: times in UTC with milliseconds, tuples as lists."""
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC)
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    if isinstance(value, Mapping):
        return {name: as_stored(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_stored(entry) for entry in value]
    return value
