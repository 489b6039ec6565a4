"""The model registry as a Dagster resource."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import ResourceDependency

from gh_assets.registry import ModelRegistry
from gh_assets.resources.base import SettingsResource
from gh_assets.resources.gcs import GcsResource
from gh_assets.resources.mongo import MongoResource
from gh_assets.storage.mongo import Collections


class RegistryResource(SettingsResource):
    """The models: archives in the bucket of ``gcs``, documents in the database of ``mongo``, copies in the home."""

    gcs: ResourceDependency[GcsResource]
    mongo: ResourceDependency[MongoResource]

    @contextmanager
    def open(self) -> Iterator[ModelRegistry]:
        """Open the registry for the length of a block."""
        with self.mongo.database() as database:
            yield ModelRegistry(self.gcs.model_store(), database[Collections.MODELS])
