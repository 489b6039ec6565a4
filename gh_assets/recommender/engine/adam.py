"""Adam (Kingma & Ba 2015) for whole parameters, and row-wise for large tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim.adam import adam

from gh_assets.recommender.engine.bags import Bags, UserBags


@dataclass(frozen=True)
class AdamStep:
    """The constants of one step of Adam (Kingma & Ba 2015, algorithm 1).

    Attributes
    ----------
    learning_rate : float or Tensor
    number : int or Tensor
        Number of the step, from 1, for the bias correction.

    Both are tensors without dimensions in steps that are recorded once and replayed with other values.
    """

    learning_rate: float | Tensor
    number: int | Tensor
    beta1: ClassVar[float] = 0.9
    beta2: ClassVar[float] = 0.999
    eps: ClassVar[float] = 1e-8

    @cached_property
    def size(self) -> float | Tensor:
        """Factor of the first moment: the learning rate with the bias correction."""
        return self.learning_rate / (1 - self.beta1**self.number)

    @cached_property
    def correction(self) -> float | Tensor:
        """Bias correction of the second moment, a factor."""
        return 1 / (1 - self.beta2**self.number)

    @property
    def constants(self) -> list[float]:
        """``[1 - beta1, beta2, size, correction, eps]``, as the compiled kernels take them."""
        return [1 - self.beta1, self.beta2, float(self.size), float(self.correction), self.eps]


class RowAdam:
    """Row-wise Adam for a table that the network sees only through sums of its rows.

    It has one second moment per row, the mean over the row (as the partial row-wise Adam of FBGEMM): a step costs what
    it moves through memory, and the models are as good (docs/explanation/recommender.md).

    Parameters
    ----------
    table : Tensor, shape (rows, columns)
        Updated in place.
    lazy : bool
        Whether a step leaves rows that it does not touch unchanged, with their moments, as `torch.optim.SparseAdam`
        does. Steps with `DenseBags` change all rows.
    moment_dtype : torch.dtype, optional
        Type of the first moments if it is not the table's; then the compiled kernels update the table.
    """

    def __init__(self, table: Tensor, lazy: bool, moment_dtype: torch.dtype | None = None) -> None:
        self.table, self.lazy = table, lazy
        self.exp_avg = torch.zeros_like(table, dtype=moment_dtype)
        self.exp_avg_sq = torch.zeros_like(table[:, 0])

    @torch.no_grad()
    def step(self, bags: UserBags, sum_gradients: Tensor, adam_step: AdamStep) -> None:
        """Take one step, given the gradient in the weighted sums of the table's rows."""
        if not (self.lazy and isinstance(bags, Bags)):
            gradient = bags.gradient(sum_gradients, len(self.table))
            _row_wise_step(self.table, self.exp_avg, self.exp_avg_sq, gradient, adam_step)
            return
        rows, users = bags.transposed()
        tensors = self.table, self.exp_avg, self.exp_avg_sq
        chosen = [tensor.index_select(0, rows) for tensor in tensors]
        table, exp_avg, exp_avg_sq = chosen
        _row_wise_step(table, exp_avg, exp_avg_sq, users.sums(sum_gradients), adam_step)
        for tensor, changed in zip(tensors, chosen, strict=True):
            tensor.index_copy_(0, rows, changed)


def _row_wise_step(table: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, gradient: Tensor, adam_step: AdamStep) -> None:
    """Take a step of row-wise Adam for a table, (rows, columns), and its moments, in place."""
    exp_avg.lerp_(gradient, 1 - adam_step.beta1)
    norms = torch.linalg.vector_norm(gradient, dim=1)
    exp_avg_sq.mul_(adam_step.beta2).addcmul_(norms, norms, value=(1 - adam_step.beta2) / table.shape[1])
    roots = (exp_avg_sq * adam_step.correction).sqrt_().add_(adam_step.eps)
    table.addcdiv_(exp_avg, (roots / adam_step.size)[:, None], value=-1)


class DenseAdam:
    """Adam for whole parameters by torch's functional form, row-wise for matrices if requested.

    torch's optimizer class imports its compiler: 1.6 s before a process can begin to train.

    Parameters
    ----------
    parameters : mapping of str to Tensor
        Updated in place.
    row_wise : bool
        Whether matrices get one second moment per row. The output layer does not: on many items the models would be
        worse (docs/explanation/recommender.md).
    moment_dtype : torch.dtype, optional
        Type of the first moments of row-wise parameters if it is not the parameter's; then the compiled kernels update
        these parameters.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], *, row_wise: bool, moment_dtype: torch.dtype | None = None
    ) -> None:
        self.parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self.row_wise = [name for name, parameter in self.parameters.items() if row_wise and parameter.ndim == 2]
        self.exp_avg, self.exp_avg_sq = {}, {}
        for name, parameter in self.parameters.items():
            by_row = name in self.row_wise
            self.exp_avg[name] = torch.zeros_like(parameter, dtype=moment_dtype if by_row else None)
            self.exp_avg_sq[name] = torch.zeros_like(parameter[:, 0] if by_row else parameter)
        self.number = 0

    def next_step(self, learning_rate: float) -> AdamStep:
        """Count a step and return its constants."""
        self.number += 1
        return AdamStep(learning_rate, self.number)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], adam_step: AdamStep) -> None:
        """Take one step for parameters by their gradients, each with the memory layout of its parameter."""
        for name in gradients.keys() & self.row_wise:
            moments = self.exp_avg[name], self.exp_avg_sq[name]
            _row_wise_step(self.parameters[name], *moments, gradients[name], adam_step)
        names = [name for name in gradients if name not in self.row_wise]
        device, rate = self.parameters[names[0]].device, adam_step.learning_rate
        steps_before = torch.as_tensor(adam_step.number - 1, dtype=torch.float32, device=device).repeat(len(names))
        adam(
            [self.parameters[name] for name in names],
            [gradients[name] for name in names],
            [self.exp_avg[name] for name in names],
            [self.exp_avg_sq[name] for name in names],
            max_exp_avg_sqs=[],
            state_steps=list(steps_before.unbind()),
            fused=device.type in ("cpu", "cuda"),
            lr=rate.float() if isinstance(rate, Tensor) else rate,
            beta1=AdamStep.beta1,
            beta2=AdamStep.beta2,
            eps=AdamStep.eps,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
        )

    def moments(self) -> dict[str, Tensor]:
        """Return all moments by name, to save them and to fill them again."""
        both = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        return {f"{name}.{key}": moment for key, table in both.items() for name, moment in table.items()}
