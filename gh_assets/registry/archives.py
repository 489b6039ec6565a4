"""Archives of models: compressed, with the same bytes for the same content, and unpacked defensively."""

import gzip
import shutil
import tarfile
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, Self

import zstandard

from gh_assets.errors import InputError, StoredDataError

Compression = Literal["gzip", "zstd"]

SUFFIXES: dict[Compression, str] = {"gzip": ".tar.gz", "zstd": ".tar.zst"}

CHUNK = 1 << 20

MAX_BYTES = 64 << 30
"""Maximum size of an archive's content if its size is not registered."""

MAX_MEMBERS = 10_000

MAX_HEADER = 64 << 10
"""Maximum size of a header with a long name or with attributes, which tarfile reads into memory."""


def stem_of(name: str) -> str:
    """Return a file name without the suffix of an archive."""
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
        gzip at level 6; zstd at level 10, which is smaller and faster.

    Returns
    -------
    int
        Size of the packed files in bytes.

    Raises
    ------
    InputError
        If there is no file to pack, or the compression is not known.
    """
    if compression not in SUFFIXES:
        raise InputError(f"The compression {compression!r} is neither gzip nor zstd.")
    members = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [member for member in members if member.is_file() and not member.is_symlink()]
    if not files:
        raise InputError(f"{source} contains no file: there is nothing to store.")
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


def _compressing(raw: IO[bytes], compression: Compression) -> Any:
    if compression == "gzip":
        # Without a name and a time in the header, equal content gives equal bytes, hence one object.
        return gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0)
    # With several threads, the bytes would depend on their number.
    return zstandard.ZstdCompressor(level=10, write_checksum=True).stream_writer(raw, closefd=False)


def _uncompressing(raw: IO[bytes], name: str) -> Any:
    if name.endswith(SUFFIXES["zstd"]):
        return zstandard.ZstdDecompressor().stream_reader(raw, closefd=False)
    return gzip.GzipFile(fileobj=raw, mode="rb")


def extract_archive(archive: Path, folder: Path, *, max_bytes: int | None = None) -> None:
    """Unpack an archive into a folder, replacing it. Only regular files and folders within it are accepted.

    Parameters
    ----------
    archive : Path
        The suffix of its name tells how it is compressed.
    folder : Path
    max_bytes : int, optional
        Size of the content in bytes; an archive that unpacks to more is refused. By default `MAX_BYTES`.

    Raises
    ------
    StoredDataError
        If it is not an archive, has members of other kinds, paths that lead out of it or too many members, or unpacks
        to more than `max_bytes`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _extract_members(archive, draft, MAX_BYTES if max_bytes is None else max_bytes)
        # The former folder is renamed, too: removing it takes many steps, and it must not be seen half removed.
        former = draft.with_name(f"{draft.name}.old")
        with suppress(FileNotFoundError):
            folder.rename(former)
        draft.rename(folder)
        shutil.rmtree(former, ignore_errors=True)
    except (tarfile.TarError, zlib.error, zstandard.ZstdError, OSError, EOFError, ValueError, RecursionError) as error:
        raise StoredDataError(f"{archive.name} cannot be unpacked: {error}.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _extract_members(archive: Path, folder: Path, max_bytes: int) -> None:
    with (
        archive.open("rb") as raw,
        _uncompressing(raw, archive.name) as content,
        tarfile.open(fileobj=content, mode="r|", tarinfo=_BoundedHeader) as opened,
    ):
        for number, member in enumerate(opened):
            if number >= MAX_MEMBERS:
                raise tarfile.TarError(f"it has more than {MAX_MEMBERS:,} members")
            max_bytes -= member.size
            if max_bytes < 0 or member.size < 0:
                raise tarfile.TarError("it unpacks to more than its registered size")
            opened.extract(member, folder, set_attrs=False, filter=_plain_member)


class _BoundedHeader(tarfile.TarInfo):
    """A header of bounded size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        extended = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, *tarfile.GNU_TYPES)
        if header.type in extended and header.size > MAX_HEADER:
            raise tarfile.ReadError(f"one of its headers is larger than {MAX_HEADER >> 10} KiB")
        return header


def _plain_member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Accept what tarfile's ``data`` filter accepts, except absolute paths and links."""
    if member.name.startswith("/") or not (member.isreg() or member.isdir()):
        raise tarfile.TarError(f"its member {member.name!r} is not a plain file inside the archive")
    return tarfile.data_filter(member, folder)
