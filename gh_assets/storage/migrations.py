"""Migrations of the database: numbered, idempotent steps, each applied once."""

import pymongo

from gh_assets.errors import ConfigurationError
from gh_assets.storage import model_collection
from gh_assets.storage.mongo import Collections, MetaId, MongoDatabase


def _index_models(database: MongoDatabase) -> None:
    """Make the versions of a model's name unique, and the revisions of an alias."""
    model_collection.create_indexes(database[Collections.MODELS])
    model_collection.create_move_index(database[f"{Collections.MODELS}_aliases"])


def _validate_models(database: MongoDatabase) -> None:
    """Let MongoDB reject documents that are not valid models."""
    model_collection.update_validator(database[Collections.MODELS])


def _index_feedback(database: MongoDatabase) -> None:
    """Find the feedback of one person by an index."""
    database[Collections.FEEDBACK].create_index([("said.person", pymongo.ASCENDING), ("said.at", pymongo.DESCENDING)])


def _number_models(database: MongoDatabase) -> None:
    """Give models a serial number across all names, and the fields that the original system queries."""
    _index_models(database)
    model_collection.number_documents(database[Collections.MODELS])
    model_collection.add_original_fields(database[Collections.MODELS])
    _validate_models(database)


MIGRATIONS = (_index_models, _validate_models, _index_feedback, _number_models)
"""All steps in order; new ones are appended."""


def migrate(database: MongoDatabase) -> int:
    """Apply the steps that a database lacks, and return their number.

    Raises
    ------
    ConfigurationError
        If a newer version of the project has written the database.
    """
    document = database[Collections.META].find_one({"_id": MetaId.SCHEMA})
    done = 0 if document is None else int(document["version"])
    if done > len(MIGRATIONS):
        raise ConfigurationError(
            f"The database {database.name} is of a newer version of gh_assets (schema {done}, this version knows "
            f"{len(MIGRATIONS)}): install that version, or set MONGO_DATABASE to another name."
        )
    for number, step in enumerate(MIGRATIONS[done:], start=done + 1):
        step(database)
        # Concurrent processes apply the same steps; the highest number wins.
        database[Collections.META].update_one({"_id": MetaId.SCHEMA}, {"$max": {"version": number}}, upsert=True)
    return len(MIGRATIONS) - done
