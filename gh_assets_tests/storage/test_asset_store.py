"""Tests of the typed storage of assets: schemas, versions, repair and undo."""

import datetime as dt
import secrets
from collections.abc import Callable
from contextlib import suppress

import polars as pl
import pytest
from google.cloud import storage
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.errors import ConcurrentWriteError, InputError, StoredDataError
from gh_assets.storage.asset_store import AssetStore, TableParts
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.tables import star_table


def write_unchecked(store: AssetStore, name: str, table: pl.DataFrame) -> None:
    """Write a table as an earlier release did: its columns are not checked, and what it replaces is not recorded."""
    store.write_table("unchecked", table)
    store.objects.write(f"assets/{name}.parquet", store.objects.read("assets/unchecked.parquet"))


def test_invalid_parts_are_rejected_and_do_not_change_the_table(asset_store: AssetStore) -> None:
    asset_store.write_table("stargazers", star_table(1, 4))
    parts = TableParts("stargazers")
    with pytest.raises(StoredDataError, match="it has no parts"):
        asset_store.write_parts("stargazers", parts)
    parts.add(star_table(1, 5))
    with pytest.raises(StoredDataError, match="column 'login' of table 'stargazers' is missing"):
        parts.add(star_table(2, 5).drop("login"))
    with pytest.raises(StoredDataError, match="the parts are those of stargazers"):
        asset_store.write_parts("users", parts)
    assert asset_store.read_table("stargazers").equals(star_table(1, 4))
    folder = parts.folder
    assert folder.is_dir()
    del parts
    assert not folder.exists()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (star_table(1, 5).drop("login"), "column 'login' of table 'stargazers' is missing"),
        (star_table(1, 5).with_columns(pl.col("user_id").cast(pl.String)), "column 'user_id' .* is String, not Int64"),
        (star_table(1, 5).with_columns(pl.lit(1).alias("extra")), "unknown column 'extra'"),
        (star_table(1, 5).with_columns(pl.lit(None, pl.String).alias("login")), "column 'login' .* 1 empty values"),
    ],
)
def test_invalid_column_is_named_on_write_and_read(asset_store: AssetStore, table: pl.DataFrame, reason: str) -> None:
    asset_store.write_table("stargazers", star_table(1, 4), "x")
    with pytest.raises(StoredDataError, match=reason):
        asset_store.write_table("stargazers", table, "x")
    assert asset_store.read_table("stargazers", "x").equals(star_table(1, 4)), "the stored table does not change"
    write_unchecked(asset_store, "stargazers/x", table)
    with pytest.raises(StoredDataError, match=reason):
        asset_store.read_table("stargazers", "x")


def test_unreadable_object_is_named(asset_store: AssetStore) -> None:
    asset_store.objects.write("assets/users.parquet", b"PAR1 but not really")
    with pytest.raises(StoredDataError, match=r"assets/users\.parquet is not readable Parquet"):
        asset_store.read_table("users")
    asset_store.objects.write("assets/user_item_matrix.npz", b"PK no")
    with pytest.raises(StoredDataError, match=r"user_item_matrix\.npz cannot be read"):
        asset_store.read_matrix("user_item_matrix")


def test_partition_with_another_schema_is_named_with_its_column(asset_store: AssetStore) -> None:
    asset_store.write_table("stargazers", star_table(1, 5), "a/one")
    write_unchecked(asset_store, "stargazers/b/two", star_table(2, 5).with_columns(pl.col("user_id").cast(pl.String)))
    misfit = r"b/two\.parquet does not fit .* column 'user_id' .* is String, not Int64"
    with pytest.raises(StoredDataError, match=misfit):
        asset_store.read_whole("stargazers", ["a/one", "b/two"])
    asset_store.write_table("anything", pl.DataFrame({"a": [1]}), "one")
    asset_store.write_table("anything", pl.DataFrame({"a": ["x"]}), "two")
    with pytest.raises(StoredDataError, match=r"The column 'a' is String in gs://.*two\.parquet and Int64 in"):
        asset_store.read_whole("anything", ["one", "two"])


def test_equal_content_is_not_written_again_and_replaced_content_is_kept_as_a_version(asset_store: AssetStore) -> None:
    first, again = (asset_store.write_table("anything", pl.DataFrame({"a": [1]})) for _ in range(2))
    assert again == first
    assert asset_store.versions("assets/anything.parquet") == []
    for number in range(2, 8):
        asset_store.write_table("anything", pl.DataFrame({"a": [number]}))
    kept = asset_store.versions("assets/anything.parquet")
    contents = [pl.read_parquet(asset_store.objects.read(version.object.name))["a"].item() for version in kept]
    assert contents == [6, 5, 4], "three versions are kept"
    assert [version.written for version in kept] == sorted((v.written for v in kept), reverse=True)


def numbers_of(store: AssetStore, asset: str = "parts") -> dict[str, int]:
    return {key: table["a"].item() for key, table in store.read_tables(asset, sorted(store.partitions(asset))).items()}


