"""Buckets and objects on disk: an index in SQLite, and one file for the content of each object.

Files have random names, so that no part of a request becomes part of a path. A file is written and synced before it is
added to the index, and removed after it is removed from the index, so that an object exists as a whole or not at all,
whenever the process ends. Files that are not in the index are removed at the next start.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import orjson

SESSION_SECONDS = 7 * 86_400
"""Time for which an upload can be continued, as at Google."""

FOLDERS = 256

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, name TEXT NOT NULL, generation INTEGER NOT NULL, metageneration INTEGER NOT NULL,
    size INTEGER NOT NULL, crc32c TEXT NOT NULL, md5 TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL,
    properties TEXT NOT NULL, file TEXT NOT NULL, PRIMARY KEY (bucket, name)
) WITHOUT ROWID;
"""


Checksums = tuple[int, str, str]
"""Size of a content, and its CRC32C and MD5 in the form of Cloud Storage, base64."""

Properties = Mapping[str, Any]
"""Fields of an object that clients can set, by Google's names."""


class BucketError(Exception):
    """An error response of Cloud Storage: an HTTP status, a reason and a message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def invalid(message: str) -> BucketError:
    return BucketError(400, "invalid", message)


def not_found(what: str) -> BucketError:
    return BucketError(404, "notFound", f"{what} does not exist.")


@dataclass(frozen=True)
class Preconditions:
    """Conditions of a request on the present object (``ifGenerationMatch`` and so on).

    Attributes
    ----------
    generation, generation_not, metageneration, metageneration_not : int or None
        None for no condition. The generation 0 means that the object does not exist.
    """

    generation: int | None = None
    generation_not: int | None = None
    metageneration: int | None = None
    metageneration_not: int | None = None

    def check(self, entry: Entry | None, *, reading: bool = False) -> None:
        """Check the conditions on an object.

        Raises
        ------
        BucketError
            412 if a condition does not hold; 304 if it is one of "not" and the object is only read.
        """
        generation, metageneration = (entry.generation, entry.metageneration) if entry else (0, 0)
        differs = self.generation not in (None, generation) or self.metageneration not in (None, metageneration)
        unchanged = generation == self.generation_not or (entry and metageneration == self.metageneration_not)
        if reading and unchanged and not differs:
            raise BucketError(304, "notModified", "The object has not changed.")
        if differs or unchanged:
            raise BucketError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


@dataclass(frozen=True)
class Entry:
    """The index entry of an object."""

    bucket: str
    name: str
    generation: int
    metageneration: int
    size: int
    crc32c: str
    md5: str
    created: str
    updated: str
    properties: Properties
    file: str


@dataclass
class Draft:
    """A file that is being written, with its checksums."""

    path: Path
    size: int = 0
    crc32c: int = 0
    md5: Any = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))

    def append(self, content: bytes) -> None:
        """Append content; a partial write, as on a full disk, is undone."""
        try:
            with self.path.open("ab") as file:
                file.write(content)
        except OSError:
            os.truncate(self.path, self.size)
            raise
        self.count(content)

    def count(self, content: bytes) -> None:
        """Add content to size and checksums."""
        self.size += len(content)
        self.crc32c = google_crc32c.extend(self.crc32c, content)
        self.md5.update(content)

    @property
    def checksums(self) -> Checksums:
        return self.size, encode_crc32c(self.crc32c), base64.b64encode(self.md5.digest()).decode()

    @classmethod
    def of(cls, path: Path) -> Draft:
        """Continue a file of an earlier process."""
        draft = cls(path)
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                draft.count(part)
        return draft


class Files:
    """All buckets of a home, for any number of threads of one process.

    Parameters
    ----------
    folder : Path
        Created if needed. Only one process at a time may use it.
    """

    def __init__(self, folder: Path) -> None:
        self.content, self.uploads = folder / "content", folder / "uploads"
        for path in (folder, self.content, self.uploads):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        for number in range(FOLDERS):
            (self.content / f"{number:02x}").mkdir(exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._index = sqlite3.connect(folder / "index.sqlite", check_same_thread=False, isolation_level=None)
        self._index.execute("PRAGMA journal_mode = WAL")
        self._index.execute("PRAGMA synchronous = FULL")
        self._index.executescript(_SCHEMA)
        (newest,) = self._index.execute("SELECT max(generation) FROM objects").fetchone()
        self._newest = int(newest or 0)
        self._sweep()

    def close(self) -> None:
        self._index.close()

    # -- buckets ---------------------------------------------------------------------------------------------------

    def create_bucket(self, name: str) -> str:
        """Create a bucket, and return the time of its creation.

        Raises
        ------
        BucketError
            409 if it exists.
        """
        created = timestamp(dt.datetime.now(dt.UTC))
        with self._transaction() as index:
            if index.execute("INSERT OR IGNORE INTO buckets VALUES (?, ?)", (name, created)).rowcount == 0:
                raise BucketError(409, "conflict", "Your previous request to create the named bucket succeeded.")
        return created

    def bucket(self, name: str) -> str:
        """Return the time at which a bucket was created.

        Raises
        ------
        BucketError
            404 if it does not exist.
        """
        with self._lock:
            return self._bucket(name)

    def _bucket(self, name: str) -> str:
        row = self._index.execute("SELECT created FROM buckets WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise BucketError(404, "notFound", "The specified bucket does not exist.")
        return str(row[0])

    def buckets(self) -> list[tuple[str, str]]:
        """Return names and times of creation of all buckets, sorted by name."""
        with self._lock:
            return list(self._index.execute("SELECT name, created FROM buckets ORDER BY name"))

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket.

        Raises
        ------
        BucketError
            404 if it does not exist, 409 if it is not empty.
        """
        with self._transaction() as index:
            self._bucket(name)
            if index.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise BucketError(409, "conflict", "The bucket you tried to delete is not empty.")
            index.execute("DELETE FROM buckets WHERE name = ?", (name,))

    # -- objects ---------------------------------------------------------------------------------------------------

    def find(self, bucket: str, name: str, conditions: Preconditions, generation: int | None = None) -> Entry:
        """Return an object to read.

        Raises
        ------
        BucketError
            404 if the bucket or the object does not exist, or it has another generation; 412 or 304 if a precondition
            does not hold.
        """
        with self._lock:
            return self._find(bucket, name, conditions, generation, reading=True)

    def _find(
        self, bucket: str, name: str, conditions: Preconditions, generation: int | None, *, reading: bool = False
    ) -> Entry:
        entry = self._entry(bucket, name)
        conditions.check(entry, reading=reading)
        if entry is None or generation not in (None, entry.generation):
            raise BucketError(404, "notFound", f"No such object: {bucket}/{name}")
        return entry

    def _entry(self, bucket: str, name: str) -> Entry | None:
        row = self._index.execute("SELECT * FROM objects WHERE bucket = ? AND name = ?", (bucket, name)).fetchone()
        if row is None:
            self._bucket(bucket)
        return None if row is None else _entry_of(row)

    def open(self, entry: Entry) -> BinaryIO:
        """Open the content of an object. It stays readable while the object is replaced or deleted.

        Raises
        ------
        FileNotFoundError
            If the object has been replaced or deleted, or its file is missing.
        """
        return self.path(entry).open("rb")

    def path(self, entry: Entry) -> Path:
        """Return the path of an object's content."""
        return self.content / entry.file[:2] / entry.file

    def entries(self, bucket: str, prefix: str, start: str, after: str) -> Iterator[Entry]:
        """Yield the objects whose names begin with `prefix`, sorted by name.

        Parameters
        ----------
        bucket, prefix : str
        start, after : str
            Lower bounds of the names, inclusive and exclusive; empty for none.
        """
        with self._lock:
            self._bucket(bucket)
        first, rest = max(prefix, start), "name >= ?"
        if after >= first:
            first, rest = after, "name > ?"
        while True:
            with self._lock:
                query = f"SELECT * FROM objects WHERE bucket = ? AND {rest} ORDER BY name LIMIT 1000"  # noqa: S608
                rows = self._index.execute(query, (bucket, first)).fetchall()
            for row in rows:
                entry = _entry_of(row)
                if not entry.name.startswith(prefix):
                    return
                yield entry
            if len(rows) < 1000:
                return
            first, rest = rows[-1][1], "name > ?"

    def new_path(self) -> Path:
        """Return an unused path for the content of an object."""
        name = secrets.token_hex(16)
        return self.content / name[:2] / name

    def draft(self, parts: Iterable[bytes]) -> Draft:
        """Write content to a file."""
        draft = Draft(self.new_path())
        try:
            for part in parts:
                draft.append(part)
        except BaseException:
            draft.path.unlink(missing_ok=True)
            raise
        return draft

    def store(self, bucket: str, name: str, draft: Draft, properties: Properties, conditions: Preconditions) -> Entry:
        """Create or replace an object atomically by a draft, which is deleted if that fails.

        Raises
        ------
        BucketError
            404 if there is no such bucket, 412 if a precondition does not hold, 400 if a checksum in `properties`
            does not match.
        """
        draft.path.touch(0o600)  # a draft without content has no file yet
        return self._commit(bucket, name, draft.path, draft.checksums, properties, conditions)

    def copy(self, source: Entry, bucket: str, name: str, properties: Properties, conditions: Preconditions) -> Entry:
        """Create or replace an object by the content of another one.

        The file is linked, with its recorded checksums, so that damage to the source is detected in the copy.

        Raises
        ------
        BucketError
            As `store`; 404 if the source has been replaced or deleted.
        """
        path = self.new_path()
        try:
            path.hardlink_to(self.path(source))
        except FileNotFoundError:
            raise not_found(f"The generation {source.generation} of {source.bucket}/{source.name}") from None
        checksums = source.size, source.crc32c, source.md5
        return self._commit(bucket, name, path, checksums, properties, conditions)

    def _commit(
        self, bucket: str, name: str, path: Path, checksums: Checksums, given: Properties, conditions: Preconditions
    ) -> Entry:
        kept = dict(given)
        try:
            for key, value in zip(("crc32c", "md5Hash"), checksums[1:], strict=True):
                if (provided := kept.pop(key, value)) != value:
                    raise invalid(f"Provided {key} {provided!r} doesn't match {value!r}.")
            sync(path)
            sync(path.parent)
            now = timestamp(dt.datetime.now(dt.UTC))
            with self._transaction() as index:
                replaced = self._entry(bucket, name)
                conditions.check(replaced)
                self._newest = generation = max(self._newest + 1, time.time_ns() // 1000)
                entry = Entry(bucket, name, generation, 1, *checksums, now, now, kept, path.name)
                _put(index, entry)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if replaced is not None:
            self._delete_file(replaced)
        return entry

    def update(
        self, bucket: str, name: str, new: Properties, conditions: Preconditions, generation: int | None, *, whole: bool
    ) -> Entry:
        """Replace the properties of an object if `whole`, otherwise only the given ones (`metadata` by key).

        Raises
        ------
        BucketError
            404 if it does not exist, 412 if a precondition does not hold.
        """
        with self._transaction() as index:
            present = self._find(bucket, name, conditions, generation)
            properties = new if whole else _merged(present.properties, new)
            now = timestamp(dt.datetime.now(dt.UTC))
            entry = replace(present, metageneration=present.metageneration + 1, updated=now, properties=properties)
            _put(index, entry)
        return entry

    def delete(self, bucket: str, name: str, conditions: Preconditions, generation: int | None) -> None:
        """Delete an object.

        Raises
        ------
        BucketError
            404 if it does not exist, 412 if a precondition does not hold.
        """
        with self._transaction() as index:
            entry = self._find(bucket, name, conditions, generation)
            index.execute("DELETE FROM objects WHERE bucket = ? AND name = ?", (bucket, name))
        self._delete_file(entry)

    def adopt(self, buckets: Mapping[str, str], objects: list[tuple[Entry, Path]]) -> None:
        """Add buckets and objects of another program by links to their files; idempotent.

        Objects that exist already do not change.
        """
        with self._transaction() as index:
            index.executemany("INSERT OR IGNORE INTO buckets VALUES (?, ?)", list(buckets.items()))
            for entry, path in objects:
                if self._entry(entry.bucket, entry.name) is None:
                    self.path(entry).hardlink_to(path)
                    self.path(entry).chmod(0o600)
                    _put(index, entry)
                    self._newest = max(self._newest, entry.generation)
            for number in range(FOLDERS):
                sync(self.content / f"{number:02x}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._index.execute("BEGIN IMMEDIATE")
                yield self._index
                self._index.execute("COMMIT")
            except BaseException:
                if self._index.in_transaction:
                    self._index.execute("ROLLBACK")
                raise

    def _delete_file(self, entry: Entry) -> None:
        self.path(entry).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove files that are not in the index, and expired uploads."""
        known = {str(row[0]) for row in self._index.execute("SELECT file FROM objects")}
        for folder in self.content.iterdir():
            for path in folder.iterdir():
                if path.name not in known:
                    path.unlink()
        oldest = time.time() - SESSION_SECONDS
        for path in self.uploads.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


_COLUMNS = tuple(column.name for column in fields(Entry))
_INSERT = f"INSERT OR REPLACE INTO objects VALUES ({', '.join(f':{column}' for column in _COLUMNS)})"  # noqa: S608


def _entry_of(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Entry(**values | {"properties": orjson.loads(values["properties"])})


def _put(index: sqlite3.Connection, entry: Entry) -> None:
    index.execute(_INSERT, asdict(entry) | {"properties": orjson.dumps(entry.properties).decode()})


def _merged(old: Properties, new: Properties) -> dict[str, Any]:
    """Return the properties after a PATCH, in which null removes a key."""
    merged = dict(old)
    for key, value in new.items():
        if key == "metadata" and isinstance(value, Mapping):
            both = {**(old.get("metadata") or {}), **value}
            merged[key] = {name: one for name, one in both.items() if one is not None}
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def timestamp(moment: dt.datetime) -> str:
    """Return a time in the form of Cloud Storage."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def encode_crc32c(checksum: int) -> str:
    """Return a CRC32C in the form of Cloud Storage, base64."""
    return base64.b64encode(checksum.to_bytes(4, "big")).decode()


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
