"""Functions compiled by numba that run on all of torch's threads at once, with arguments by name.

A kernel declares its arguments as text: ``real users width`` is a contiguous array of real numbers of that shape,
``number`` a real number, ``integer`` an integer. The check of the arguments, their packing into 64-bit words and the
compiled code that unpacks them all follow from this one declaration.

"Stored" numbers have the type of the matrix products (bfloat16 as its 16 bits), "real" ones the type of the sums:
float64 for float64, else float32. So one kernel serves bfloat16, float32 and float64: what the tests prove in float64
is what trains in bfloat16.
"""

import struct
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from torch import Tensor

from gh_assets.recommender.cpu import llvm_internals
from gh_assets.recommender.cpu.compilation import OPTIONS, cached, one_process
from gh_assets.recommender.cpu.llvm_internals import openmp

CHUNKS = 32
"""Parts of a batch whose sums are added in the same order, so that results do not depend on the number of threads."""

BLOCK_ROWS = 64
"""Rows of a table that a thread takes at a time where some rows have far more work than others."""

SHARES = {
    "rows": "body(a, thread * ({0}) // threads, (thread + 1) * ({0}) // threads)",
    "blocks": "for low in range(thread * {1}, {0}, threads * {1}): body(a, low, min(low + {1}, {0}))",
}
"""How threads share the work: a range of rows each, or blocks of rows in turns."""

NUMBERS: dict[torch.dtype, dict[str, Any]] = {
    torch.bfloat16: {"stored": np.int16, "real": np.float32},
    torch.float32: {"stored": np.float32, "real": np.float32},
    torch.float64: {"stored": np.float64, "real": np.float64},
}
"""The number types of compiled code by that of the matrix products."""

Argument = int | float | Tensor


class Bound:
    """A kernel with its arguments, to run many times: the arrays' contents may change, their addresses may not.

    When a training comes back to a kernel, the processor's caches have lost the interpreter, and a call with ten
    arguments takes a tenth of a millisecond; a bound one does not.
    """

    def __init__(self, compiled: Any, words: Sequence[int], arguments: object) -> None:
        self._words, self._arguments = np.array(words, np.int64), arguments
        self._call = partial(openmp(), compiled.address, self._words.ctypes.data)

    def __call__(self) -> None:
        self._call(torch.get_num_threads(), 0)


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
        every = (size for _, shape in self.layout.values() for size in shape)
        self._sizes = list(dict.fromkeys(size for size in every if size.isidentifier() and size != "CHUNKS"))
        self._share = SHARES[share].format(over, BLOCK_ROWS)
        self._compiled: dict[torch.dtype, Any] = {}

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
        words = [self._word(name, arguments[name], dtype) for name in self.layout]
        words += self._measured({n: value for n, value in arguments.items() if isinstance(value, Tensor)})
        openmp()  # before compiling: it registers OpenMP's functions
        if dtype not in self._compiled:
            with one_process(f"{self.name}-{dtype}"):
                self._compiled[dtype] = self._compile(dtype)
        return Bound(self._compiled[dtype], words, arguments)

    def _word(self, name: str, argument: Argument, dtype: torch.dtype) -> int:
        kind, _ = self.layout[name]
        if kind == "integer":
            return int(argument)
        if kind == "number":
            return int(struct.unpack("q", struct.pack("d", argument))[0])
        real = torch.float64 if dtype == torch.float64 else torch.float32
        expected = {"stored": dtype, "real": real, "int64": torch.int64, "int32": torch.int32}[kind]
        if not isinstance(argument, Tensor) or argument.dtype != expected:
            raise TypeError(f"{self.name}: {name} must be a tensor of {expected}.")
        if not argument.is_contiguous():
            raise ValueError(f"{self.name}: {name} must be contiguous, because a kernel ignores strides.")
        return argument.data_ptr()

    def _measured(self, tensors: Mapping[str, Tensor]) -> list[int]:
        """Return the sizes, after a check that the arrays' shapes agree on them."""
        sizes = {"CHUNKS": CHUNKS}
        for name, tensor in tensors.items():
            sizes = dict(zip(self.layout[name][1], tensor.shape, strict=False)) | sizes
        for name, tensor in tensors.items():
            expected = tuple(eval(size, {}, sizes) for size in self.layout[name][1])  # noqa: S307 - the declaration
            if tensor.shape != expected:
                raise ValueError(f"{self.name}: {name} must have the shape {expected}, not {tuple(tensor.shape)}.")
        return [sizes[size] for size in self._sizes]

    def _compile(self, dtype: torch.dtype) -> Any:
        """Compile a C function that unpacks the arguments and shares the work among the threads."""
        values = []
        for place, (kind, shape) in enumerate(self.layout.values()):
            array = f"carray(pointer_to(word[{place}]), ({', '.join(shape)},), {kind})"
            scalars = {"integer": f"word[{place}]", "number": f"real(int64(word[{place}]).view(float64))"}
            values.append(scalars.get(kind, array))
        lines = [
            "def entry(pointer):",
            f"word = carray(pointer, {len(self.layout) + len(self._sizes)})",
            *(f"{size} = word[{place}]" for place, size in enumerate(self._sizes, start=len(self.layout))),
            f"a = Arguments({', '.join(values)})",
            "thread, threads = thread_number(), thread_count()",
            self._share,
        ]
        scope: dict[str, Any] = {name: getattr(np, name) for name in ("int32", "int64", "float64")}
        scope |= {**vars(llvm_internals), **NUMBERS[dtype]}
        scope |= {"Arguments": namedtuple(f"{self.name}_arguments", self.layout), "carray": carray, "CHUNKS": CHUNKS}
        # LLVM inlines the body: otherwise a kernel from the disk cache would run another copy of it than a new one,
        # with sums in another order.
        scope |= {"body": njit(forceinline=True, **OPTIONS)(self.body), "__name__": self.body.__module__}
        exec(compile("\n ".join(lines), self.body.__code__.co_filename, "exec"), scope)  # noqa: S102 - the text above
        entry = scope["entry"]
        entry.__qualname__ = f"{self.name}_{str(dtype).removeprefix('torch.')}"
        return cached(partial(cfunc, types.void(types.CPointer(types.int64))), entry)


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
