"""GNU OpenMP's functions by ctypes, and pointers through numba's extension interface."""

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


def test_addresses_become_pointers() -> None:
    """If this fails after an upgrade of numba or llvmlite, see how `numba.extending.intrinsic` changed."""

    @njit
    def number_at(address: Any) -> Any:
        return carray(llvm_internals.pointer_to(address), 1, np.float32)[0]

    number = ctypes.c_float(-2.5)
    assert number_at(ctypes.addressof(number)) == -2.5
