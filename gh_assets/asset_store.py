"""The assets' data in a bucket, typed: Parquet for tables, ``.npz`` for the matrix. Knows nothing of Dagster.

An asset is one object, a partition of an asset is one object. Objects are replaced in one step or not at all.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import quote, unquote

import google_crc32c
import polars as pl

from gh_assets.collector.concurrency import map_bounded
from gh_assets.errors import StoredDataError
from gh_assets.objects import ObjectStore, StoredObject
from gh_assets.recommender.interactions import UserItemMatrix
from gh_assets.schemas import TABLES

PREFIX = "assets"


class AssetStore:
    """Typed reading and writing of assets.

    Parameters
    ----------
    objects : ObjectStore
    workers : int
        Objects read or written at once.
    """

    def __init__(self, objects: ObjectStore, workers: int = 8) -> None:
        self.objects = objects
        self.workers = workers

    # -- tables --------------------------------------------------------------------------------------------------

    def write_table(self, asset: str, table: pl.DataFrame, partition: str | None = None) -> StoredObject:
        """Replace a table; its columns are checked against `gh_assets.schemas` if the asset is known there.

        Raises
        ------
        StoredDataError
            If a column does not fit; the message names it.
        """
        _check(asset, table, "cannot be stored")
        buffer = BytesIO()
        table.write_parquet(buffer, compression="zstd", statistics=False)
        name = object_name(asset, "parquet", partition)
        return self.objects.write(name, buffer.getvalue(), content_type="application/vnd.apache.parquet")

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
        return self.objects.write(name, whole, content_type="application/vnd.apache.parquet")

    def read_table(self, asset: str, partition: str | None = None) -> pl.DataFrame:
        """Read a table and check its columns.

        Raises
        ------
        StoredDataError
            If it is not there, cannot be read, or a column does not fit.
        """
        return self.read_table_with_checksum(asset, partition)[0]

    def read_table_with_checksum(self, asset: str, partition: str | None = None) -> tuple[pl.DataFrame, str]:
        """As `read_table`; with the crc32c of what is stored, in base64 as Cloud Storage writes it."""
        name = object_name(asset, "parquet", partition)
        content = self.objects.read(name)
        try:
            table = pl.read_parquet(BytesIO(content))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StoredDataError(f"{self.objects.uri(name)} is no readable Parquet: {error}.") from error
        _check(asset, table, f"at {self.objects.uri(name)} does not fit this version")
        return table, base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()

    def write_tables(self, asset: str, tables: Iterable[tuple[str, pl.DataFrame]]) -> Iterator[StoredObject]:
        """Write many partitions at once, taking only a few of `tables` ahead; lazily, in any order."""

        def write(item: tuple[str, pl.DataFrame]) -> StoredObject:
            return self.write_table(asset, item[1], item[0])

        return map_bounded(write, tables, self.workers)

    def read_tables(self, asset: str, partitions: Iterable[str]) -> dict[str, pl.DataFrame]:
        """Read many partitions at once, in the order given. Partitions without an object are left out."""
        present = self.partitions(asset)
        wanted = [partition for partition in partitions if partition in present]

        def read(partition: str) -> tuple[str, pl.DataFrame]:
            return partition, self.read_table(asset, partition)

        found = dict(map_bounded(read, wanted, self.workers))
        return {partition: found[partition] for partition in wanted}

    def partitions(self, asset: str) -> set[str]:
        """Partitions of an asset that have an object."""
        prefix, suffix = f"{PREFIX}/{asset}/", ".parquet"
        names = self.objects.names(prefix)
        return {unquote(name.removeprefix(prefix).removesuffix(suffix)) for name in names if name.endswith(suffix)}

    # -- the matrix ----------------------------------------------------------------------------------------------

    def write_matrix(self, asset: str, matrix: UserItemMatrix) -> StoredObject:
        return self.objects.write(object_name(asset, "npz"), matrix.to_bytes())

    def read_matrix(self, asset: str) -> UserItemMatrix:
        return UserItemMatrix.from_bytes(self.objects.read(object_name(asset, "npz")))

    def describe(self, asset: str, suffix: str) -> StoredObject | None:
        """The object of an unpartitioned asset; None, if there is none."""
        return self.objects.describe(object_name(asset, suffix))

    def exists(self, asset: str, suffix: str) -> bool:
        """Whether an unpartitioned asset has an object."""
        return self.describe(asset, suffix) is not None


def _check(asset: str, table: pl.DataFrame, what: str) -> None:
    schema = TABLES.get(asset)
    problem = schema.problem(table) if schema is not None else None
    if problem is not None:
        raise StoredDataError(f"The asset {asset} {what}: {problem}.")


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
        self._scratch = tempfile.TemporaryDirectory(prefix="gh-assets-")
        self.folder = Path(self._scratch.name)
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
