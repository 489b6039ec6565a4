"""Compilation by numba, with results on disk that a change of any module of this folder makes obsolete."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

OPTIONS = {"fastmath": True, "error_model": "numpy"}
"""As numpy divides: a check for zero divisors would prevent vectorization."""

_SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))


def cached(compiler: Callable[..., Any], function: Callable[..., Any]) -> Any:
    """Compile a function by a decorator of numba; the result is cached on disk if possible."""
    # numba's cache has the name in its key; by itself it notices changes of the function's own module only.
    function.__qualname__ += f"_{_SOURCES:08x}"
    try:
        return compiler(cache=True, **OPTIONS)(function)
    except (OSError, RuntimeError):  # no place for the cache: the disk is full or read-only
        return compiler(**OPTIONS)(function)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function to run without the interpreter's lock."""
    return cached(lambda **options: njit(nogil=True, **options), function)
