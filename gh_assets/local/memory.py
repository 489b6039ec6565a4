"""How much memory one stored object may take: a few kilobytes of somebody's can ask for terabytes."""

from __future__ import annotations

import os
import zipfile
from io import BytesIO
from pathlib import Path

from gh_assets.errors import StoredDataError

MAX_MEMORY_SHARE = 0.5
"""Of this machine's memory, or of the container's."""

BYTES_A_VALUE = 16
"""That a value of a table takes at least, once decoded: a text is a view of so many bytes."""

_CONTAINER = Path("/sys/fs/cgroup/memory.max")


def memory_limit() -> int:
    """Bytes that one object may take."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        container = int(_CONTAINER.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit
        container = machine
    return int(MAX_MEMORY_SHARE * min(machine, container))


def check_memory(what: str, size: int) -> None:
    """Refuse what is too large.

    Raises
    ------
    StoredDataError
    """
    limit = memory_limit() if size > 1 << 20 else size
    if size > limit:
        raise StoredDataError(
            f"{what} takes {size / 1e9:,.1f} GB of memory, more than the {limit / 1e9:,.1f} GB that one stored object "
            "may take on this machine: it is not read."
        )


def check_parquet(what: str, content: bytes) -> None:
    """Refuse a Parquet file that says it is too large for memory once it is decoded.

    Raises
    ------
    StoredDataError
    OSError, pyarrow.ArrowException
        If it is no Parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    described = pq.read_metadata(pa.BufferReader(content))
    encoded = sum(described.row_group(number).total_byte_size for number in range(described.num_row_groups))
    check_memory(what, max(encoded, described.num_rows * described.num_columns * BYTES_A_VALUE))


def check_zip(what: str, content: bytes | Path) -> None:
    """Refuse an archive of arrays (``.npz``) that is too large once it is unpacked.

    Raises
    ------
    StoredDataError
    """
    try:
        with zipfile.ZipFile(BytesIO(content) if isinstance(content, bytes) else content) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise StoredDataError(f"{what} cannot be read: {error}.") from error
    check_memory(what, size)
