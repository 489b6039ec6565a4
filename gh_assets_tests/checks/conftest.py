"""What the tests of the checks share: a home's database, registry and resources."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.resources import build_resources
from gh_assets.services.connections import connect_mongo, model_store
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections, MongoDatabase


def result_of(check: dg.AssetChecksDefinition, *arguments: Any) -> dg.AssetCheckResult:
    """Return the result of an asset check for its inputs and resources."""
    result = check(*arguments)
    assert isinstance(result, dg.AssetCheckResult)
    return result


@pytest.fixture
def mongo(fresh_home: Path) -> Iterator[MongoDatabase]:
    """The database of a fresh home."""
    database = connect_mongo(load_settings())
    yield database
    database.client.close()


@pytest.fixture
def resources(fresh_home: Path) -> dict[str, Any]:
    """The resources of the fresh home by their names."""
    return build_resources(load_settings())


@pytest.fixture
def home_registry(mongo: MongoDatabase) -> ModelRegistry:
    """The registry of the fresh home."""
    return ModelRegistry(model_store(load_settings()), mongo[Collections.MODELS])


@pytest.fixture
def save_model(home_registry: ModelRegistry, tmp_path: Path) -> Callable[..., Any]:
    """Register a model of a name with a score."""
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    return lambda name, score, **options: home_registry.save(weights, ModelCard(name, score, **options))
