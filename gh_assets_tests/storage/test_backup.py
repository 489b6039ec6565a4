"""Tests of backup and restoration: they are complete or fail, and an interrupted restoration can be continued."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import Mock

import bson
import polars as pl
import pytest

from gh_assets.errors import InputError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, ModelCard, ModelRegistry, Promotion
from gh_assets.schemas import USERS
from gh_assets.storage import backup
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.backup import BackupSummary, back_up, restore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import CloudStorageClient, ObjectStore
from gh_assets_tests.conftest import MakeDatabase
from gh_assets_tests.support.commands import script

USERS_TABLE = pl.DataFrame({"user_id": [1, 2], "login": ["a", "b"], "stars": [3, 4]}, schema=USERS.dtypes)


@dataclass(frozen=True)
class Services:
    """A database, and buckets by kind, to back up or to restore into."""

    database: MongoDatabase
    stores: dict[str, ObjectStore]

    def back_up(self, folder: Path) -> BackupSummary:
        return back_up(self.database, self.stores, folder)

    def restore(self, folder: Path) -> BackupSummary:
        return restore(folder, self.database, self.stores)

    @property
    def registry(self) -> ModelRegistry:
        return ModelRegistry(self.stores["models"], self.database["models"])


def stores_of(client: CloudStorageClient, name: str) -> dict[str, ObjectStore]:
    return {kind: ObjectStore(client, f"{name}-{kind}", create=True) for kind in ("data", "models")}


@pytest.fixture
def filled(database: MongoDatabase, objects: ObjectStore, gcs_client: CloudStorageClient, tmp_path: Path) -> Services:
    """Services with four objects: a table, another object and two models."""
    services = Services(database, stores_of(gcs_client, objects.name))
    AssetStore(services.stores["data"]).write_table("users", USERS_TABLE)
    services.stores["data"].write("assets/o\\d name/\u00fc.parquet", b"x" * 10, metadata={"k": "v"})
    database["users"].insert_many([{"_id": number, "login": f"user-{number}"} for number in range(2500)])
    database["meta"].insert_one({"_id": "world", "identity": "a world"})
    weights = tmp_path / "weights.bin"
    for score in (0.4, 0.5):
        weights.write_bytes(b"weights" * 300_000 + str(score).encode())
        services.registry.save(weights, ModelCard("recvae", score))
    services.registry.promote(Promotion("recvae", 2, why="it is better"))
    return services


@pytest.fixture
def empty(gcs_client: CloudStorageClient, objects: ObjectStore, make_database: MakeDatabase) -> Services:
    """Another database, and other buckets, to restore into."""
    return Services(make_database(), stores_of(gcs_client, f"{objects.name}-o"))


def test_restoration_has_all_documents_objects_and_models(filled: Services, empty: Services, tmp_path: Path) -> None:
    assert filled.back_up(tmp_path / "copy").objects == 4
    assert len(bson.decode_all((tmp_path / "copy/mongo/users.bson").read_bytes())) == 2500
    (written,) = (found.created for found in filled.stores["data"].list("assets/users"))
    assert written is not None
    assert empty.restore(tmp_path / "copy").objects == 4
    assets = AssetStore(empty.stores["data"])
    assert assets.undo("users", written) == [], "the restored table has its original time"
    assert assets.read_table("users").equals(USERS_TABLE)
    odd = assets.objects.describe("assets/o\\d name/\u00fc.parquet")
    assert odd is not None
    assert odd.metadata["k"] == "v"
    users = [list(services.database["users"].find().sort("_id", 1)) for services in (filled, empty)]
    assert users[0] == users[1]
    registry = empty.registry
    champion = registry.champion()
    assert (champion.version, champion.bucket) == (2, empty.stores["models"].name)
    assert registry.aliases.history(PURPOSE, CHAMPION)[0].why == "it is better"
    path = registry.download(champion, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "weights.bin").read_bytes()
    assert registry.save(path, ModelCard("recvae", 0.6)).version == 3
    assert empty.database["meta"].find_one({"_id": "restoring"}) is None


def test_interrupted_restoration_is_continued(
    filled: Services, empty: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.back_up(tmp_path / "copy")
    real = backup._load

    def stop_at_users(target: MongoDatabase, name: str, path: Path) -> None:
        if name == "users":
            target["users"].insert_many([{"_id": number, "login": f"user-{number}"} for number in range(700)])
            raise KeyboardInterrupt
        real(target, name, path)

    monkeypatch.setattr(backup, "_load", stop_at_users)
    with pytest.raises(KeyboardInterrupt):
        empty.restore(tmp_path / "copy")
    monkeypatch.setattr(backup, "_load", real)
    empty.restore(tmp_path / "copy")
    assert empty.database["users"].count_documents({}) == 2500
    assert empty.registry.champion().version == 2
    with pytest.raises(InputError, match=r"copy was already restored here, completely, at .* UTC"):
        empty.restore(tmp_path / "copy")  # as after a kill at the very end
    filled.back_up(tmp_path / "another")
    with pytest.raises(InputError, match="restore into an empty database"):
        empty.restore(tmp_path / "another")


SLOW_BACKUP = """
import sys
from pathlib import Path
from gh_assets.storage.backup import back_up
from gh_assets.storage.objects import CloudStorageClient, ObjectStore
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
def backup_in_progress(services: Services, folder: Path) -> Iterator[None]:
    """Start a backup in another process, wait until it is in progress, and kill it at the end of the block."""
    names = services.database.name, services.stores["data"].name
    with script(SLOW_BACKUP, *names, folder) as process:
        assert next(iter(process.stdout or ())) == "copied\n"
        try:
            yield
        finally:
            process.kill()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_draft_of_a_killed_backup_is_removed_by_the_next_one(filled: Services, tmp_path: Path) -> None:
    place = tmp_path / "backups"
    foreign = place / ".notes.draft"
    foreign.mkdir(parents=True)
    (foreign / "todo").write_text("not a backup")
    with backup_in_progress(filled, place / "monday"):
        assert names_in(place) == [".monday.draft", ".monday.draft.lock", ".notes.draft"]
        filled.back_up(place / "tuesday")
        assert names_in(place) == [".monday.draft", ".monday.draft.lock", ".notes.draft", "tuesday"], "in progress"
        with pytest.raises(InputError, match="monday is being written by another process"):
            filled.back_up(place / "monday")
    assert (place / ".monday.draft" / "mongo" / "users.bson").stat().st_size > 0, "the kill leaves a draft"
    (place / ".sunday.draft" / "mongo").mkdir(parents=True)  # the draft of an earlier version, without a lock
    filled.back_up(place / "wednesday")
    assert names_in(place) == [".notes.draft", "tuesday", "wednesday"]
    assert (foreign / "todo").exists()


def test_failed_backup_leaves_no_draft(filled: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backups" / "monday"
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "read_to", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(InputError, match=r"cannot be written \(No space left on device\): make room"):
            filled.back_up(folder)
    assert names_in(folder.parent) == []
    assert filled.back_up(folder).objects == 4


def test_existing_content_and_damaged_backups_are_rejected(filled: Services, empty: Services, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    filled.back_up(folder)
    with pytest.raises(InputError, match="exists: name a new folder"):
        filled.back_up(folder)
    with pytest.raises(InputError, match="does not hold a complete backup"):
        empty.restore(tmp_path)
    with pytest.raises(InputError, match=r"has documents|exists already"):
        replace(empty, database=filled.database).restore(folder)
    empty.stores["data"].write("something/else", b"1")
    with pytest.raises(InputError, match=r"something/else exists already"):
        empty.restore(folder)
    empty.stores["data"].delete("something/else")
    manifest = json.loads((folder / "manifest.json").read_text())
    victim = max(manifest["objects"], key=lambda entry: int(entry["size"]))
    (folder / victim["bucket"] / victim["file"]).write_bytes(b"0" * victim["size"])
    with pytest.raises(StoredDataError, match="has changed since the backup"):
        empty.restore(folder)
