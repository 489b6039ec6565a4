"""Fixtures of the tests of serving."""

import pytest

from gh_assets.registry import ModelRegistry
from gh_assets.registry.cache import ModelCache
from gh_assets_tests.support.registered_models import RegisteredModels


@pytest.fixture
def models(registry: ModelRegistry, cache: ModelCache) -> RegisteredModels:
    """No models yet."""
    return RegisteredModels(registry, cache)
