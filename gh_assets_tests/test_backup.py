"""Backup and restoration: everything is there again, models verify, and a half copy is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import bson
import polars as pl
import pytest

from gh_assets.asset_store import AssetStore
from gh_assets.backup import back_up, restore
from gh_assets.errors import InputError, StoredDataError
from gh_assets.objects import ObjectStore
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry
from gh_assets.schemas import USERS
from gh_assets.services import MongoDatabase, connect_mongo
from gh_assets.settings import Settings

USERS_TABLE = pl.DataFrame({"user_id": [1, 2], "login": ["a", "b"], "stars": [3, 4]}, schema=USERS.dtypes)


@pytest.fixture
def stores(objects: ObjectStore, gcs_client) -> dict[str, ObjectStore]:
    return {"data": objects, "models": ObjectStore(gcs_client, f"{objects.name}-m", create=True)}


@pytest.fixture
def empty(
    gcs_client, objects: ObjectStore, settings: Settings
) -> Iterator[tuple[MongoDatabase, dict[str, ObjectStore]]]:
    """Another database and other buckets."""
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
        registry.save(weights, "recvae", score)
    registry.promote("recvae", 2, why="it is better")


def test_all_is_there_again(
    database: MongoDatabase,
    stores: dict[str, ObjectStore],
    empty: tuple[MongoDatabase, dict[str, ObjectStore]],
    tmp_path: Path,
) -> None:
    fill(database, stores, tmp_path)
    copied = back_up(database, stores, tmp_path / "copy")
    assert copied.objects == 4
    (written,) = (found.created for found in stores["data"].list("assets/users"))
    other, places = empty
    assert restore(tmp_path / "copy", other, places).objects == 4
    assert written is not None
    assert AssetStore(places["data"]).undo("users", written) == [], "it is as old as it was"
    assert AssetStore(places["data"]).read_table("users").equals(USERS_TABLE)
    assert places["data"].describe("assets/o\\d name/\u00fc.parquet").metadata["k"] == "v"  # type: ignore[union-attr]
    assert list(other["users"].find().sort("_id", 1)) == list(database["users"].find().sort("_id", 1))
    registry = ModelRegistry(places["models"], other["models"])
    champion = registry.champion()
    assert (champion.version, champion.bucket) == (2, places["models"].name)
    assert registry.aliases.history(PURPOSE, CHAMPION)[0].why == "it is better"
    path = registry.download(champion, tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "weights.bin").read_bytes()
    assert registry.save(path, "recvae", 0.6).version == 3
    assert other["meta"].find_one({"_id": "restoring"}) is None


def test_mongodump_would_have_written_the_same(
    database: MongoDatabase, stores: dict[str, ObjectStore], tmp_path: Path
) -> None:
    fill(database, stores, tmp_path)
    back_up(database, stores, tmp_path / "copy")
    documents = bson.decode_all((tmp_path / "copy/mongo/users.bson").read_bytes())
    assert len(documents) == 2500


def test_a_restoration_that_was_interrupted_goes_on(
    database: MongoDatabase,
    stores: dict[str, ObjectStore],
    empty: tuple[MongoDatabase, dict[str, ObjectStore]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gh_assets import backup

    fill(database, stores, tmp_path)
    back_up(database, stores, tmp_path / "copy")
    other, places = empty
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


def test_nothing_is_written_over_and_nothing_damaged_is_taken(
    database: MongoDatabase,
    stores: dict[str, ObjectStore],
    empty: tuple[MongoDatabase, dict[str, ObjectStore]],
    tmp_path: Path,
) -> None:
    fill(database, stores, tmp_path)
    folder = tmp_path / "copy"
    back_up(database, stores, folder)
    with pytest.raises(InputError, match="exists: name a new folder"):
        back_up(database, stores, folder)
    other, places = empty
    with pytest.raises(InputError, match="holds no whole backup"):
        restore(tmp_path, other, places)
    with pytest.raises(InputError, match=r"has documents|is there already"):
        restore(folder, database, {"data": places["data"], "models": places["models"]})
    places["data"].write("something/else", b"1")
    with pytest.raises(InputError, match=r"something/else is there already"):
        restore(folder, other, places)
    places["data"].delete("something/else")
    manifest = json.loads((folder / "manifest.json").read_text())
    victim = max(manifest["objects"], key=lambda entry: entry["size"])
    (folder / victim["bucket"] / victim["file"]).write_bytes(b"0" * victim["size"])
    with pytest.raises(StoredDataError, match="is not what was backed up"):
        restore(folder, other, places)
