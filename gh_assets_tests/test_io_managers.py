"""The IO managers, driven by Dagster."""

import dagster as dg
import polars as pl
import pytest

from gh_assets.errors import StoredDataError
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.recommender import UserItemMatrix, build_user_item_matrix
from gh_assets.resources import GcsResource
from gh_assets.schemas import REPOS, USERS
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore, TableParts
from gh_assets_tests.support.tables import star_table

PARTS = dg.StaticPartitionsDefinition(["a/one", "b/two#7", "c/three", "d/näme"])


@pytest.fixture
def io(asset_store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> GcsTypedIOManager:
    """The IO manager on a bucket of the test's own."""
    monkeypatch.setattr(GcsResource, "asset_store", lambda self: asset_store)
    return GcsTypedIOManager(gcs=GcsResource.of(load_settings()))


def materialize(*assets: dg.AssetsDefinition, io: GcsTypedIOManager, **options: object) -> dg.ExecuteInProcessResult:
    return dg.materialize(list(assets), resources={"io_manager": io}, **options)  # type: ignore[arg-type]


def test_many_partitions_are_written_in_one_run_and_read_at_once(
    io: GcsTypedIOManager, asset_store: AssetStore
) -> None:
    tables = {key: star_table(number, number, 9) for number, key in enumerate(PARTS.get_partition_keys())}
    seen: dict[str, object] = {}

    @dg.asset(name="stargazers", partitions_def=PARTS, backfill_policy=dg.BackfillPolicy.single_run())
    def stargazers(context: dg.AssetExecutionContext) -> dict[str, pl.DataFrame]:
        return {key: tables[key] for key in context.partition_keys}

    @dg.asset
    def together(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen["frame"] = stargazers
        return dg.MaterializeResult()

    @dg.asset
    def apart(stargazers: dict[str, pl.DataFrame]) -> dg.MaterializeResult:
        seen["frames"] = stargazers
        return dg.MaterializeResult()

    tags = {"dagster/asset_partition_range_start": "a/one", "dagster/asset_partition_range_end": "d/näme"}
    result = materialize(stargazers, together, apart, io=io, tags=tags)
    assert len(result.asset_materializations_for_node("stargazers")) == 4
    assert asset_store.partitions("stargazers") == set(tables)
    assert seen["frame"].equals(pl.concat(tables.values()))  # type: ignore[attr-defined]
    assert {key: frame.rows() for key, frame in seen["frames"].items()} == {  # type: ignore[attr-defined]
        key: frame.rows() for key, frame in tables.items()
    }


def test_one_partition_alone_is_a_frame(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    seen = []

    @dg.asset(name="stargazers", partitions_def=PARTS)
    def stargazers() -> pl.DataFrame:
        return star_table(1, 5)

    @dg.asset(partitions_def=PARTS)
    def after(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen.append(stargazers)
        return dg.MaterializeResult()

    result = materialize(stargazers, after, io=io, partition_key="b/two#7")
    assert seen[0].equals(star_table(1, 5))
    assert asset_store.partitions("stargazers") == {"b/two#7"}
    metadata = result.asset_materializations_for_node("stargazers")[0].metadata
    assert metadata["dagster/row_count"].value == 1
    assert str(metadata["uri"].value).endswith("/assets/stargazers/b/two%237.parquet")
    assert metadata["bytes"].value > 0
    assert metadata["crc32c"].value


def test_a_matrix_is_stored_as_npz(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    users = pl.DataFrame([(5, "u5", 1), (6, "u6", 1)], schema=USERS.dtypes, orient="row")
    seen = []

    @dg.asset
    def user_item_matrix() -> UserItemMatrix:
        return build_user_item_matrix(pl.concat([star_table(1, 5, 6), star_table(2, 6)]), users, REPOS.empty())

    @dg.asset
    def after(user_item_matrix: UserItemMatrix) -> dg.MaterializeResult:
        seen.append(user_item_matrix)
        return dg.MaterializeResult()

    materialize(user_item_matrix, after, io=io)
    assert seen[0].stars.toarray().tolist() == [[1, 0], [1, 1]]
    assert list(asset_store.objects.names("assets/")) == ["assets/user_item_matrix.npz"]


def test_parts_of_a_table_are_one_object(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    seen = []

    @dg.asset
    def stargazers() -> TableParts:
        parts = TableParts("stargazers")
        for repo in range(1, 4):
            parts.add(star_table(repo, 5, 6))
        return parts

    @dg.asset
    def after(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen.append(stargazers)
        return dg.MaterializeResult()

    result = materialize(stargazers, after, io=io)
    assert seen[0].equals(pl.concat([star_table(repo, 5, 6) for repo in range(1, 4)]))
    assert list(asset_store.objects.names("assets/")) == ["assets/stargazers.parquet"]
    assert result.asset_materializations_for_node("stargazers")[0].metadata["dagster/row_count"].value == 6


def test_a_type_that_cannot_be_stored_is_refused(io: GcsTypedIOManager) -> None:
    @dg.asset
    def unknown() -> object:
        return object()

    with pytest.raises(StoredDataError, match="The asset unknown returned object"):
        materialize(unknown, io=io)


def test_each_type_comes_back_as_it_was(io: GcsTypedIOManager) -> None:
    import numpy as np
    import pyarrow as pa
    import scipy.sparse as sp

    from gh_assets.recommender import EASE
    from gh_assets_tests.support.matrices import taste_matrix

    made: dict[str, object] = {
        "csr": sp.csr_array(np.eye(3, 4, dtype=np.float32)),
        "blob": b"anything\0",
        "arrow": pa.table({"a": [1, 2], "b": ["x", None]}),
        "model": EASE((10.0,)).fit(taste_matrix(users=80)),
    }
    seen: dict[str, object] = {}
    kinds = {"csr": sp.csr_array, "blob": bytes, "arrow": pa.Table, "model": EASE}

    def pair(name: str) -> list[dg.AssetsDefinition]:
        @dg.asset(name=name)
        def source() -> object:
            return made[name]

        def read(value: object) -> dg.MaterializeResult:
            seen[name] = value
            return dg.MaterializeResult()

        read.__annotations__["value"] = kinds[name]
        return [source, dg.asset(name=f"{name}_read", ins={"value": dg.AssetIn(name)})(read)]

    assert materialize(*(asset for name in made for asset in pair(name)), io=io).success
    assert (seen["csr"] != made["csr"]).nnz == 0  # type: ignore[attr-defined]
    assert isinstance(seen["csr"], sp.csr_array)
    assert seen["blob"] == made["blob"]
    assert seen["arrow"].to_pydict() == made["arrow"].to_pydict()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(seen["model"].B, made["model"].B)  # type: ignore[attr-defined]


def test_an_input_selects_columns_and_rows(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    list(asset_store.write_tables("stargazers", ((key, star_table(n, n, 9)) for n, key in enumerate("abc"))))
    seen = []
    wanted = {"columns": ["user_id", "repo_id"], "where": "user_id = 9 and repo_id > 0"}

    @dg.asset(name="stargazers", partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]))
    def stargazers() -> pl.DataFrame:
        raise AssertionError("it is stored already")

    @dg.asset(ins={"stargazers": dg.AssetIn(metadata=wanted)})
    def after(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen.append(stargazers)
        return dg.MaterializeResult()

    assert materialize(stargazers, after, io=io, selection=["after"]).success
    assert seen[0].to_dict(as_series=False) == {"user_id": [9, 9], "repo_id": [1, 2]}
