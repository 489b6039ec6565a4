"""The objects of models in the bucket: uploading, downloading, checking, and removing orphans.

Objects are named by the SHA-256 of their content and are never replaced. An object that no document names is an orphan,
left by a crash or a deleted model; `sweep` removes those that are older than a grace period.

`upload` and `sweep` coordinate through notes in Mongo: the one records that it needs an object, the other that it
deletes it, each in a document of its own, and only then does either read the other's. At least one of two concurrent
processes therefore sees the other.
"""

import datetime as dt
import itertools
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from pymongo.errors import DuplicateKeyError

from gh_assets.errors import ConcurrentWriteError, InputError, StoredDataError
from gh_assets.local.scratch import Scratch
from gh_assets.registry.archives import extract_archive, is_archive, stem_of
from gh_assets.registry.documents import RegisteredModel
from gh_assets.registry.names import check_name
from gh_assets.storage.mongo import Documents
from gh_assets.storage.objects import ABSENT, Digest, ObjectStore, StoredObject

MANAGED_OBJECT = re.compile(r"[^/]+/[0-9a-f]{64}(-\d+)?/[^/]+")
"""Names that `ModelObjects.upload` gives."""

GRACE = dt.timedelta(hours=1)
"""Minimum age of an orphan that is swept: a save in progress is younger."""

_DELETING = "deleting:"
"""Prefix of the notes of sweeps that delete an object."""


