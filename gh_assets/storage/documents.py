"""Synchronize a collection with a set of documents, writing only what changed."""

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
    """Numbers of documents that `sync_documents` inserted, replaced and left unchanged."""

    inserted: int
    replaced: int
    unchanged: int


def sync_documents(
    collection: Collection[dict[str, Any]],
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
    operations: list[pymongo.InsertOne[dict[str, Any]] | pymongo.ReplaceOne[dict[str, Any]]] = []
    inserted = replaced = unchanged = 0
    for raw in documents:
        document = {name: as_stored(value) for name, value in raw.items()}
        before = present.get(document["_id"])
        if before is None:
            # An upsert, because another process may insert the same document at the same time.
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
    """Convert a value to what MongoDB returns for it: times in UTC with milliseconds, tuples as lists."""
    if isinstance(value, dt.datetime):
        value = value.astimezone(dt.UTC)
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    if isinstance(value, Mapping):
        return {name: as_stored(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_stored(entry) for entry in value]
    return value
