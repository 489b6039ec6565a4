"""What the tests of the checks share: resources, and the results of checks."""

from typing import Any

import dagster as dg
import pytest

from gh_assets.resources import build_resources
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore


def result_of(check: dg.AssetChecksDefinition, *arguments: Any) -> dg.AssetCheckResult:
    """Return the result of an asset check for its inputs and resources."""
    result = check(*arguments)
    assert isinstance(result, dg.AssetCheckResult)
    return result


def problem_of(result: dg.AssetCheckResult) -> dg.AssetCheckSeverity | None:
    """Return the severity of a check that did not pass; None for one that passed."""
    return None if result.passed else result.severity


@pytest.fixture
def resources(database: MongoDatabase, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The resources by their names, with the test's database and bucket."""
    monkeypatch.setenv("MONGO_DATABASE", database.name)
    monkeypatch.setenv("GCS_MODEL_BUCKET", objects.name)
    return build_resources(load_settings())
