"""The collection of the registered models: its schema, indexes, serial numbers, and the original system's fields."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pymongo
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure

from gh_assets.storage.mongo import Documents

LEGACY_FIELDS = ("tag", "bucket_name")
"""Fields of the original system that a visible model's document has beside our own."""

_OTHER_OPTIONS = (85, 86)
"""Codes of a refusal to create an index that is there with other options."""

SCHEMA: Mapping[str, Any] = {
    "$jsonSchema": {
        "bsonType": "object",
        "required": ["name", "time"],
        "properties": {
            "name": {"bsonType": "string", "minLength": 1, "maxLength": 200},
            "version": {"bsonType": ["int", "long"], "minimum": 1},
            "serial": {"bsonType": ["int", "long"], "minimum": 1},
            "tags": {"bsonType": "array", "items": {"bsonType": "string", "maxLength": 200}},
            "score": {"bsonType": ["double", "int", "long", "null"]},
            "metric": {"bsonType": "string"},
            "direction": {"enum": ["max", "min"]},
            "bucket": {"bsonType": "string"},
            "object": {"bsonType": "string"},
            "sha256": {"bsonType": ["string", "null"], "pattern": "^[0-9a-f]{64}$"},
            "size": {"bsonType": ["int", "long", "null"], "minimum": 0},
        },
    }
}
"""What Mongo itself refuses, whoever writes. Documents of the original system pass."""


def create_indexes(documents: Documents) -> None:
    """The collection with its validator, and what queries and versions need; doing it twice changes nothing."""
    # Where the server has no validators, or the user may not set one, the code checks all the same.
    with suppress(CollectionInvalid, OperationFailure):
        documents.database.create_collection(documents.name, validator=SCHEMA, validationLevel="moderate")
    for number in ("version", "serial"):
        keys = [(number, pymongo.DESCENDING)]
        try:
            documents.create_index(
                [("name", pymongo.ASCENDING), *keys] if number == "version" else keys,
                unique=True,
                # Documents of the original system have none. DocumentDB and Atlas know no $type here.
                partialFilterExpression={number: {"$exists": True}},
            )
        except OperationFailure as error:
            if error.code not in _OTHER_OPTIONS:  # an earlier version's, which says the same in other words
                raise
    documents.create_index([("name", pymongo.ASCENDING), ("time", pymongo.DESCENDING)])
    documents.create_index([("object", pymongo.ASCENDING)])


def last_serial(documents: Documents) -> int:
    """The highest serial number that was given; 0, if none was."""
    last = documents.find_one({"serial": {"$type": "number"}}, {"serial": 1}, sort=[("serial", pymongo.DESCENDING)])
    return int(last["serial"]) if last else 0


def number_documents(documents: Documents) -> None:
    """Give a serial number to models that were registered before there were any; doing it twice changes nothing.

    Their times decide, as far as the versions of a name agree: one that was registered by a clock that is behind comes
    after the version before it all the same.
    """
    fields = {"name": 1, "version": 1, "time": 1}
    while True:
        wanted = {"version": {"$type": "number"}, "serial": {"$exists": False}}
        latest: dict[str, float] = {}
        places = []
        for document in documents.find(wanted, fields).sort("version", pymongo.ASCENDING):
            name, time = str(document["name"]), document.get("time")
            moment = time.timestamp() if isinstance(time, dt.datetime) else 0.0
            latest[name] = max(moment, latest.get(name, moment))
            places.append((latest[name], name, int(document["version"]), document["_id"]))
        if not places:
            return
        with suppress(DuplicateKeyError):  # somebody saves, or numbers, at the same moment: look again
            for serial, (*_, key) in enumerate(sorted(places, key=lambda place: place[:3]), last_serial(documents) + 1):
                documents.update_one({"_id": key, "serial": {"$exists": False}}, {"$set": {"serial": serial}})


def add_original_fields(documents: Documents) -> None:
    """Give visible models the fields of the original system; doing it twice changes nothing."""
    # One by one: not all servers of this protocol compute a value from another field.
    for document in documents.find({"bucket": {"$type": "string"}, "deleted": None}, {"bucket": 1, "tags": 1}):
        tag = next(iter(document.get("tags") or []), "")
        for name, value in (("bucket_name", document["bucket"]), ("tag", tag)):
            documents.update_one({"_id": document["_id"], name: {"$exists": False}}, {"$set": {name: value}})
    ours = {"bucket": {"$exists": True}, "deleted": {"$ne": None}}
    documents.update_many(ours, {"$unset": dict.fromkeys(LEGACY_FIELDS, 1)})


def create_move_index(moves: Documents) -> None:
    """What lets only one move be the next; doing it twice changes nothing."""
    keys = [("purpose", pymongo.ASCENDING), ("alias", pymongo.ASCENDING), ("revision", pymongo.DESCENDING)]
    moves.create_index(keys, unique=True)
