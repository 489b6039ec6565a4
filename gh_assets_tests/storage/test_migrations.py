"""Migrations of the database."""

import pytest

from gh_assets.errors import ConfigurationError
from gh_assets.storage.migrations import migrate
from gh_assets.storage.mongo import MongoDatabase


def test_database_of_a_newer_version_is_refused(database: MongoDatabase) -> None:
    database["meta"].update_one({"_id": "schema"}, {"$set": {"version": 999}})
    with pytest.raises(ConfigurationError, match="of a newer version of gh_assets"):
        migrate(database)
