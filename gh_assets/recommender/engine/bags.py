"""Users as bags of items: sums of table rows whose cost follows the number of stars, their gradients, and encoders.

An encoder's first layer is a sum of item embeddings; what lies behind it is the model's.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor, nn

from gh_assets.recommender.data.interactions import Csr


def portions(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Split a tensor into views of at most `size` rows."""
    for start in range(0, len(tensor), size):
        yield tensor[start : start + size]


class UserBags(Protocol):
    """A batch of users as bags of items."""

    @property
    def lengths(self) -> Tensor:
        """Number of stars of each user, (users,)."""

    def dropped(self, rate: float, generator: torch.Generator) -> Self:
        """Hide items at random and scale the others, so that the expectation of `sums` does not change."""

    def part(self, low: int, high: int) -> Self:
        """Return the bags of users `low` to `high`."""

    def sums(self, table: Tensor, weighted: bool = True) -> Tensor:
        """Sum the table's rows over each user's items, optionally weighted by 1/√n for n items; (users, columns)."""

    def gradient(self, sum_gradients: Tensor, items: int, weighted: bool = True) -> Tensor:
        """Return the gradient in a table of `items` rows, given the gradient in its `sums`."""


@dataclass(frozen=True)
class Bags:
    """Bags whose cost follows the number of stars: the rows of a CSR matrix as torch tensors.

    Attributes
    ----------
    items : Tensor of int64, shape (stars,)
    weights : Tensor, shape (stars,)
        Weight of each star in the first layer: 1/√n for a user with n stars.
    offsets : Tensor of int64, shape (users + 1,)
        Start of each user's stars, and the end of the last user's.
    lengths : Tensor, shape (users,)
        Number of stars of each user.
    """

    items: Tensor
    weights: Tensor
    offsets: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, stars: Csr, device: torch.device, dtype: torch.dtype = torch.float32) -> Bags:
        """Convert the rows of a CSR matrix; its values are ignored."""
        counts = np.diff(stars.indptr).astype(np.int64)
        lengths = torch.from_numpy(counts).to(device)
        weights = lengths.clamp(min=1).to(dtype).rsqrt()
        return cls(
            torch.from_numpy(stars.indices.astype(np.int64)).to(device),
            weights.repeat_interleave(lengths, output_size=stars.nnz),
            torch.from_numpy(stars.indptr.astype(np.int64)).to(device),
            lengths.to(dtype),
        )

    @property
    def counts(self) -> Tensor:
        """Number of stars in each bag, int64 (users,); after `dropped`, fewer than `lengths`."""
        return self.offsets.diff()

    @property
    def users(self) -> Tensor:
        """The user of each star, int64 (stars,)."""
        users = torch.arange(len(self.lengths), device=self.items.device)
        return users.repeat_interleave(self.counts, output_size=len(self.items))

    def dropped(self, rate: float, generator: torch.Generator) -> Bags:
        if rate == 0:
            return self
        drawn = torch.rand(len(self.items), generator=generator, device=self.items.device)
        kept = (drawn >= rate).nonzero()[:, 0]
        weights = self.weights.index_select(0, kept).div_(1 - rate)
        # The offset of a bag is the number of kept stars before it.
        return Bags(self.items.index_select(0, kept), weights, torch.searchsorted(kept, self.offsets), self.lengths)

    def part(self, low: int, high: int) -> Bags:
        if high - low == len(self.lengths):
            return self
        offsets = self.offsets[low : high + 1]
        first, last = offsets[[0, -1]].tolist()
        return Bags(self.items[first:last], self.weights[first:last], offsets - first, self.lengths[low:high])

    def sums(self, table: Tensor, weighted: bool = True) -> Tensor:
        weights = self.weights.to(table.dtype) if weighted else None
        result: Tensor = F.embedding_bag(
            self.items, table, self.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        return result

    def gradient(self, sum_gradients: Tensor, items: int, weighted: bool = True) -> Tensor:
        touched, users = self.transposed()
        gradient = sum_gradients.new_zeros((items, sum_gradients.shape[1]))
        return gradient.index_copy_(0, touched, users.sums(sum_gradients, weighted))

    def transposed(self) -> tuple[Tensor, Bags]:
        """Return the items that occur, ascending, and each as a bag of its users.

        With it, the gradient of `sums` is again a sum over bags: fast, and always in the same order.
        """
        items, order = torch.sort(self.items, stable=True)
        touched, counts = torch.unique_consecutive(items, return_counts=True)
        offsets = F.pad(counts.cumsum(0), (1, 0))
        return touched, Bags(self.users[order], self.weights[order], offsets, counts.to(self.lengths.dtype))


@dataclass(frozen=True)
class DenseBags:
    """Bags as rows of a matrix, for a GPU: products with it are fast, and no shape depends on the number of stars.

    Attributes
    ----------
    matrix : Tensor, shape (users, items)
        1 for a user's items, else 0, in the type of the products.
    weights : Tensor, shape (users,)
        Weight of each of a user's stars in the first layer.
    lengths : Tensor, shape (users,)
        Number of stars of each user.
    """

    matrix: Tensor
    weights: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, matrix: Tensor, dtype: torch.dtype) -> DenseBags:
        """Convert a matrix of ones and zeros; weights and lengths are in `dtype`."""
        lengths = matrix.sum(dim=1, dtype=dtype)
        return cls(matrix, lengths.clamp(min=1).rsqrt(), lengths)

    def dropped(self, rate: float, generator: torch.Generator) -> DenseBags:
        if rate == 0:
            return self
        kept = torch.rand(self.matrix.shape, generator=generator, device=self.matrix.device) >= rate
        return DenseBags(self.matrix * kept, self.weights / (1 - rate), self.lengths)

    def part(self, low: int, high: int) -> DenseBags:
        return DenseBags(self.matrix[low:high], self.weights[low:high], self.lengths[low:high])

    def sums(self, table: Tensor, weighted: bool = True) -> Tensor:
        sums = (self.matrix @ table.to(self.matrix.dtype)).to(table.dtype)
        return sums * self.weights[:, None].to(table.dtype) if weighted else sums

    def gradient(self, sum_gradients: Tensor, items: int, weighted: bool = True) -> Tensor:
        given = sum_gradients * self.weights[:, None] if weighted else sum_gradients
        return (self.matrix.T @ given.to(self.matrix.dtype)).to(sum_gradients.dtype)


class SparseEncoder(nn.Module):
    """A network whose first layer is a sum of item embeddings.

    Parameters
    ----------
    items, hidden : int
    """

    def __init__(self, items: int, hidden: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(items)  # the initialization of a dense layer on all items
        self.embeddings = nn.Parameter(torch.empty(items, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))

    @abstractmethod
    def rest(self, first: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Map the first layer's sums to mean and log-variance, each (users, latent); products in `dtype`."""

    def represent(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Map the latent vector to the input of the softmax over all items."""
        return z

    def first(self, bags: UserBags) -> Tensor:
        """Return the first layer's sums, (users, hidden), without a graph: the engine computes their gradients."""
        return bags.sums(self.embeddings.detach()) + self.bias.detach()

    def forward(self, bags: UserBags, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.rest(self.first(bags), dtype)

    def latent_mean(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        """Map the first layer's sums to the mean alone, (users, latent), which is enough to rank."""
        return self.rest(first, dtype)[0]
