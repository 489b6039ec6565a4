"""What comes from strangers: archives that are bombs, weights that are programs, disks that are full."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import zstandard

from gh_assets.errors import InputError, StoredDataError
from gh_assets.registry import ModelRegistry, extract_archive, load_weights, write_archive
from gh_assets.storage.asset_store import AssetStore


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.npz", "model.npy", "model.safetensors", "model.json"])
def test_a_pickle_by_any_name_is_refused_and_does_nothing(tmp_path: Path, name: str) -> None:
    mark, path = tmp_path / "exploded", tmp_path / name
    path.write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(StoredDataError, match=f"{name} cannot be (loaded as plain weights|read)"):
        load_weights(path)
    assert not mark.exists()


def test_a_torch_archive_with_a_program_in_it_is_refused_and_does_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "exploded", tmp_path / "model.pt"
    torch.save({"weights": torch.ones(3), "extra": Bomb(mark)}, path)
    assert zipfile.is_zipfile(path)
    with pytest.raises(StoredDataError, match=r"model\.pt cannot be loaded"):
        load_weights(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib", "model.exe"])
def test_other_kinds_are_not_even_opened(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoredDataError, match=r"pickle by its name|is none of \.safetensors"):
        load_weights(tmp_path / name)


def test_plain_weights_are_loaded(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weights = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    torch.save({"w": torch.from_numpy(weights["w"])}, tmp_path / "a.pt")
    np.savez(tmp_path / "a.npz", **weights)
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.npz", "a.safetensors"):
        np.testing.assert_array_equal(np.asarray(load_weights(tmp_path / name)["w"]), weights["w"])


def packed(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(content))
    else:
        path.write_bytes(zstandard.compress(content))
    return path


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def member(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path / "in" / f"bomb{suffix}", tar_of((member("zeros", 50_000_000), b"\0" * 50_000_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(StoredDataError, match="unpacks to more than it was said to hold"):
        extract_archive(path, tmp_path / "in" / "bomb", most_bytes=1_000_000)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_archive_of_countless_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gh_assets.registry import archives

    monkeypatch.setattr(archives, "MAX_MEMBERS", 10)
    path = packed(tmp_path / "many.tar.gz", tar_of(*((member(f"{n}", 0), b"") for n in range(11))))
    with pytest.raises(StoredDataError, match="more than 10 members"):
        extract_archive(path, tmp_path / "many")


def test_an_archive_may_hold_what_it_is_said_to_hold_and_no_byte_more(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    (tmp_path / "model").mkdir()
    for name, size in (("a", 3000), ("b", 2000)):
        (tmp_path / "model" / name).write_bytes(bytes(size))
    assert write_archive(tmp_path / "model", path) == 5000
    extract_archive(path, tmp_path / "out", most_bytes=5000)
    assert [(tmp_path / "out" / name).stat().st_size for name in "ab"] == [3000, 2000]
    with pytest.raises(StoredDataError, match="it unpacks to more than it was said to hold"):
        extract_archive(path, tmp_path / "less", most_bytes=4999)
    assert not (tmp_path / "less").exists()


def test_an_archive_holds_plain_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "empty").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="holds no file: there is nothing to store"):
        write_archive(folder, tmp_path / "model.tar.gz")
    (folder / "deep").mkdir()
    (folder / "deep" / "one").write_text("one")
    assert write_archive(folder, tmp_path / "model.tar.zst", "zstd") == 3
    extract_archive(tmp_path / "model.tar.zst", tmp_path / "made" / "out")
    files = {path.relative_to(tmp_path / "made").as_posix() for path in (tmp_path / "made").rglob("*")}
    assert files == {"out", "out/deep", "out/deep/one"}
    assert write_archive(folder / "deep" / "one", tmp_path / "one.tar.gz") == 3
    extract_archive(tmp_path / "one.tar.gz", tmp_path / "made" / "out")
    assert [path.name for path in (tmp_path / "made" / "out").iterdir()] == ["one"], "the folder is replaced"
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["out"]
    with pytest.raises(InputError, match="neither gzip nor zstd"):
        write_archive(folder, tmp_path / "x", "rar")  # type: ignore[arg-type]


def test_a_header_that_claims_gigabytes_is_refused(tmp_path: Path) -> None:
    entry = member("x", 1 << 33)
    entry.type = tarfile.XHDTYPE
    path = packed(tmp_path / "long.tar.gz", entry.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(StoredDataError, match="header of it is larger than 64 KiB"):
        extract_archive(path, tmp_path / "long")


def test_names_nested_thousands_deep_are_one_error(tmp_path: Path) -> None:
    """Each long name's header is followed by another's, and tarfile calls itself for each."""
    block = tarfile.TarInfo("././@LongLink")
    block.type, block.size = tarfile.GNUTYPE_LONGNAME, 4
    entry = block.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(entry * 20_000))
    with pytest.raises(StoredDataError, match=r"model\.tar\.gz cannot be unpacked"):
        extract_archive(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine of 16 MB."""
    monkeypatch.setattr("gh_assets.local.memory.memory_limit", lambda: 16 << 20)


