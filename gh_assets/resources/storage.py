"""MongoDB, Google Cloud Storage and the model registry as Dagster resources."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import IO

from dagster import ResourceDependency
from dagster_gcp import GCSResource

from gh_assets.registry import ModelRegistry
from gh_assets.resources.base import SettingsResource, setting
from gh_assets.services.connections import asset_store, connect_gcs, model_store, open_mongo
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import Collections, MongoDatabase
from gh_assets.storage.objects import CloudStorageClient, ObjectStore


class MongoResource(SettingsResource):
    """The project's database: that of ``mongo_uri`` if it is set, else the embedded server's."""

    mongo_uri: str | None = setting("mongo_uri")
    mongo_database: str = setting("mongo_database")

    def database(self) -> AbstractContextManager[MongoDatabase]:
        """Connect to the database for the length of a block."""
        return open_mongo(self.settings())


class GcsResource(SettingsResource, GCSResource):
    """The buckets of data and models: Google's if ``gcs_bucket`` is set, else those of the embedded server."""

    gcs_bucket: str | None = setting("gcs_bucket")
    gcs_model_bucket: str = setting("gcs_model_bucket")
    gcs_project: str | None = setting("gcs_project")
    workers: int = setting("workers")
    keep_versions: int = setting("keep_versions")

    def get_client(self) -> CloudStorageClient:
        """Return a client, as `dagster_gcp.GCSResource` does; its field ``project`` goes before ``gcs_project``."""
        settings = self.settings()
        if self.project is not None:
            settings = settings.model_copy(update={"gcs_project": self.project})
        return connect_gcs(settings)

    def asset_store(self) -> AssetStore:
        """Return typed access to the assets' data."""
        return asset_store(self.settings(), self.get_client())

    def model_store(self) -> ObjectStore:
        """Return the bucket of the models."""
        return model_store(self.settings(), self.get_client())

    def open_object(self, bucket: str, name: str) -> AbstractContextManager[IO[bytes]]:
        """Stream an object of any bucket that the same credentials may read."""
        return self.asset_store().objects.open_in_bucket(bucket, name)


class RegistryResource(SettingsResource):
    """The models: archives in the bucket of ``gcs``, documents in the database of ``mongo``, copies in the home."""

    gcs: ResourceDependency[GcsResource]
    mongo: ResourceDependency[MongoResource]
    warm_starts: int = setting("warm_starts")

    @contextmanager
    def open(self) -> Iterator[ModelRegistry]:
        """Open the registry for the length of a block."""
        with self.mongo.database() as database:
            yield ModelRegistry(self.gcs.model_store(), database[Collections.MODELS])
