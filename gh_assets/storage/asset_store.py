"""Typed storage of assets in a bucket: Parquet for tables, ``.npz`` for the matrix.

An asset, or a partition of an asset, is one object, which is replaced atomically.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import polars as pl
from pyarrow import ArrowException

from gh_assets.errors import InputError, StoredDataError
from gh_assets.local.concurrency import map_bounded
from gh_assets.local.memory import check_parquet, check_zip
from gh_assets.local.scratch import Scratch
from gh_assets.schemas import TABLES
from gh_assets.storage.objects import ABSENT, ObjectStore, StoredObject, checksum

if TYPE_CHECKING:
    from gh_assets.recommender.data.interactions import UserItemMatrix

logger = logging.getLogger(__name__)

PREFIX = "assets"

VERSIONS = "versions"
"""Prefix of the earlier versions of an object."""

DAMAGED = "damaged"
"""Prefix of the copies of unreadable objects."""

KEEP = 3
"""Default number of earlier versions per object."""

REPLACES = "replaces"
"""Metadata key of an object: the generation that it replaced, 0 if none."""

WRITTEN = "written"
"""Metadata key of a restored object: the time at which its content was written first."""

STAMP = "%Y%m%dT%H%M%S.%f"
PARQUET = "application/vnd.apache.parquet"

PARTITIONS_PER_FETCH = 64
"""Number of partitions that are fetched by one thread and parsed together."""

ByName = Mapping[str, StoredObject]
"""Objects by their names."""

UNREADABLE = (pl.exceptions.PolarsError, OSError, ArrowException)
"""Errors of content that is not a Parquet file, or lacks what a view needs."""


@dataclass(frozen=True)
class TableView:
    """A selection of columns and rows of a table; others are not decoded.

    Attributes
    ----------
    columns : tuple of str or None
        None for all columns.
    where : str or None
        SQL condition on the rows, such as ``starred_at >= '2026-01-01'``; None for all rows.
    """

    columns: tuple[str, ...] | None = None
    where: str | None = None

    def of(self, contents: list[bytes]) -> pl.DataFrame:
        """Decode the selection of the table that several Parquet files form."""
        frame = pl.scan_parquet(contents)
        if self.where is not None:
            frame = frame.filter(pl.sql_expr(self.where))
        return (frame if self.columns is None else frame.select(self.columns)).collect()


WHOLE = TableView()
"""All columns and rows."""


class AssetStore:
    """Typed access to assets.

    Parameters
    ----------
    objects : ObjectStore
    workers : int
        Number of objects read or written concurrently.
    keep : int
        Number of earlier versions that are kept of each object, so that a bad run can be undone.
    """

    def __init__(self, objects: ObjectStore, workers: int = 8, keep: int = KEEP) -> None:
        self.objects, self.workers, self.keep = objects, workers, keep

    # -- tables --------------------------------------------------------------------------------------------------

    def write_table(
        self, asset: str, table: pl.DataFrame, partition: str | None = None, present: ByName | None = None
    ) -> StoredObject:
        """Replace a table. Columns of assets in `gh_assets.schemas` are checked.

        Parameters
        ----------
        asset : str
        table : polars.DataFrame
        partition : str, optional
        present : mapping of str to StoredObject, optional
            The objects that are known to exist; by default the bucket is asked.

        Raises
        ------
        StoredDataError
            If a column does not match the schema; the message names it.
        """
        _check(asset, table, "cannot be stored")
        buffer = BytesIO()
        table.write_parquet(buffer, compression="zstd", statistics=False)
        return self._replace(object_name(asset, "parquet", partition), buffer.getvalue(), PARQUET, present)

    def write_parts(self, asset: str, parts: TableParts) -> StoredObject:
        """Replace a table by the frames of `parts`, one row group at a time.

        Raises
        ------
        StoredDataError
            If there are no parts, or they belong to another asset. The stored table does not change.
        """
        if not parts.files or parts.asset != asset:
            reason = f"the parts are those of {parts.asset}" if parts.files else "it has no parts"
            raise StoredDataError(f"The asset {asset} cannot be stored: {reason}.")
        whole = parts.folder / "whole.parquet"
        pl.scan_parquet(parts.files).sink_parquet(whole, compression="zstd", statistics=False, maintain_order=True)
        return self._replace(object_name(asset, "parquet"), whole, PARQUET)

    def read_table(self, asset: str, partition: str | None = None, view: TableView = WHOLE) -> pl.DataFrame:
        """Read a table, or a view of it, and check its columns.

        Raises
        ------
        StoredDataError
            If it does not exist, cannot be read, or a column does not match the schema.
        """
        name = object_name(asset, "parquet", partition)
        return self._parsed(asset, name, self.objects.read(name), view)

    def scan_table(self, asset: str, folder: Path) -> pl.LazyFrame | None:
        """Download a table that may not fit into memory into a folder, and return it as a lazy frame.

        Returns
        -------
        polars.LazyFrame or None
            None if there is no such table.

        Raises
        ------
        StoredDataError
            If it cannot be read, or a column does not match the schema.
        """
        name = object_name(asset, "parquet")
        if self.objects.describe(name) is None:
            return None
        path = folder / "stored.parquet"
        self.objects.read_to(name, path)
        try:
            table = TABLES[asset].completed(pl.scan_parquet(path))
            first = table.head(1).collect()
        except UNREADABLE as error:
            raise StoredDataError(f"{self.objects.uri(name)} is not readable Parquet: {error}.") from error
        _check(asset, first, f"at {self.objects.uri(name)} does not fit this version")
        return table

    def read_table_with_checksum(self, asset: str, partition: str | None = None) -> tuple[pl.DataFrame, str]:
        """Read a table as `read_table` does, and return the CRC32C of its object in base64."""
        name = object_name(asset, "parquet", partition)
        content = self.objects.read(name)
        return self._parsed(asset, name, content), checksum(content)

    def _parsed(self, asset: str, name: str, content: bytes, view: TableView = WHOLE) -> pl.DataFrame:
        try:
            check_parquet(self.objects.uri(name), content)
            table = view.of([content])
        except UNREADABLE as error:
            viewed = "" if view == WHOLE else f" with {view}"
            raise StoredDataError(f"{self.objects.uri(name)} is not readable Parquet{viewed}: {error}.") from error
        if view == WHOLE and asset in TABLES:
            table = TABLES[asset].completed(table)
        _check(asset, table, f"at {self.objects.uri(name)} does not fit this version", view)
        return table

    def write_tables(self, asset: str, tables: Iterable[tuple[str, pl.DataFrame]]) -> Iterator[StoredObject]:
        """Write partitions concurrently, as the result is iterated over; `tables` is consumed lazily."""
        # One listing replaces a request per object, which would take as long as the write.
        present = {stored.name: stored for stored in self.objects.list(f"{PREFIX}/{asset}/")}

        return map_bounded(lambda part: self.write_table(asset, part[1], part[0], present), tables, self.workers)

    def read_tables(self, asset: str, partitions: Iterable[str]) -> dict[str, pl.DataFrame]:
        """Read partitions concurrently; return those that exist, in the order given."""
        present = self.partitions(asset)
        stored = [partition for partition in partitions if partition in present]

        tables = dict(map_bounded(lambda name: (name, self.read_table(asset, name)), stored, self.workers))
        return {partition: tables[partition] for partition in stored}

    def read_whole(self, asset: str, partitions: Iterable[str], view: TableView = WHOLE) -> pl.DataFrame | None:
        """Read partitions into one frame, in the order given; None if none of them exists.

        Partitions are fetched and parsed in batches, which is several times faster than one by one. Only one thread
        parses, which keeps peak memory below twice the frame, because the allocator retains freed memory per thread.

        Raises
        ------
        StoredDataError
            If a partition cannot be read, or a column does not match; the message names both.
        """
        present = self.partitions(asset)
        names = [object_name(asset, "parquet", partition) for partition in partitions if partition in present]
        batches = [names[start : start + PARTITIONS_PER_FETCH] for start in range(0, len(names), PARTITIONS_PER_FETCH)]

        def fetch(number: int) -> tuple[int, list[bytes]]:
            return number, [self.objects.read(name) for name in batches[number]]

        frames: dict[int, pl.DataFrame] = {}
        for number, contents in map_bounded(fetch, range(len(batches)), self.workers, window=self.workers + 2):
            content_of = dict(zip(batches[number], contents, strict=True))
            try:
                for name, content in content_of.items():
                    check_parquet(self.objects.uri(name), content)
                table = view.of(contents)
                _check(asset, table, "does not fit this version", view)
            except (*UNREADABLE, StoredDataError):
                # Parse one by one, so that the error names the partition.
                parsed = {name: self._parsed(asset, name, content, view) for name, content in content_of.items()}
                table = self._joined(parsed)
            frames[number] = table.rechunk()  # each chunk of strings allocates 8 kB, whatever it holds
        parts = {batches[number][0]: frames[number] for number in sorted(frames)}
        return self._joined(parts) if parts else None

    def _joined(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Concatenate tables that have the same columns."""
        (first, table), *others = tables.items()
        for name, other in others:
            for column in {**table.schema, **other.schema}:
                expected, actual = table.schema.get(column), other.schema.get(column)
                if expected != actual:
                    raise StoredDataError(
                        f"The column {column!r} is {actual} in {self.objects.uri(name)} and {expected} in "
                        f"{self.objects.uri(first)}: materialize the older one again."
                    )
        return pl.concat([table, *(other.select(table.columns) for _, other in others)])

    def partitions(self, asset: str) -> set[str]:
        """Return the partitions of an asset that exist."""
        prefix, suffix = f"{PREFIX}/{asset}/", ".parquet"
        names = self.objects.names(prefix)
        return {unquote(name.removeprefix(prefix).removesuffix(suffix)) for name in names if name.endswith(suffix)}

    # -- the matrix and other content ------------------------------------------------------------------------------

    def write_matrix(self, asset: str, matrix: UserItemMatrix) -> StoredObject:
        return self.write_bytes(asset, "npz", matrix.to_bytes())

    def read_matrix(self, asset: str) -> UserItemMatrix:
        content = self.read_bytes(asset, "npz")
        check_zip(self.objects.uri(object_name(asset, "npz")), content)
        from gh_assets.recommender.data.interactions import UserItemMatrix  # loads scipy: most commands read no matrix

        return UserItemMatrix.from_bytes(content)

    def write_bytes(self, asset: str, suffix: str, content: bytes, partition: str | None = None) -> StoredObject:
        """Replace an asset, or a partition, by bytes."""
        return self._replace(object_name(asset, suffix, partition), content, "application/octet-stream")

    def read_bytes(self, asset: str, suffix: str, partition: str | None = None) -> bytes:
        """Read what `write_bytes` stored."""
        return self.objects.read(object_name(asset, suffix, partition))

    # -- replace and undo ------------------------------------------------------------------------------------------

    def _replace(
        self, name: str, content: bytes | Path, content_type: str, present: ByName | None = None
    ) -> StoredObject:
        """Replace an object and keep the present one as a version.

        Equal content is not written again, and a concurrent write is not overwritten. `present` holds the objects
        that are known to exist.
        """
        current = self.objects.describe(name) if present is None else present.get(name)
        if current is not None and current.crc32c == checksum(content) and self._is_readable(name):
            return current
        if current is not None and self.keep > 0:
            self.objects.copy(current, _version_name(current))
            self._delete_old_versions(name)
        expected = ABSENT if current is None else current.generation
        replaces = {REPLACES: str(expected)}
        return self.objects.write(name, content, if_generation=expected, content_type=content_type, metadata=replaces)

    def _is_readable(self, name: str) -> bool:
        """Whether the content of an object still has its checksum: a damaged object is written again."""
        try:
            self.objects.read(name)
        except StoredDataError:
            return False
        return True

    def _delete_old_versions(self, name: str) -> None:
        for version in self.versions(name)[self.keep :]:
            self.objects.delete(version.object.name)

    def versions(self, name: str) -> list[Version]:
        """Return the earlier versions of an object, newest first."""
        versions = map(_version_of, self.objects.list(f"{VERSIONS}/{name}/"))
        return sorted(versions, key=_time_of, reverse=True)

    def undo(self, asset: str, before: dt.datetime) -> list[str]:
        """Restore the state that an asset, with all its partitions, had at a given time.

        Objects that were written later are replaced by their version of that time, or deleted if they did not exist;
        objects that a later undo deleted are restored. The present objects are kept as versions. An interrupted undo
        can be run again.

        Parameters
        ----------
        asset : str
        before : datetime
            The time, with a time zone.

        Returns
        -------
        list of str
            Names of the objects that changed.

        Raises
        ------
        InputError
            If there is no such asset, or the version of an object at that time is not kept any more. Nothing changes.
        """
        histories = self._histories(asset)
        if not histories:
            names = {re.split(r"[./]", name.removeprefix(f"{PREFIX}/"))[0] for name in self.objects.names(f"{PREFIX}/")}
            known = ", ".join(sorted(names)) or "none"
            raise InputError(f"No asset {asset!r} is stored. Stored are: {known}.")
        plan: list[tuple[str, StoredObject | None, Version | None]] = []
        for name, history in sorted(histories.items()):
            current = next((version.object for version in history if version.object.name == name), None)
            if current is not None and _created(current) <= before:
                continue
            oldest = min(history, key=_time_of)
            if oldest.written > before and oldest.object.metadata.get(REPLACES) != str(ABSENT):
                raise InputError(
                    f"The version of {self.objects.uri(name)} at {before:%Y-%m-%d %H:%M:%S} UTC is not kept any more: "
                    f"the oldest one was written at {oldest.written:%Y-%m-%d %H:%M:%S} UTC. Nothing was changed."
                )
            earlier = _version_at(before, history)
            if (None if earlier is None else earlier.object) is not current:
                plan.append((name, current, earlier))
        for name, current, earlier in plan:
            self._put_back(name, current, earlier)
        return [name for name, _, _ in plan]

    def _histories(self, asset: str) -> dict[str, list[Version]]:
        """Return the present and earlier versions of the objects of an asset, by the objects' names."""
        histories: dict[str, list[Version]] = {}
        for place, end in product(("", f"{VERSIONS}/"), "./"):
            for version in map(_version_of, self.objects.list(f"{place}{PREFIX}/{asset}{end}")):
                histories.setdefault(version.of, []).append(version)
        return histories

    def _put_back(self, name: str, current: StoredObject | None, earlier: Version | None) -> None:
        """Replace an object by an earlier version, or delete it if there is none."""
        if current is not None:
            self.objects.copy(current, _version_name(current))
        expected = ABSENT if current is None else current.generation
        if earlier is not None:
            metadata = {**earlier.object.metadata, WRITTEN: earlier.written.isoformat()}
            self.objects.copy(earlier.object, name, metadata=metadata, if_generation=expected)
        else:
            self.objects.delete(name, if_generation=expected)
        self._delete_old_versions(name)

    def read_sound_table(self, asset: str, partition: str) -> pl.DataFrame | None:
        """Read a partition, repaired by `repair_table` if it is damaged; None if no readable version is left."""
        try:
            return self.read_table(asset, partition)
        except StoredDataError as error:
            logger.warning("%s The partition %s of %s is restored to its last version.", error, partition, asset)
            self.repair_table(asset, partition)
        return self.read_table(asset, partition) if partition in self.partitions(asset) else None

    def repair_table(self, asset: str, partition: str) -> None:
        """Replace a damaged partition by its newest readable version, or delete it if there is none.

        A copy of the damaged object is kept.
        """
        name = object_name(asset, "parquet", partition)
        damaged = self.objects.describe(name)
        if damaged is not None:
            self.objects.copy(damaged, f"{DAMAGED}/{name}")
        for version in self.versions(name):
            try:
                self._parsed(asset, name, self.objects.read(version.object.name))
            except StoredDataError:
                continue
            self.objects.copy(version.object, name)
            return
        self.objects.delete(name)

    def describe(self, asset: str, suffix: str) -> StoredObject | None:
        """Return the object of an unpartitioned asset, or None if there is none."""
        return self.objects.describe(object_name(asset, suffix))


