"""Archives of models: compressed, of the same bytes for the same content, and opened with distrust."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

import zstandard

from gh_assets.errors import InputError, StoredDataError

Compression = Literal["gzip", "zstd"]

SUFFIXES: dict[Compression, str] = {"gzip": ".tar.gz", "zstd": ".tar.zst"}

CHUNK = 1 << 20

MAX_BYTES = 64 << 30
"""An archive may unpack to so much, if it is not known how much it holds."""

MAX_MEMBERS = 10_000


def stem_of(name: str) -> str:
    """A file name without the suffix of an archive."""
    for suffix in SUFFIXES.values():
        name = name.removesuffix(suffix)
    return name


def is_archive(name: str) -> bool:
    return name.endswith(tuple(SUFFIXES.values()))


def write_archive(source: Path, target: Path, compression: Compression = "gzip") -> int:
    """Pack a file or folder into an archive whose bytes depend on names and content only.

    Parameters
    ----------
    source, target : Path
    compression : {"gzip", "zstd"}
        Level 6 of gzip; level 10 of zstd, which is smaller and faster.

    Returns
    -------
    int
        Bytes of the files in it.

    Raises
    ------
    InputError
        If there is no file to pack.
    """
    members = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [member for member in members if member.is_file() and not member.is_symlink()]
    if not files:
        raise InputError(f"{source} holds no file: there is nothing to store.")
    total = 0
    with (
        target.open("wb") as raw,
        _compressing(raw, compression) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for member in files:
            name = member.relative_to(source).as_posix() if source.is_dir() else member.name
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = member.stat().st_size, 0o644
            total += entry.size
            with member.open("rb") as content:
                archive.addfile(entry, content)
    return total


@contextmanager
def _compressing(raw: IO[bytes], compression: Compression) -> Iterator[Any]:
    if compression == "gzip":
        # No name and no time in the header: equal content gives equal bytes, hence one object.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as zipped:
            yield zipped
    elif compression == "zstd":
        # One thread: with several, the bytes would depend on how many.
        with zstandard.ZstdCompressor(level=10, write_checksum=True).stream_writer(raw, closefd=False) as writer:
            yield writer
    else:
        raise InputError(f"The compression {compression!r} is neither gzip nor zstd.")


@contextmanager
def _uncompressing(raw: IO[bytes], name: str) -> Iterator[Any]:
    if name.endswith(SUFFIXES["zstd"]):
        with zstandard.ZstdDecompressor().stream_reader(raw, closefd=False) as reader:
            yield reader
    else:
        with gzip.GzipFile(fileobj=raw, mode="rb") as reader:
            yield reader


def extract_archive(archive: Path, folder: Path, *, most_bytes: int | None = None) -> None:
    """Unpack an archive into a folder, which is replaced. Only plain files that stay inside are accepted.

    Parameters
    ----------
    archive : Path
        Its name says how it is compressed.
    folder : Path
    most_bytes : int, optional
        What it is known to hold: one that unpacks to more is a bomb. By default `MAX_BYTES`.

    Raises
    ------
    StoredDataError
        If it is no archive, has members of other kinds or paths, or too many, or unpacks to too much.
    """
    limit = MAX_BYTES if most_bytes is None else most_bytes
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with (
            archive.open("rb") as raw,
            _uncompressing(raw, archive.name) as content,
            tarfile.open(fileobj=content, mode="r|", tarinfo=_Modest) as opened,
        ):
            for number, member in enumerate(opened):
                if number >= MAX_MEMBERS:
                    raise tarfile.TarError(f"it has more than {MAX_MEMBERS:,} members")
                limit -= member.size
                if limit < 0 or member.size < 0:
                    raise tarfile.TarError("it unpacks to more than it was said to hold")
                _extract_member(opened, member, draft)
        # The old one goes by a rename, too: removing it takes many steps, and between two of them it would be half.
        old = draft.with_name(f"{draft.name}.old")
        with suppress(FileNotFoundError):
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, OSError, EOFError, ValueError, RecursionError) as error:
        raise StoredDataError(f"{archive.name} cannot be unpacked: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


class _Modest(tarfile.TarInfo):
    """A header of which tarfile does not read gigabytes into memory: long names are a kilobyte at most."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES)
        if self.type in extended and self.size > 64 << 10:
            raise tarfile.ReadError("a header of it is larger than 64 KiB")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return member


def _extract_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    # By hand, because tarfile's own filters came with Python 3.11.4, and because nothing but content is wanted.
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"its member {member.name!r} is not a plain file inside the archive")
    target = folder / path
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    content = archive.extractfile(member)
    assert content is not None, "a regular file has content"
    target.parent.mkdir(parents=True, exist_ok=True)
    with content, target.open("xb") as file:
        shutil.copyfileobj(content, file, CHUNK)
