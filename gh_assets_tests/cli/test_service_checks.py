"""Tests of the checks of services."""

import pytest

from gh_assets.cli.service_checks import check_content, check_mongo
from gh_assets.services.connections import asset_store
from gh_assets.settings import Settings
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.embeddings import embeddings_of
from gh_assets_tests.support.served_home import ServedHome


def test_check_of_mongo_reports_a_missing_validator(settings: Settings, database: MongoDatabase) -> None:
    settings = settings.model_copy(update={"mongo_database": database.name})
    assert "no validator" not in check_mongo(settings)
    database.drop_collection("models")
    database["models"].insert_one({"name": "by another program"})
    assert "The collection models has no validator" in check_mongo(settings)


@pytest.mark.parametrize("installed", [False, True])
def test_check_of_content_says_what_is_compared(
    own_served_home: ServedHome, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    settings = own_served_home.settings
    monkeypatch.setattr("gh_assets.cli.service_checks.is_installed", lambda: installed)
    advice = "materialize repo_embeddings" if installed else "pip install 'gh_assets[embeddings]'"
    assert check_content(settings).startswith("TF-IDF; ")
    assert advice in check_content(settings)
    asset_store(settings).write_table("repo_embeddings", embeddings_of({1: [1.0], 2: [0.5]}))
    assert check_content(settings).startswith("sentence embeddings of 2 repositories")
    assert (advice in check_content(settings)) == (not installed)
