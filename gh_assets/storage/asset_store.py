"""The assets' data in a bucket, typed: Parquet for tables, ``.npz`` for the matrix. Knows nothing of Dagster.

An asset is one object, a partition of an asset is one object. Objects are replaced in one step or not at all.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote

import polars as pl
from pyarrow import ArrowException

from gh_assets.errors import InputError, StoredDataError
from gh_assets.local.concurrency import map_bounded
from gh_assets.local.memory import check_parquet, check_zip
from gh_assets.local.scratch import Scratch
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.schemas import TABLES
from gh_assets.storage.objects import ABSENT, ObjectStore, StoredObject, checksum, digest_of

logger = logging.getLogger(__name__)

PREFIX = "assets"

VERSIONS = "versions"
"""Before an object's name: where its earlier contents are kept."""

DAMAGED = "damaged"
"""Before an object's name: where what could not be read any more is kept."""

KEEP = 3
"""Earlier contents of each object that are kept."""

REPLACES = "replaces"
"""In an object's metadata: the generation that was there before it; 0 if there was none."""

WRITTEN = "written"
"""In the metadata of an object that was brought back: when its content had been written."""

STAMP = "%Y%m%dT%H%M%S.%f"
PARQUET = "application/vnd.apache.parquet"

PARTITIONS_PER_FETCH = 64
"""Partitions that are fetched by one thread and parsed at once."""


