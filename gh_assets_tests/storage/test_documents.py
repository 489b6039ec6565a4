"""Tests of the synchronization of documents."""

from gh_assets.storage.documents import SyncCounts, sync_documents
from gh_assets.storage.mongo import MongoDatabase


def test_documents_are_written_only_when_they_change(database: MongoDatabase) -> None:
    things = database["things"]
    documents = [{"_id": number, "value": number} for number in range(2500)]
    assert sync_documents(things, documents) == SyncCounts(2500, 0, 0)
    assert sync_documents(things, documents) == SyncCounts(0, 0, 2500)
    documents[7]["value"] = 0
    assert sync_documents(things, [*documents, {"_id": "new"}]) == SyncCounts(1, 1, 2499)
    assert things.count_documents({}) == 2501
