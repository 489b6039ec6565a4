"""Dagster resources: small classes that hide the clients. Each has fields of its own, configured from the settings."""

from typing import Any

from gh_assets.resources.alerts import AlertsResource
from gh_assets.resources.gcs import GcsResource
from gh_assets.resources.github import GitHubResource
from gh_assets.resources.mongo import MongoResource
from gh_assets.resources.policy import PolicyResource
from gh_assets.resources.registry import RegistryResource
from gh_assets.settings import Settings

__all__ = [
    "AlertsResource",
    "GcsResource",
    "GitHubResource",
    "MongoResource",
    "PolicyResource",
    "RegistryResource",
    "build_resources",
]


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
