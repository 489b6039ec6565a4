"""The messages that change Mongo, and their consumer. Knows neither Dagster nor GitHub.

A message inserts a user, updates one document, or both; either part may be empty::

    {"insert": {"uid": 5001, "login": "octo"},
     "update": {"collection": "repos", "where": {"_id": 7}, "change": {"$max": {"stars": 12}}}}

An update says its own condition and change, so a new kind of update needs no new code here. What it may say is limited
to changes that give the same result in any order and however often they are applied:

* ``$max`` and ``$min`` of fields, under ``where: {"_id": …}``;
* ``$set`` of one *register*: a sub-document that carries its version and replaces an older one as a whole, under
  ``where: {"_id": …, "<register>.version": {"$lt": version}}``. The version is a time followed by a digest of the
  content (`versioned` makes it): of two registers of the same time the same one wins everywhere.

So a stream may be applied twice, out of order, by two consumers at once, or again after a crash: the collections end up
the same. ``$push``, ``$addToSet`` and ``$inc`` are refused: they grow without bound, or count twice. What comes in
great numbers, such as stars, is one small document each.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections import defaultdict
from collections.abc import Collection as AbstractCollection
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import orjson
import pymongo
from bson import BSON
from bson.errors import InvalidDocument
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from gh_assets.storage.documents import as_stored
from gh_assets.storage.mongo import Collections

COLLECTIONS = frozenset(
    {
        Collections.USERS,
        Collections.REPOS,
        Collections.UNSTARS,
        Collections.STARGAZER_STATE,
        Collections.STARRED_STATE,
        Collections.FEEDBACK,
    }
)
"""Collections that messages may change."""

OPERATORS = frozenset({"$set", "$max", "$min"})
"""Operators that messages may use."""

BATCH = 1000
MAX_BYTES = 64 * 1024
"""Size of an update: documents stay far from Mongo's 16 MB."""

_PROTECTED: Mapping[str, frozenset[str]] = {Collections.USERS: frozenset({"login", "seen"})}
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z-[0-9a-f]{16}")
_DUPLICATE_KEY = 11000
_PORTION = 100
MAX_DEAD_LETTER_BYTES = 4096

Document = dict[str, Any]
DocumentId = int | str


class UserInsert(BaseModel):
    """A user to know: of several logins of one id the one seen last is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    uid: int = Field(description="GitHub's database id", ge=-(2**63), lt=2**63)
    login: str = Field(pattern=r"^[A-Za-z0-9_\[\]-]{1,100}$")
    seen_at: dt.datetime | None = Field(default=None, description="When the login was read (UTC)")

    @field_validator("seen_at", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        value = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(value, dt.datetime) and value.tzinfo is None:
            raise ValueError("seen_at has no time zone")
        return value

    @property
    def seen(self) -> str:
        """Orders logins of one user: by time, and those of the same time by name."""
        return f"{_stamp(self.seen_at) if self.seen_at is not None else ''} {self.login}"


class Update(BaseModel):
    """A change of one document of an allowed collection; see the module for what it may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collection: str
    where: Document
    change: dict[str, Document]

    @field_validator("collection")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in COLLECTIONS:
            raise ValueError(f"the collection {name[:80]!r} is none of {', '.join(sorted(COLLECTIONS))}")
        return name

    @model_validator(mode="after")
    def _repeatable(self) -> Self:
        identity = self.where.get("_id")
        if isinstance(identity, bool) or not isinstance(identity, (int, str)) or identity == "":
            raise ValueError("where must name one document by its _id, a number or a text")
        if not self.change:
            raise ValueError("change is empty")
        for operator in self.change:
            if operator not in OPERATORS:
                raise ValueError(f"the operator {operator[:40]!r} is none of {', '.join(sorted(OPERATORS))}")
        for fields in self.change.values():
            if not fields:
                raise ValueError("an operator changes no field")
            for name, value in fields.items():
                if not _FIELD.fullmatch(name):
                    raise ValueError(f"the field {name[:80]!r} is no plain lower-case name")
                if name in _PROTECTED.get(self.collection, ()):
                    raise ValueError(f"the field {name!r} of {self.collection} is changed by inserts only")
                _check_value(value)
        for operator in ("$max", "$min"):
            for name, value in self.change.get(operator, {}).items():
                if isinstance(value, bool) or not isinstance(value, (int, float, str, dt.datetime)):
                    raise ValueError(f"{operator} of {name!r} needs a number, a text or a time")
        if "$set" in self.change:
            self._check_register()
        elif set(self.where) != {"_id"}:
            raise ValueError("where of $max and $min must be the _id alone: another condition depends on the order")
        try:
            size = len(BSON.encode(dict(self.change)))
        except (InvalidDocument, OverflowError) as error:
            raise ValueError(f"the change cannot be stored: {error}") from None
        if size > MAX_BYTES:
            raise ValueError(f"the change has {size} bytes, more than {MAX_BYTES}")
        return self

    def _check_register(self) -> None:
        subdocuments = self.change["$set"]
        if len(self.change) != 1 or len(subdocuments) != 1:
            raise ValueError("$set must stand alone and set one register")
        ((name, value),) = subdocuments.items()
        if not isinstance(value, dict) or not isinstance(value.get("version"), str):
            raise ValueError(f"the register {name!r} has no version")
        version = value["version"]
        if not _VERSION.fullmatch(version) or version.rsplit("-", 1)[1] != _digest(value):
            raise ValueError(f"the version of the register {name!r} is not that of its content")
        if self.where != {"_id": self.where["_id"], f"{name}.version": {"$lt": version}}:
            raise ValueError(f'where must be the _id and "{name}.version": {{"$lt": the new version}}')


