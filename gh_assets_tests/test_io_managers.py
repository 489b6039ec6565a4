"""The IO managers, driven by Dagster."""

from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse as sp

from gh_assets.errors import StoredDataError
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.recommender import EASE, UserItemMatrix, build_user_item_matrix
from gh_assets.resources import GcsResource
from gh_assets.schemas import REPOS, USERS
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore, TableParts
from gh_assets_tests.support.matrices import taste_matrix
from gh_assets_tests.support.tables import star_table

PARTS = dg.StaticPartitionsDefinition(["a/one", "b/two#7", "c/three", "d/näme"])


@pytest.fixture
def io(asset_store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> GcsTypedIOManager:
    """The IO manager on a bucket of the test's own."""
    monkeypatch.setattr(GcsResource, "asset_store", lambda self: asset_store)
    return GcsTypedIOManager(gcs=GcsResource.of(load_settings()))


class Reader:
    """An asset that keeps what it is given of another asset, in a type."""

    def __init__(self, name: str, kind: object, *, metadata: dict[str, Any] | None = None, **options: Any) -> None:
        self.seen: Any = None

        def read(value: Any) -> dg.MaterializeResult[None]:
            self.seen = value
            return dg.MaterializeResult()

        read.__annotations__["value"] = kind
        ins = {"value": dg.AssetIn(name, metadata=metadata)}
        self.asset = dg.asset(name=f"reader_{getattr(kind, '__name__', 'dict')}", ins=ins, **options)(read)


def materialize(
    io: GcsTypedIOManager, source: dg.AssetsDefinition, *readers: Reader, **options: Any
) -> dict[str, dg.MetadataValue[Any]]:
    """Materialize an asset and its readers; return the metadata of its last materialization."""
    assets = [source, *(reader.asset for reader in readers)]
    result = dg.materialize(assets, resources={"io_manager": io}, **options)
    found = result.asset_materializations_for_node(source.key.to_user_string())
    return dict(found[-1].metadata) if found else {}


def source_of(value: object, name: str = "stargazers", **options: Any) -> dg.AssetsDefinition:
    definition: dg.AssetsDefinition = dg.asset(name=name, **options)(lambda: value)
    return definition


def test_many_partitions_are_written_in_a_run_and_read_at_once(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    tables = {key: star_table(number, number, 9) for number, key in enumerate(PARTS.get_partition_keys())}
    together, apart = Reader("stargazers", pl.DataFrame), Reader("stargazers", dict[str, pl.DataFrame])
    tags = {"dagster/asset_partition_range_start": "a/one", "dagster/asset_partition_range_end": "d/näme"}
    source = source_of(tables, partitions_def=PARTS, backfill_policy=dg.BackfillPolicy.single_run())
    materialize(io, source, together, apart, tags=tags)
    assert asset_store.partitions("stargazers") == set(tables)
    assert together.seen.equals(pl.concat(tables.values()))
    assert {key: frame.rows() for key, frame in apart.seen.items()} == {key: t.rows() for key, t in tables.items()}


def test_one_partition_alone_is_a_frame(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    reader = Reader("stargazers", pl.DataFrame, partitions_def=PARTS)
    source = source_of(star_table(1, 5), partitions_def=PARTS)
    metadata = materialize(io, source, reader, partition_key="b/two#7")
    assert reader.seen.equals(star_table(1, 5))
    assert asset_store.partitions("stargazers") == {"b/two#7"}
    assert metadata["dagster/row_count"].value == 1
    assert str(metadata["uri"].value).endswith("/assets/stargazers/b/two%237.parquet")
    assert metadata["bytes"].value > 0
    assert metadata["crc32c"].value


def test_a_matrix_is_stored_as_npz(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    users = pl.DataFrame([(5, "u5", 1), (6, "u6", 1)], schema=USERS.dtypes, orient="row")
    matrix = build_user_item_matrix(pl.concat([star_table(1, 5, 6), star_table(2, 6)]), users, REPOS.empty())
    reader = Reader("user_item_matrix", UserItemMatrix)
    materialize(io, source_of(matrix, "user_item_matrix"), reader)
    assert reader.seen.stars.toarray().tolist() == [[1, 0], [1, 1]]
    assert list(asset_store.objects.names("assets/")) == ["assets/user_item_matrix.npz"]


def test_parts_of_a_table_are_one_object(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    parts = TableParts("stargazers")
    for repo in range(1, 4):
        parts.add(star_table(repo, 5, 6))
    reader = Reader("stargazers", pl.DataFrame)
    metadata = materialize(io, source_of(parts), reader)
    assert reader.seen.equals(pl.concat([star_table(repo, 5, 6) for repo in range(1, 4)]))
    assert list(asset_store.objects.names("assets/")) == ["assets/stargazers.parquet"]
    assert metadata["dagster/row_count"].value == 6


def test_a_type_that_cannot_be_stored_is_refused(io: GcsTypedIOManager) -> None:
    with pytest.raises(StoredDataError, match="The asset unknown returned object"):
        materialize(io, source_of(object(), "unknown"))


@pytest.mark.parametrize(
    ("value", "content"),
    [
        (sp.csr_array(np.eye(3, 4, dtype=np.float32)), lambda found: found.toarray().tolist()),
        (b"anything\0", bytes),
        (pa.table({"a": [1, 2], "b": ["x", None]}), lambda found: found.to_pydict()),
        (EASE((10.0,)).fit(taste_matrix(users=80)), lambda found: found.B.tolist()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_each_type_comes_back_as_it_was(io: GcsTypedIOManager, value: object, content: Any) -> None:
    reader = Reader("made", type(value))
    materialize(io, source_of(value, "made"), reader)
    assert type(reader.seen) is type(value)
    assert content(reader.seen) == content(value)


def test_an_input_selects_columns_and_rows(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    list(asset_store.write_tables("stargazers", ((key, star_table(n, n, 9)) for n, key in enumerate("abc"))))
    wanted = {"columns": ["user_id", "repo_id"], "where": "user_id = 9 and repo_id > 0"}
    source = source_of("stored already", partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]))
    reader = Reader("stargazers", pl.DataFrame, metadata=wanted)
    materialize(io, source, reader, selection=[reader.asset])
    assert reader.seen.to_dict(as_series=False) == {"user_id": [9, 9], "repo_id": [1, 2]}
