"""Dagster resources: small classes that hide the clients. The settings decide which service each one reaches."""

from gh_assets.resources.gcs import GcsResource
from gh_assets.resources.github import GitHubResource
from gh_assets.resources.mongo import MongoResource

__all__ = ["GcsResource", "GitHubResource", "MongoResource"]
