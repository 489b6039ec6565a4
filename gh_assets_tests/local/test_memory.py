"""Tests of the memory limits of stored objects."""

import zipfile
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest

from gh_assets.errors import StoredDataError
from gh_assets.local import memory


@pytest.fixture(autouse=True)
def _limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 10 << 20)


def test_parquet_that_expands_beyond_the_limit_is_rejected_by_its_metadata() -> None:
    buffer = BytesIO()
    pl.DataFrame({"a": pl.zeros(1_000_000, eager=True)}).write_parquet(buffer)
    assert len(buffer.getvalue()) < 1 << 20
    with pytest.raises(StoredDataError, match=r"^the table takes .* it is not read"):
        memory.check_parquet("the table", buffer.getvalue())
    small = BytesIO()
    pl.DataFrame({"a": [1, 2]}).write_parquet(small)
    memory.check_parquet("the table", small.getvalue())


@pytest.mark.parametrize("as_file", [False, True])
def test_archive_that_expands_beyond_the_limit_is_rejected(tmp_path: Path, as_file: bool) -> None:
    for size, fits in ((20 << 20, False), (5 << 20, True)):
        path = tmp_path / f"{size}.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.npy", bytes(size))
        content = path if as_file else path.read_bytes()
        if fits:
            memory.check_zip("the archive", content)
        else:
            with pytest.raises(StoredDataError, match=r"^the archive takes .* it is not read"):
                memory.check_zip("the archive", content)


def test_broken_archive_is_rejected() -> None:
    with pytest.raises(StoredDataError, match="the archive cannot be read"):
        memory.check_zip("the archive", b"PK no archive")
