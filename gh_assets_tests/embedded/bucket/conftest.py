"""Buckets for the tests of the embedded Cloud Storage."""

import pytest
from google.cloud import storage

from gh_assets.storage.objects import ObjectStore


@pytest.fixture
def bucket(gcs_client: storage.Client, objects: ObjectStore) -> storage.Bucket:
    """An empty bucket, by Google's client."""
    return gcs_client.create_bucket(objects.name)
