"""Memory for the fused steps, the same for all batch sizes, so that it stays in the processor's caches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

ARRAYS = """
    int64 3: settings
    int64 users: batch
    int64 users+1: offsets, kept_offsets
    int64 stars: items, kept, row_users
    int64 1: count
    int64 items: touched
    int64 items+1: touched_offsets, row_offsets
    real users: lengths
    real users latent: noise
    real users hidden: whole_gradient
    real stars: weights, kept_weights, row_weights
    real here: losses
    real here hidden: skipped
    real here latent: z
    real here 2*latent: posterior, old
    real layers here: inverses
    real chunks: out_of_range
    real chunks here: sums
    real chunks 2*latent: totals
    real layers chunks 3 hidden: vectors
    stored here hidden: product, other
    stored here 2*latent: head, gradient
    stored here block: block_logits
    stored blocks here width: parts
    stored items here: logits
    stored items width: expected
    stored layers here hidden: slopes, normed, activations
"""
"""Number type, shape and names. `users` is the size of a batch, `here` the number of them that this process computes,
and `width` that of the softmax's table."""


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
        shapes = self._shapes(self.users, self.users)
        self._memory = {name: torch.empty(math.prod(shape), dtype=dtypes[kind]) for name, (kind, shape) in shapes}

    def _shapes(self, users: int, here: int) -> list[tuple[str, tuple[str, list[int]]]]:
        sizes, shapes = {**self._sizes, "users": users, "here": here}, []
        for line in ARRAYS.strip().splitlines():
            (kind, *lengths), names = (part.split() for part in line.replace(",", "").split(":"))
            shape = [int(eval(length, {}, sizes)) for length in lengths]  # noqa: S307 - a text of this module
            shapes += [(name, (kind, shape)) for name in names]
        return shapes

    def arrays(self, users: int, here: int) -> dict[str, Tensor]:
        """Return views for a batch of `users`, of which this process computes `here`."""
        shapes = self._shapes(users, here)
        return {name: self._memory[name][: math.prod(shape)].view(shape) for name, (_, shape) in shapes}
