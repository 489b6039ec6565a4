"""Memory for the fused steps, the same for all batch sizes, so that it stays in the processor's caches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

ARRAYS = """
    int64 users: batch
    int64 users+1: offsets, kept_offsets
    int64 stars: items, kept, row_users
    int64 1: count
    int64 items: touched
    int64 items+1: touched_offsets, row_offsets
    real users: lengths
    real users latent: noise
    real users*(here<users) hidden: first_gradient
    real stars: weights, kept_weights, row_weights
    real here: losses, normalizers
    real here hidden: skipped
    real here latent: mean, log_variance, z
    real here 2*latent: old
    real layers here: inverses
    real chunks: out_of_range
    real chunks here: sums
    real chunks 2*latent: totals
    real layers chunks 3 hidden: vectors
    stored here hidden: product, other
    stored here 2*latent: head, gradient
    stored here width: weighted
    stored here block: block_logits
    stored blocks here width: parts
    stored items here: logits
    stored items width: expected
    stored layers here hidden: slopes, normed, activations
"""
"""Number type, shape and names. `users` is the size of a batch, `here` the number of them that this process computes,
and `width` that of the softmax's table."""

CACHE_LINE = 32
"""Numbers of two bytes in a cache line."""


class Room:
    """Memory for a maximum number of users and stars.

    Parameters
    ----------
    sizes : mapping of str to int
        The sizes in `ARRAYS`; those of users and stars are the maximum.
    dtypes : mapping of str to torch.dtype
        The number types in `ARRAYS`.
    """

    def __init__(self, sizes: Mapping[str, int], dtypes: Mapping[str, torch.dtype]) -> None:
        self.users, self.stars, self._sizes = sizes["users"], sizes["stars"], sizes
        shapes = self._shapes(self.users, self.users).values()
        total = {kind: sum(_whole_lines(shape) for other, shape in shapes if other == kind) for kind in dtypes}
        self._memory = {kind: torch.empty(total[kind], dtype=dtype) for kind, dtype in dtypes.items()}

    def _shapes(self, users: int, here: int) -> dict[str, tuple[str, list[int]]]:
        sizes, shapes = {**self._sizes, "users": users, "here": here}, {}
        for line in ARRAYS.strip().splitlines():
            (kind, *lengths), names = (part.split() for part in line.replace(",", "").split(":"))
            shape = [int(eval(length, {}, sizes)) for length in lengths]  # noqa: S307 - a text of this module
            shapes.update(dict.fromkeys(names, (kind, shape)))
        return shapes

    def arrays(self, users: int, here: int) -> dict[str, Tensor]:
        """Return views for a batch of `users`, of which this process computes `here`."""
        views, starts = {}, dict.fromkeys(self._memory, 0)
        for name, (kind, shape) in self._shapes(users, here).items():
            views[name] = self._memory[kind][starts[kind] : starts[kind] + math.prod(shape)].view(shape)
            starts[kind] += _whole_lines(shape)
        return views


def _whole_lines(shape: list[int]) -> int:
    """Return a size in whole cache lines: an array that does not begin with one is slow to read."""
    return -(-math.prod(shape) // CACHE_LINE) * CACHE_LINE
