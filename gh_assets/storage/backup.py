"""Backups: MongoDB's collections as BSON, in the form of ``mongodump``, and the buckets' objects as files.

A backup is complete or does not exist: it is written to a draft folder that is renamed at the end. It may include
concurrent writes or not, but no object is mixed: documents are read before the objects that they name, and objects are
replaced, never changed.

The process that writes a draft holds a lock beside it, which the kernel releases when the process ends: the next backup
in the same folder removes the drafts of killed ones.
"""

import datetime as dt
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import bson
from pymongo import UpdateMany

from gh_assets.errors import InputError, StoredDataError
from gh_assets.local.concurrency import map_bounded
from gh_assets.local.locks import open_lock, try_lock
from gh_assets.storage.asset_store import WRITTEN
from gh_assets.storage.documents import insert_missing
from gh_assets.storage.model_collection import add_original_fields, number_documents
from gh_assets.storage.mongo import Collections, Documents, MetaId, MongoDatabase
from gh_assets.storage.objects import ABSENT, ObjectStore, StoredObject

MANIFEST = "manifest.json"
FORMAT = 1
BATCH = 1000

Stores = dict[str, ObjectStore]
"""Buckets by kind: ``data``, ``models``."""


@dataclass(frozen=True)
class BackupSummary:
    """Number of documents and objects, and bytes of the objects, that were copied."""

    documents: int
    objects: int
    bytes: int


