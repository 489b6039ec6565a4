"""Functions compiled by numba that run on all of torch's threads at once, with arguments by name.

A kernel declares its arguments as text: ``real users width`` is a contiguous array of real numbers of that shape (see
`number_types`), ``number`` a float, ``integer`` an integer. The check of the arguments, their packing into 64-bit words
and the compiled code that unpacks them all follow from this one declaration.
"""

from __future__ import annotations

import struct
import zlib
from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from numpy.typing import NDArray
from torch import Tensor

from gh_assets.recommender.cpu import llvm_internals, number_types
from gh_assets.recommender.cpu.llvm_internals import barrier, call, openmp, untyped

CHUNKS = 32
"""Parts of a batch whose sums are added in the same order, so that results do not depend on the number of threads."""

BLOCK_ROWS = 64
"""Rows of a table that a thread takes at a time where some rows have far more work than others."""

SHARES = {
    "rows": "body(a, thread * ({0}) // threads, (thread + 1) * ({0}) // threads)",
    "blocks": "for low in range(thread * {1}, {0}, threads * {1}): body(a, low, min(low + {1}, {0}))",
    "one thread": "body(a) if thread == 0 else None",
    "threads": "body(a, thread, threads)",
}
"""How threads share the work: a range of rows each, blocks of rows in turns, one thread alone, or as the body does."""

_FILES = (__file__, number_types.__file__, llvm_internals.__file__)
_MACHINERY = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))
"""Part of the key of numba's disk cache, which by itself notices changes of the kernel's own file only."""

Argument = int | float | Tensor


class Bound:
    """A kernel with its arguments, to run many times: the arrays' contents may change, their addresses may not.

    When a training comes back to a kernel, the processor's caches have lost the interpreter, and a call with ten
    arguments takes a tenth of a millisecond; a bound one does not.
    """

    def __init__(self, address: int, words: Mapping[str, int], kept: object) -> None:
        self._words: NDArray[np.int64] = np.array(list(words.values()), np.int64)
        self._places, self._kept = {name: place for place, name in enumerate(words)}, kept
        self.address, self.pointer = address, self._words.ctypes.data
        self._parallel, self._threads = openmp(), torch.get_num_threads

    def __call__(self) -> None:
        self._parallel(self.address, self.pointer, self._threads(), 0)

    def set(self, **integers: int) -> None:
        """Change integers among the arguments."""
        for name, value in integers.items():
            self._words[self._places[name]] = value


