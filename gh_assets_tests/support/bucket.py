"""Access to the embedded Cloud Storage of a home."""

from __future__ import annotations

from pathlib import Path

from google.cloud import storage
from pydantic import SecretStr

from gh_assets.embedded import servers
from gh_assets.storage.objects import make_client


def bucket_client(home: Path) -> storage.Client:
    """Return a client of a home's embedded Cloud Storage."""
    endpoint, token = servers.cloud_storage(home)
    return make_client(endpoint=endpoint, token=SecretStr(token))
