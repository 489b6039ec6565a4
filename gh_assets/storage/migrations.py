"""What the database must look like, in numbered steps: each is done once, and doing it twice changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pymongo
from pymongo.errors import CollectionInvalid, OperationFailure

from gh_assets.errors import ConfigurationError
from gh_assets.storage.model_collection import (
    SCHEMA,
    add_original_fields,
    create_indexes,
    create_move_index,
    number_documents,
)
from gh_assets.storage.mongo import Collections, MongoDatabase


def _index_models(database: MongoDatabase) -> None:
    """Versions of a model's name are unique, and so are the moves of an alias."""
    create_indexes(database[Collections.MODELS])
    create_move_index(database[f"{Collections.MODELS}_aliases"])


def _validate_models(database: MongoDatabase) -> None:
    """Mongo refuses documents that are no models, whoever writes them."""
    try:
        database.create_collection(Collections.MODELS, validator=SCHEMA, validationLevel="moderate")
    except CollectionInvalid:  # it is there
        try:
            database.command("collMod", Collections.MODELS, validator=SCHEMA, validationLevel="moderate")
        except OperationFailure:
            return  # a server without validators, or a user who may not set one: the code checks all the same


def _index_feedback(database: MongoDatabase) -> None:
    """What somebody said is found without reading what all said."""
    database[Collections.FEEDBACK].create_index([("said.person", pymongo.ASCENDING), ("said.at", pymongo.DESCENDING)])


def _number_models(database: MongoDatabase) -> None:
    """Models have an order over all names, and the fields that the original system's queries ask for."""
    _index_models(database)
    number_documents(database[Collections.MODELS])
    add_original_fields(database[Collections.MODELS])
    _validate_models(database)


MIGRATIONS: Sequence[Callable[[MongoDatabase], None]] = (
    _index_models,
    _validate_models,
    _index_feedback,
    _number_models,
)
"""In order; only ever added to."""


def migrate(database: MongoDatabase) -> int:
    """Bring a database to this version; gives how many steps that took.

    Raises
    ------
    ConfigurationError
        If it was written by a newer version of the project.
    """
    document = database[Collections.META].find_one({"_id": "schema"})
    done = 0 if document is None else int(document["version"])
    if done > len(MIGRATIONS):
        raise ConfigurationError(
            f"The database {database.name} is of a newer version of gh_assets (of form {done}, this one knows "
            f"{len(MIGRATIONS)}): install that, or set MONGO_DATABASE to another name."
        )
    for number, step in enumerate(MIGRATIONS[done:], start=done + 1):
        step(database)
        # Two at once do the same; the higher number stays.
        database[Collections.META].update_one({"_id": "schema"}, {"$max": {"version": number}}, upsert=True)
    return len(MIGRATIONS) - done
