"""Tests of backup and restoration: they are complete or fail, and an interrupted restoration can be continued."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bson
import polars as pl
import pytest

from gh_assets.errors import InputError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, ModelCard, ModelRegistry, Promotion
from gh_assets.schemas import USERS
from gh_assets.services.connections import connect_mongo
from gh_assets.settings import Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.backup import back_up, restore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import CloudStorageClient, ObjectStore
from gh_assets_tests.support.paths import CHECKOUT

USERS_TABLE = pl.DataFrame({"user_id": [1, 2], "login": ["a", "b"], "stars": [3, 4]}, schema=USERS.dtypes)


@pytest.fixture
def stores(objects: ObjectStore, gcs_client: CloudStorageClient) -> dict[str, ObjectStore]:
    return {"data": objects, "models": ObjectStore(gcs_client, f"{objects.name}-m", create=True)}


@pytest.fixture
def empty_services(
    gcs_client: CloudStorageClient, objects: ObjectStore, settings: Settings
) -> Iterator[tuple[MongoDatabase, dict[str, ObjectStore]]]:
    """Another database, and other buckets, to restore into."""
    database = connect_mongo(settings.model_copy(update={"mongo_database": f"other_{objects.name[-12:]}"}))
    names = {"data": f"{objects.name}-o", "models": f"{objects.name}-p"}
    yield database, {kind: ObjectStore(gcs_client, name, create=True) for kind, name in names.items()}
    database.client.drop_database(database.name)
    database.client.close()


def fill(database: MongoDatabase, stores: dict[str, ObjectStore], folder: Path) -> None:
    AssetStore(stores["data"]).write_table("users", USERS_TABLE)
    stores["data"].write("assets/o\\d name/\u00fc.parquet", b"x" * 10, metadata={"k": "v"})
    database["users"].insert_many([{"_id": number, "login": f"user-{number}"} for number in range(2500)])
    database["meta"].insert_one({"_id": "world", "identity": "a world"})
    registry = ModelRegistry(stores["models"], database["models"])
    weights = folder / "weights.bin"
    for score in (0.4, 0.5):
        weights.write_bytes(b"weights" * 300_000 + str(score).encode())
        registry.save(weights, ModelCard("recvae", score))
    registry.promote(Promotion("recvae", 2, why="it is better"))


def test_restored_services_have_all_documents_objects_and_models(
    database: MongoDatabase,
    stores: dict[str, ObjectStore],
    empty_services: tuple[MongoDatabase, dict[str, ObjectStore]],
    tmp_path: Path,
) -> None:
    fill(database, stores, tmp_path)
    copied = back_up(database, stores, tmp_path / "copy")
    assert copied.objects == 4
    (written,) = (found.created for found in stores["data"].list("assets/users"))
    other, places = empty_services
    assert restore(tmp_path / "copy", other, places).objects == 4
    assert written is not None
    assert AssetStore(places["data"]).undo("users", written) == [], "the restored table has its original time"
    assert AssetStore(places["data"]).read_table("users").equals(USERS_TABLE)
    assert places["data"].describe("assets/o\\d name/\u00fc.parquet").metadata["k"] == "v"  # type: ignore[union-attr]
    assert list(other["users"].find().sort("_id", 1)) == list(database["users"].find().sort("_id", 1))
    registry = ModelRegistry(places["models"], other["models"])
    champion = registry.champion()
    assert (champion.version, champion.bucket) == (2, places["models"].name)
    assert registry.aliases.history(PURPOSE, CHAMPION)[0].why == "it is better"
    path = registry.download(champion, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "weights.bin").read_bytes()
    assert registry.save(path, ModelCard("recvae", 0.6)).version == 3
    assert other["meta"].find_one({"_id": "restoring"}) is None


def test_documents_of_a_backup_are_bson(
    database: MongoDatabase, stores: dict[str, ObjectStore], tmp_path: Path
) -> None:
    fill(database, stores, tmp_path)
    back_up(database, stores, tmp_path / "copy")
    documents = bson.decode_all((tmp_path / "copy/mongo/users.bson").read_bytes())
    assert len(documents) == 2500


def test_interrupted_restoration_is_continued(
    database: MongoDatabase,
    stores: dict[str, ObjectStore],
    empty_services: tuple[MongoDatabase, dict[str, ObjectStore]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gh_assets.storage import backup

    fill(database, stores, tmp_path)
    back_up(database, stores, tmp_path / "copy")
    other, places = empty_services
    real = backup._load

    def stop_at_users(target: MongoDatabase, name: str, path: Path) -> None:
        if name == "users":
            target["users"].insert_many([{"_id": number, "login": f"user-{number}"} for number in range(700)])
            raise KeyboardInterrupt
        real(target, name, path)

    monkeypatch.setattr(backup, "_load", stop_at_users)
    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "copy", other, places)
    monkeypatch.setattr(backup, "_load", real)
    restore(tmp_path / "copy", other, places)
    assert other["users"].count_documents({}) == 2500
    assert ModelRegistry(places["models"], other["models"]).champion().version == 2
    with pytest.raises(InputError, match=r"copy was already restored here, completely, at .* UTC"):
        restore(tmp_path / "copy", other, places)  # as after a kill at the very end
    back_up(database, stores, tmp_path / "another")
    with pytest.raises(InputError, match="restore into an empty database"):
        restore(tmp_path / "another", other, places)


SLOW_BACKUP = """
import sys
from pathlib import Path
from gh_assets.storage.backup import back_up
from gh_assets.storage.objects import ObjectStore
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import load_settings
settings, real = load_settings(), ObjectStore.read_to
def slow(self, name, path, **more):
    found = real(self, name, path, **more)
    print("copied", flush=True)
    sys.stdin.readline()
    return found
