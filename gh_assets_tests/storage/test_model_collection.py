"""The collection of models: what Mongo itself refuses, and serial numbers."""

import datetime as dt
from pathlib import Path

import pytest
from pymongo.errors import DuplicateKeyError, WriteError

from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.storage import migrations
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import Save
from gh_assets_tests.support.mongo import the_document


def test_models_without_serials_get_them_once(save: Save, registry: ModelRegistry, database: MongoDatabase) -> None:
    """By time, as far as the versions agree; models of the original system follow those with a version."""
    titles = [save(name).title for name in ("a", "b", "a", "c", "a")]
    times = [5, 4, 3, 6, 7]  # a 2 was registered with a clock behind, and still follows a 1
    for title, hour in zip(titles, times, strict=True):
        name, version = title.split()
        time = dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC)
        change = {"$set": {"time": time}, "$unset": {"serial": 1, "tag": 1, "bucket_name": 1}}
        database["models"].update_one({"name": name, "version": int(version)}, change)
    database["models"].insert_one(
        {"name": "old", "bucket_name": "b", "file_name": "f", "tag": "v0", "time": dt.datetime(2027, 1, 1)}
    )
    registry.delete("c", 1, why="old")
    database["models"].update_one({"name": "c"}, {"$set": {"tag": "", "bucket_name": "b"}})
    migrations.MIGRATIONS[3](database)
    expected = ["a 3", "a 2", "a 1", "b 1", "old of 2027-01-01 00:00"]
    assert [model.title for model in registry.list()] == expected
    before = list(database["models"].find().sort("_id"))
    migrations.MIGRATIONS[3](database)
    assert list(database["models"].find().sort("_id")) == before, "a second migration changes nothing"
    assert save("a").serial == 6
    visible = {"deleted": None, "version": {"$exists": True}}
    assert {document["bucket_name"] for document in database["models"].find(visible)} == {registry.store.name}
    assert all(document["tag"] == "" for document in database["models"].find(visible))
    assert "tag" not in the_document(database["models"], name="c")
    tagged = save("a", tags=("first", "second"))
    database["models"].update_one({"version": tagged.version, "name": "a"}, {"$unset": {"tag": 1, "bucket_name": 1}})
    migrations.MIGRATIONS[3](database)
    document = the_document(database["models"], version=tagged.version, name="a")
    assert (document["tag"], document["bucket_name"]) == ("first", registry.store.name)


def test_validator_refuses_malformed_documents(registry: ModelRegistry, database: MongoDatabase, save: Save) -> None:
    save()
    migrations.migrate(database)
    migrations.migrate(database)
    for wrong in ({"name": {"$ne": ""}}, {"name": "a", "version": 0}, {"name": "a", "score": "high"}):
        with pytest.raises(WriteError, match="failed validation"):
            database["models"].insert_one({"time": dt.datetime.now(dt.UTC), **wrong})
    assert save().version == 2


@pytest.mark.parametrize("number", ["version", "serial"])
def test_index_refuses_numbers_that_are_taken(save: Save, database: MongoDatabase, number: str) -> None:
    save(), save()
    again = the_document(database["models"], version=1)
    free = {"_id": "free", "version": 9, "serial": 9} | {number: 1}
    with pytest.raises(DuplicateKeyError):
        database["models"].insert_one(again | free)
    database["models"].insert_one({"name": "recvae", "time": again["time"]})
    database["models"].insert_one({"name": "recvae", "time": again["time"]})
    assert save().version == 3, "documents without numbers do not conflict"


def test_collection_is_created_with_its_validator(registry: ModelRegistry, file: Path) -> None:
    registry.save(file, ModelCard("recvae", 0.5))
    assert "validator" in registry.documents.options()
