"""What makes training cost follow the stars: bags of items, the sparse first layer, the softmax over all items.

A user is tens of items among thousands. The two layers that see items, an autoencoder's first and last, are written
by hand here; what lies between them is small and dense and is left to autograd:

- the first layer is a sum of embedding rows; its gradient has rows only for the items of the batch;
- the last is a softmax over all items. Its gradient in its input is ``softmax(zWᵀ + b) W``, computed in blocks of
  items with running sums, so that nothing of the size users × items is kept for a backward pass.

All of it runs in the dtype that it is given: bfloat16 where the machine is fast in it, float64 in proofs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from gh_assets.recommender.interactions import Csr

BLOCK = 2048
"""Items of the softmax at once: 500 users' logits of a block fit a core's cache."""

LAZY_BELOW = 0.1
"""Share of the items that a batch touches below which only their rows are updated: a fused pass over the whole table
is about ten times as fast a row as gathering, updating and scattering it (measured on 2 cores)."""


def portions(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """Some rows after the others, as views."""
    for start in range(0, len(tensor), size):
        yield tensor[start : start + size]


@dataclass(frozen=True)
class Bags:
    """A batch of users as bags of items: the rows of a CSR matrix as torch tensors.

    Attributes
    ----------
    items : Tensor of int64, shape (stars,)
    weights : Tensor, shape (stars,)
        What each star counts in the first layer: 1/√n of a user with n stars.
    offsets : Tensor of int64, shape (users,)
        Where each user's stars begin.
    lengths : Tensor, shape (users,)
        Number of stars of each user.
    """

    items: Tensor
    weights: Tensor
    offsets: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, stars: Csr, device: torch.device, dtype: torch.dtype = torch.float32) -> Bags:
        """The rows of a CSR matrix; its values are not looked at."""
        counts = np.diff(stars.indptr).astype(np.int64)
        lengths = torch.from_numpy(counts).to(device)
        weights = lengths.clamp(min=1).to(dtype).rsqrt()
        return cls(
            torch.from_numpy(stars.indices.astype(np.int64)).to(device),
            weights.repeat_interleave(lengths, output_size=stars.nnz),
            torch.from_numpy(stars.indptr[:-1].astype(np.int64)).to(device),
            lengths.to(dtype),
        )

    @property
    def counts(self) -> Tensor:
        """Number of the stars in each bag, int64 (users,). After `dropped`, fewer than `lengths`."""
        ends = torch.cat([self.offsets[1:], self.offsets.new_tensor([len(self.items)])])
        return ends - self.offsets

    @property
    def users(self) -> Tensor:
        """The user of each star, int64 (stars,)."""
        users = torch.arange(len(self.offsets), device=self.items.device)
        return users.repeat_interleave(self.counts, output_size=len(self.items))

    def dropped(self, rate: float, generator: torch.Generator) -> Bags:
        """Whole items hidden at random, the others scaled so that the sum's expectation stays."""
        if rate == 0:
            return self
        keep = torch.rand(len(self.items), generator=generator, device=self.items.device) >= rate
        before = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        return Bags(self.items[keep], self.weights[keep] / (1 - rate), before[self.offsets], self.lengths)

    def part(self, low: int, high: int) -> Bags:
        """The bags of users low to high."""
        if high - low == len(self.offsets):
            return self
        ends = [*self.offsets.tolist(), len(self.items)]
        first, last = ends[low], ends[high]
        return Bags(
            self.items[first:last], self.weights[first:last], self.offsets[low:high] - first, self.lengths[low:high]
        )

    def sums(self, table: Tensor, weighted: bool = True) -> Tensor:
        """For each user, the (weighted) sum of the table's rows of the user's items; (users, columns)."""
        weights = self.weights.to(table.dtype) if weighted else None
        result: Tensor = F.embedding_bag(self.items, table, self.offsets, mode="sum", per_sample_weights=weights)
        return result

    def gradient(self, of_sums: Tensor, items: int) -> Tensor:
        """The gradient in a table of `items` rows, given that in its weighted `sums`; (items, columns).

        Again a sum over bags, each item's users: fast, and in the same order every time.
        """
        order = torch.argsort(self.items, stable=True)
        ends = torch.bincount(self.items, minlength=items).cumsum(0)
        offsets = torch.cat([ends.new_zeros(1), ends[:-1]])
        weights = self.weights[order].to(of_sums.dtype)
        result: Tensor = F.embedding_bag(self.users[order], of_sums, offsets, mode="sum", per_sample_weights=weights)
        return result

    def transposed(self) -> tuple[Tensor, Bags]:
        """Items as bags of users: the items that occur, ascending, and for each the users that have it.

        With it the gradient of `sums` is again a sum over bags: fast, and in the same order every time.
        """
        items, order = torch.sort(self.items, stable=True)
        found, counts = torch.unique_consecutive(items, return_counts=True)
        ends = counts.cumsum(0)
        return found, Bags(self.users[order], self.weights[order], ends - counts, counts.to(self.lengths.dtype))


