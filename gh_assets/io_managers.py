"""The IO managers: an asset's type decides how it is stored, and what passes between ops is JSON. No pickle.

`GcsTypedIOManager` stores

* a Polars frame or an Arrow table as one Parquet object, with its columns checked against `gh_assets.schemas`;
* a mapping of partition to frame, in a run over many partitions, as one object each, written concurrently;
* `TableParts` as one Parquet object that is never in memory as a whole;
* a `UserItemMatrix`, or a CSR matrix of scipy, as ``.npz``;
* a fitted recommender as an archive of its weights and configuration;
* bytes as they are.

A partitioned asset can be loaded as one frame (all partitions, in their order) or as ``dict[str, pl.DataFrame]``. The
metadata of an input select columns and rows, ``AssetIn(metadata={"columns": ["user_id"], "where": "stars > 5"})``, and
nothing else is decoded. Replaced content is kept, a few versions deep: ``gh-assets data undo``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
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
from gh_assets.resources.storage import GcsResource
from gh_assets.schemas import TABLES
from gh_assets.storage.asset_store import AssetStore, TableParts, TableView
from gh_assets.storage.objects import StoredObject

JSON_IO = "shares_io_manager"
"""Key of the `JsonIOManager`."""


class GcsTypedIOManager(ConfigurableIOManager):
    """Stores assets in Cloud Storage by their types."""

    gcs: ResourceDependency[GcsResource]

    def handle_output(self, context: OutputContext, obj: Any) -> None:
        """Store what an asset returned.

        Raises
        ------
        StoredDataError
            If its type cannot be stored, a column does not match the schema, or the run has no such partition.
        """
        asset = asset_name(context)
        store = self.gcs.asset_store()
        keys = list(context.asset_partition_keys) if context.has_asset_partitions else []
        if _is_arrow(type(obj)):
            obj = pl.from_arrow(obj)
        stored, rows = _store(store, asset, obj, keys)
        name = stored[0].name if len(stored) == 1 else f"assets/{asset}/"
        metadata: dict[str, Any] = {"bytes": sum(entry.size for entry in stored), "dagster/row_count": rows}
        metadata |= {"uri": MetadataValue.path(store.objects.uri(name))}
        metadata |= {"crc32c": stored[0].crc32c} if len(stored) == 1 else {"objects": len(stored)}
        page = store.objects.page(name)
        context.add_output_metadata(metadata if page is None else metadata | {"console": MetadataValue.url(page)})

    def load_input(self, context: InputContext) -> Any:
        """Load what an upstream asset stored, as the type that the downstream asset declares.

        Raises
        ------
        StoredDataError
            If it is missing, damaged, or does not match the schema.
        """
        asset = asset_name(context)
        store = self.gcs.asset_store()
        wanted = context.dagster_type.typing_type
        # In Dagster's order the rows would change with each run.
        keys = sorted(context.asset_partition_keys) if context.has_asset_partitions else []
        partition = keys[0] if len(keys) == 1 else None
        if wanted is UserItemMatrix:
            return store.read_matrix(asset)
        if wanted is bytes:
            return store.read_bytes(asset, "bin", partition)
        if isinstance(wanted, type) and issubclass(wanted, sp.csr_array | sp.csr_matrix):
            return _matrix(store.read_bytes(asset, "npz", partition), wanted, asset)
        if isinstance(wanted, type) and issubclass(wanted, Recommender):
            return _unpacked(store.read_bytes(asset, "tar.gz", partition), asset)
        is_frame = wanted is pl.DataFrame or _is_arrow(wanted)
        if context.has_asset_partitions and not is_frame:
            return store.read_tables(asset, keys)
        columns, where = ((context.definition_metadata or {}).get(name) for name in ("columns", "where"))
        view = TableView(None if columns is None else tuple(columns), where)
        if not context.has_asset_partitions or (partition is not None and context.has_partition_key):
            table = store.read_table(asset, partition, view)
        else:
            table = _whole(store, asset, keys, view)
        return table.to_arrow() if _is_arrow(wanted) else table


class JsonIOManager(ConfigurableIOManager):
    """Passes JSON objects between the ops of a run through the bucket, so that any machine can read them.

    They lie in `run_folder`; the last op of the job deletes that.
    """

    gcs: ResourceDependency[GcsResource]

    def handle_output(self, context: OutputContext, obj: dict[str, Any]) -> None:
        """Store the output of an op."""
        objects = self.gcs.asset_store().objects
        objects.write(_output_name(context), json.dumps(obj).encode(), content_type="application/json")

    def load_input(self, context: InputContext) -> dict[str, Any]:
        """Load the output of the upstream op."""
        assert context.upstream_output is not None
        content = self.gcs.asset_store().objects.read(_output_name(context.upstream_output))
        loaded: dict[str, Any] = json.loads(content)
        return loaded


def run_folder(run_id: str) -> str:
    """Return the prefix of the objects that pass between the ops of a run."""
    return f"runs/{run_id}/"


def _output_name(context: OutputContext) -> str:
    return f"{run_folder(context.run_id)}{context.step_key}-{context.mapping_key}.json"


def asset_name(context: InputContext | OutputContext) -> str:
    """Return an asset's key as a path."""
    return "/".join(context.asset_key.path)


