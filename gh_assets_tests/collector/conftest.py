"""Fixtures of the collector: collections into one store and one database."""

import pytest

from gh_assets.collector.state import CollectionState
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Collecting, Run
from gh_assets_tests.support.starred import Lists


@pytest.fixture
def collecting(asset_store: AssetStore, database: MongoDatabase, github_of: GitHubOf) -> Collecting:
    return Collecting(asset_store, CollectionState(database), github_of)


@pytest.fixture
def lists(database: MongoDatabase, asset_store: AssetStore, github_of: GitHubOf) -> Lists:
    return Lists(database, asset_store, github_of)


@pytest.fixture
def run(database: MongoDatabase, asset_store: AssetStore, github_of: GitHubOf) -> Run:
    return Run(database, asset_store, github_of)
