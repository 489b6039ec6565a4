"""The one place that reaches below numba and torch: GNU OpenMP's functions, and pointers.

Kernels run on the threads of torch's own OpenMP library. With threads of their own, two pools would wait for one
another by spinning (measured: 19 ms instead of 16 per pass on 2 cores). Where torch has another thread library,
`usable` is false and the engine uses torch's operations.
"""

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@cache
def usable() -> bool:
    """Whether kernels can run on torch's own threads."""
    return openmp() is not None


@cache
def openmp() -> Any:
    """Return ``GOMP_parallel`` of the library that torch loaded and register its functions; None without it."""
    try:
        library = ctypes.CDLL("libgomp.so.1")  # the loader returns the library of this name that is loaded already
        parallel, number, count = library.GOMP_parallel, library.omp_get_thread_num, library.omp_get_num_threads
    except (OSError, AttributeError):
        return None
    if "OpenMP" not in torch.__config__.parallel_info() or torch.version.hip is not None:
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    for name, function in {"gh_assets_thread": number, "gh_assets_threads": count}.items():
        llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return parallel


thread_number = types.ExternalFunction("gh_assets_thread", types.int32())
thread_count = types.ExternalFunction("gh_assets_threads", types.int32())


def _pointer_to(context: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), emit


pointer_to = intrinsic(_pointer_to)
"""In compiled code: turn an address into a pointer."""