class SoftmaxOutput:
    """A linear layer from `inputs` numbers to all items with a multinomial likelihood (Liang et al. 2018, eq. 2).

    Parameters
    ----------
    weight : Tensor, shape (items, inputs)
    bias : Tensor, shape (items,)
    dtype : torch.dtype
        Of the products.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.dtype, self.exact = weight, bias, dtype, weight.dtype
        self.inputs = weight.shape[1]
        # Weight, bias and ones side by side: one product then gives logits with bias, and one gives the expected
        # row together with the normalizer. Rows end at a multiple of 16, as fast bfloat16 kernels like it.
        width = -(-(self.inputs + 2) // 16) * 16
        self.table = torch.zeros((len(bias), width), dtype=dtype, device=weight.device)
        self.refresh()

    def refresh(self) -> None:
        """Take over the weights' present values: they changed."""
        self.table[:, : self.inputs] = self.weight.detach()
        self.table[:, self.inputs] = self.bias.detach()
        self.table[:, self.inputs + 1] = 1

    def _query(self, z: Tensor, shift: Tensor | None = None) -> Tensor:
        query = self.table.new_empty((len(z), self.table.shape[1]))
        query[:, : self.inputs] = z
        query[:, self.inputs :] = 0
        query[:, self.inputs] = 1
        if shift is not None:
            query[:, self.inputs + 1] = -shift  # the table has ones there: logits come out shifted
        return query

    def _top(self, query: Tensor) -> Tensor:
        """The largest logit of each user, (users,)."""
        return torch.stack([(query @ block.T).amax(dim=1) for block in portions(self.table, BLOCK)]).amax(dim=0)

    def likelihood(self, z: Tensor, bags: Bags) -> tuple[Tensor, Tensor]:
        """Log-likelihood of each user's items, and its gradient in z.

        Parameters
        ----------
        z : Tensor, shape (users, inputs)
        bags : Bags
            What the users have.

        Returns
        -------
        log_likelihood : Tensor, shape (users,)
        gradient : Tensor, shape (users, inputs)
        """
        sums = self._sums(query := self._query(z))
        normalizer, shift = sums[:, self.inputs + 1], torch.zeros_like(z[:, 0])
        if not _usable(normalizer):
            shift = self._top(query).to(z.dtype)
            sums = self._sums(self._query(z, shift))
            normalizer = sums[:, self.inputs + 1]
        expected = sums[:, : self.inputs] / normalizer[:, None]
        log_likelihood, own = self._own(z, bags, shift + normalizer.log())
        return log_likelihood, own - bags.lengths[:, None] * expected

    def _sums(self, query: Tensor) -> Tensor:
        """Σ exp(logit) × table row over all items, (users, width)."""
        sums: Tensor | None = None
        for block in portions(self.table, BLOCK):
            part = (query @ block.T).exp_() @ block
            sums = part.to(self.exact) if sums is None else sums.add_(part)
        assert sums is not None
        return sums

    def _own(self, z: Tensor, bags: Bags, log_normalizer: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood of each user's items, and the sum of their rows."""
        own = bags.sums(self.table, weighted=False).to(z.dtype)
        rows = own[:, : self.inputs]
        return (rows * z).sum(dim=1) + own[:, self.inputs] - bags.lengths * log_normalizer, rows

    def likelihood_gradients(
        self, z: Tensor, bags: Bags, scale: float, *, inputs: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Log-likelihood of each user's items, and the gradients of `scale` × its sum in weight, bias and z.

        Returns
        -------
        log_likelihood : Tensor, shape (users,)
        weight_gradient : Tensor, shape (items, inputs)
        bias_gradient : Tensor, shape (items,)
        z_gradient : Tensor, shape (users, inputs)
            None if `inputs` is false.
        """
        query, shift = self._query(z), torch.zeros_like(z[:, 0])
        shares, normalizer = self._exponentials(query)
        if not _usable(normalizer):
            shift = self._top(query).to(z.dtype)
            shares, normalizer = self._exponentials(self._query(z, shift))
        signal = torch.cat([z, z.new_ones((len(z), 1))], dim=1)
        weighted = (signal * (-scale * bags.lengths / normalizer)[:, None]).to(self.dtype)
        # Two tensors of their own: the fused Adam reads gradients as if they were contiguous, whatever their strides.
        weight, bias = torch.empty_like(self.weight), torch.empty_like(self.bias)
        for number, share in enumerate(shares):
            place = slice(number * BLOCK, number * BLOCK + share.shape[1])
            part = share.T @ weighted
            weight[place], bias[place] = part[:, :-1], part[:, -1]
        items, users = bags.transposed()
        weight.index_add_(0, items, users.sums(z, weighted=False), alpha=scale)
        bias.index_add_(0, items, users.lengths, alpha=scale)
        log_likelihood, own = self._own(z, bags, shift + normalizer.log())
        if not inputs:
            return log_likelihood, weight, bias, None
        sums = torch.zeros_like(query)
        for share, block in zip(shares, portions(self.table, BLOCK), strict=True):
            sums += share @ block
        expected = sums[:, : self.inputs].to(self.exact) / normalizer[:, None]
        return log_likelihood, weight, bias, (own - bags.lengths[:, None] * expected) * scale

    def _exponentials(self, query: Tensor) -> tuple[list[Tensor], Tensor]:
        """exp(logit), by blocks of items, and their sum over all items."""
        shares = [(query @ block.T).exp_() for block in portions(self.table, BLOCK)]
        return shares, torch.stack([share.sum(dim=1, dtype=self.exact) for share in shares]).sum(dim=0)


def _usable(normalizer: Tensor) -> bool:
    """Whether exponentials without a shift neither overflowed nor vanished: logits beyond ±80 are rare."""
    return bool(torch.isfinite(normalizer).all() & (normalizer > 0).all())


class RowAdam:
    """Adam (Kingma & Ba 2015) for a table of which a step has gradients for few rows.

    The other rows are left alone, moments and all, as `torch.optim.SparseAdam` does.

    Parameters
    ----------
    table : Tensor, shape (rows, columns)
        Updated in place.
    """

    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.exp_avg = torch.zeros_like(table)
        self.exp_avg_sq = torch.zeros_like(table)
        self.steps = 0

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step with the gradient of some rows, each named once."""
        self.steps += 1
        # In portions that stay in the cache from gathering to scattering.
        for some, part in zip(portions(rows, 512), portions(gradient, 512), strict=True):
            self._update(some, part, learning_rate)

    def _update(self, rows: Tensor, gradient: Tensor, learning_rate: float) -> None:
        exp_avg = self.exp_avg.index_select(0, rows).lerp_(gradient, 1 - self.beta1)
        exp_avg_sq = self.exp_avg_sq.index_select(0, rows).mul_(self.beta2)
        exp_avg_sq.addcmul_(gradient, gradient, value=1 - self.beta2)
        self.exp_avg.index_copy_(0, rows, exp_avg)
        self.exp_avg_sq.index_copy_(0, rows, exp_avg_sq)
        denominator = exp_avg_sq.div_(1 - self.beta2**self.steps).sqrt_().add_(self.eps)
        step = exp_avg.div_(denominator)
        self.table.index_add_(0, rows, step, alpha=-learning_rate / (1 - self.beta1**self.steps))
