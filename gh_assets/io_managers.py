"""The typed GCS IO manager: what an asset returns and wants decides how it is stored. No pickle.

* a Polars frame or an Arrow table: one Parquet object, columns checked against `gh_assets.schemas`;
* a mapping of partition to frame, in a run over many partitions: one object each, written concurrently;
* `TableParts`: one Parquet object, never whole in memory;
* a `UserItemMatrix`, or a CSR matrix of scipy: one ``.npz``;
* a fitted recommender: an archive of its weights and configuration;
* bytes: as they are.

A partitioned asset can be wanted as one frame (all partitions, one after another) or as ``dict[str, pl.DataFrame]``.
An input's metadata say what is wanted of a table: ``AssetIn(metadata={"columns": ["user_id"], "where": "stars > 5"})``;
nothing else is decoded. What is replaced is kept beside, a few versions deep: ``gh-assets data undo``.
"""

import sys
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import polars as pl
import scipy.sparse as sp
from dagster import ConfigurableIOManager, InputContext, MetadataValue, OutputContext, ResourceDependency

from gh_assets.errors import StoredDataError
from gh_assets.local.memory import check_zip
from gh_assets.local.scratch import Scratch
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.models.base import Recommender
from gh_assets.registry import extract_archive, write_archive
from gh_assets.resources.gcs import GcsResource
from gh_assets.schemas import TABLES
from gh_assets.storage.asset_store import AssetStore, TableParts, TableView
from gh_assets.storage.objects import StoredObject


class GcsTypedIOManager(ConfigurableIOManager):
    """Stores assets in Cloud Storage by their types."""

    gcs: ResourceDependency[GcsResource]

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Store what an asset returned.

        Raises
        ------
        StoredDataError
            If its type cannot be stored, a column does not fit, or the partitions are not those of the run.
        """
        asset = asset_name(context)
        store = self.gcs.asset_store()
        keys = context.asset_partition_keys if context.has_asset_partitions else []
        partition = keys[0] if len(keys) == 1 else None
        if _is_arrow(type(obj)):
            obj = pl.from_arrow(obj)
        if isinstance(obj, UserItemMatrix):
            stored = [store.write_matrix(asset, obj)]
            rows = obj.stars.shape[0]
        elif sp.issparse(obj) and obj.format == "csr":
            buffer = BytesIO()
            sp.save_npz(buffer, obj)
            stored, rows = [store.write_bytes(asset, "npz", buffer.getvalue(), partition)], obj.shape[0]
        elif isinstance(obj, Recommender):
            stored, rows = [store.write_bytes(asset, "tar.gz", _packed(obj), partition)], 1
        elif isinstance(obj, bytes):
            stored, rows = [store.write_bytes(asset, "bin", obj, partition)], 1
        elif isinstance(obj, pl.DataFrame) and len(keys) <= 1:
            stored, rows = [store.write_table(asset, obj, partition)], obj.height
        elif isinstance(obj, TableParts) and not keys:
            stored, rows = [store.write_parts(asset, obj)], obj.rows
        elif isinstance(obj, Mapping) and keys:
            foreign = set(obj) - set(keys)
            if foreign:
                raise StoredDataError(
                    f"The asset {asset} returned a partition that the run is not about: {min(foreign)}."
                )
            stored = list(store.write_tables(asset, obj.items()))
            rows = sum(table.height for table in obj.values())
        else:
            raise StoredDataError(
                f"The asset {asset} returned {type(obj).__name__}: return a Polars frame, a mapping of partitions to "
                "frames, parts of a table, a user-item matrix, a CSR matrix, a recommender, or bytes."
            )
        context.add_output_metadata(
            {"bytes": sum(entry.size for entry in stored), "dagster/row_count": rows} | _place(store, asset, stored)
        )

    def load_input(self, context: InputContext) -> Any:
        """Read what an upstream asset stored, as the type that the downstream one declares.

        Raises
        ------
        StoredDataError
            If it is missing, damaged or of another schema.
        """
        asset = asset_name(context)
        store = self.gcs.asset_store()
        wanted = context.dagster_type.typing_type
        if wanted is UserItemMatrix:
            return store.read_matrix(asset)
        if wanted is bytes:
            return store.read_bytes(asset, "bin", _only_partition(context))
        if isinstance(wanted, type) and issubclass(wanted, sp.csr_array | sp.csr_matrix):
            return _matrix(store.read_bytes(asset, "npz", _only_partition(context)), wanted, asset)
        if isinstance(wanted, type) and issubclass(wanted, Recommender):
            return _unpacked(store.read_bytes(asset, "tar.gz", _only_partition(context)), asset)
        found = self._table(context, store, asset, _view(context))
        return found.to_arrow() if _is_arrow(wanted) else found

    def _table(self, context: InputContext, store: AssetStore, asset: str, view: TableView | None) -> Any:
        wanted = pl.DataFrame if _is_arrow(context.dagster_type.typing_type) else context.dagster_type.typing_type
        if not context.has_asset_partitions:
            return store.read_table(asset, view=view)
        keys = sorted(context.asset_partition_keys)  # Dagster gives them in any order; rows must not move with it
        if len(keys) == 1 and wanted is pl.DataFrame and context.has_partition_key:
            return store.read_table(asset, keys[0], view)
        if wanted is not pl.DataFrame:
            return store.read_tables(asset, keys)
        table = store.read_whole(asset, keys, view)
        if table is None and asset not in TABLES:
            raise StoredDataError(f"The asset {asset} has no stored partition. Materialize it first.")
        if table is not None:
            return table
        empty = TABLES[asset].empty()
        return empty if view is None or view.columns is None else empty.select(view.columns)


def asset_name(context: InputContext | OutputContext) -> str:
    """The asset's key as one path."""
    return "/".join(context.asset_key.path)


