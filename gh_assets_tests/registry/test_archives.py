"""Archives: reproducible when packed, and refused if they are hostile."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard

from gh_assets.errors import InputError, StoredDataError
from gh_assets.registry import extract_archive, write_archive


def test_archives_of_equal_content_have_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        for file in ("two", "one") if name == "a" else ("one", "two"):
            (folder / file).write_text(file)
            os.utime(folder / file, (1 if name == "a" else 2,) * 2)
            (folder / file).chmod(0o600 if name == "a" else 0o644)
        write_archive(folder, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


@pytest.mark.parametrize("kind", ["parent", "inner parent", "absolute", "link", "hard link", "device"])
def test_member_outside_the_archive_is_refused(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    names = {"parent": "../outside", "inner parent": "a/../../outside", "absolute": str(outside)}
    member = tarfile.TarInfo(names.get(kind, "x"))
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    elif kind == "hard link":
        member.type, member.linkname = tarfile.LNKTYPE, "../outside"
    elif kind == "device":
        member.type = tarfile.CHRTYPE
    else:
        member.size = 1
    path = tmp_path / "in" / "bad.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(b"x"))
    target = tmp_path / "in" / "bad"
    with pytest.raises(StoredDataError, match="cannot be unpacked"):
        extract_archive(path, target)
    assert not target.exists()
    assert not outside.exists()
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".bad")]


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
def test_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path / "in" / f"bomb{suffix}", tar_of((member("zeros", 50_000_000), b"\0" * 50_000_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(StoredDataError, match="unpacks to more than its registered size"):
        extract_archive(path, tmp_path / "in" / "bomb", max_bytes=1_000_000)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_archive_with_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.registry.archives.MAX_MEMBERS", 10)
    path = packed(tmp_path / "many.tar.gz", tar_of(*((member(f"{n}", 0), b"") for n in range(11))))
    with pytest.raises(StoredDataError, match="more than 10 members"):
        extract_archive(path, tmp_path / "many")


def test_archive_may_unpack_to_its_registered_size_only(tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    (tmp_path / "model").mkdir()
    for name, size in (("a", 3000), ("b", 2000)):
        (tmp_path / "model" / name).write_bytes(bytes(size))
    assert write_archive(tmp_path / "model", path) == 5000
    extract_archive(path, tmp_path / "out", max_bytes=5000)
    assert [(tmp_path / "out" / name).stat().st_size for name in "ab"] == [3000, 2000]
    with pytest.raises(StoredDataError, match="it unpacks to more than its registered size"):
        extract_archive(path, tmp_path / "less", max_bytes=4999)
    assert not (tmp_path / "less").exists()


def test_archive_contains_regular_files_only(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "empty").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="contains no file: there is nothing to store"):
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


def test_oversized_header_is_refused(tmp_path: Path) -> None:
    entry = member("x", 1 << 33)
    entry.type = tarfile.XHDTYPE
    path = packed(tmp_path / "long.tar.gz", entry.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(StoredDataError, match="one of its headers is larger than 64 KiB"):
        extract_archive(path, tmp_path / "long")


def test_thousands_of_nested_headers_are_refused(tmp_path: Path) -> None:
    """tarfile recurses for each header with a long name that is followed by another one."""
    block = tarfile.TarInfo("././@LongLink")
    block.type, block.size = tarfile.GNUTYPE_LONGNAME, 4
    entry = block.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(entry * 20_000))
    with pytest.raises(StoredDataError, match=r"model\.tar\.gz cannot be unpacked"):
        extract_archive(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_truncated_archive_leaves_the_folder_unchanged(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "w").write_bytes(os.urandom(10_000))
    path = tmp_path / f"model{suffix}"
    write_archive(tmp_path / "model", path, "gzip" if suffix == ".tar.gz" else "zstd")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoredDataError, match="cannot be unpacked"):
        extract_archive(path, tmp_path / "model")
    assert (tmp_path / "model" / "w").stat().st_size == 10_000
