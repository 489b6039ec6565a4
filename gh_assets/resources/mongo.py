"""MongoDB as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import ConfigurableResource

from gh_assets.services.connections import open_mongo
from gh_assets.services.world import claim_world
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import MongoDatabase


class MongoResource(ConfigurableResource):  # type: ignore[type-arg]
    """The project's Mongo database: that of ``MONGO_URI``, else the embedded server."""

    @contextmanager
    def database(self, *, claim: bool = False) -> Iterator[MongoDatabase]:
        """The database, connected and answering.

        Parameters
        ----------
        claim : bool
            For those who write what GitHub said: make sure that the database holds data of this GitHub only.
        """
        settings = load_settings()
        with open_mongo(settings) as database:
            if claim:
                claim_world(settings, database)
            yield database
