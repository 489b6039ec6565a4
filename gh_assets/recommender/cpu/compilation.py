"""Compilation by numba, with results on disk that a change of any module of this folder makes obsolete."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from numba import njit

OPTIONS: dict[str, Any] = {"fastmath": {"nnan", "ninf", "nsz", "contract", "afn", "reassoc"}, "error_model": "numpy"}
"""Sums may be reordered, so that loops are vectorized. Quotients may not become products with the reciprocal (arcp):
the compiler does that in some versions of a loop, and which version runs depends on the addresses of short arrays. As
numpy divides: a check for zero divisors would prevent vectorization."""

_SOURCES = zlib.crc32(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))))
LOCKS = Path(__file__).parent / "__pycache__"

MAX_FUNCTIONS = 50
"""Maximum number of compiled functions that a compiled function calls, itself and through others."""


@contextmanager
def one_process(name: str) -> Iterator[None]:
    """Compile a function in one process at a time: the others load it from the disk, instead of compiling it, too."""
    try:
        lock: AbstractContextManager[Any] = FileLock(LOCKS / f"{name}.lock", mode=0o600).acquire()
    except OSError:  # nothing can be written here
        lock = nullcontext()
    with lock:
        yield


def call(function: Any, *arguments: object) -> Any:
    """Call a function of `compiled` from the interpreter."""
    with nullcontext() if function.signatures else one_process(function.py_func.__module__):
        for _ in range(MAX_FUNCTIONS):
            with suppress(OSError):  # the disk is full: what could not be written stays in memory, the rest remains
                return function(*arguments)
        return function(*arguments)


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
