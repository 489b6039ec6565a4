"""Freed memory is kept while a training runs: its tensors come and go by the megabyte, thousands of times an epoch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEEP, _LARGEST = 1 << 30, 32 << 20  # glibc takes no larger threshold for its own pools
_TRIM_DEFAULT, _MMAP_DEFAULT = 128 << 10, 128 << 10


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let glibc keep what is freed instead of giving it back and having every page zeroed anew.

    About a tenth of an epoch on 2 cores. Where the C library is another one, nothing happens.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, malloc_trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):
        yield
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _KEEP)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _MMAP_DEFAULT)
        mallopt(_TRIM_THRESHOLD, _TRIM_DEFAULT)
        malloc_trim(0)