def _check(asset: str, table: pl.DataFrame, what: str, view: TableView = WHOLE) -> None:
    schema = TABLES.get(asset)
    problem = None if schema is None else schema.problem(table, view.columns)
    if problem is not None:
        raise StoredDataError(f"The asset {asset} {what}: {problem}.")


@dataclass(frozen=True)
class Version:
    """A version of an object.

    Attributes
    ----------
    object : StoredObject
        The object that holds its content.
    written : datetime
        Time at which the content was written (UTC), which may precede a restoration.
    of : str
        Name of the object that it is a version of.
    """

    object: StoredObject
    written: dt.datetime
    of: str


_time_of = attrgetter("written")


def _version_of(stored: StoredObject) -> Version:
    """Return the version that an object holds, whether it is present or an earlier one."""
    if not stored.name.startswith(f"{VERSIONS}/"):
        restored = stored.metadata.get(WRITTEN)
        written = _created(stored) if restored is None else dt.datetime.fromisoformat(restored)
        return Version(stored, written, stored.name)
    name, stamp = stored.name.removeprefix(f"{VERSIONS}/").rsplit("/", 1)
    written = dt.datetime.strptime(stamp.split("-")[0], STAMP).replace(tzinfo=dt.UTC)
    return Version(stored, written, name)


