"""The consumer of messages: apply them to MongoDB in batches, whatever their order and however often."""

import base64
import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
import pymongo
from pymongo.errors import BulkWriteError

from gh_assets.storage.documents import DUPLICATE_KEY, insert_missing
from gh_assets.storage.messages import Document, DocumentId, Message, Update, UserInsert
from gh_assets.storage.mongo import Collections, Documents, MongoDatabase

BATCH = 1000
"""Messages that are applied together."""

MAX_DEAD_LETTER_BYTES = 4096
"""Bytes of a dead letter that are kept."""

_IDS_PER_QUERY = 100


@dataclass
class ConsumerResult:
    """Counts of a consumer.

    Attributes
    ----------
    messages : int
        Messages read, including invalid ones.
    inserted, changed : int
        Documents inserted and changed.
    unchanged : int
        Documents that already had the content of their messages, or a later one.
    dead : int
        Invalid messages, stored as dead letters.
    """

    messages: int = 0
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    dead: int = 0


@dataclass
class _Change:
    """The combined change of one document by a batch of messages."""

    registers: dict[str, Document] = field(default_factory=dict)
    bounds: Mapping[str, Document] = field(default_factory=lambda: {operator: {} for operator in _BOUNDS})
    user: UserInsert | None = None

    def add(self, update: Update) -> None:
        for name, register in update.change.get("$set", {}).items():
            known = self.registers.get(name) or register
            self.registers[name] = max(known, register, key=lambda one: str(one["version"]))
        for operator, values in self.bounds.items():
            for name, value in update.change.get(operator, {}).items():
                values[name] = _BOUNDS[operator](values.get(name, value), value, key=_order)

    def document(self, identity: DocumentId) -> Document:
        """Return the document to insert if there is none."""
        login = {} if self.user is None else {"login": self.user.login, "seen": self.user.seen}
        return {"_id": identity} | login | self.registers | self.bounds["$max"] | self.bounds["$min"]

    def fields(self) -> set[str]:
        """Return the fields on which the operations depend."""
        versions = {f"{name}.version" for name in self.registers}
        return versions.union(*self.bounds.values(), () if self.user is None else ("seen",))

    def operations(self, identity: DocumentId, present: Mapping[str, Any]) -> list[pymongo.UpdateOne]:
        """Return the updates of a document in its present state, which the server verifies."""
        operations = []
        if self.user is not None and present.get("seen", "") < self.user.seen:
            change = {"login": self.user.login, "seen": self.user.seen}
            operations.append(_guarded(identity, "seen", present.get("seen"), self.user.seen, change))
        for name, value in self.registers.items():
            known = present.get(name)
            version = known.get("version", "") if isinstance(known, dict) else None
            if version is None or version < value["version"]:
                guard = name if version is None else f"{name}.version"
                operations.append(_guarded(identity, guard, version, value["version"], {name: value}))
        for operator, values in self.bounds.items():
            needed = {
                name: value
                for name, value in values.items()
                if name not in present or _BOUNDS[operator](present[name], value, key=_order) != present[name]
            }
            if needed:
                operations.append(pymongo.UpdateOne({"_id": identity}, {operator: needed}))
        return operations


def _guarded(identity: DocumentId, guard: str, before: str | None, version: str, change: Document) -> pymongo.UpdateOne:
    # A condition "older or absent" would keep the server from using the index of _id.
    older = {"$exists": False} if before is None else {"$lt": version}
    return pymongo.UpdateOne({"_id": identity, guard: older}, {"$set": change})