def _only_partition(context: InputContext) -> str | None:
    """The partition, where there is exactly one."""
    if not context.has_asset_partitions or len(context.asset_partition_keys) != 1:
        return None
    return str(next(iter(context.asset_partition_keys)))


def _view(context: InputContext) -> TableView | None:
    columns, where = ((context.definition_metadata or {}).get(name) for name in ("columns", "where"))
    if columns is None and where is None:
        return None
    return TableView(None if columns is None else tuple(columns), where)


def _is_arrow(kind: object) -> bool:
    """Whether a type is Arrow's table; whoever has one has loaded the library."""
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and kind is arrow.Table


def _packed(model: Recommender) -> bytes:
    with Scratch() as scratch:
        write_archive(model.save(scratch / "model"), scratch / "model.tar.gz")
        return (scratch / "model.tar.gz").read_bytes()


def _unpacked(content: bytes, asset: str) -> Recommender:
    from gh_assets.recommender.models.loading import MODELS

    with Scratch() as scratch:
        archive, folder = scratch / f"{asset.replace('/', '-')}.tar.gz", scratch / "model"
        archive.write_bytes(content)
        extract_archive(archive, folder)
        name = Recommender.name_of(folder)
        if name not in MODELS:
            raise StoredDataError(f"The asset {asset} holds a model {name!r}, none of {', '.join(MODELS)}.")
        return MODELS[name].load(folder)


def _matrix(content: bytes, wanted: type, asset: str) -> Any:
    try:
        check_zip(f"The asset {asset}", content)
        return wanted(sp.load_npz(BytesIO(content)))
    except StoredDataError:
        raise
    except Exception as error:
        raise StoredDataError(f"The asset {asset} is no readable sparse matrix: {error}.") from error


def _place(store: AssetStore, asset: str, stored: list[StoredObject]) -> dict[str, Any]:
    name = stored[0].name if len(stored) == 1 else f"assets/{asset}/"
    page = store.objects.page(name)
    link = {} if page is None else {"console": MetadataValue.url(page)}
    if len(stored) == 1:
        return {"uri": MetadataValue.path(stored[0].uri), "crc32c": stored[0].crc32c, **link}
    return {"uri": MetadataValue.path(store.objects.uri(name)), "objects": len(stored), **link}
