"""Fixtures of the collector: collections into one store and one database."""

from __future__ import annotations

import pytest

from gh_assets.collector.state import CollectionState
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.collecting import Collecting, Run
from gh_assets_tests.support.starred import Lists


@pytest.fixture
def collecting(asset_store: AssetStore, database: MongoDatabase) -> Collecting:
    return Collecting(asset_store, CollectionState(database))


@pytest.fixture
def lists(database: MongoDatabase, asset_store: AssetStore) -> Lists:
    return Lists(database, asset_store)


@pytest.fixture
def run(database: MongoDatabase, asset_store: AssetStore) -> Run:
    return Run(database, asset_store)