class AssetStore:
    """Typed reading and writing of assets.

    Parameters
    ----------
    objects : ObjectStore
    workers : int
        Objects read or written at once.
    keep : int
        Earlier contents of each object that are kept, so that a bad run can be undone.
    """

    def __init__(self, objects: ObjectStore, workers: int = 8, keep: int = KEEP) -> None:
        self.objects = objects
        self.workers = workers
        self.keep = keep

    # -- tables --------------------------------------------------------------------------------------------------

    def write_table(self, asset: str, table: pl.DataFrame, partition: str | None = None) -> StoredObject:
        """Replace a table; its columns are checked against `gh_assets.schemas` if the asset is known there.

        Raises
        ------
        StoredDataError
            If a column does not fit; the message names it.
        """
        return self._write_table(asset, table, partition, None)

    def _write_table(
        self, asset: str, table: pl.DataFrame, partition: str | None, present: Mapping[str, StoredObject] | None
    ) -> StoredObject:
        _check(asset, table, "cannot be stored")
        buffer = BytesIO()
        table.write_parquet(buffer, compression="zstd", statistics=False)
        return self._replace(object_name(asset, "parquet", partition), buffer.getvalue(), PARQUET, present)

    def write_parts(self, asset: str, parts: TableParts) -> StoredObject:
        """Replace a table by the frames of `parts`, row group by row group.

        Raises
        ------
        StoredDataError
            If there are none, or they are parts of another asset. The table is then what it was.
        """
        if not parts.files or parts.asset != asset:
            what = f"parts of {parts.asset} were given" if parts.files else "it has not even one part"
            raise StoredDataError(f"The asset {asset} cannot be stored: {what}.")
        whole = parts.folder / "whole.parquet"
        pl.scan_parquet(parts.files).sink_parquet(whole, compression="zstd", statistics=False, maintain_order=True)
        name = object_name(asset, "parquet")
        return self._replace(name, whole, PARQUET)

    def read_table(self, asset: str, partition: str | None = None, view: TableView | None = None) -> pl.DataFrame:
        """Read a table, or what is wanted of it, and check its columns.

        Raises
        ------
        StoredDataError
            If it is not there, cannot be read, or a column does not fit.
        """
        name = object_name(asset, "parquet", partition)
        return self._parsed(asset, name, self.objects.read(name), view)

    def read_table_with_checksum(self, asset: str, partition: str | None = None) -> tuple[pl.DataFrame, str]:
        """As `read_table`; with the crc32c of what is stored, in base64 as Cloud Storage writes it."""
        name = object_name(asset, "parquet", partition)
        content = self.objects.read(name)
        return self._parsed(asset, name, content), checksum(content)

    def _parsed(self, asset: str, name: str, content: bytes, view: TableView | None = None) -> pl.DataFrame:
        try:
            check_parquet(self.objects.uri(name), content)
            table = _decoded([content], view)
        except (pl.exceptions.PolarsError, OSError, ArrowException) as error:
            wanted = "" if view is None else f" with {view}"
            raise StoredDataError(f"{self.objects.uri(name)} is no readable Parquet{wanted}: {error}.") from error
        if view is None and asset in TABLES:
            table = TABLES[asset].completed(table)
        _check(asset, table, f"at {self.objects.uri(name)} does not fit this version", view)
        return table

    def write_tables(self, asset: str, tables: Iterable[tuple[str, pl.DataFrame]]) -> Iterator[StoredObject]:
        """Write many partitions at once, taking only a few of `tables` ahead; lazily, in any order."""

        # One listing says what is there; a question an object would take as long as the writing.
        present = {found.name: found for found in self.objects.list(f"{PREFIX}/{asset}/")}

        def write(item: tuple[str, pl.DataFrame]) -> StoredObject:
            return self._write_table(asset, item[1], item[0], present)

        return map_bounded(write, tables, self.workers)

    def read_tables(self, asset: str, partitions: Iterable[str]) -> dict[str, pl.DataFrame]:
        """Read many partitions at once, in the order given. Partitions without an object are left out."""
        present = self.partitions(asset)
        wanted = [partition for partition in partitions if partition in present]

        def read(partition: str) -> tuple[str, pl.DataFrame]:
            return partition, self.read_table(asset, partition)

        found = dict(map_bounded(read, wanted, self.workers))
        return {partition: found[partition] for partition in wanted}

    def read_whole(self, asset: str, partitions: Iterable[str], view: TableView | None = None) -> pl.DataFrame | None:
        """Many partitions as one frame, in the order given; None if none of them has an object.

        Several times as fast as one by one: they are fetched and parsed in bunches. Peak memory is below twice the
        frame: one thread parses, so that the allocator does not keep what it freed once for each thread.

        Raises
        ------
        StoredDataError
            If one cannot be read, or its columns do not fit; the message names both.
        """
        present = self.partitions(asset)
        names = [object_name(asset, "parquet", partition) for partition in partitions if partition in present]
        batches = [names[start : start + PARTITIONS_PER_FETCH] for start in range(0, len(names), PARTITIONS_PER_FETCH)]

        def fetch(number: int) -> tuple[int, list[bytes]]:
            return number, [self.objects.read(name) for name in batches[number]]

        found: dict[int, pl.DataFrame] = {}
        for number, contents in map_bounded(fetch, range(len(batches)), self.workers, window=self.workers + 2):
            try:
                for name, content in zip(batches[number], contents, strict=True):
                    check_parquet(self.objects.uri(name), content)
                table = _decoded(contents, view)
                _check(asset, table, "does not fit this version", view)
            except (pl.exceptions.PolarsError, OSError, ArrowException, StoredDataError):
                # One by one, to find out which it is.
                pairs = zip(batches[number], contents, strict=True)
                table = self._joined({name: self._parsed(asset, name, content, view) for name, content in pairs})
            found[number] = table.rechunk()  # a chunk a partition would each hold 8 kB of text, filled or not
        parts = {batches[number][0]: found[number] for number in sorted(found)}
        return self._joined(parts) if parts else None

    def _joined(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """Tables under one another, if they have the same columns."""
        (first, table), *others = tables.items()
        for name, other in others:
            for column in {**table.schema, **other.schema}:
                mine, theirs = table.schema.get(column), other.schema.get(column)
                if mine != theirs:
                    raise StoredDataError(
                        f"The column {column!r} is {theirs} in {self.objects.uri(name)} and {mine} in "
                        f"{self.objects.uri(first)}: materialize the older one again."
                    )
        return pl.concat([table, *(other.select(table.columns) for _, other in others)])

    def partitions(self, asset: str) -> set[str]:
        """Partitions of an asset that have an object."""
        prefix, suffix = f"{PREFIX}/{asset}/", ".parquet"
        names = self.objects.names(prefix)
        return {unquote(name.removeprefix(prefix).removesuffix(suffix)) for name in names if name.endswith(suffix)}

    # -- the matrix, and whatever else -----------------------------------------------------------------------------

    def write_matrix(self, asset: str, matrix: UserItemMatrix) -> StoredObject:
        return self.write_bytes(asset, "npz", matrix.to_bytes())

    def read_matrix(self, asset: str) -> UserItemMatrix:
        content = self.read_bytes(asset, "npz")
        check_zip(self.objects.uri(object_name(asset, "npz")), content)
        return UserItemMatrix.from_bytes(content)

    def write_bytes(self, asset: str, suffix: str, content: bytes, partition: str | None = None) -> StoredObject:
        """Replace an asset (or a partition) that is stored as it is."""
        return self._replace(object_name(asset, suffix, partition), content, "application/octet-stream")

    def read_bytes(self, asset: str, suffix: str, partition: str | None = None) -> bytes:
        """What `write_bytes` stored."""
        return self.objects.read(object_name(asset, suffix, partition))

    # -- replacing, and undoing it ---------------------------------------------------------------------------------

    def _replace(
        self, name: str, content: bytes | Path, content_type: str, present: Mapping[str, StoredObject] | None = None
    ) -> StoredObject:
        """Put content in the place of what is there, which is kept beside it.

        `present` is what is known to be there. What is there already is not written again, and somebody else's is not
        written over: the precondition is the generation that was seen.
        """
        found = self.objects.describe(name) if present is None else present.get(name)
        crc32c = digest_of(content).crc32c if isinstance(content, Path) else checksum(content)
        if found is not None and found.crc32c == crc32c and self._is_sound(name):
            return found
        if found is not None and self.keep > 0:
            self.objects.copy(found, _version_name(found))
            self._forget_old(name)
        expected = ABSENT if found is None else found.generation
        replaces = {REPLACES: str(expected)}
        return self.objects.write(name, content, if_generation=expected, content_type=content_type, metadata=replaces)

    def _is_sound(self, name: str) -> bool:
        """Whether an object still has the content that its checksum speaks of: damage is written over, too."""
        try:
            self.objects.read(name)
        except StoredDataError:
            return False
        return True

    def _forget_old(self, name: str) -> None:
        kept = self._versions(name)
        for version in kept[self.keep :]:
            self.objects.delete(version.object.name)

    def _versions(self, name: str) -> list[Version]:
        """Earlier contents of an object, the newest first."""
        found = map(_version_of, self.objects.list(f"{VERSIONS}/{name}/"))
        return sorted(found, key=lambda version: version.written, reverse=True)

    def versions(self, asset: str, suffix: str, partition: str | None = None) -> list[Version]:
        """Earlier contents of an asset or a partition, the newest first."""
        return self._versions(object_name(asset, suffix, partition))

    def undo(self, asset: str, before: dt.datetime) -> list[str]:
        """Bring an asset, with all its partitions, back to what it was at a moment; what is there now is kept, too.

        Parameters
        ----------
        asset : str
        before : datetime
            With a time zone. Objects that were written since then are replaced by what they were; those that were not
            there then go, and those that an undoing has taken away since then come back.

        Returns
        -------
        list of str
            Objects that changed. Begun and interrupted, it is simply run again: what is right already stays.

        Raises
        ------
        InputError
            If there is no such asset, or it is not known any more what one of its objects was. Nothing is changed then.
        """
        places = f"{PREFIX}/{asset}.", f"{PREFIX}/{asset}/"
        present = {found.name: found for place in places for found in self.objects.list(place)}
        kept: dict[str, list[Version]] = {}
        for place in places:
            for version in map(_version_of, self.objects.list(f"{VERSIONS}/{place}")):
                kept.setdefault(version.of, []).append(version)
        if not present and not kept:
            stored = sorted(
                {name.removeprefix(f"{PREFIX}/").split("/")[0] for name in self.objects.names(f"{PREFIX}/")}
            )
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in stored)) or "none"
            raise InputError(f"No asset {asset!r} is stored. Stored are: {known}.")
        plan: list[tuple[str, StoredObject | None, Version | None]] = []
        for name in sorted({*present, *kept}):
            found, versions = present.get(name), kept.get(name, [])
            if found is not None and (found.created is None or found.created <= before):
                continue
            history = [*([] if found is None else [Version(found, _written(found))]), *versions]
            oldest = min(history, key=lambda one: one.written)
            if oldest.written > before and oldest.object.metadata.get(REPLACES) != str(ABSENT):
                raise InputError(
                    f"What {self.objects.uri(name)} was at {before:%Y-%m-%d %H:%M:%S} UTC is not kept any more: the "
                    f"oldest of its contents that is kept was written at {oldest.written:%Y-%m-%d %H:%M:%S} UTC. "
                    "Nothing was changed."
                )
            earlier = _content_at(before, history)
            if (None if earlier is None else earlier.object) is not found:
                plan.append((name, found, earlier))
        for name, found, earlier in plan:
            if found is not None:
                self.objects.copy(found, _version_name(found))
            expected = ABSENT if found is None else found.generation
            if earlier is not None:
                metadata = {**earlier.object.metadata, WRITTEN: earlier.written.isoformat()}
                self.objects.copy(earlier.object, name, metadata=metadata, if_generation=expected)
            else:
                self.objects.delete(name, if_generation=expected)
            self._forget_old(name)
        return [name for name, _, _ in plan]

    def read_sound_table(self, asset: str, partition: str) -> pl.DataFrame | None:
        """Read a partition, one that is damaged as `repair_table` leaves it; None if that leaves nothing."""
        try:
            return self.read_table(asset, partition)
        except StoredDataError as error:
            logger.warning("%s The partition %s of %s is put back to what it was before.", error, partition, asset)
            self.repair_table(asset, partition)
        return self.read_table(asset, partition) if partition in self.partitions(asset) else None

    def repair_table(self, asset: str, partition: str) -> None:
        """Put the newest earlier content that can be read in the place of a damaged one, which is kept aside.

        Where there is none, the partition has no object afterwards.
        """
        name = object_name(asset, "parquet", partition)
        damaged = self.objects.describe(name)
        if damaged is not None:
            self.objects.copy(damaged, f"{DAMAGED}/{name}")
        for version in self._versions(name):
            try:
                self._parsed(asset, name, self.objects.read(version.object.name))
            except StoredDataError:
                continue
            self.objects.copy(version.object, name)
            return
        self.objects.delete(name)

    def describe(self, asset: str, suffix: str) -> StoredObject | None:
        """The object of an unpartitioned asset; None, if there is none."""
        return self.objects.describe(object_name(asset, suffix))

    def exists(self, asset: str, suffix: str) -> bool:
        """Whether an unpartitioned asset has an object."""
        return self.describe(asset, suffix) is not None


