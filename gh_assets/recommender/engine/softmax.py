"""The softmax over all items, with gradients written by hand.

The gradient of the log-likelihood in the layer's input is ``softmax(zWᵀ + b) W``. It is computed in blocks of items
with running sums, so that nothing of the size users × items is kept for a backward pass. Products run in the dtype of
the `TrainingRun`; on a CPU the compiled kernels of `cpu.fused` do the same with less memory traffic.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from gh_assets.recommender.engine.bags import UserBags, portions

BLOCK = 2048
"""Items per block on a CPU: the logits of 500 users fit a core's cache."""

BLOCK_ON_GPU = 65_536
"""Items per block on a GPU, where only memory limits it: the logits of 500 users take 64 MiB in bfloat16."""


def padded(width: int) -> int:
    """Round up to a multiple of 32, without which the processor's bfloat16 products take up to half as long again."""
    return -(-width // 32) * 32


class SoftmaxOutput:
    """A linear layer from `inputs` numbers to all items with a multinomial likelihood (Liang et al. 2018, eq. 2).

    Parameters
    ----------
    weight : Tensor, shape (items, inputs)
    bias : Tensor, shape (items,)
    dtype : torch.dtype
        Type of the products.

    Attributes
    ----------
    always_shift : bool
        Whether all logits are shifted so that no exponential can overflow, instead of only where one did: recorded
        steps cannot look at their results.
    """

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.bias, self.dtype, self.sum_dtype = weight, bias, dtype, weight.dtype
        self.inputs = weight.shape[1]
        self.always_shift = False
        self.block = BLOCK if weight.device.type == "cpu" else BLOCK_ON_GPU
        # Weight, bias and a column of ones side by side: one product gives logits with bias, another the expected row
        # together with the normalizer.
        self.width = padded(self.inputs + 2)
        self.table = torch.zeros((len(bias), self.width), dtype=dtype, device=weight.device)
        self.refresh()

    @property
    def blocks(self) -> int:
        """Number of blocks that cover all items."""
        return -(-len(self.table) // self.block)

    def refresh(self) -> None:
        """Copy the current weights into the table."""
        self.table[:, : self.inputs] = self.weight.detach()
        self.table[:, self.inputs] = self.bias.detach()
        self.table[:, self.inputs + 1] = 1

    def likelihood(self, z: Tensor, bags: UserBags) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood of each user's items and its gradient in z.

        Parameters
        ----------
        z : Tensor, shape (users, inputs)
        bags : UserBags
            The users' items.

        Returns
        -------
        log_likelihood : Tensor, shape (users,)
        gradient : Tensor, shape (users, inputs)
        """
        query, shift = self._first_query(z)
        sums = self._expected_sums(query)
        if not (self.always_shift or _in_range(sums[:, self.inputs + 1])):
            query, shift = self.shifted(z, query)
            sums = self._expected_sums(query)
        normalizer = sums[:, self.inputs + 1]
        own = self._own_sums(bags)
        difference = own - sums * (bags.lengths / normalizer)[:, None]
        return self._log_likelihood(z, bags, own, shift + normalizer.log()), difference[:, : self.inputs]

    def likelihood_gradients(
        self, z: Tensor, bags: UserBags, scale: float | Tensor, *, inputs: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of `scale` × log-likelihood in weight and bias, the log-likelihood, and the one in z.

        Returns
        -------
        weight_gradient : Tensor, shape (items, inputs)
        bias_gradient : Tensor, shape (items,)
        log_likelihood : Tensor, shape (users,)
        z_gradient : Tensor, shape (users, inputs)
            Both None if `inputs` is false.
        """
        query, shift = self._first_query(z)
        exponentials, normalizer = self._exponentials(query)
        if not (self.always_shift or _in_range(normalizer)):
            query, shift = self.shifted(z, query)
            exponentials, normalizer = self._exponentials(query)
        signal = F.pad(z, (0, padded(self.inputs + 1) - self.inputs))
        signal[:, self.inputs] = 1
        weighted = (signal * (-scale * bags.lengths / normalizer)[:, None]).to(self.dtype)
        expected = self.table.new_empty((len(self.table), weighted.shape[1]))
        for block, part in zip(exponentials, portions(expected, self.block), strict=True):
            torch.mm(block, weighted, out=part)
        weight, bias = self._gradients(expected, z, bags, scale)
        if not inputs:
            return weight, bias, None, None
        own = self._own_sums(bags)
        log_likelihood = self._log_likelihood(z, bags, own, shift + normalizer.log())
        sums = torch.zeros_like(query)
        for exponential, block in zip(exponentials, portions(self.table, self.block), strict=True):
            sums += exponential.T @ block
        difference = own - sums.to(self.sum_dtype) * (bags.lengths / normalizer)[:, None]
        return weight, bias, log_likelihood, difference[:, : self.inputs] * scale

    def shifted(self, z: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Shift each user's logits so that the largest is zero.

        Parameters
        ----------
        z : Tensor, shape (users, inputs)
        query : Tensor, shape (users, width)
            The query for `z` without a shift.

        Returns
        -------
        query : Tensor, shape (users, width)
        shift : Tensor, shape (users,)
        """
        largest = [(query @ block.T).amax(dim=1) for block in portions(self.table, self.block)]
        shift = torch.stack(largest).amax(dim=0).to(z.dtype)
        return self._query(z, shift), shift

    def _first_query(self, z: Tensor) -> tuple[Tensor, Tensor]:
        query = self._query(z)
        return self.shifted(z, query) if self.always_shift else (query, torch.zeros_like(z[:, 0]))

    def _query(self, z: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return what the table is multiplied by to get logits, (users, width)."""
        query = self.table.new_zeros((len(z), self.width))
        query[:, self.inputs] = 1
        query[:, : self.inputs] = z
        if shift is not None:
            query[:, self.inputs + 1] = -shift  # multiplies the column of ones
        return query

    def _expected_sums(self, query: Tensor) -> Tensor:
        """Return Σ exp(logit) × table row over all items, (users, width): the column of ones gives the normalizer."""
        sums: Tensor | None = None
        for block in portions(self.table, self.block):
            part = (query @ block.T).exp_() @ block
            sums = part.to(self.sum_dtype) if sums is None else sums.add_(part)
        assert sums is not None
        return sums

    def _own_sums(self, bags: UserBags) -> Tensor:
        """Return the sum of the table's rows over each user's items, (users, width)."""
        return bags.sums(self.table, weighted=False).to(self.sum_dtype)

    def _log_likelihood(self, z: Tensor, bags: UserBags, own: Tensor, log_normalizer: Tensor) -> Tensor:
        logits = (own[:, : self.inputs] * z).sum(dim=1) + own[:, self.inputs]
        return logits - bags.lengths * log_normalizer

    def _exponentials(self, query: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return exp(logit) by blocks, each (items of the block, users), and the sums over all items, (users,)."""
        transposed = query.T.contiguous()
        blocks = [(block @ transposed).exp_() for block in portions(self.table, self.block)]
        return blocks, torch.stack([block.sum(dim=0, dtype=self.sum_dtype) for block in blocks]).sum(dim=0)

    def _gradients(self, expected: Tensor, z: Tensor, bags: UserBags, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return observed minus expected sums, for weight and bias, as contiguous tensors.

        They must not be views: the fused Adam reads gradients as contiguous memory, whatever their strides.
        """
        weight = expected[:, : self.inputs].to(self.sum_dtype, memory_format=torch.contiguous_format, copy=True)
        bias = expected[:, self.inputs].to(self.sum_dtype, copy=True).contiguous()
        observed = bags.gradient(F.pad(z, (0, 1), value=1.0), len(self.table), weighted=False).mul_(scale)
        return weight.add_(observed[:, : self.inputs]), bias.add_(observed[:, self.inputs])


def _in_range(normalizer: Tensor) -> bool:
    """Whether the unshifted exponentials neither overflowed nor vanished; logits beyond ±80 are rare."""
    return bool(torch.isfinite(normalizer).all() & (normalizer > 0).all())