@pytest.mark.usefixtures("little_memory")
def test_a_table_of_billions_of_rows_in_a_few_bytes_is_refused(asset_store: AssetStore) -> None:
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
def test_an_object_that_is_larger_than_the_memory_is_not_read(asset_store: AssetStore, tmp_path: Path) -> None:
    asset_store.objects.write("large", bytes(20 << 20))
    with pytest.raises(StoredDataError, match="may take on this machine: it is not read"):
        asset_store.objects.read("large")
    asset_store.objects.read_to("large", tmp_path / "large")
    assert (tmp_path / "large").stat().st_size == 20 << 20, "into a file of any size"


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_a_torn_archive_is_one_error_and_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w").write_bytes(os.urandom(10_000))
    path = tmp_path / f"model{suffix}"
    write_archive(tmp_path / "model", path, "gzip" if suffix == ".tar.gz" else "zstd")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoredDataError, match="cannot be unpacked"):
        extract_archive(path, tmp_path / "model")
    assert (tmp_path / "model" / "w").stat().st_size == 10_000


def test_both_compressions_give_back_what_was_packed_in_the_same_bytes_each_time(registry, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_bytes(np.zeros(100_000, np.float32).tobytes() + os.urandom(1000))
    for compression, name in (("gzip", "model.tar.gz"), ("zstd", "model.tar.zst")):
        first, second = (
            registry.save(folder, "recvae", 0.5, tar_zip=True, compression=compression)  # type: ignore[arg-type]
            for _ in range(2)
        )
        assert first.object == second.object
        assert (first.file_name, first.unpacked) == (name, 401_000)
        assert first.size is not None
        assert first.size < 0.02 * 401_000
        out = registry.download(first, tmp_path / compression, unpack=True)
        assert (out / "weights").read_bytes() == (folder / "weights").read_bytes()
        assert registry.verify(first) is None
    with pytest.raises(InputError, match="'lzma' is neither gzip nor zstd"):
        registry.save(folder, "recvae", 0.5, tar_zip=True, compression="lzma")  # type: ignore[arg-type]


def test_what_is_no_archive_is_not_unpacked(registry, file: Path, tmp_path: Path) -> None:
    model = registry.save(file, "recvae", 0.5)
    with pytest.raises(InputError, match=r"weights\.bin of recvae 1 is no archive"):
        registry.download(model, tmp_path, unpack=True)


def test_a_full_disk_is_one_error_and_leaves_nothing(registry, file: Path, tmp_path: Path, monkeypatch) -> None:
    model = registry.save(file, "recvae", 0.5)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(registry.store, "read_to", full)
    with pytest.raises(StoredDataError, match=r"cannot be written to \(No space left on device\): make room"):
        registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_error(registry, file: Path, tmp_path: Path) -> None:
    model = registry.save(file, "recvae", 0.5)
    with pytest.raises(StoredDataError, match="cannot be written to"):
        registry.download(model, file / "below a file")


def test_a_document_that_points_elsewhere_gives_nothing(registry: ModelRegistry, file: Path, tmp_path: Path) -> None:
    """To another bucket, another object, another place on the disk."""
    saved = registry.save(file, "recvae", 0.5)
    other = tmp_path / "other.bin"
    other.write_bytes(b"another model")
    registry.save(other, "other", 0.5)
    place = {"name": "recvae", "version": 1}
    for change, words in (
        ({"bucket": "somebody-elses"}, "GCS_MODEL_BUCKET"),
        ({"object": registry.get("other", 1).object}, "There is no object|is not what was registered"),
        ({"file_name": "../../outside"}, "The file name"),
    ):
        registry.documents.update_one(place, {"$set": change})
        with pytest.raises((StoredDataError, InputError), match=words):
            registry.download(registry.get("recvae", 1), tmp_path / "out")
        assert registry.verify(registry.get("recvae", 1)) is not None
        registry.documents.update_one(place, {"$set": {name: getattr(saved, name) for name in change}})
    assert registry.verify(registry.get("recvae", 1)) is None
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("wrong", [{"$ne": ""}, ["recvae"], None, 3, b"recvae"])
def test_operators_in_place_of_text_match_nothing(registry, file: Path, wrong: object) -> None:
    registry.save(file, "recvae", 0.5)
    for ask in (
        lambda: registry.latest(wrong),
        lambda: registry.best(wrong),
        lambda: registry.get(wrong, 1),
        lambda: registry.find("recvae", wrong),
        lambda: registry.promote(wrong, 1, why="x"),
        lambda: registry.delete(wrong, 1, why="x"),
        lambda: registry.promote("recvae", 1, why=wrong),
        lambda: registry.promote("recvae", 1, why="x", alias=wrong),
        lambda: registry.champion(wrong),
    ):
        with pytest.raises(InputError, match="must be text"):
            ask()