@dataclass(frozen=True)
class TableView:
    """What is wanted of a table: the rest is not decoded.

    Attributes
    ----------
    columns : tuple of str or None
        None: all.
    where : str or None
        A condition on the rows, as SQL writes it: ``starred_at >= '2026-01-01'``.
    """

    columns: tuple[str, ...] | None = None
    where: str | None = None


def _decoded(contents: list[bytes], view: TableView | None) -> pl.DataFrame:
    if view is None:
        return pl.read_parquet(contents)
    frame = pl.scan_parquet(contents)
    if view.where is not None:
        frame = frame.filter(pl.sql_expr(view.where))
    if view.columns is not None:
        frame = frame.select(view.columns)
    return frame.collect()


def _check(asset: str, table: pl.DataFrame, what: str, view: TableView | None = None) -> None:
    schema = TABLES.get(asset)
    wanted = None if view is None else view.columns
    problem = schema.problem(table, wanted) if schema is not None else None
    if problem is not None:
        raise StoredDataError(f"The asset {asset} {what}: {problem}.")


@dataclass(frozen=True)
class Version:
    """An earlier content of an object.

    Attributes
    ----------
    object : StoredObject
        Where it is kept.
    written : datetime
        When it was written (UTC).
    """

    object: StoredObject
    written: dt.datetime

    @property
    def of(self) -> str:
        """The name of the object whose content it was."""
        return self.object.name.removeprefix(f"{VERSIONS}/").rsplit("/", 1)[0]