class Consumer:
    """Applies messages to a database in batches.

    Parameters
    ----------
    database : pymongo.database.Database
    batch : int
        Messages per batch.
    """

    def __init__(self, database: MongoDatabase, batch: int = BATCH) -> None:
        self.database = database
        self.batch = batch

    def apply(self, stream: Iterable[Message | bytes | str]) -> ConsumerResult:
        """Apply a stream of messages; invalid ones are stored in `Collections.DEAD_LETTERS` with the reason.

        Raises
        ------
        pymongo.errors.PyMongoError
            If MongoDB fails. The stream can then be applied again: messages are idempotent.
        """
        total = ConsumerResult()
        for _ in self.batches(stream, total):
            pass
        return total

    def batches(self, stream: Iterable[Message | bytes | str], total: ConsumerResult) -> Iterator[int]:
        """Apply a stream as `apply` does, and yield after each batch the number of messages that are stored."""
        messages = iter(stream)
        while batch := list(islice(messages, self.batch)):
            self._apply_batch(batch, total)
            yield total.messages

    def _apply_batch(self, batch: Sequence[Message | bytes | str], total: ConsumerResult) -> None:
        changes: dict[str, dict[DocumentId, _Change]] = defaultdict(lambda: defaultdict(_Change))
        dead: list[tuple[bytes, str]] = []
        for raw in batch:
            if isinstance(raw, Message):
                message = raw
            else:
                try:
                    message = Message.parse(raw)
                except ValueError as error:
                    dead.append((raw.encode("utf-8", "replace") if isinstance(raw, str) else raw, str(error)))
                    continue
            if message.insert is not None:
                change = changes[Collections.USERS][message.insert.uid]
                if change.user is None or change.user.seen < message.insert.seen:
                    change.user = message.insert
            if message.update is not None:
                changes[message.update.collection][message.update.where["_id"]].add(message.update)
        for name, documents in changes.items():
            self._apply_changes(name, documents, total, dead)
        self._store_dead_letters(dead)
        total.dead += len(dead)
        # Last, because callers discard the messages that it counts.
        total.messages += len(batch)

    def _apply_changes(
        self, name: str, changes: Mapping[DocumentId, _Change], total: ConsumerResult, dead: list[tuple[bytes, str]]
    ) -> None:
        collection = self.database[name]
        # Inserts are several times faster than upserts, and most documents are new or unchanged.
        documents = [change.document(identity) for identity, change in changes.items()]
        waiting: set[DocumentId] = set()
        faults: list[dict[str, Any]] = []
        try:
            collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            faults = error.details["writeErrors"]
        total.inserted += len(changes) - len(faults)
        for fault in faults:
            identity = documents[fault["index"]]["_id"]
            if fault["code"] == DUPLICATE_KEY:
                waiting.add(identity)
            else:
                dead.append(self._dead_letter(name, changes[identity].document(identity), fault))
        written: set[DocumentId] = set()
        refusing: set[DocumentId] = set()
        known = len(waiting)
        # Repeat while updates do not match, because another consumer changed the document after it was read.
        while waiting:
            operations, owners = self._needed(collection, changes, waiting - refusing)
            if not operations:
                break
            matched = 0
            try:
                matched = collection.bulk_write(operations, ordered=False).matched_count
            except BulkWriteError as error:
                matched = error.details["nMatched"]
                for fault in error.details["writeErrors"]:
                    identity = owners[fault["index"]]
                    refusing.add(identity)
                    dead.append(self._dead_letter(name, changes[identity].document(identity), fault))
            written.update(owners)
            if matched == len(operations):
                break
        total.changed += len(written - refusing)
        total.unchanged += known - len(written)

    @staticmethod
    def _needed(
        collection: Documents, changes: Mapping[DocumentId, _Change], waiting: Collection[DocumentId]
    ) -> tuple[list[pymongo.UpdateOne], list[DocumentId]]:
        """Return the updates that the documents need, and the ``_id`` of the document of each update."""
        fields = set().union(*(changes[identity].fields() for identity in waiting)) if waiting else set()
        operations: list[pymongo.UpdateOne] = []
        owners: list[DocumentId] = []
        keys = iter(waiting)
        # The time of the embedded server is quadratic in the length of $in.
        while ids := list(islice(keys, _IDS_PER_QUERY)):
            for document in collection.find({"_id": {"$in": ids}}, dict.fromkeys(fields, 1) or {"_id": 1}):
                needed = changes[document["_id"]].operations(document["_id"], document)
                operations += needed
                owners += [document["_id"]] * len(needed)
        return operations, owners

    @staticmethod
    def _dead_letter(collection: str, document: Document, fault: Mapping[str, Any]) -> tuple[bytes, str]:
        content = orjson.dumps({"collection": collection, "document": document}, default=str)
        return content, f"MongoDB rejected it (code {fault['code']}): {str(fault.get('errmsg', ''))[:300]}"

    def _store_dead_letters(self, dead: Sequence[tuple[bytes, str]]) -> None:
        """Store invalid messages, each once, whatever their bytes."""
        now = dt.datetime.now(dt.UTC)
        dead_letters: dict[str, Document] = {}
        for raw, reason in dead:
            key = hashlib.blake2b(raw, digest_size=16).hexdigest()
            kept = raw[:MAX_DEAD_LETTER_BYTES]
            try:
                text: Document = {"message": kept.decode()}
            except UnicodeDecodeError:
                text = {"message_base64": base64.b64encode(kept).decode()}
            dead_letters.setdefault(key, {"_id": key, **text, "bytes": len(raw), "reason": reason[:500], "at": now})
        insert_missing(self.database[Collections.DEAD_LETTERS], list(dead_letters.values()))


def _order(value: Any) -> tuple[int, Any]:
    """Sort key in MongoDB's order of the types that $max and $min support."""
    return (2 if isinstance(value, dt.datetime) else int(isinstance(value, str))), value


_BOUNDS: Mapping[str, Callable[..., Any]] = {"$max": max, "$min": min}
"""Operators that keep one of two values, and which one."""
