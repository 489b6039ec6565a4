"""Limits on memory: small files that unpack to more than the machine has."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gh_assets.errors import StoredDataError
from gh_assets.registry import load_weights
from gh_assets.storage.asset_store import AssetStore


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 MB of memory."""
    monkeypatch.setattr("gh_assets.local.memory.memory_limit", lambda: 16 << 20)


@pytest.mark.usefixtures("little_memory")
def test_tiny_table_with_billions_of_rows_is_refused(asset_store: AssetStore) -> None:
    buffer = io.BytesIO()
    pl.DataFrame({"a": pl.repeat(7, 50_000_000, eager=True, dtype=pl.Int8)}).write_parquet(buffer, compression="zstd")
    assert len(buffer.getvalue()) < 1 << 18
    asset_store.objects.write("assets/anything.parquet", buffer.getvalue())
    asset_store.objects.write("assets/parts/x.parquet", buffer.getvalue())
    for read in (
        lambda: asset_store.read_table("anything"),
        lambda: asset_store.read_table("parts", "x"),
        lambda: asset_store.read_whole("parts", ["x"]),
    ):
        with pytest.raises(StoredDataError, match=r"takes 0\.8 GB of memory, more than"):
            read()


@pytest.mark.usefixtures("little_memory")
def test_arrays_that_unpack_to_gigabytes_are_refused(asset_store: AssetStore, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", indptr=np.zeros(10_000_000))
    content = (tmp_path / "bomb.npz").read_bytes()
    assert len(content) < 1 << 20
    asset_store.objects.write("assets/user_item_matrix.npz", content)
    with pytest.raises(StoredDataError, match=r"more than the 0\.0 GB that one stored object may take"):
        asset_store.read_matrix("user_item_matrix")
    with pytest.raises(StoredDataError, match="may take on this machine"):
        load_weights(tmp_path / "bomb.npz")


@pytest.mark.usefixtures("little_memory")
def test_object_larger_than_the_memory_is_not_read(asset_store: AssetStore, tmp_path: Path) -> None:
    asset_store.objects.write("large", bytes(20 << 20))
    with pytest.raises(StoredDataError, match="may take on this machine: it is not read"):
        asset_store.objects.read("large")
    asset_store.objects.read_to("large", tmp_path / "large")
    assert (tmp_path / "large").stat().st_size == 20 << 20, "a file may be of any size"
