"""The encoder's interface: a first layer that is a sum of item embeddings, and the layers behind it."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from gh_assets.recommender.engine.bags import Bags


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

    def first(self, bags: Bags) -> Tensor:
        """Return the first layer's sums, (users, hidden), without a graph: the engine computes their gradients."""
        return bags.sums(self.embeddings.detach()) + self.bias.detach()

    def forward(self, bags: Bags, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.rest(self.first(bags), dtype)

    def latent_mean(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        """Map the first layer's sums to the mean alone, (users, latent), which is enough to rank."""
        return self.rest(first, dtype)[0]