class ModelObjects:
    """Objects of the models of one registry.

    Parameters
    ----------
    store : ObjectStore
        Bucket of the models; several registries may share it.
    documents : pymongo.collection.Collection
        Documents of the models.
    notes : pymongo.collection.Collection
        Notes by which uploads and sweeps coordinate.
    """

    def __init__(self, store: ObjectStore, documents: Documents, notes: Documents) -> None:
        self.store, self.documents, self.notes = store, documents, notes

    @cached_property
    def identity(self) -> str:
        """Id of the registry, which its objects carry: no registry sweeps the objects of another one."""
        with suppress(DuplicateKeyError):  # another process was first
            self.notes.insert_one({"_id": "registry", "identity": uuid4().hex})
        document = self.notes.find_one({"_id": "registry"})
        assert document is not None, "it existed or was inserted"
        return str(document["identity"])

    # -- uploading -----------------------------------------------------------------------------------------------

    def upload(self, source: Path, name: str, file_name: str, digest: Digest) -> StoredObject:
        """Store a file under the name that its checksum gives, unless it is there already."""
        metadata = {"sha256": digest.sha256, "registry": self.identity}
        for attempt in itertools.count():
            target = f"{name}/{digest.sha256}{f'-{attempt}' if attempt else ''}/{file_name}"
            if not self.claim(target):
                continue  # it is being deleted: store the file under the next name
            try:
                stored = self.store.write(target, source, if_generation=ABSENT, metadata=metadata)
            except ConcurrentWriteError:
                # The same content was stored by an earlier save, or by a retry of this one.
                existing = self.store.describe(target)
                if existing is None or existing.metadata.get("registry") != self.identity:
                    continue  # another registry may delete its object at any time
                stored = existing
            if (stored.size, stored.crc32c) == (digest.size, digest.crc32c):
                return stored
        raise AssertionError("there is always a next name")

    def claim(self, target: str) -> bool:
        """Record, by the server's clock, that an object is needed; return False if it is being deleted."""
        self.notes.update_one({"_id": target}, {"$currentDate": {"wanted_at": True}}, upsert=True)
        note = self.notes.find_one({"_id": target}) or {}
        # Earlier versions recorded the deletion in this field; a sweep that was killed may have left it.
        return note.get("deleting") is None and self.notes.find_one(_deletions(target)) is None

    # -- checking and downloading ----------------------------------------------------------------------------------

    def problem(self, model: RegisteredModel) -> str | None:
        """Return what is wrong with a model's object according to the bucket's metadata; None if nothing is."""
        if model.bucket != self.store.name:
            return f"it is in another bucket, gs://{model.bucket}"
        stored = self.store.describe(model.object)
        if stored is None:
            return f"{model.uri} is missing"
        for label in ("generation", "size", "crc32c"):
            registered, actual = getattr(model, label), getattr(stored, label)
            if registered is not None and registered != actual:
                return f"{model.uri} has the {label} {actual} instead of {registered}"
        return None

    def verify(self, model: RegisteredModel) -> str | None:
        """Return what is wrong with a model's object by reading it and unpacking archives; None if nothing is."""
        try:
            with Scratch() as scratch:
                self.download(model, scratch, unpack=is_archive(model.file_name))
        except (StoredDataError, InputError) as error:
            return self.problem(model) or str(error)
        return self.problem(model)

    def download(self, model: RegisteredModel, directory: Path, *, unpack: bool = False) -> Path:
        """Download a model's file and verify it; leave nothing behind on failure.

        Returns
        -------
        Path
            The file in `directory` under its registered name; with `unpack`, the folder with the archive's content.

        Raises
        ------
        InputError
            If `unpack` is given for a file that is not an archive.
        StoredDataError
            If the object is missing or not what was registered, or the directory cannot be written to.
        """
        if model.bucket != self.store.name:
            raise StoredDataError(
                f"Model {model.name!r} is stored in gs://{model.bucket}; this registry reads gs://{self.store.name}. "
                "Set GCS_MODEL_BUCKET."
            )
        check_name("file name", model.file_name)
        if unpack and not is_archive(model.file_name):
            raise InputError(f"{model.file_name} of {model.title} is not an archive: download it without unpacking.")
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=directory) as scratch:
                draft = Path(scratch) / model.file_name
                draft.touch(0o600)
                sha256 = self.store.read_to(model.object, draft)
                # The original documents have no SHA-256: for those the bucket's own checksum has to suffice.
                if model.sha256 not in (None, sha256):
                    raise StoredDataError(f"{model.uri} is not what was registered: its SHA-256 differs.")
                if not unpack:
                    return draft.replace(directory / model.file_name)
                target = directory / stem_of(model.file_name)
                extract_archive(draft, target, max_bytes=model.unpacked)
                return target
        except OSError as error:
            raise StoredDataError(
                f"{directory} cannot be written to ({error.strerror or error}): free some space or choose another "
                "folder. Nothing was left there."
            ) from error

    # -- removing orphans --------------------------------------------------------------------------------------------

    def sweep(self, grace: dt.timedelta = GRACE, *, dry_run: bool = False) -> Sequence[StoredObject]:
        """Remove orphans.

        Parameters
        ----------
        grace : timedelta
            Minimum age of an orphan, and of the last upload that needed it.
        dry_run : bool
            Return the orphans without removing them.

        Returns
        -------
        list of StoredObject
            Those that were removed, or would be.
        """
        now = self._server_time()
        named = self._named()
        removed: list[StoredObject] = []
        for stored in self.store.list(""):
            old = stored.created is not None and now - stored.created >= grace
            own = MANAGED_OBJECT.fullmatch(stored.name) and stored.metadata.get("registry") == self.identity
            if not own or not old or stored.name in named:
                continue
            if dry_run or self._remove(stored, now - grace):
                removed.append(stored)
        return removed

    def _remove(self, orphan: StoredObject, claimed_before: dt.datetime) -> bool:
        """Delete an object, unless an upload needs it."""
        own = {"_id": f"{_DELETING}{orphan.name}:{uuid4().hex}"}
        self.notes.update_one(own, {"$currentDate": {"at": True}}, upsert=True)
        # From here on no upload uses the object. One that claimed it before the grace period has its document by now.
        claimed = (self.notes.find_one({"_id": orphan.name}) or {}).get("wanted_at")
        if claimed is not None and not claimed.tzinfo:
            claimed = claimed.replace(tzinfo=dt.UTC)
        if (claimed is not None and claimed >= claimed_before) or orphan.name in self._named(orphan.name):
            self.notes.update_one({"_id": orphan.name}, {"$unset": {"deleting": 1}})
            self.notes.delete_one(own)
            return False
        self.store.delete(orphan.name, if_generation=orphan.generation)
        # The notes go last, including those of killed sweeps: until then no upload uses the name.
        self.notes.delete_one({"_id": orphan.name})
        self.notes.delete_many(_deletions(orphan.name))
        return True

    def _named(self, name: str | None = None) -> set[str]:
        """Return the objects that visible models name, or only `name` if one of them names it."""
        query: dict[str, Any] = {"deleted": None}
        if name is not None:
            query["object"] = name
        found = self.documents.find(query, {"object": 1, "file_name": 1})
        return {str(document.get("object") or document.get("file_name")) for document in found}

    def _server_time(self) -> dt.datetime:
        """Return the time of Mongo's clock, which all processes share."""
        now = self.documents.database.command("hello").get("localTime") or dt.datetime.now(dt.UTC)
        return now if now.tzinfo else now.replace(tzinfo=dt.UTC)


def _deletions(name: str) -> dict[str, Any]:
    """Return the query for the notes of sweeps that delete an object."""
    return {"_id": {"$gte": f"{_DELETING}{name}:", "$lt": f"{_DELETING}{name};"}}