def write_numbers(store: AssetStore, asset: str = "parts", /, **numbers: int) -> dt.datetime:
    """Write partitions with a number each, and return a time after that."""
    list(store.write_tables(asset, ((key, pl.DataFrame({"a": [number]})) for key, number in numbers.items())))
    newest = max(found.created for found in store.objects.list(f"assets/{asset}/") if found.created is not None)
    return newest + dt.timedelta(microseconds=1)


def test_undo_restores_all_partitions_of_the_asset_and_no_other_asset(asset_store: AssetStore) -> None:
    good = write_numbers(asset_store, x=1, y=1)
    write_numbers(asset_store, "parts_of_another", x=1)
    write_numbers(asset_store, y=66, z=66)
    write_numbers(asset_store, "parts_of_another", x=2)
    assert numbers_of(asset_store) == {"x": 1, "y": 66, "z": 66}
    assert sorted(asset_store.undo("parts", good)) == ["assets/parts/y.parquet", "assets/parts/z.parquet"]
    assert numbers_of(asset_store) == {"x": 1, "y": 1}
    assert numbers_of(asset_store, "parts_of_another") == {"x": 2}, "another asset does not change"


class KilledError(Exception):
    """The end of a process."""


def kill_after(calls: int, store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise `KilledError` in place of every change of the bucket after the first `calls`."""
    left = iter(range(calls))

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            if next(left, None) is None:
                raise KilledError
            return real(*arguments, **more)

        return call

    for name in ("copy", "delete", "write"):
        monkeypatch.setattr(store.objects, name, counted(getattr(store.objects, name)))


@settings(max_examples=15)
@given(
    first=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1),
    later=st.lists(st.dictionaries(st.sampled_from("abcdef"), st.integers(4, 9), min_size=1), min_size=1, max_size=2),
    calls=st.integers(3, 5),
)
def test_undo_that_is_killed_repeatedly_converges(
    gcs_client: storage.Client, first: dict[str, int], later: list[dict[str, int]], calls: int
) -> None:
    store = AssetStore(ObjectStore(gcs_client, f"undone-{secrets.token_hex(8)}", create=True), workers=2)
    good = write_numbers(store, "parts", **first)
    for numbers in later:
        write_numbers(store, "parts", **numbers)
    bad = numbers_of(store)
    for _ in range(30):  # each attempt continues where the last one was killed
        with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
            kill_after(calls, store, patch)
            store.undo("parts", good)
            break
    else:
        pytest.fail("it does not converge")
    assert numbers_of(store) == first
    assert store.undo("parts", good) == [], "correct objects are not written again"
    for key, number in bad.items():
        kept = [store.objects.read(one.object.name) for one in store.versions(f"assets/parts/{key}.parquet")]
        if first.get(key) != number:
            assert number in [pl.read_parquet(content)["a"].item() for content in kept], "the undone version is kept"


@pytest.mark.parametrize("before", [{"x": 1}, {}], ids=["changed", "deleted everything"])
def test_undo_can_be_repeated_and_undone(asset_store: AssetStore, before: dict[str, int]) -> None:
    good = write_numbers(asset_store, "parts", **before) if before else dt.datetime.now(dt.UTC)
    bad = write_numbers(asset_store, x=2)
    assert asset_store.undo("parts", good) == ["assets/parts/x.parquet"]
    assert asset_store.undo("parts", good) == [], "a repeated undo changes nothing"
    assert numbers_of(asset_store) == before
    assert asset_store.undo("parts", bad) == ["assets/parts/x.parquet"]
    assert numbers_of(asset_store) == {"x": 2}


def test_undo_does_not_restore_what_an_earlier_undo_deleted(asset_store: AssetStore) -> None:
    """A bad run is repeated: its new partition existed before, but not at the time to restore."""
    write_numbers(asset_store, x=1)
    for number in (2, 3):
        good = dt.datetime.now(dt.UTC)
        write_numbers(asset_store, x=number, new=number)
        asset_store.undo("parts", good)
        assert numbers_of(asset_store) == {"x": 1}


def test_undo_fails_if_the_version_is_not_kept_any_more(objects: ObjectStore) -> None:
    """Two of six versions are kept; a larger number of versions does not restore the others."""
    good = write_numbers(AssetStore(objects, keep=2), x=0)
    for number in range(1, 6):
        write_numbers(AssetStore(objects, keep=2), x=number, new=number)
    store = AssetStore(objects, keep=10)
    with pytest.raises(InputError, match=r"parquet at .* is not kept any more: .* Nothing was changed"):
        store.undo("parts", good)
    assert numbers_of(store) == {"x": 5, "new": 5}


def test_undo_does_not_delete_objects_of_an_earlier_release(asset_store: AssetStore) -> None:
    """They do not record whether they replaced an object."""
    moment = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    write_unchecked(asset_store, "parts/x", pl.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="Nothing was changed"):
        asset_store.undo("parts", moment)


def test_undo_of_an_unknown_asset_names_the_stored_ones(asset_store: AssetStore) -> None:
    write_numbers(asset_store, x=1)
    asset_store.write_table("whole", pl.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match=r"No asset 'stargazer' is stored\. Stored are: parts, whole\."):
        asset_store.undo("stargazer", dt.datetime.now(dt.UTC))


def test_concurrent_write_is_not_overwritten(asset_store: AssetStore, monkeypatch: pytest.MonkeyPatch) -> None:
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
