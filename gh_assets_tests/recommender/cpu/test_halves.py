"""Tables in halves are the same tables afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.recommender.cpu import halves


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 40))
def test_a_table_that_was_in_halves_is_unchanged(seed: int, rows: int, width: int) -> None:
    """For any bits of finite numbers."""
    bits = np.random.default_rng(seed).integers(0, 2**32, (rows, width), dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers[~np.isfinite(numbers) | (np.abs(numbers) > 3.3e38)] = 0.0
    table = torch.from_numpy(numbers.copy())
    with halves.in_halves(table, torch.bfloat16):
        upper = table.view(torch.bfloat16)[:, :width].float()
        normal = torch.from_numpy(np.abs(numbers) > 1e-37)
        error = (upper - torch.from_numpy(numbers)).abs()
        assert bool((error <= torch.from_numpy(np.abs(numbers)) * 2**-8)[normal].all())
    assert np.array_equal(table.numpy().view(np.uint32), numbers.view(np.uint32))
    for dtype in (torch.float32, torch.float64):
        table = torch.from_numpy(numbers).to(dtype)
        before = table.clone()
        with halves.in_halves(table, dtype):
            assert torch.equal(table, before)
        assert torch.equal(table, before)


def test_an_interrupted_epoch_leaves_the_embeddings_whole() -> None:
    table = torch.randn(5, 7)
    before = table.clone()

    def interrupted() -> None:
        with halves.in_halves(table, torch.bfloat16):
            assert not torch.equal(table, before)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(table, before)