def back_up(database: MongoDatabase, stores: Stores, folder: Path, *, workers: int = 8) -> BackupSummary:
    """Write a backup.

    Parameters
    ----------
    database : pymongo database
    stores : dict of str to ObjectStore
    folder : Path
        Must not exist.
    workers : int
        Number of concurrent downloads.

    Raises
    ------
    InputError
        If the folder exists or cannot be written.
    """
    if folder.exists():
        raise InputError(f"{folder} exists: name a new folder for the backup.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        clear_dead_drafts(folder.parent)
        with _draft_of(folder) as draft:
            return _write(database, stores, draft, folder, workers)
    except OSError as error:
        raise InputError(f"The backup {folder} cannot be written ({error.strerror}): make room.") from error


def _write(database: MongoDatabase, stores: Stores, draft: Path, folder: Path, workers: int) -> BackupSummary:
    (draft / "mongo").mkdir(parents=True)
    names = sorted(name for name in database.list_collection_names() if not name.startswith("system."))
    collections = {name: _dump(database, name, draft / "mongo") for name in names}
    objects: list[dict[str, Any]] = []
    for kind, store in stores.items():
        place = draft / kind
        place.mkdir()

        def fetch(stored: StoredObject, store: ObjectStore = store, place: Path = place) -> dict[str, Any]:
            name = hashlib.sha256(stored.name.encode()).hexdigest()
            sha256 = store.read_to(stored.name, place / name)
            size = (place / name).stat().st_size
            # The bucket will report the time of the restoration.
            meta = dict(stored.metadata) if stored.created is None else {WRITTEN: stored.created.isoformat()}
            meta |= stored.metadata
            return {"name": stored.name, "file": name, "sha256": sha256, "size": size, "meta": meta}

        described = list(map_bounded(fetch, store.list(""), workers))
        objects += [{"bucket": kind, **entry} for entry in described]
    objects.sort(key=lambda entry: (entry["bucket"], entry["name"]))
    made_at = dt.datetime.now(dt.UTC).isoformat()
    manifest = {"format": FORMAT, "made_at": made_at, "collections": collections, "objects": objects}
    (draft / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    draft.rename(folder)
    return BackupSummary(sum(collections.values()), len(objects), sum(entry["size"] for entry in objects))


def clear_dead_drafts(folder: Path) -> None:
    """Remove the drafts that killed backups left in a folder.

    Drafts in progress and folders that are not drafts stay.
    """
    drafts = {path for path in folder.glob(".*.draft") if (path / "mongo").is_dir()}  # earlier versions had no locks
    drafts |= {path.with_suffix("") for path in folder.glob(".*.draft.lock")}
    for draft in sorted(drafts):
        with suppress(OSError), _locked(draft) as locked:  # another user's draft cannot be removed
            if locked and (draft / "mongo").is_dir():
                shutil.rmtree(draft)


@contextmanager
def _draft_of(folder: Path) -> Iterator[Path]:
    """Lock a draft folder for the duration of the block, and remove what is left of it."""
    draft = folder.with_name(f".{folder.name}.draft")
    with _locked(draft) as locked:
        if not locked:
            raise InputError(f"{folder} is being written by another process: name another folder for the backup.")
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(draft: Path) -> Iterator[bool]:
    """Hold the lock of a draft for the duration of the block; False if another process holds it."""
    lock = draft.with_name(f"{draft.name}.lock")
    while True:
        descriptor = open_lock(lock)
        try:
            if not try_lock(descriptor):
                yield False
                return
            # Its previous owner may have removed the file before it was locked here.
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                try:
                    yield True
                finally:
                    lock.unlink(missing_ok=True)
                return
        finally:
            os.close(descriptor)


def restore(folder: Path, database: MongoDatabase, stores: Stores, *, workers: int = 8) -> BackupSummary:
    """Restore a backup into an empty database and empty buckets; an interrupted restoration is continued.

    Objects get new generations, which the documents of the models are updated to.

    Raises
    ------
    InputError
        If the folder does not hold a complete backup, or the database or a bucket has other content.
    StoredDataError
        If a file of the backup has changed.
    """
    manifest = _read_manifest(folder)
    expected = {(entry["bucket"], entry["name"]) for entry in manifest["objects"]}
    for kind, store in stores.items():
        foreign = next((name for name in store.names("") if (kind, name) not in expected), None)
        if foreign is not None:
            raise InputError(f"{store.uri(foreign)} exists already: restore into empty buckets.")
    _begin_restoration(folder, manifest, database)

    def upload(entry: dict[str, Any]) -> StoredObject:
        path = folder / entry["bucket"] / entry["file"]
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise StoredDataError(f"{path} has changed since the backup: its SHA-256 differs.")
        store = stores[entry["bucket"]]
        present = store.describe(entry["name"])
        if present is not None and present.size == entry["size"]:
            return present
        generation = ABSENT if present is None else present.generation
        content = path.read_bytes() if entry["size"] < 1 << 20 else path
        return store.write(entry["name"], content, if_generation=generation, metadata=entry["meta"])

    stored = list(map_bounded(upload, manifest["objects"], workers))
    for name in manifest["collections"]:
        _load(database, name, folder / "mongo" / f"{name}.bson")
    models = database[Collections.MODELS]
    number_documents(models)  # an earlier version may have written the backup
    add_original_fields(models)
    _update_model_locations(models, (entry for entry in stored if entry.bucket == stores["models"].name))
    # A rerun after a kill at this point reports that the restoration was complete.
    done = {"backup": manifest["made_at"], "at": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"}
    database[Collections.META].replace_one({"_id": MetaId.RESTORED}, done, upsert=True)
    database[Collections.META].delete_one({"_id": MetaId.RESTORING})
    return BackupSummary(sum(manifest["collections"].values()), len(stored), sum(entry.size for entry in stored))


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} does not hold a complete backup: {MANIFEST} cannot be read.") from error
    if manifest.get("format") != FORMAT:
        raise InputError(f"{folder} was written by another version (format {manifest.get('format')}, not {FORMAT}).")
    return manifest


def _begin_restoration(folder: Path, manifest: dict[str, Any], database: MongoDatabase) -> None:
    """Check that the database is empty, or that this restoration has begun there, and mark it as begun."""
    meta = database[Collections.META]
    marker = {"_id": MetaId.RESTORING, "backup": manifest["made_at"]}
    if meta.find_one(marker) is not None:
        return
    foreign = {"_id": {"$nin": [MetaId.SCHEMA, MetaId.WORLD]}}  # opening a database records its schema version
    full = next((name for name in manifest["collections"] if database[name].find_one(foreign) is not None), None)
    if full is not None:
        done = meta.find_one({"_id": MetaId.RESTORED, "backup": manifest["made_at"]})
        if done is not None:
            raise InputError(f"{folder} was already restored here, completely, at {done['at']}.")
        raise InputError(f"The collection {full} of {database.name} has documents: restore into an empty database.")
    meta.insert_one(marker)


def _dump(database: MongoDatabase, name: str, folder: Path) -> int:
    count = 0
    with (folder / f"{name}.bson").open("wb") as file:
        # Each batch is a sequence of raw documents, which pymongo annotates as one document.
        for batch in database[name].find_raw_batches({}, batch_size=BATCH):
            documents = cast("bytes", batch)
            file.write(documents)
            count += len(bson.decode_all(documents))
    return count


def _load(database: MongoDatabase, name: str, path: Path) -> None:
    """Insert the documents that an interrupted restoration has not inserted."""
    with path.open("rb") as file:
        documents = bson.decode_file_iter(file)
        while batch := list(islice(documents, BATCH)):
            insert_missing(database[name], batch)


def _update_model_locations(models: Documents, objects: Iterable[StoredObject]) -> None:
    """Let the documents of models name their objects' new places, also in the field of the original system."""
    changes: list[UpdateMany] = []
    for stored in objects:
        place = {"generation": stored.generation, "bucket": stored.bucket}
        original = {"object": stored.name, "bucket_name": {"$exists": True}}
        changes.append(UpdateMany({"object": stored.name}, {"$set": place}))
        changes.append(UpdateMany(original, {"$set": {"bucket_name": stored.bucket}}))
    if changes:
        models.bulk_write(changes, ordered=False)