ObjectStore.read_to = slow
database = connect_mongo(settings.model_copy(update={"mongo_database": sys.argv[1]}))
store = ObjectStore(connect_gcs(settings), sys.argv[2])
back_up(database, {"data": store}, Path(sys.argv[3]), workers=1)
"""


@contextmanager
def backup_in_progress(database: MongoDatabase, store: ObjectStore, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a backup in another process, wait until it is in progress, and kill it at the end of the block."""
    command = [sys.executable, "-W", "ignore", "-c", SLOW_BACKUP, database.name, store.name, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "copied\n"
        try:
            yield process
        finally:
            process.kill()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_draft_of_a_killed_backup_is_removed_by_the_next_one(
    database: MongoDatabase, stores: dict[str, ObjectStore], tmp_path: Path
) -> None:
    fill(database, stores, tmp_path)
    place = tmp_path / "backups"
    foreign = place / ".notes.draft"
    foreign.mkdir(parents=True)
    (foreign / "todo").write_text("not a backup")
    with backup_in_progress(database, stores["data"], place / "monday"):
        assert names_in(place) == [".monday.draft", ".monday.draft.lock", ".notes.draft"]
        back_up(database, stores, place / "tuesday")
        assert names_in(place) == [".monday.draft", ".monday.draft.lock", ".notes.draft", "tuesday"], "in progress"
        with pytest.raises(InputError, match="monday is being written by another process"):
            back_up(database, stores, place / "monday")
    assert (place / ".monday.draft" / "mongo" / "users.bson").stat().st_size > 0, "the kill leaves a draft"
    (place / ".sunday.draft" / "mongo").mkdir(parents=True)  # the draft of an earlier version, without a lock
    back_up(database, stores, place / "wednesday")
    assert names_in(place) == [".notes.draft", "tuesday", "wednesday"]
    assert (foreign / "todo").exists()


def test_failed_backup_leaves_no_draft(
    database: MongoDatabase, stores: dict[str, ObjectStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, stores, tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "read_to", full)
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\): make room"):
            back_up(database, stores, tmp_path / "backups" / "monday")
    assert names_in(tmp_path / "backups") == []
    assert back_up(database, stores, tmp_path / "backups" / "monday").objects == 4


def test_existing_content_is_not_overwritten_and_a_damaged_backup_is_rejected(
    database: MongoDatabase,
    stores: dict[str, ObjectStore],
    empty_services: tuple[MongoDatabase, dict[str, ObjectStore]],
    tmp_path: Path,
) -> None:
    fill(database, stores, tmp_path)
    folder = tmp_path / "copy"
    back_up(database, stores, folder)
    with pytest.raises(InputError, match="exists: name a new folder"):
        back_up(database, stores, folder)
    other, places = empty_services
    with pytest.raises(InputError, match="does not hold a complete backup"):
        restore(tmp_path, other, places)
    with pytest.raises(InputError, match=r"has documents|exists already"):
        restore(folder, database, {"data": places["data"], "models": places["models"]})
    places["data"].write("something/else", b"1")
    with pytest.raises(InputError, match=r"something/else exists already"):
        restore(folder, other, places)
    places["data"].delete("something/else")
    manifest = json.loads((folder / "manifest.json").read_text())
    victim = max(manifest["objects"], key=lambda entry: entry["size"])
    (folder / victim["bucket"] / victim["file"]).write_bytes(b"0" * victim["size"])
    with pytest.raises(StoredDataError, match="has changed since the backup"):
        restore(folder, other, places)
