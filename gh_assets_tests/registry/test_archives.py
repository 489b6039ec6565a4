"""Archives: reproducible when packed, and refused if they are hostile."""

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


def packed(path: Path, content: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else zstandard.compress(content))
    return path


def tar_of(*members: tarfile.TarInfo) -> bytes:
    """Return an archive of members that are filled with zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for entry in members:
            archive.addfile(entry, io.BytesIO(bytes(entry.size)))
    return buffer.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = size, kind, link
    return entry


def header(name: str, size: int, kind: bytes) -> bytes:
    return member(name, size, kind).tobuf(tarfile.GNU_FORMAT)


ELSEWHERE = "is not a plain file inside the archive|outside the destination"
LONG_NAME = header("././@LongLink", 4, tarfile.GNUTYPE_LONGNAME) + b"abc\0".ljust(512, b"\0")
HOSTILE = {
    "parent": (tar_of(member("../outside", 1)), ELSEWHERE),
    "inner parent": (tar_of(member("a/../../outside", 1)), ELSEWHERE),
    "absolute": (tar_of(member("/tmp/outside", 1)), ELSEWHERE),
    "link": (tar_of(member("x", kind=tarfile.SYMTYPE, link="/etc/passwd")), ELSEWHERE),
    "hard link": (tar_of(member("x", kind=tarfile.LNKTYPE, link="../outside")), ELSEWHERE),
    "device": (tar_of(member("x", kind=tarfile.CHRTYPE)), ELSEWHERE),
    "bomb": (tar_of(member("zeros", 50_000_000)), "unpacks to more than its registered size"),
    "too many members": (tar_of(*(member(f"{number}") for number in range(11))), "more than 10 members"),
    "oversized header": (header("x", 1 << 33, tarfile.XHDTYPE) + bytes(1024), "headers is larger than 64 KiB"),
    # tarfile recurses for each header with a long name that is followed by another one.
    "nested headers": (LONG_NAME * 20_000, ""),
}


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archive_is_refused_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str, suffix: str
) -> None:
    monkeypatch.setattr("gh_assets.registry.archives.MAX_MEMBERS", 10)
    path = packed(tmp_path / "in" / f"bad{suffix}", content)
    assert path.stat().st_size < 100_000
    with pytest.raises(StoredDataError, match=rf"bad\{suffix} cannot be unpacked: .*({reason})"):
        extract_archive(path, tmp_path / "in" / "bad", max_bytes=1_000_000)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert not Path("/tmp/outside").exists()


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