def _version_at(moment: dt.datetime, history: Iterable[Version]) -> Version | None:
    """Return the version of an object at a time, or None if it did not exist then."""
    earlier = max((version for version in history if version.written <= moment), key=_time_of, default=None)
    later = min((version for version in history if version.written > moment), key=_time_of, default=None)
    if earlier is None or (later is not None and later.object.metadata.get(REPLACES) != str(ABSENT)):
        return earlier
    # The next version replaced nothing, so this one was deleted before it, when it was copied to the versions.
    deleted = earlier.object.created if earlier.object.name.startswith(f"{VERSIONS}/") else None
    return None if deleted is not None and deleted <= moment else earlier


def _created(stored: StoredObject) -> dt.datetime:
    assert stored.created is not None, "the bucket reports the time of creation"
    return stored.created.astimezone(dt.UTC)


def _version_name(stored: StoredObject) -> str:
    return f"{VERSIONS}/{stored.name}/{_created(stored):{STAMP}}-{stored.generation}"


class TableParts:
    """A table that does not fit into memory: a sequence of frames on disk, deleted with this object.

    Parameters
    ----------
    asset : str
        The asset of the table.
    """

    def __init__(self, asset: str) -> None:
        self.asset = asset
        self._scratch = Scratch()
        self.folder = self._scratch.path
        self.files: list[Path] = []
        self.rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Append a frame.

        Raises
        ------
        StoredDataError
            If a column does not match the schema; the message names it.
        """
        _check(self.asset, frame, "cannot be stored")
        self.files.append(self.folder / f"{len(self.files):08d}.parquet")
        frame.write_parquet(self.files[-1], compression="lz4", statistics=False)
        self.rows += frame.height

    def add_lazily(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        """Append rows that may not fit into memory, and return them as they are stored."""
        self.files.append(self.folder / f"{len(self.files):08d}.parquet")
        frame.sink_parquet(self.files[-1], compression="lz4", statistics=False)
        stored = pl.scan_parquet(self.files[-1])
        self.rows += stored.select(pl.len()).collect().item()
        return stored


class PartitionTables:
    """The partitions of one asset, for the collector."""

    def __init__(self, store: AssetStore, asset: str) -> None:
        self.store, self.asset = store, asset

    def partitions(self) -> set[str]:
        return self.store.partitions(self.asset)

    def checksums(self, partitions: Iterable[str]) -> dict[str, str | None]:
        """Read partitions and return their checksums; None for damaged ones."""
        present = self.store.partitions(self.asset)

        def read(partition: str) -> tuple[str, str | None]:
            try:
                return partition, checksum(self.store.objects.read(object_name(self.asset, "parquet", partition)))
            except StoredDataError:
                return partition, None

        stored = (partition for partition in partitions if partition in present)
        return dict(map_bounded(read, stored, self.store.workers))

    def repair(self, partition: str) -> None:
        """Repair a damaged partition; see `AssetStore.repair_table`."""
        self.store.repair_table(self.asset, partition)

    def read(self, partition: str) -> tuple[pl.DataFrame, str]:
        return self.store.read_table_with_checksum(self.asset, partition)

    def write(self, partition: str, table: pl.DataFrame) -> str:
        return self.store.write_table(self.asset, table, partition).crc32c

    def delete(self, partition: str) -> None:
        self.store.objects.delete(object_name(self.asset, "parquet", partition))


def object_name(asset: str, suffix: str, partition: str | None = None) -> str:
    """Return the name of an object: ``assets/users.parquet``, ``assets/stargazers/owner/name.parquet``."""
    if partition is None:
        return f"{PREFIX}/{asset}.{suffix}"
    return f"{PREFIX}/{asset}/{quote(partition, safe='/')}.{suffix}"