def _store(store: AssetStore, asset: str, obj: Any, keys: Sequence[str]) -> tuple[list[StoredObject], int]:
    """Store an object by its type; return the stored objects and the number of rows."""
    partition = keys[0] if len(keys) == 1 else None
    if isinstance(obj, UserItemMatrix):
        return [store.write_matrix(asset, obj)], obj.stars.shape[0]
    if sp.issparse(obj) and obj.format == "csr":
        buffer = BytesIO()
        sp.save_npz(buffer, obj)
        return [store.write_bytes(asset, "npz", buffer.getvalue(), partition)], obj.shape[0]
    if isinstance(obj, Recommender):
        return [store.write_bytes(asset, "tar.gz", _packed(obj), partition)], 1
    if isinstance(obj, bytes):
        return [store.write_bytes(asset, "bin", obj, partition)], 1
    if isinstance(obj, pl.DataFrame) and len(keys) <= 1:
        return [store.write_table(asset, obj, partition)], obj.height
    if isinstance(obj, TableParts) and not keys:
        return [store.write_parts(asset, obj)], obj.rows
    if isinstance(obj, Mapping) and keys:
        foreign = set(obj) - set(keys)
        if foreign:
            raise StoredDataError(f"The asset {asset} returned a partition that is not of its run: {min(foreign)}.")
        return list(store.write_tables(asset, obj.items())), sum(table.height for table in obj.values())
    raise StoredDataError(
        f"The asset {asset} returned {type(obj).__name__}: return a Polars frame, a mapping of partitions to "
        "frames, parts of a table, a user-item matrix, a CSR matrix, a recommender, or bytes."
    )


def _whole(store: AssetStore, asset: str, keys: Sequence[str], view: TableView) -> pl.DataFrame:
    """Return the partitions as one table; without any, the empty table of an asset with a schema."""
    table = store.read_whole(asset, keys, view)
    if table is not None:
        return table
    if asset not in TABLES:
        raise StoredDataError(f"The asset {asset} has no stored partition. Materialize it first.")
    empty = TABLES[asset].empty()
    return empty if view.columns is None else empty.select(view.columns)


def _is_arrow(kind: object) -> bool:
    """Whether a type is Arrow's table, without importing the library."""
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and kind is arrow.Table


def _packed(model: Recommender) -> bytes:
    with Scratch() as scratch:
        write_archive(model.save(scratch / "model"), scratch / "model.tar.gz")
        return (scratch / "model.tar.gz").read_bytes()


def _unpacked(content: bytes, asset: str) -> Recommender:
    from gh_assets.recommender.models.hybrid import MODELS

    with Scratch() as scratch:
        archive, folder = scratch / f"{asset.replace('/', '-')}.tar.gz", scratch / "model"
        archive.write_bytes(content)
        extract_archive(archive, folder)
        name = Recommender.name_of(folder)
        if name not in MODELS:
            raise StoredDataError(f"The asset {asset} holds a model {name!r}, none of {', '.join(MODELS)}.")
        return MODELS[name].load(folder)


def _matrix(content: bytes, wanted: type, asset: str) -> Any:
    check_zip(f"The asset {asset}", content)
    try:
        return wanted(sp.load_npz(BytesIO(content)))
    except Exception as error:
        raise StoredDataError(f"The asset {asset} is no readable sparse matrix: {error}.") from error
