"""The typed GCS IO manager: what an asset returns and wants decides how it is stored. No pickle.

* a Polars frame: one Parquet object, columns checked against `gh_assets.schemas`;
* a mapping of partition to frame, in a run over many partitions: one object each, written concurrently;
* `TableParts`: one Parquet object, never whole in memory;
* a `UserItemMatrix`: one ``.npz``.

A partitioned asset can be wanted as one frame (all partitions, one after another) or as ``dict[str, pl.DataFrame]``.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl
from dagster import ConfigurableIOManager, InputContext, MetadataValue, OutputContext, ResourceDependency

from gh_assets.asset_store import AssetStore, TableParts
from gh_assets.errors import StoredDataError
from gh_assets.objects import StoredObject
from gh_assets.recommender.interactions import UserItemMatrix
from gh_assets.resources.gcs import GcsResource
from gh_assets.schemas import TABLES


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
        if isinstance(obj, UserItemMatrix):
            stored = [store.write_matrix(asset, obj)]
            rows = obj.stars.shape[0]
        elif isinstance(obj, pl.DataFrame) and not context.has_asset_partitions:
            stored, rows = [store.write_table(asset, obj)], obj.height
        elif isinstance(obj, TableParts) and not context.has_asset_partitions:
            stored, rows = [store.write_parts(asset, obj)], obj.rows
        elif isinstance(obj, pl.DataFrame) and len(context.asset_partition_keys) == 1:
            stored, rows = [store.write_table(asset, obj, context.asset_partition_key)], obj.height
        elif isinstance(obj, Mapping) and context.has_asset_partitions:
            foreign = set(obj) - set(context.asset_partition_keys)
            if foreign:
                raise StoredDataError(
                    f"The asset {asset} returned a partition that the run is not about: {min(foreign)}."
                )
            stored = list(store.write_tables(asset, obj.items()))
            rows = sum(table.height for table in obj.values())
        else:
            raise StoredDataError(
                f"The asset {asset} returned {type(obj).__name__}: return a Polars frame, a mapping of partitions to "
                "frames, parts of a table, or a user-item matrix."
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
        if not context.has_asset_partitions:
            return store.read_table(asset)
        keys = sorted(context.asset_partition_keys)  # Dagster gives them in any order; rows must not move with it
        if len(keys) == 1 and wanted is pl.DataFrame and context.has_partition_key:
            return store.read_table(asset, keys[0])
        tables = store.read_tables(asset, keys)
        if wanted is not pl.DataFrame:
            return tables
        if not tables and asset not in TABLES:
            raise StoredDataError(f"The asset {asset} has no stored partition. Materialize it first.")
        return pl.concat(tables.values()) if tables else TABLES[asset].empty()


def asset_name(context: InputContext | OutputContext) -> str:
    """The asset's key as one path."""
    return "/".join(context.asset_key.path)


def _place(store: AssetStore, asset: str, stored: list[StoredObject]) -> dict[str, Any]:
    if len(stored) == 1:
        return {"uri": MetadataValue.path(stored[0].uri), "crc32c": stored[0].crc32c}
    return {"uri": MetadataValue.path(store.objects.uri(f"assets/{asset}/")), "objects": len(stored)}
