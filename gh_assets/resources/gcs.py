"""Google Cloud Storage as a Dagster resource: dagster-gcp's own, on the embedded server if no bucket is set."""

from contextlib import AbstractContextManager
from typing import IO

from dagster_gcp import GCSResource

from gh_assets.services.connections import asset_store, connect_gcs, model_store
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import CloudStorageClient, ObjectStore


class GcsResource(GCSResource):
    """Cloud Storage: the buckets of data and models. ``GCS_BUCKET`` switches from the embedded server to Google."""

    def get_client(self) -> CloudStorageClient:
        settings = load_settings()
        if self.project is not None:
            settings = settings.model_copy(update={"gcs_project": self.project})
        return connect_gcs(settings)

    def asset_store(self) -> AssetStore:
        """Typed access to the assets' data."""
        settings = load_settings()
        return asset_store(settings, self.get_client())

    def open_object(self, bucket: str, name: str) -> AbstractContextManager[IO[bytes]]:
        """Stream an object of any bucket that the same credentials may read."""
        return self.asset_store().objects.open_in_bucket(bucket, name)

    def model_store(self) -> ObjectStore:
        """The bucket of the models."""
        return model_store(load_settings(), self.get_client())
