"""The typed IO manager, driven by Dagster."""

import datetime as dt
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO

import dagster as dg
import polars as pl
import pytest
from google.cloud import storage
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.errors import ConcurrentWriteError, InputError, StoredDataError
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.recommender import UserItemMatrix, build_user_item_matrix
from gh_assets.resources import GcsResource
from gh_assets.schemas import REPOS, STARGAZERS, USERS
from gh_assets.storage.asset_store import AssetStore, TableParts
from gh_assets.storage.objects import ObjectStore

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
    with pytest.raises(StoredDataError, match=r"user_item_matrix\.npz cannot be read"):
        asset_store.read_matrix("user_item_matrix")


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


def test_an_input_says_which_columns_and_rows_it_wants(io: GcsTypedIOManager, asset_store: AssetStore) -> None:
    list(asset_store.write_tables("stargazers", ((key, stars(n, n, 9)) for n, key in enumerate("abc"))))
    seen = []
    wanted = {"columns": ["user_id", "repo_id"], "where": "user_id = 9 and repo_id > 0"}

    @dg.asset(name="stargazers", partitions_def=dg.StaticPartitionsDefinition(["a", "b", "c"]))
    def stargazers() -> pl.DataFrame:
        raise AssertionError("it is there")

    @dg.asset(ins={"stargazers": dg.AssetIn(metadata=wanted)})
    def after(stargazers: pl.DataFrame) -> dg.MaterializeResult:
        seen.append(stargazers)
        return dg.MaterializeResult()

    assert materialize(stargazers, after, io=io, selection=["after"]).success
    assert seen[0].to_dict(as_series=False) == {"user_id": [9, 9], "repo_id": [1, 2]}


def test_a_partition_of_another_form_is_named_with_its_column(asset_store: AssetStore) -> None:
    asset_store.write_table("stargazers", stars(1, 5), "a/one")
    odd = stars(2, 5).with_columns(pl.col("user_id").cast(pl.String))
    content = BytesIO()
    odd.write_parquet(content)
    asset_store.objects.write("assets/stargazers/b/two.parquet", content.getvalue())
    with pytest.raises(
        StoredDataError, match=r"b/two\.parquet does not fit .* column 'user_id' .* is String, not Int64"
    ):
        asset_store.read_whole("stargazers", ["a/one", "b/two"])
    asset_store.write_table("anything", pl.DataFrame({"a": [1]}), "one")
    asset_store.write_table("anything", pl.DataFrame({"a": ["x"]}), "two")
    with pytest.raises(StoredDataError, match=r"The column 'a' is String in gs://.*two\.parquet and Int64 in"):
        asset_store.read_whole("anything", ["one", "two"])


def test_what_is_the_same_is_not_written_again_and_what_was_is_kept(asset_store: AssetStore) -> None:
    def frame(number: int) -> pl.DataFrame:
        return pl.DataFrame({"a": [number]})

    first = asset_store.write_table("anything", frame(1))
    assert asset_store.write_table("anything", frame(1)) == first
    assert asset_store.versions("anything", "parquet") == []
    for number in range(2, 8):
        asset_store.write_table("anything", frame(number))
    kept = asset_store.versions("anything", "parquet")
    contents = [pl.read_parquet(asset_store.objects.read(version.object.name))["a"].item() for version in kept]
    assert contents == [6, 5, 4], "three deep"
    assert [version.written for version in kept] == sorted((v.written for v in kept), reverse=True)


def test_a_bad_run_is_undone_for_all_its_partitions(asset_store: AssetStore) -> None:
    def parts(**numbers: int) -> None:
        list(asset_store.write_tables("parts", ((key, pl.DataFrame({"a": [n]})) for key, n in numbers.items())))

    def now() -> dict[str, int]:
        found = asset_store.read_tables("parts", sorted(asset_store.partitions("parts")))
        return {key: table["a"].item() for key, table in found.items()}

    parts(x=1, y=1)
    asset_store.write_table("parts_of_another", pl.DataFrame({"a": [1]}))
    good = dt.datetime.now(dt.UTC)
    parts(y=66, z=66)
    asset_store.write_table("parts_of_another", pl.DataFrame({"a": [2]}))
    assert now() == {"x": 1, "y": 66, "z": 66}
    assert sorted(asset_store.undo("parts", good)) == ["assets/parts/y.parquet", "assets/parts/z.parquet"]
    assert now() == {"x": 1, "y": 1}
    assert asset_store.read_table("parts_of_another")["a"].item() == 2, "another asset stays as it is"
    for number in range(4):
        parts(x=100 + number)
    with pytest.raises(InputError, match="is not kept any more"):
        asset_store.undo("parts", good)
    assert now()["x"] == 103


class KilledError(Exception):
    """Stands for the end of a process."""


