"""Tables of float32 in two halves: as bfloat16 numbers, and what rounding took from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gh_assets.recommender.engine.bags import portions

ROWS_AT_ONCE = 4096
"""Rows converted together, which bounds memory."""


@contextmanager
def in_halves(table: Tensor, dtype: torch.dtype) -> Iterator[None]:
    """Keep a table in halves if products are in bfloat16, so that a sum of rows reads no more than they see.

    Only the kernels can read it meanwhile. Afterwards it is whole again, with what was learned.

    Parameters
    ----------
    table : Tensor of float32 or float64, shape (rows, columns)
        Changed in place.
    dtype : torch.dtype
        Type of the products.
    """
    if dtype != torch.bfloat16:
        yield
        return
    halve(table)
    try:
        yield
    finally:
        join(table)


def halve(table: Tensor) -> None:
    """Replace each row by its numbers in bfloat16, followed by what rounding took from them."""
    for rows in portions(table, ROWS_AT_ONCE):
        bits = rows.view(torch.int32)
        upper = (bits + 0x8000) >> 16
        halves = rows.view(torch.int16).view(len(rows), 2, -1)
        halves[:, 0], halves[:, 1] = upper, bits - (upper << 16)


def join(table: Tensor) -> None:
    """Undo `halve`, to the last bit."""
    for rows in portions(table, ROWS_AT_ONCE):
        upper, lower = rows.view(torch.int16).view(len(rows), 2, -1).int().unbind(dim=1)
        rows.view(torch.int32)[:] = (upper << 16) + lower