def _version_of(stored: StoredObject) -> Version:
    stamp = stored.name.rsplit("/", 1)[1].split("-")[0]
    return Version(stored, dt.datetime.strptime(stamp, STAMP).replace(tzinfo=dt.UTC))


def _content_at(moment: dt.datetime, history: Iterable[Version]) -> Version | None:
    """What an object was at a moment; None if it was not there then."""
    earlier = max((one for one in history if one.written <= moment), key=lambda one: one.written, default=None)
    later = min((one for one in history if one.written > moment), key=lambda one: one.written, default=None)
    if earlier is None or (later is not None and later.object.metadata.get(REPLACES) != str(ABSENT)):
        return earlier
    # What came next replaced nothing: this one was deleted before, at the moment at which it was put aside.
    put_aside = earlier.object.created if earlier.object.name.startswith(f"{VERSIONS}/") else None
    return None if put_aside is not None and put_aside <= moment else earlier


def _written(stored: StoredObject) -> dt.datetime:
    """When the content of an object was written: one that was brought back says so itself."""
    assert stored.created is not None, "the bucket says when"
    written = stored.metadata.get(WRITTEN)
    return stored.created if written is None else dt.datetime.fromisoformat(written)


def _version_name(stored: StoredObject) -> str:
    assert stored.created is not None, "the bucket says when"
    return f"{VERSIONS}/{stored.name}/{stored.created.astimezone(dt.UTC):{STAMP}}-{stored.generation}"