def dying_after(calls: int, store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let that many changes of the bucket be made, and no more."""
    left = [calls]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return real(*arguments, **more)

        return call

    for name in ("copy", "delete", "write"):
        monkeypatch.setattr(store.objects, name, counted(getattr(ObjectStore, name).__get__(store.objects)))


def numbers_of(store: AssetStore, asset: str) -> dict[str, int]:
    return {key: table["a"].item() for key, table in store.read_tables(asset, sorted(store.partitions(asset))).items()}


def write_numbers(store: AssetStore, asset: str, numbers: Mapping[str, int]) -> dt.datetime:
    """Write partitions of a number each; gives a moment after it."""
    list(store.write_tables(asset, ((key, pl.DataFrame({"a": [number]})) for key, number in numbers.items())))
    newest = max(found.created for found in store.objects.list(f"assets/{asset}/") if found.created is not None)
    return newest + dt.timedelta(microseconds=1)


@settings(deadline=None, max_examples=15)
@given(
    first=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1),
    later=st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(4, 9), min_size=1), min_size=1, max_size=2),
    calls=st.integers(3, 5),
)
def test_an_undo_that_is_killed_again_and_again_converges(
    gcs_client: storage.Client, first: dict[str, int], later: list[dict[str, int]], calls: int
) -> None:
    store = AssetStore(ObjectStore(gcs_client, f"undone-{secrets.token_hex(8)}", create=True), workers=2)
    good = write_numbers(store, "parts", first)
    for numbers in later:
        write_numbers(store, "parts", numbers)
    bad = numbers_of(store, "parts")
    for _ in range(30):  # each attempt goes on where the last one was killed
        with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
            dying_after(calls, store, patch)
            store.undo("parts", good)
            break
    else:
        pytest.fail("it does not converge")
    assert numbers_of(store, "parts") == first
    assert store.undo("parts", good) == [], "what is right already is not written again"
    for key, number in bad.items():
        kept = [store.objects.read(one.object.name) for one in store.versions("parts", "parquet", key)]
        if first.get(key) != number:
            found = [pl.read_parquet(BytesIO(content))["a"].item() for content in kept]
            assert number in found, "what was undone is kept, too"


def test_an_undo_is_undone(asset_store: AssetStore) -> None:
    good = write_numbers(asset_store, "parts", {"x": 1})
    bad = write_numbers(asset_store, "parts", {"x": 2})
    asset_store.undo("parts", good)
    assert numbers_of(asset_store, "parts") == {"x": 1}
    assert asset_store.undo("parts", bad) == ["assets/parts/x.parquet"]
    assert numbers_of(asset_store, "parts") == {"x": 2}


def test_an_undo_that_took_away_all_may_be_run_again_and_undone(asset_store: AssetStore) -> None:
    before = dt.datetime.now(dt.UTC)
    bad = write_numbers(asset_store, "parts", {"x": 1})
    assert asset_store.undo("parts", before) == ["assets/parts/x.parquet"]
    assert asset_store.undo("parts", before) == [], "one that was killed in its last moment is run again"
    assert numbers_of(asset_store, "parts") == {}
    assert asset_store.undo("parts", bad) == ["assets/parts/x.parquet"]
    assert numbers_of(asset_store, "parts") == {"x": 1}


def test_an_undo_does_not_bring_back_what_an_earlier_one_had_taken_away(asset_store: AssetStore) -> None:
    """The same bad run again: what it adds was there before, but not any more at the moment that is asked for."""
    write_numbers(asset_store, "parts", {"x": 1})
    for number in (2, 3):
        good = dt.datetime.now(dt.UTC)
        write_numbers(asset_store, "parts", {"x": number, "new": number})
        asset_store.undo("parts", good)
        assert numbers_of(asset_store, "parts") == {"x": 1}


def test_an_undo_refuses_rather_than_deletes_what_it_does_not_know_the_past_of(objects: ObjectStore) -> None:
    """Of six writings two are kept; that more are kept from now on brings no past back."""
    good = write_numbers(AssetStore(objects, keep=2), "parts", {"x": 0})
    for number in range(1, 6):
        write_numbers(AssetStore(objects, keep=2), "parts", {"x": number, "new": number})
    store = AssetStore(objects, keep=10)
    with pytest.raises(InputError, match=r"parquet was at .* is not kept any more: .* Nothing was changed"):
        store.undo("parts", good)
    assert numbers_of(store, "parts") == {"x": 5, "new": 5}


def test_an_undo_does_not_delete_what_an_earlier_version_wrote(asset_store: AssetStore) -> None:
    """Its objects do not say whether something was there before them."""
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    buffer = BytesIO()
    pl.DataFrame({"a": [1]}).write_parquet(buffer)
    asset_store.objects.write("assets/parts/x.parquet", buffer.getvalue())
    with pytest.raises(InputError, match="Nothing was changed"):
        asset_store.undo("parts", moment)


def test_an_undo_of_an_unknown_asset_names_those_that_there_are(asset_store: AssetStore) -> None:
    write_numbers(asset_store, "parts", {"x": 1})
    asset_store.write_table("whole", pl.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match=r"No asset 'stargazer' is stored\. Stored are: parts, whole\."):
        asset_store.undo("stargazer", dt.datetime.now(dt.UTC))


def test_somebody_elses_write_is_not_written_over(asset_store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asset_store.write_table("anything", pl.DataFrame({"a": [1]}))
    real = asset_store.objects.write

    def meanwhile(name: str, content: object, **more: object) -> object:
        monkeypatch.setattr(asset_store.objects, "write", real)
        asset_store.write_table("anything", pl.DataFrame({"a": [2]}))
        return real(name, content, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(asset_store.objects, "write", meanwhile)
    with pytest.raises(ConcurrentWriteError, match="written by another process meanwhile"):
        asset_store.write_table("anything", pl.DataFrame({"a": [3]}))
    assert asset_store.read_table("anything")["a"].item() == 2


@pytest.mark.slow
def test_fifty_thousand_partitions(asset_store: AssetStore) -> None:
    table = pl.DataFrame({"a": [1]})
    keys = [f"owner-{number % 999}/repo-{number:05d}" for number in range(50_000)]
    assert sum(1 for _ in asset_store.write_tables("many", ((key, table) for key in keys))) == 50_000
    assert len(asset_store.partitions("many")) == 50_000
    whole = asset_store.read_whole("many", keys)
    assert whole is not None
    assert whole.height == 50_000
