"""MongoDB as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import ConfigurableResource

from gh_assets.services.connections import MongoDatabase, claim_world, open_mongo
from gh_assets.settings import load_settings


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