class Kernel:
    """A compiled function; see `kernel`.

    Attributes
    ----------
    reference : callable
        The torch operations that the kernel replaces: takes a named tuple of the arguments and returns the expected
        results by name, sums over `CHUNKS` as one.
    """

    reference: Callable[[Any], dict[str, Tensor]]

    def __init__(self, body: Callable[..., None], share: str, over: str, layout: Mapping[str, str]) -> None:
        self.name, self.body = body.__name__, body
        self.layout = {name: (kind, shape) for name, text in layout.items() for kind, *shape in [text.split()]}
        self.Arguments = namedtuple(f"{self.name}_arguments", layout)  # type: ignore[misc]
        every = (size for _, shape in self.layout.values() for size in shape)
        self._sizes = list(dict.fromkeys(size for size in every if size.isidentifier() and size != "CHUNKS"))
        self._share = SHARES[share].format(over, BLOCK_ROWS)
        self._compiled: dict[torch.dtype, Any] = {}

    def __call__(self, dtype: torch.dtype, **arguments: Argument) -> None:
        """Run the kernel once; see `bound`."""
        self.bound(dtype, **arguments)()

    def replaces(self, reference: Callable[[Any], dict[str, Tensor]]) -> Callable[[Any], dict[str, Tensor]]:
        """Register the reference, as a decorator."""
        self.reference = reference
        return reference

    def bound(self, dtype: torch.dtype, **arguments: Argument) -> Bound:
        """Bind the declared arguments, given by name.

        Parameters
        ----------
        dtype : torch.dtype
            Type of stored numbers.
        arguments : int, float or Tensor

        Raises
        ------
        TypeError
            If an argument is missing, unknown or of another type than declared.
        ValueError
            If an array is not contiguous, or its shape does not fit the others.
        """
        if arguments.keys() != self.layout.keys():
            raise TypeError(f"{self.name} takes {', '.join(self.layout)}; not {', '.join(arguments)}.")
        openmp()  # before compiling: it registers OpenMP's functions
        if dtype not in self._compiled:
            self._compiled[dtype] = compile_entry(self._entry(), number_types.STORED[dtype])
        words = {name: self._word(name, arguments[name], dtype) for name in self.layout}
        return Bound(self._compiled[dtype].address, words | self._measured(arguments), arguments)

    def _word(self, name: str, argument: Argument, dtype: torch.dtype) -> int:
        kind, _ = self.layout[name]
        if kind == "integer":
            return int(argument)
        if kind == "number":
            return int(struct.unpack("q", struct.pack("d", argument))[0])
        real = torch.float64 if dtype == torch.float64 else torch.float32
        expected = {"stored": dtype, "int64": torch.int64, "int32": torch.int32}.get(kind, real)
        if not isinstance(argument, Tensor) or argument.dtype != expected:
            raise TypeError(f"{self.name}: {name} must be a tensor of {expected}.")
        if not argument.is_contiguous():
            raise ValueError(f"{self.name}: {name} must be contiguous, because a kernel ignores strides.")
        return argument.data_ptr()

    def _measured(self, arguments: Mapping[str, Argument]) -> dict[str, int]:
        """Return the sizes, after a check that the arrays' shapes agree on them."""
        shapes = {n: (shape, tuple(arguments[n].shape)) for n, (_, shape) in self.layout.items() if shape}  # type: ignore[union-attr]
        sizes = {"CHUNKS": CHUNKS}
        for names, shape in shapes.values():
            sizes = {name: length for name, length in zip(names, shape, strict=False) if name.isidentifier()} | sizes
        for argument, (names, shape) in shapes.items():
            expected = tuple(eval(size, {}, sizes) for size in names)  # noqa: S307 - the kernel's own declaration
            if shape != expected:
                raise ValueError(f"{self.name}: {argument} must have the shape {expected}, not {shape}.")
        return {f"size {size}": sizes[size] for size in self._sizes}

    def _entry(self) -> Callable[[Any], None]:
        """Make the function that unpacks the arguments and shares the work among the threads."""
        values = []
        for place, (kind, shape) in enumerate(self.layout.values()):
            extent = f", ({', '.join(shape)},)" if shape else ""
            values.append(f"word[{place}]" if kind == "integer" else f"{kind}(pointer, word[{place}]{extent})")
        lines = [
            f"word = carray(untyped(pointer), {len(self.layout) + len(self._sizes)}, int64_type)",
            *(f"{size} = word[{len(self.layout) + place}]" for place, size in enumerate(self._sizes)),
            f"a = Arguments({', '.join(values)})",
            "thread, threads = thread_number(), thread_count()",
            self._share,
        ]
        # The machinery's checksum is in the closure, and so in the key of the disk cache. LLVM inlines the body:
        # otherwise a kernel from the cache would run another copy of it than a new one, with sums in another order.
        text = "def make(machinery):\n def entry(pointer):\n  machinery\n  " + "\n  ".join(lines) + "\n return entry"
        scope: dict[str, Any] = {**vars(number_types), **vars(llvm_internals), "CHUNKS": CHUNKS}
        body = njit(forceinline=True, fastmath=True, error_model="numpy")(self.body)
        scope |= {"carray": carray, "int64_type": np.int64}
        scope |= {"__name__": self.body.__module__, "body": body, "Arguments": self.Arguments}
        exec(compile(text, self.body.__code__.co_filename, "exec"), scope)  # noqa: S102 - the text above
        entry: Callable[[Any], None] = scope["make"](_MACHINERY)
        entry.__qualname__ = f"{self.name}_entry"
        return entry


def kernel(declaration: str) -> Callable[[Callable[..., None]], Kernel]:
    """Declare a kernel, as a decorator of its body.

    Parameters
    ----------
    declaration : str
        The first line says how threads share the work (see `SHARES`), and of which size or expression in the arguments
        ``a``; every other one, ``kind and shape: names  # comment``, declares arguments. The body takes them as one
        named tuple, then its share.
    """
    first, *others = [line.partition("#")[0].strip() for line in declaration.strip().splitlines()]
    share, _, over = first.partition(" of ")
    lines = (line.partition(":") for line in others)
    layout = {name: kind for kind, _, names in lines for name in names.replace(",", " ").split()}
    return lambda body: Kernel(body, share, over, layout)


def compile_entry(function: Callable[[Any], None], number: Any) -> Any:
    """Compile a C function of one pointer; the result is cached on disk if possible."""
    # As numpy divides: a check for zero divisors would prevent vectorization.
    options = {"nopython": True, "fastmath": True, "error_model": "numpy"}
    signature = types.void(types.CPointer(number))
    try:
        return cfunc(signature, cache=True, **options)(function)
    except (OSError, RuntimeError):  # no place for the cache: the disk is full or read-only
        return cfunc(signature, **options)(function)


def _in_sequence(pointer):  # type: ignore[no-untyped-def]
    """Call kernels. Words: how many, whether to wait between them, then the function and arguments of each."""
    word = carray(untyped(pointer), 2, np.int64)
    for place in range(word[0]):
        if place > 0 and word[1] != 0:
            barrier()
        call(word[2 + 2 * place], word[3 + 2 * place])


_compiled_sequence = lru_cache(1)(lambda: compile_entry(_in_sequence, types.float32))


def together(*kernels: Bound, wait: bool = True) -> Bound:
    """Combine kernels into one call of all threads.

    Parameters
    ----------
    kernels : Bound
    wait : bool
        Whether threads wait for one another between two kernels; not needed if the kernels share no data.
    """
    words = {"count": len(kernels), "wait": int(wait)}
    for place, bound in enumerate(kernels):
        words |= {f"function {place}": bound.address, f"arguments {place}": bound.pointer}
    return Bound(_compiled_sequence().address, words, (_compiled_sequence(), kernels))
