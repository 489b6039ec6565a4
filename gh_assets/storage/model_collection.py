"""The collection of registered models: schema, indexes, serial numbers, and the fields of the original system."""

import datetime as dt
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pymongo
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure

from gh_assets.storage.mongo import Documents

LEGACY_FIELDS = ("tag", "bucket_name")
"""Fields of the original system that the document of a visible model also has."""

_INDEX_CONFLICTS = (85, 86)
"""Error codes of MongoDB for an index that exists with other options."""

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
"""The validator of the collection. Documents of the original system satisfy it."""


def create_collection(documents: Documents) -> None:
    """Create the collection with its validator, if it does not exist.

    Servers without validators, and users without the right to set one, rely on the checks in the code.
    """
    with suppress(CollectionInvalid, OperationFailure):
        documents.database.create_collection(documents.name, validator=SCHEMA, validationLevel="moderate")


def update_validator(documents: Documents) -> None:
    """Set the validator of the collection, if the server and the user's rights allow it; idempotent."""
    create_collection(documents)
    with suppress(OperationFailure):
        documents.database.command("collMod", documents.name, validator=SCHEMA, validationLevel="moderate")


def create_indexes(documents: Documents) -> None:
    """Create the collection and its indexes; idempotent."""
    create_collection(documents)
    for number in ("version", "serial"):
        keys = [(number, pymongo.DESCENDING)]
        try:
            documents.create_index(
                [("name", pymongo.ASCENDING), *keys] if number == "version" else keys,
                unique=True,
                # Documents of the original system lack the field. DocumentDB and Atlas do not support $type here.
                partialFilterExpression={number: {"$exists": True}},
            )
        except OperationFailure as error:
            if error.code not in _INDEX_CONFLICTS:  # an equivalent index of an earlier version
                raise
    documents.create_index([("name", pymongo.ASCENDING), ("time", pymongo.DESCENDING)])
    documents.create_index([("object", pymongo.ASCENDING)])


def last_serial(documents: Documents) -> int:
    """Return the highest serial number, or 0 if there is none."""
    last = documents.find_one({"serial": {"$type": "number"}}, {"serial": 1}, sort=[("serial", pymongo.DESCENDING)])
    return int(last["serial"]) if last else 0


def number_documents(documents: Documents) -> None:
    """Give serial numbers to models that earlier versions registered without one; idempotent.

    Models are numbered by time, except that a version never precedes an earlier version of its name: clocks differ.
    """
    fields = {"name": 1, "version": 1, "time": 1}
    while True:
        unnumbered = {"version": {"$type": "number"}, "serial": {"$exists": False}}
        latest: dict[str, float] = {}
        places = []
        for document in documents.find(unnumbered, fields).sort("version", pymongo.ASCENDING):
            name, time = str(document["name"]), document.get("time")
            moment = time.timestamp() if isinstance(time, dt.datetime) else 0.0
            latest[name] = max(moment, latest.get(name, moment))
            places.append((latest[name], name, int(document["version"]), document["_id"]))
        if not places:
            return
        with suppress(DuplicateKeyError):  # another process saves or numbers a model: read again
            for serial, (*_, key) in enumerate(sorted(places, key=lambda place: place[:3]), last_serial(documents) + 1):
                documents.update_one({"_id": key, "serial": {"$exists": False}}, {"$set": {"serial": serial}})


def add_original_fields(documents: Documents) -> None:
    """Give visible models the fields of the original system; idempotent."""
    # One by one, because not all compatible servers can compute a value from another field.
    for document in documents.find({"bucket": {"$type": "string"}, "deleted": None}, {"bucket": 1, "tags": 1}):
        tag = next(iter(document.get("tags") or []), "")
        for name, value in (("bucket_name", document["bucket"]), ("tag", tag)):
            documents.update_one({"_id": document["_id"], name: {"$exists": False}}, {"$set": {name: value}})
    deleted = {"bucket": {"$exists": True}, "deleted": {"$ne": None}}
    documents.update_many(deleted, {"$unset": dict.fromkeys(LEGACY_FIELDS, 1)})


def create_move_index(moves: Documents) -> None:
    """Create the index that makes the revisions of an alias unique; idempotent."""
    keys = [("purpose", pymongo.ASCENDING), ("alias", pymongo.ASCENDING), ("revision", pymongo.DESCENDING)]
    moves.create_index(keys, unique=True)
