"""Tests of the checks of services."""

from gh_assets.cli.service_checks import check_mongo
from gh_assets.settings import Settings
from gh_assets.storage.mongo import MongoDatabase


def test_check_of_mongo_reports_a_missing_validator(settings: Settings, database: MongoDatabase) -> None:
    settings = settings.model_copy(update={"mongo_database": database.name})
    assert "no validator" not in check_mongo(settings)
    database.drop_collection("models")
    database["models"].insert_one({"name": "by another program"})
    assert "The collection models has no validator" in check_mongo(settings)