class Message(BaseModel):
    """What a producer sends. An empty part may be left out, null or ``{}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    insert: UserInsert | None = None
    update: Update | None = None

    @field_validator("insert", "update", mode="before")
    @classmethod
    def _empty(cls, part: Any) -> Any:
        return None if part == {} else part

    @classmethod
    def parse(cls, raw: bytes | str) -> Message:
        """Read a message from JSON; times are written ``{"$date": "2026-01-01T00:00:00Z"}``.

        Raises
        ------
        ValueError
            With words that say what is wrong, and nothing of what could be secret.
        """
        try:
            return cls.model_validate(_with_times(orjson.loads(raw)))
        except orjson.JSONDecodeError:
            raise ValueError("it is no JSON") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None

    def to_json(self) -> bytes:
        """As JSON that `parse` reads."""
        return orjson.dumps(self.model_dump(exclude_none=True), option=orjson.OPT_PASSTHROUGH_DATETIME, default=_dated)


def versioned(
    collection: str, identity: DocumentId, register: str, value: Mapping[str, Any], at: dt.datetime
) -> Update:
    """An update that sets a register unless a later one is there already.

    Parameters
    ----------
    collection : str
    identity : int or str
        The document's ``_id``.
    register : str
        Name of the sub-document.
    value : mapping
    at : datetime
        With its zone: the later one wins.
    """
    content = {name: as_stored(entry) for name, entry in value.items() if name != "version"}
    version = f"{_stamp(at)}-{_digest(content)}"
    return Update(
        collection=collection,
        where={"_id": identity, f"{register}.version": {"$lt": version}},
        change={"$set": {register: content | {"version": version}}},
    )


# -- the consumer --------------------------------------------------------------------------------------------------


@dataclass
class ConsumerResult:
    """What a consumer did.

    Attributes
    ----------
    messages : int
        Read, poison included.
    inserted, changed : int
        Documents.
    unchanged : int
        Documents that had all that their messages say, or something later.
    dead : int
        Poison messages.
    """

    messages: int = 0
    inserted: int = 0
    changed: int = 0
    unchanged: int = 0
    dead: int = 0


@dataclass
class _Change:
    """All that the messages of a batch say about one document."""

    subdocuments: dict[str, Document] = field(default_factory=dict)
    greatest: Document = field(default_factory=dict)
    least: Document = field(default_factory=dict)
    user: UserInsert | None = None
    sources: list[bytes] = field(default_factory=list)

    def add(self, update: Update) -> None:
        for name, value in update.change.get("$set", {}).items():
            known = self.subdocuments.get(name)
            if known is None or known["version"] < value["version"]:
                self.subdocuments[name] = value
        for name, value in update.change.get("$max", {}).items():
            self.greatest[name] = value if name not in self.greatest else _later(self.greatest[name], value)
        for name, value in update.change.get("$min", {}).items():
            self.least[name] = value if name not in self.least else _earlier(self.least[name], value)

    def document(self, identity: DocumentId) -> Document:
        """The document if there is none yet."""
        login: Document = {"login": self.user.login, "seen": self.user.seen} if self.user is not None else {}
        document: Document = {"_id": identity}
        for part in (login, self.subdocuments, self.greatest, self.least):
            document.update(part)
        return document

    def fields(self) -> set[str]:
        versions = {f"{name}.version" for name in self.subdocuments}
        return versions | set(self.greatest) | set(self.least) | ({"seen"} if self.user is not None else set())

    def operations(self, identity: DocumentId, present: Mapping[str, Any]) -> list[pymongo.UpdateOne]:
        """What has to be done to the document as it was read; the server checks that it still is so."""
        operations = []
        if self.user is not None and present.get("seen", "") < self.user.seen:
            change = {"login": self.user.login, "seen": self.user.seen}
            operations.append(_guarded(identity, "seen", present.get("seen"), self.user.seen, change))
        for name, value in self.subdocuments.items():
            known = present.get(name)
            version = known.get("version", "") if isinstance(known, dict) else None
            if version is None or version < value["version"]:
                guard = name if version is None else f"{name}.version"
                operations.append(_guarded(identity, guard, version, value["version"], {name: value}))
        greatest = {n: v for n, v in self.greatest.items() if n not in present or _later(present[n], v) != present[n]}
        least = {n: v for n, v in self.least.items() if n not in present or _earlier(present[n], v) != present[n]}
        bounds = {operator: fields for operator, fields in (("$max", greatest), ("$min", least)) if fields}
        if bounds:
            operations.append(pymongo.UpdateOne({"_id": identity}, bounds))
        return operations


def _guarded(identity: DocumentId, guard: str, before: str | None, version: str, change: Document) -> pymongo.UpdateOne:
    # Not "older or absent" in one condition: that would keep a server from using the index of _id.
    older = {"$exists": False} if before is None else {"$lt": version}
    return pymongo.UpdateOne({"_id": identity, guard: older}, {"$set": change})


class Consumer:
    """Applies messages to a database, in batches.

    Parameters
    ----------
    database : pymongo.database.Database
    batch : int
        Messages read before they are applied together.
    """

    def __init__(self, database: Database[Document], batch: int = BATCH) -> None:
        self.database = database
        self.batch = batch

    def apply(self, stream: Iterable[Message | bytes | str]) -> ConsumerResult:
        """Apply a stream of messages; poison goes to the collection `Collections.DEAD_LETTERS` with the reason.

        Raises
        ------
        pymongo.errors.PyMongoError
            If Mongo fails. Apply the stream again then: what was applied is not applied twice.
        """
        total = ConsumerResult()
        for _ in self.batches(stream, total):
            pass
        return total

    def batches(self, stream: Iterable[Message | bytes | str], total: ConsumerResult) -> Iterator[int]:
        """As `apply`; yields after each batch how many messages of the stream are safely in Mongo."""
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
        # Last: who counts on this number may forget the messages.
        total.messages += len(batch)

    def _apply_changes(
        self, name: str, changes: Mapping[DocumentId, _Change], total: ConsumerResult, dead: list[tuple[bytes, str]]
    ) -> None:
        collection = self.database[name]
        # Inserts are several times faster than upserts, and most documents are new or have not changed.
        documents = [change.document(identity) for identity, change in changes.items()]
        waiting: set[DocumentId] = set()
        refused = 0
        try:
            collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            for fault in error.details["writeErrors"]:
                identity = documents[fault["index"]]["_id"]
                if fault["code"] == _DUPLICATE_KEY:
                    waiting.add(identity)
                else:
                    refused += 1
                    dead.append(self._dead_letter(name, changes[identity].document(identity), fault))
        total.inserted += len(changes) - len(waiting) - refused
        written: set[DocumentId] = set()
        refusing: set[DocumentId] = set()
        known = len(waiting)
        # Until nothing is missing: what another consumer changes between reading and writing is looked at again.
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
        collection: Collection[Document], changes: Mapping[DocumentId, _Change], waiting: AbstractCollection[DocumentId]
    ) -> tuple[list[pymongo.UpdateOne], list[DocumentId]]:
        """Operations for the documents that lack something, and the document that each is about."""
        fields = set().union(*(changes[identity].fields() for identity in waiting)) if waiting else set()
        operations: list[pymongo.UpdateOne] = []
        owners: list[DocumentId] = []
        keys = iter(waiting)
        # In portions: the embedded server takes quadratic time over the length of $in.
        while portion := list(islice(keys, _PORTION)):
            for document in collection.find({"_id": {"$in": portion}}, dict.fromkeys(fields, 1) or {"_id": 1}):
                needed = changes[document["_id"]].operations(document["_id"], document)
                operations += needed
                owners += [document["_id"]] * len(needed)
        return operations, owners

    @staticmethod
    def _dead_letter(collection: str, document: Document, fault: Mapping[str, Any]) -> tuple[bytes, str]:
        content = orjson.dumps({"collection": collection, "document": document}, default=str)
        return content, f"Mongo refused it (code {fault['code']}): {str(fault.get('errmsg', ''))[:300]}"

    def _store_dead_letters(self, dead: Sequence[tuple[bytes, str]]) -> None:
        """Keep poison, once each, whatever bytes it is made of."""
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
        if not dead_letters:
            return
        try:
            self.database[Collections.DEAD_LETTERS].insert_many(list(dead_letters.values()), ordered=False)
        except BulkWriteError as error:
            if any(fault["code"] != _DUPLICATE_KEY for fault in error.details["writeErrors"]):
                raise


# -- values --------------------------------------------------------------------------------------------------------


def _check_value(value: Any, depth: int = 0) -> None:
    if depth > 4:
        raise ValueError("a value is nested more than four deep")
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(name, str) or not name or name[0] == "$" or "." in name or "\0" in name:
                raise ValueError(f"a value has the field {str(name)[:80]!r}, which is no plain name")
            _check_value(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check_value(entry, depth + 1)
    elif isinstance(value, bool) or value is None or isinstance(value, (str, bytes, dt.datetime)):
        return
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("a number has more than 64 bits")
    elif isinstance(value, float):
        if value != value:
            raise ValueError("a number is not a number")
    else:
        raise ValueError(f"a value is {type(value).__name__}, which no message may hold")


def _order(value: Any) -> tuple[int, Any]:
    """Mongo's order over the types that $max and $min may have."""
    return (2 if isinstance(value, dt.datetime) else int(isinstance(value, str))), value


def _later(one: Any, other: Any) -> Any:
    return one if _order(one) >= _order(other) else other


def _earlier(one: Any, other: Any) -> Any:
    return one if _order(one) <= _order(other) else other


def _digest(register: Mapping[str, Any]) -> str:
    content = {name: value for name, value in register.items() if name != "version"}
    canonical = orjson.dumps(
        content, option=orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS, default=_dated
    )
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()


def _stamp(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _dated(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return {"$date": _stamp(value)}
    if isinstance(value, bytes):
        return {"$binary": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def _with_times(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$date"} and isinstance(value["$date"], str):
            time = dt.datetime.fromisoformat(value["$date"])
            if time.tzinfo is None:
                raise ValueError("a time has no zone")
            return time
        if value.keys() == {"$binary"} and isinstance(value["$binary"], str):
            return base64.b64decode(value["$binary"], validate=True)
        return {name: _with_times(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_with_times(entry) for entry in value]
    return value
