"""Fixtures of the sources of stars."""

from __future__ import annotations

import pytest

from gh_assets.collector.state import CollectionState
from gh_assets_tests.support.collecting import Collecting
from gh_assets_tests.support.starred import Lists


@pytest.fixture
def collecting(asset_store, database) -> Collecting:
    return Collecting(asset_store, CollectionState(database))


@pytest.fixture
def lists(database, asset_store) -> Lists:
    return Lists(database, asset_store)