class TableParts:
    """A table that is too large for memory: frames one after another, on the disk until they are stored.

    The files go when the object goes.

    Parameters
    ----------
    asset : str
        Whose table it is.
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
            If a column does not fit; the message names it.
        """
        _check(self.asset, frame, "cannot be stored")
        self.files.append(self.folder / f"{len(self.files):08d}.parquet")
        frame.write_parquet(self.files[-1], compression="lz4", statistics=False)
        self.rows += frame.height


class PartitionTables:
    """The partitions of one asset as a store of its own, such as the collector wants (`StarStore`)."""

    def __init__(self, store: AssetStore, asset: str) -> None:
        self.store = store
        self.asset = asset

    def partitions(self) -> set[str]:
        return self.store.partitions(self.asset)

    def checksums(self, partitions: Iterable[str]) -> dict[str, str | None]:
        """Checksums of what is stored, by partition, as it is read now; None where it is damaged."""
        present = self.store.partitions(self.asset)

        def read(partition: str) -> tuple[str, str | None]:
            try:
                return partition, checksum(self.store.objects.read(object_name(self.asset, "parquet", partition)))
            except StoredDataError:
                return partition, None

        wanted = (partition for partition in partitions if partition in present)
        return dict(map_bounded(read, wanted, self.store.workers))

    def repair(self, partition: str) -> None:
        """Put the newest earlier table in the place of one that is damaged; without any the partition is empty."""
        self.store.repair_table(self.asset, partition)

    def read(self, partition: str) -> tuple[pl.DataFrame, str]:
        return self.store.read_table_with_checksum(self.asset, partition)

    def write(self, partition: str, table: pl.DataFrame) -> str:
        return self.store.write_table(self.asset, table, partition).crc32c


class Segments:
    """Immutable tables beside the assets, such as the collector of users' lists wants (`SegmentStore`)."""

    def __init__(self, store: AssetStore, kind: str) -> None:
        self.store = store
        self.kind = kind

    def write(self, name: str, table: pl.DataFrame) -> StoredObject:
        return self.store.write_table(self.kind, table, name)

    def read(self, name: str) -> pl.DataFrame:
        return self.store.read_table(self.kind, name)

    def names(self) -> set[str]:
        return self.store.partitions(self.kind)

    def delete(self, name: str) -> None:
        self.store.objects.delete(object_name(self.kind, "parquet", name))


def object_name(asset: str, suffix: str, partition: str | None = None) -> str:
    """``assets/users.parquet``, ``assets/stargazers/owner/name.parquet``."""
    if partition is None:
        return f"{PREFIX}/{asset}.{suffix}"
    return f"{PREFIX}/{asset}/{quote(partition, safe='/')}.{suffix}"
