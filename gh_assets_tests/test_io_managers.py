"""The typed IO manager, driven by Dagster."""

import datetime as dt

import dagster as dg
import polars as pl
import pytest

from gh_assets.asset_store import AssetStore, TableParts
from gh_assets.errors import StoredDataError
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.recommender import UserItemMatrix, build_user_item_matrix
from gh_assets.resources import GcsResource
from gh_assets.schemas import REPOS, STARGAZERS, USERS

PARTS = dg.StaticPartitionsDefinition(["a/one", "b/two#7", "c/three", "d/näme"])


@pytest.fixture
def io(asset_store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> GcsTypedIOManager:
    """The IO manager on a bucket of the test's own."""
    monkeypatch.setattr(GcsResource, "asset_store", lambda self: asset_store)
    return GcsTypedIOManager(gcs=GcsResource())


def stars(repo: int, *users: int) -> pl.DataFrame:
    when = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    return pl.DataFrame([(repo, user, f"u{user}", when, "t") for user in users], schema=STARGAZERS.dtypes, orient="row")


def materialize(*assets: dg.AssetsDefinition, io: GcsTypedIOManager, **options: object) -> dg.ExecuteInProcessResult:
    return dg.materialize(list(assets), resources={"io_manager": io}, **options)  # type: ignore[arg-type]


def test_many_partitions_are_written_in_one_run_and_read_at_once(
    io: GcsTypedIOManager, asset_store: AssetStore
) -> None:
    tables = {key: stars(number, number, 9) for number, key in enumerate(PARTS.get_partition_keys())}
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
        return stars(1, 5)

    @dg.asset(partitions_def=PARTS)
    def after(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen.append(stargazers)
        return dg.MaterializeResult()

    result = materialize(stargazers, after, io=io, partition_key="b/two#7")
    assert seen[0].equals(stars(1, 5))
    assert asset_store.partitions("stargazers") == {"b/two#7"}
    metadata = result.asset_materializations_for_node("stargazers")[0].metadata
    assert metadata["dagster/row_count"].value == 1
    assert str(metadata["uri"].value).endswith("/assets/stargazers/b/two%237.parquet")
    assert metadata["bytes"].value > 0
    assert metadata["crc32c"].value


def test_a_matrix_goes_and_comes_as_npz(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    users = pl.DataFrame([(5, "u5", 1), (6, "u6", 1)], schema=USERS.dtypes, orient="row")
    seen = []

    @dg.asset
    def user_item_matrix() -> UserItemMatrix:
        return build_user_item_matrix(pl.concat([stars(1, 5, 6), stars(2, 6)]), users, REPOS.empty())

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
            parts.add(stars(repo, 5, 6))
        return parts

    @dg.asset
    def after(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen.append(stargazers)
        return dg.MaterializeResult()

    result = materialize(stargazers, after, io=io)
    assert seen[0].equals(pl.concat([stars(repo, 5, 6) for repo in range(1, 4)]))
    assert list(asset_store.objects.names("assets/")) == ["assets/stargazers.parquet"]
    assert result.asset_materializations_for_node("stargazers")[0].metadata["dagster/row_count"].value == 6


def test_parts_that_do_not_fit_are_refused_and_the_table_stays(asset_store: AssetStore) -> None:
    asset_store.write_table("stargazers", stars(1, 4))
    parts = TableParts("stargazers")
    with pytest.raises(StoredDataError, match="not even one part"):
        asset_store.write_parts("stargazers", parts)
    parts.add(stars(1, 5))
    with pytest.raises(StoredDataError, match="column 'login' of table 'stargazers' is missing"):
        parts.add(stars(2, 5).drop("login"))
    with pytest.raises(StoredDataError, match="parts of stargazers were given"):
        asset_store.write_parts("users", parts)
    assert asset_store.read_table("stargazers").equals(stars(1, 4))
    folder = parts.folder
    assert folder.is_dir()
    del parts
    assert not folder.exists()


def test_equal_data_give_equal_bytes(asset_store: AssetStore) -> None:
    first = asset_store.write_table("stargazers", stars(1, 5, 6), "x")
    second = asset_store.write_table("stargazers", stars(1, 5, 6), "x")
    assert first.crc32c == second.crc32c


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (stars(1, 5).drop("login"), "column 'login' of table 'stargazers' is missing"),
        (stars(1, 5).with_columns(pl.col("user_id").cast(pl.String)), "column 'user_id' .* is String, not Int64"),
        (stars(1, 5).with_columns(pl.lit(1).alias("extra")), "unknown column 'extra'"),
        (stars(1, 5).with_columns(pl.lit(None, pl.String).alias("login")), "column 'login' .* 1 empty values"),
    ],
)
def test_a_column_that_does_not_fit_is_named(asset_store: AssetStore, table: pl.DataFrame, words: str) -> None:
    asset_store.write_table("stargazers", stars(1, 4), "x")
    with pytest.raises(StoredDataError, match=words):
        asset_store.write_table("stargazers", table, "x")
    assert asset_store.read_table("stargazers", "x").equals(stars(1, 4)), "the old value must stay"
    asset_store.write_table("unchecked", table, "x")
    moved = asset_store.objects.read("assets/unchecked/x.parquet")
    asset_store.objects.write("assets/stargazers/x.parquet", moved)
    with pytest.raises(StoredDataError, match=words):
        asset_store.read_table("stargazers", "x")


def test_what_cannot_be_stored_is_refused(io: GcsTypedIOManager) -> None:
    @dg.asset
    def strange() -> object:
        return object()

    with pytest.raises(StoredDataError, match="The asset strange returned object"):
        materialize(strange, io=io)


def test_damaged_objects_are_named(asset_store: AssetStore) -> None:
    asset_store.objects.write("assets/users.parquet", b"PAR1 but not really")
    with pytest.raises(StoredDataError, match=r"assets/users\.parquet is no readable Parquet"):
        asset_store.read_table("users")
    asset_store.objects.write("assets/user_item_matrix.npz", b"PK no")
    with pytest.raises(StoredDataError, match="matrix cannot be read"):
        asset_store.read_matrix("user_item_matrix")


def test_nothing_is_pickled(io: GcsTypedIOManager, asset_store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickled")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    asset_store.write_table("stargazers", stars(1, 5), "x")
    asset_store.read_table("stargazers", "x")
