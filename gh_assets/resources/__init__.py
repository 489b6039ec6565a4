"""Dagster resources: small classes that hide the clients. Each has fields of its own, configured from the settings."""

from typing import Any

from gh_assets.resources.alerts import AlertsResource as AlertsResource
from gh_assets.resources.github import GitHubResource as GitHubResource
from gh_assets.resources.policy import PolicyResource as PolicyResource
from gh_assets.resources.storage import GcsResource as GcsResource
from gh_assets.resources.storage import MongoResource as MongoResource
from gh_assets.resources.storage import RegistryResource as RegistryResource
from gh_assets.settings import Settings


def build_resources(settings: Settings) -> dict[str, Any]:
    """Return the resources of the definitions by their keys, configured from settings."""
    gcs, mongo = GcsResource.of(settings), MongoResource.of(settings)
    return {
        "alerts": AlertsResource.of(settings),
        "gcs": gcs,
        "github": GitHubResource.of(settings),
        "mongo": mongo,
        "policy": PolicyResource.of(settings),
        "registry": RegistryResource.of(settings, gcs=gcs, mongo=mongo),
    }
