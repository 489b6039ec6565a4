"""MongoDB as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from gh_assets.resources.base import SettingsResource, setting
from gh_assets.services.connections import open_mongo
from gh_assets.storage.mongo import MongoDatabase


class MongoResource(SettingsResource):
    """The project's database: that of ``mongo_uri`` if it is set, else the embedded server's."""

    mongo_uri: str | None = setting("mongo_uri")
    mongo_database: str = setting("mongo_database")

    @contextmanager
    def database(self) -> Iterator[MongoDatabase]:
        """Connect to the database for the length of a block."""
        with open_mongo(self.settings()) as database:
            yield database
