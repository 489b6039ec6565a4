"""Find pickles in stored objects: in archives, compressed data, arrays of objects and columns of bytes."""

import gzip
import io
import pickletools
import tarfile
import warnings
import zipfile
from collections.abc import Iterator

import numpy as np
import polars as pl
import zstandard

GZIP, ZSTD, ZIP, NUMPY, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"\x93NUMPY", b"PAR1"


def pickles_in(name: str, content: bytes) -> list[str]:
    """Return the places of pickles within an object, including arrays of objects, which only pickles can hold."""
    return [place for place, part in parts_of(name, content) if _is_pickle(part)]


def parts_of(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:  # noqa: C901 - one branch per kind
    """Yield an object and everything in it, at any depth."""
    if content.startswith(GZIP):
        yield from parts_of(f"{name} unpacked", gzip.decompress(content))
    elif content.startswith(ZSTD):
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(content))
        yield from parts_of(f"{name} unpacked", reader.read())
    elif content[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive.getmembers():
                if (file := archive.extractfile(member)) is not None:
                    yield from parts_of(f"{name}/{member.name}", file.read())
    elif content.startswith(ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member_name in archive.namelist():
                yield from parts_of(f"{name}/{member_name}", archive.read(member_name))
    elif content.startswith(NUMPY):
        try:
            np.load(io.BytesIO(content), allow_pickle=False)
        except ValueError:  # an array of objects
            yield name, b"N."
        else:
            yield name, content
    elif content.startswith(PARQUET):
        for column in (table := pl.read_parquet(io.BytesIO(content))).columns:
            if table[column].dtype in (pl.Binary, pl.Object):
                for value in table[column].drop_nulls().head(100):
                    yield f"{name}: {column}", bytes(value)
        yield name, content
    else:
        yield name, content


def _is_pickle(content: bytes) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other content has invalid strings when read as a pickle
            return [position for _, _, position in pickletools.genops(content)][-1] == len(content) - 1
    except Exception:  # noqa: BLE001 - content that is not a pickle fails in many ways
        return False
