"""GNU OpenMP's functions by ctypes, and LLVM instructions through numba's extension interface."""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from numba import carray, cfunc, njit, types

from gh_assets.recommender.cpu import llvm_internals


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.skipif(not llvm_internals.usable(), reason="torch runs on another thread library than GNU OpenMP")
def test_a_function_runs_on_all_threads_of_torchs_own_library() -> None:
    """If this fails after an upgrade of torch, check which OpenMP library it loads and change `openmp`."""
    torch.set_num_threads(3)
    torch.ones(1000, 1000).sum()

    def body(pointer: Any) -> None:
        carray(pointer, 4)[llvm_internals.thread_number()] = llvm_internals.thread_count()

    compiled, counts = cfunc(types.void(types.CPointer(types.int64)))(body), np.zeros(4, np.int64)
    llvm_internals.openmp()(compiled.address, counts.ctypes.data, 3, 0)
    assert counts.tolist() == [3, 3, 3, 0]


def test_llvm_instructions_convert_between_bits_numbers_and_addresses() -> None:
    """If this fails after an upgrade of numba or llvmlite, see how `numba.extending.intrinsic` changed."""

    @njit
    def converted(address: Any) -> Any:
        llvm_internals.prefetch(address)
        number = carray(llvm_internals.pointer_to(address), 1, np.float32)[0]
        bits = llvm_internals.bits_of(number)
        return bits, llvm_internals.float_of(np.int32(bits)), llvm_internals.double_of(0x3FF8000000000000)

    number = ctypes.c_float(-2.5)
    bits, same, double = converted(ctypes.addressof(number))
    assert [float(np.int32(bits).view(np.float32)), same, double] == [-2.5, -2.5, 1.5]
