"""Memory limits for stored objects: a compressed object of a few kilobytes can expand to terabytes."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

from gh_assets.errors import StoredDataError

MAX_MEMORY_SHARE = 0.5
"""Share of the memory of the machine or container that one object may take."""

BYTES_PER_VALUE = 16
"""Minimum size of a decoded value in a table: a string view has 16 bytes."""

_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def memory_limit() -> int:
    """Return the maximum number of bytes that one object may take."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        container = int(_CONTAINER.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not in a container, or in one without a limit
        container = machine
    return int(MAX_MEMORY_SHARE * min(machine, container))


def check_memory(what: str, size: int) -> None:
    """Check that an object fits into memory.

    Parameters
    ----------
    what : str
        Name of the object for the message.
    size : int
        Bytes.

    Raises
    ------
    StoredDataError
        If it is larger than `memory_limit`.
    """
    limit = memory_limit() if size > 1 << 20 else size
    if size > limit:
        raise StoredDataError(
            f"{what} takes {size / 1e9:,.1f} GB of memory, more than the {limit / 1e9:,.1f} GB that one stored object "
            "may take on this machine: it is not read."
        )


def check_parquet(what: str, content: bytes) -> None:
    """Check, by its metadata, that a Parquet file fits into memory once it is decoded.

    Raises
    ------
    StoredDataError
        If it is too large.
    OSError, pyarrow.ArrowException
        If it is not a Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(pa.BufferReader(content))
    encoded = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    check_memory(what, max(encoded, metadata.num_rows * metadata.num_columns * BYTES_PER_VALUE))


def check_zip(what: str, content: bytes | Path) -> None:
    """Check that an archive of arrays (``.npz``) fits into memory once it is unpacked.

    Raises
    ------
    StoredDataError
        If it is too large or not a readable archive.
    """
    try:
        with zipfile.ZipFile(BytesIO(content) if isinstance(content, bytes) else content) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise StoredDataError(f"{what} cannot be read: {error}.") from error
    check_memory(what, size)
