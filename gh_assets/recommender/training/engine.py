"""What makes training cost follow the stars: bags of items, the sparse first layer, the softmax over all items.

A user is tens of items among thousands. The two layers that see items, an autoencoder's first and last, are written
by hand here:

- the first layer is a sum of embedding rows; its gradient has rows only for the items of the batch;
- the last is a softmax over all items. Its gradient in its input is ``softmax(zWᵀ + b) W``, computed in blocks of
  items with running sums, so that nothing of the size users × items is kept for a backward pass.

All of it runs in the dtype that it is given: bfloat16 where the machine is fast in it, float64 in proofs. On a CPU the
work between the matrix products is done by `kernels`; on other devices, and where those cannot run, by torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor
from torch.optim.adam import adam

from gh_assets.recommender.data.interactions import Csr

BLOCK = 2048
"""Items of the softmax at once: 500 users' logits of a block fit a core's cache."""

BLOCK_ON_GPU = 65_536
"""The same on a GPU, where it is a matter of room alone: 500 users' logits of a block take 64 MiB in bfloat16."""

LAZY_BELOW = 0.8
"""Share of the items that a batch touches below which the others are left alone: the pass over the table, which is all
memory, is a tenth of a step even where most are touched. The models are as good (docs/explanation/recommender.md)."""


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
    offsets : Tensor of int64, shape (users + 1,)
        Where each user's stars begin, and the last one's end.
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
            torch.from_numpy(stars.indptr.astype(np.int64)).to(device),
            lengths.to(dtype),
        )

    @property
    def counts(self) -> Tensor:
        """Number of the stars in each bag, int64 (users,). After `dropped`, fewer than `lengths`."""
        return self.offsets.diff()

    @property
    def users(self) -> Tensor:
        """The user of each star, int64 (stars,)."""
        users = torch.arange(len(self.lengths), device=self.items.device)
        return users.repeat_interleave(self.counts, output_size=len(self.items))

    def dropped(self, rate: float, generator: torch.Generator) -> Bags:
        """Whole items hidden at random, the others scaled so that the sum's expectation stays."""
        if rate == 0:
            return self
        drawn = torch.rand(len(self.items), generator=generator, device=self.items.device)
        kept = (drawn >= rate).nonzero()[:, 0]
        weights = self.weights.index_select(0, kept).div_(1 - rate)
        # A bag begins behind as many kept stars as lie before it.
        return Bags(self.items.index_select(0, kept), weights, torch.searchsorted(kept, self.offsets), self.lengths)

    def part(self, low: int, high: int) -> Bags:
        """The bags of users low to high."""
        if high - low == len(self.lengths):
            return self
        offsets = self.offsets[low : high + 1]
        first, last = offsets[[0, -1]].tolist()
        return Bags(self.items[first:last], self.weights[first:last], offsets - first, self.lengths[low:high])

    def sums(self, table: Tensor, weighted: bool = True) -> Tensor:
        """For each user, the (weighted) sum of the table's rows of the user's items; (users, columns)."""
        weights = self.weights.to(table.dtype) if weighted else None
        result: Tensor = F.embedding_bag(
            self.items, table, self.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
        return result

    def gradient(self, of_sums: Tensor, items: int) -> Tensor:
        """The gradient in a table of `items` rows, given that in its weighted `sums`; (items, columns)."""
        found, users = self.transposed()
        return of_sums.new_zeros((items, of_sums.shape[1])).index_copy_(0, found, users.sums(of_sums))

    def transposed(self) -> tuple[Tensor, Bags]:
        """Items as bags of users: the items that occur, ascending, and for each the users that have it.

        With it the gradient of `sums` is again a sum over bags: fast, and in the same order every time.
        """
        items, order = torch.sort(self.items, stable=True)
        found, counts = torch.unique_consecutive(items, return_counts=True)
        offsets = F.pad(counts.cumsum(0), (1, 0))
        return found, Bags(self.users[order], self.weights[order], offsets, counts.to(self.lengths.dtype))


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
        self.block = BLOCK if weight.device.type == "cpu" else BLOCK_ON_GPU
        # Weight, bias and ones side by side: one product then gives logits with bias, and one gives the expected
        # row together with the normalizer.
        self.width = _padded(self.inputs + 2)
        self.table = torch.zeros((len(bias), self.width), dtype=dtype, device=weight.device)
        self.refresh()

    def refresh(self) -> None:
        """Take over the weights' present values: they changed."""
        self.table[:, : self.inputs] = self.weight.detach()
        self.table[:, self.inputs] = self.bias.detach()
        self.table[:, self.inputs + 1] = 1

    def _query(self, z: Tensor, shift: Tensor | None = None) -> Tensor:
        """What the table is multiplied by, (users, width)."""
        query = self.table.new_zeros((len(z), self.width))
        query[:, self.inputs] = 1
        query[:, : self.inputs] = z
        if shift is not None:
            query[:, self.inputs + 1] = -shift  # the table has ones there: logits come out shifted
        return query

    def _top(self, query: Tensor) -> Tensor:
        """The largest logit of each user, (users,)."""
        return torch.stack([(query @ block.T).amax(dim=1) for block in portions(self.table, self.block)]).amax(dim=0)

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
        query, shift = self._query(z), torch.zeros_like(z[:, 0])
        sums = self._sums(query)
        if not _usable(sums[:, self.inputs + 1]):
            query, shift = self.shifted(z, query)
            sums = self._sums(query)
        normalizer = sums[:, self.inputs + 1]
        own = self._own(bags)
        away = own - sums * (bags.lengths / normalizer)[:, None]
        return self._log_likelihood(z, bags, own, shift + normalizer.log()), away[:, : self.inputs]

    @property
    def blocks(self) -> int:
        """Number of parts that the items are taken in."""
        return -(-len(self.table) // self.block)

    def shifted(self, z: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """A query of which no logit is above zero, and by how much they were shifted, (users,).

        Parameters
        ----------
        z : Tensor, shape (users, inputs)
        query : Tensor, shape (users, width)
            What the table is multiplied by for them.
        """
        shift = self._top(query).to(z.dtype)
        return self._query(z, shift), shift

    def _sums(self, query: Tensor) -> Tensor:
        """Σ exp(logit) × table row over all items, (users, width): in the column of the ones, the normalizer."""
        sums: Tensor | None = None
        for block in portions(self.table, self.block):
            part = (query @ block.T).exp_() @ block
            sums = part.to(self.exact) if sums is None else sums.add_(part)
        assert sums is not None
        return sums

    def _own(self, bags: Bags) -> Tensor:
        """The sum of the table's rows of each user's items, (users, width)."""
        return bags.sums(self.table, weighted=False).to(self.exact)

    def _log_likelihood(self, z: Tensor, bags: Bags, own: Tensor, log_normalizer: Tensor) -> Tensor:
        logits = (own[:, : self.inputs] * z).sum(dim=1) + own[:, self.inputs]
        return logits - bags.lengths * log_normalizer

    def likelihood_gradients(
        self, z: Tensor, bags: Bags, scale: float, *, inputs: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The gradients of `scale` × the log-likelihood of the users' items in weight and bias; itself and that in z.

        Returns
        -------
        weight_gradient : Tensor, shape (items, inputs)
        bias_gradient : Tensor, shape (items,)
        log_likelihood : Tensor, shape (users,)
        z_gradient : Tensor, shape (users, inputs)
            Both None if `inputs` is false.
        """
        query, shift = self._query(z), torch.zeros_like(z[:, 0])
        shares, normalizer = self._exponentials(query)
        if not _usable(normalizer):
            query, shift = self.shifted(z, query)
            shares, normalizer = self._exponentials(query)
        signal = F.pad(z, (0, _padded(self.inputs + 1) - self.inputs))
        signal[:, self.inputs] = 1
        weighted = (signal * (-scale * bags.lengths / normalizer)[:, None]).to(self.dtype)
        expected = self.table.new_empty((len(self.table), weighted.shape[1]))
        for share, part in zip(shares, portions(expected, self.block), strict=True):
            torch.mm(share, weighted, out=part)
        weight, bias = self._gradients(expected, z, bags, scale)
        if not inputs:
            return weight, bias, None, None
        own = self._own(bags)
        log_likelihood = self._log_likelihood(z, bags, own, shift + normalizer.log())
        sums = torch.zeros_like(query)
        for share, block in zip(shares, portions(self.table, self.block), strict=True):
            sums += share.T @ block
        away = own - sums.to(self.exact) * (bags.lengths / normalizer)[:, None]
        return weight, bias, log_likelihood, away[:, : self.inputs] * scale

    def _exponentials(self, query: Tensor) -> tuple[list[Tensor], Tensor]:
        """exp(logit), by blocks of items, each (items of it, users), and their sums over all items, (users,)."""
        turned = query.T.contiguous()
        shares = [(block @ turned).exp_() for block in portions(self.table, self.block)]
        return shares, torch.stack([share.sum(dim=0, dtype=self.exact) for share in shares]).sum(dim=0)

    def _gradients(self, expected: Tensor, z: Tensor, bags: Bags, scale: float) -> tuple[Tensor, Tensor]:
        """What the users have less what was expected, in weight and bias: tensors of their own, because the fused
        Adam reads gradients as if they were contiguous, whatever their strides."""
        weight = expected[:, : self.inputs].to(self.exact, memory_format=torch.contiguous_format, copy=True)
        bias = expected[:, self.inputs].to(self.exact, copy=True).contiguous()
        found, users = bags.transposed()
        weight.index_add_(0, found, users.sums(z, weighted=False), alpha=scale)
        bias.index_add_(0, found, users.lengths, alpha=scale)
        return weight, bias


def _padded(width: int) -> int:
    """Rows end at a multiple of 16, as fast bfloat16 kernels like it."""
    return -(-width // 16) * 16


def _usable(normalizer: Tensor) -> bool:
    """Whether exponentials without a shift neither overflowed nor vanished: logits beyond ±80 are rare."""
    return bool(torch.isfinite(normalizer).all() & (normalizer > 0).all())


@dataclass(frozen=True)
class AdamStep:
    """The numbers of one step of Adam (Kingma & Ba 2015, algorithm 1).

    Attributes
    ----------
    learning_rate : float
    number : int
        Of the step, from 1: the moments began at zero, and are made up for it.
    """

    learning_rate: float
    number: int
    beta1: ClassVar[float] = 0.9
    beta2: ClassVar[float] = 0.999
    eps: ClassVar[float] = 1e-8

    @property
    def size(self) -> float:
        """What the first moment is multiplied by."""
        return self.learning_rate / (1 - self.beta1**self.number)

    @property
    def correction(self) -> float:
        """What the second moment is multiplied by."""
        return 1 / (1 - self.beta2**self.number)

    @property
    def numbers(self) -> list[float]:
        """As the kernels take them."""
        return [1 - self.beta1, self.beta2, self.size, self.correction, self.eps]


class RowAdam:
    """Row-wise Adam for a table of which a step sees sums of rows.

    Adam with one second moment a row, the mean of its numbers' (as the partial row-wise Adam of FBGEMM): what goes
    through memory at a step is what a step costs here, and the models are as good (docs/explanation/recommender.md).

    Parameters
    ----------
    table : Tensor, shape (rows, columns)
        Updated in place.
    lazy : bool
        Whether rows that a step does not touch are left alone, moments and all, as `torch.optim.SparseAdam` does.
    first : torch.dtype, optional
        Of first moments that are not the table's; such a table is somebody else's to update.
    """

    def __init__(self, table: Tensor, lazy: bool, first: torch.dtype | None = None) -> None:
        self.table, self.lazy = table, lazy
        self.exp_avg = torch.zeros_like(table, dtype=first)
        self.exp_avg_sq = torch.zeros_like(table[:, 0])

    @torch.no_grad()
    def step(self, bags: Bags, of_sums: Tensor, adam_step: AdamStep) -> None:
        """One step with the gradient that is given in the weighted sums of the table's rows."""
        if not self.lazy:
            gradient = bags.gradient(of_sums, len(self.table))
            _row_wise(self.table, self.exp_avg, self.exp_avg_sq, gradient, adam_step)
            return
        rows, users = bags.transposed()
        all_of = self.table, self.exp_avg, self.exp_avg_sq
        chosen = [part.index_select(0, rows) for part in all_of]
        table, exp_avg, exp_avg_sq = chosen
        _row_wise(table, exp_avg, exp_avg_sq, users.sums(of_sums), adam_step)
        for part, changed in zip(all_of, chosen, strict=True):
            part.index_copy_(0, rows, changed)


def _row_wise(table: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, adam_step: AdamStep) -> None:
    """A step of row-wise Adam for a table, (rows, columns), and its moments."""
    exp_avg.lerp_(gradient, 1 - adam_step.beta1)
    norms = torch.linalg.vector_norm(gradient, dim=1)
    exp_avg_sq.mul_(adam_step.beta2).addcmul_(norms, norms, value=(1 - adam_step.beta2) / table.shape[1])
    roots = (exp_avg_sq * adam_step.correction).sqrt_().add_(adam_step.eps)
    table.addcdiv_(exp_avg, roots[:, None], value=-adam_step.size)


class DenseAdam:
    """Adam for whole parameters, by torch's operation for it: row-wise for matrices, where that is as good.

    torch's own optimizer brings its compiler along: 1.6 s before a process can begin to train.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Updated in place.
    row_wise : bool
        For matrices. Not for the last layer's: on many items, models would be worse (docs/explanation/recommender.md).
    first : torch.dtype, optional
        Of first moments with one second moment a row, if not the parameter's; such parameters are somebody else's to
        update.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, row_wise: bool, first: torch.dtype | None = None) -> None:
        self.parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self.row_wise = [name for name, parameter in self.parameters.items() if row_wise and parameter.ndim == 2]
        self.exp_avg, self.exp_avg_sq = {}, {}
        for name, parameter in self.parameters.items():
            by_row = name in self.row_wise
            self.exp_avg[name] = torch.zeros_like(parameter, dtype=first if by_row else None)
            self.exp_avg_sq[name] = torch.zeros_like(parameter[:, 0] if by_row else parameter)
        self.number = 0

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], learning_rate: float) -> None:
        """One step; of each parameter there is a gradient that lies in memory as it does."""
        self.number += 1
        adam_step = AdamStep(learning_rate, self.number)
        for name in self.row_wise:
            moments = self.exp_avg[name], self.exp_avg_sq[name]
            _row_wise(self.parameters[name], *moments, gradients[name], adam_step)
        names = [name for name in gradients if name not in self.row_wise]
        device = self.parameters[names[0]].device
        adam(
            [self.parameters[name] for name in names],
            [gradients[name] for name in names],
            [self.exp_avg[name] for name in names],
            [self.exp_avg_sq[name] for name in names],
            max_exp_avg_sqs=[],
            state_steps=list(torch.full((len(names),), float(self.number - 1), device=device).unbind()),
            fused=device.type in ("cpu", "cuda"),
            lr=learning_rate,
            beta1=AdamStep.beta1,
            beta2=AdamStep.beta2,
            eps=AdamStep.eps,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )

    def moments(self) -> dict[str, Tensor]:
        """All of them by name, to be kept and to be filled again."""
        both = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return {f"{name}.{key}": moment for key, table in both.items() for name, moment in table.items()}
