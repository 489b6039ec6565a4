"""The state of one training beside the weights: optimizers, random numbers, processes, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.adam import AdamStep, DenseAdam, RowAdam
from gh_assets.recommender.engine.bags import Bags, SparseEncoder, UserBags
from gh_assets.recommender.engine.precision import PRECISIONS, name_of, precision
from gh_assets.recommender.engine.softmax import SoftmaxOutput

LAZY_BELOW = 0.8
"""Share of the items that a batch touches below which a step updates only those. A pass over the whole table is memory
traffic alone, yet a tenth of a step even if most rows are touched. The models are as good
(docs/explanation/recommender.md)."""

POSTERIOR_USERS = 500
"""Users whose posterior is computed per batch."""


MAX_BATCH_SIZE, MIN_BATCH_SIZE, STEPS = 500, 20, 4
"""Bounds of the number of users per step, and the number of steps in a pass where users are few."""


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters that all autoencoders share."""

    epochs: int | None = None  # None: `most_epochs`, but fewer where those were more than `max_steps`
    max_steps: int = 20_000  # batches in all epochs; one epoch is always trained
    seed: int = 0
    hidden_size: int = 600  # as published
    latent_size: int = 200  # as published
    dropout: float = 0.5  # share of a user's items hidden from the encoder
    batch_size: int | None = None  # users per step; None: by their number, see `batch_size_for`
    learning_rate: float = 5e-4
    schedule: str = "cosine"  # or "constant", as published
    initialization: str = "spectral"  # item embeddings from co-occurrence; or "random", as published
    initial_scale: float = 0.4  # standard deviation of spectral embeddings relative to random ones
    patience: int = 12  # epochs without a better validation NDCG@100 until training stops; the best weights are kept
    device: str = "auto"  # "auto": CUDA if available
    precision: str = "auto"  # of matrix products; "auto": bfloat16 where the processor multiplies it

    most_epochs: ClassVar[int] = 25

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "constant"):
            raise ConfigurationError(f"The schedule {self.schedule!r} is neither 'cosine' nor 'constant'.")
        if self.initialization not in ("spectral", "random"):
            raise ConfigurationError(f"The initialization {self.initialization!r} is neither 'spectral' nor 'random'.")
        if self.precision not in ("auto", *PRECISIONS):
            raise ConfigurationError(f"The precision {self.precision!r} is none of auto, {', '.join(PRECISIONS)}.")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            raise ConfigurationError("dropout must be in [0, 1) and learning_rate above 0.")
        for name in ("epochs", "max_steps", "hidden_size", "latent_size", "batch_size", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {value}.")

    def settled(self, stars: Csr) -> Self:
        """Return the configuration with values for training users in place of those that are left to the data."""
        batch_size = self.batch_size or batch_size_for(stars.shape[0])
        steps = self.passes * -(-stars.shape[0] // batch_size)
        epochs = self.epochs or min(self.most_epochs, max(1, self.max_steps // max(1, steps)))
        return replace(self, batch_size=batch_size, epochs=epochs)

    @property
    def passes(self) -> int:
        """Number of passes over the users in an epoch."""
        return 1

    @property
    def final_epoch(self) -> int:
        """The number of the last epoch, of a configuration that is settled."""
        assert self.epochs is not None
        return self.epochs


def batch_size_for(users: int) -> int:
    """Return the number of users per step for a number of training users.

    The published 500, but at least `STEPS` steps in a pass where users are few, with batches of at least
    `MIN_BATCH_SIZE`.
    """
    return min(MAX_BATCH_SIZE, max(MIN_BATCH_SIZE, users // STEPS))


class FusedSteps(Protocol):
    """The steps of an epoch, compiled or recorded, with the gradients and copies of the weights that they need."""

    def refresh(self) -> None:
        """Copy the current weights, after something else changed them."""

    def encoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> float | Tensor:
        """Train the encoder on a batch, given all users' posteriors before the round; return the loss.

        A tensor has to be read before the next step.
        """

    def decoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        """Train the decoder on a batch, given all users' current posteriors."""

    def posteriors(self) -> Tensor:
        """Return mean and log-variance of all users, (users, 2 latent)."""


class Workers:
    """The processes that train together: one, or those of torch's default process group.

    Every process draws the same batches and the same noise and computes its part of a batch's users; sums over the
    parts are then equal in all processes, and so are the weights.
    """

    def __init__(self) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if distributed else (0, 1)

    def part(self, users: int) -> tuple[int, int]:
        """Return the range of a batch's users that this process computes."""
        return users * self.rank // self.count, users * (self.rank + 1) // self.count

    def add_up(self, *parts: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count > 1:
            for part in parts:
                dist.all_reduce(part)


@dataclass(frozen=True)
class Best:
    """The best epoch so far by the validation users."""

    score: float = -math.inf
    epoch: int = 0
    weights: Mapping[str, Tensor] | None = None


class TrainingRun:
    """Optimizers, the random numbers of the epoch and the other processes of one training.

    Parameters
    ----------
    config : TrainingConfig
    encoder : SparseEncoder
    decoder : nn.Linear
        The softmax over all items.
    stars : scipy.sparse CSR, shape (users, items)
        The training users.
    fused_steps : callable, optional
        Makes the compiled or recorded steps of this run, or None if they do not fit into memory; without them, torch's
        operations are used.
    precision_name : str, optional
        Overrides the configuration's precision; see `precision`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        encoder: SparseEncoder,
        decoder: nn.Linear,
        stars: Csr,
        *,
        fused_steps: Callable[[TrainingRun], FusedSteps | None] | None = None,
        precision_name: str | None = None,
    ) -> None:
        self.config = config = config.settled(stars)
        self.batch_size = config.batch_size or batch_size_for(stars.shape[0])
        self.encoder, self.decoder, self.stars = encoder, decoder, stars
        self.networks = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.device, self.weight_dtype = decoder.weight.device, decoder.weight.dtype
        self.dtype = precision(precision_name or config.precision, self.device)
        self.workers = Workers()
        self.generator = torch.Generator(self.device)
        self.learning_rate = config.learning_rate
        inner: dict[str, Tensor] = {name: p for name, p in encoder.named_parameters() if name != "embeddings"}
        compiled = fused_steps is not None and self.device.type == "cpu"
        moment_dtype = self.dtype if compiled else None
        self.rows = RowAdam(encoder.embeddings.data, self._touched_share() < LAZY_BELOW, moment_dtype)
        self.adams = {
            "encoder": DenseAdam(inner, row_wise=True, moment_dtype=moment_dtype),
            "decoder": DenseAdam(dict(decoder.named_parameters()), row_wise=False),
        }
        self.output = SoftmaxOutput(decoder.weight, decoder.bias, self.dtype)
        self.posteriors: Tensor | None = None
        self.on_batch: Callable[[int], None] = lambda users: None
        self.fused = fused_steps(self) if fused_steps is not None else None

    def _touched_share(self) -> float:
        """Return the expected share of the items that a batch touches."""
        stars, config = self.stars, self.config
        chance = np.bincount(stars.indices, minlength=stars.shape[1]) / stars.shape[0] * (1 - config.dropout)
        return float((1 - (1 - chance) ** min(self.batch_size, stars.shape[0])).mean())

    # -- an epoch ------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """Set random numbers and learning rate from seed and epoch alone, so that a training can be resumed."""
        config = self.config
        self.order = np.random.default_rng([config.seed, epoch, 0])
        self.generator.manual_seed(config.seed * 1_000_003 + epoch)
        self.learning_rate = config.learning_rate
        if config.schedule == "cosine":
            self.learning_rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.final_epoch))

    def batches(self, users: int) -> Iterator[NDArray[np.int64]]:
        """Yield all users in random order, in batches of about equal size: a tiny last batch would weigh as much.

        Sizes of large batches are multiples of 32, for which bfloat16 products take a quarter less time.
        """
        for batch in np.split(self.order.permutation(users), self._ends(users)):
            yield batch
            self.on_batch(len(batch))

    def _ends(self, users: int) -> NDArray[np.int64]:
        """Return where each batch but the last one ends."""
        count, unit = -(-users // self.batch_size), 32 if self.batch_size >= 256 else 1
        return np.rint(np.arange(1, count) * users / count / unit).astype(np.int64) * unit

    @property
    def largest_batch(self) -> int:
        """Number of users in the largest batch."""
        users = int(self.stars.shape[0])
        return int(np.diff(self._ends(users), prepend=0, append=users).max())

    def draw(self, users: NDArray[np.int64], dropout: float) -> tuple[Bags, Bags, Tensor]:
        """Draw the input of a step.

        Returns
        -------
        bags, dropped : Bags
            The users' items, and those that remain after dropout.
        noise : Tensor, shape (users, latent)
            Standard normal.
        """
        bags = Bags.of(self.stars[users], self.device, self.weight_dtype)
        noise = self.noise(len(users))
        return bags, bags.dropped(dropout, self.generator), noise

    def noise(self, users: int) -> Tensor:
        """Draw standard normal numbers, (users, latent)."""
        shape = users, self.config.latent_size
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=self.weight_dtype)

    def next_step(self, part: str) -> AdamStep:
        """Count a step of the "encoder" or the "decoder" and return its constants."""
        return self.adams[part].next_step(self.learning_rate)

    def step_encoder(self, bags: UserBags, first_gradient: Tensor, step: AdamStep) -> None:
        """Update the encoder with the gradients stored at its parameters.

        Parameters
        ----------
        bags : UserBags
            The items of the whole batch that the encoder saw.
        first_gradient : Tensor, shape (this process's users, hidden)
            Gradient in the first layer's sums.
        step : AdamStep
        """
        adam = self.adams["encoder"]
        if self.workers.count > 1:
            users = len(bags.lengths)
            low, high = self.workers.part(users)
            whole = first_gradient.new_zeros((users, first_gradient.shape[1]))
            whole[low:high] = first_gradient
            first_gradient = whole
            self.workers.add_up(first_gradient, *self._inner_gradients().values())
        self.rows.step(bags, first_gradient, step)
        adam.step({**self._inner_gradients(), "bias": first_gradient.sum(dim=0)}, step)

    def _inner_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the parameters between the first layer's sums and the latent space."""
        named = self.encoder.named_parameters()
        return {name: p.grad for name, p in named if name not in ("embeddings", "bias") and p.grad is not None}

    def step_decoder(self, weight_gradient: Tensor, bias_gradient: Tensor, step: AdamStep) -> None:
        """Update the decoder with the gradients of this process's users."""
        self.workers.add_up(weight_gradient, bias_gradient)
        self.adams["decoder"].step({"weight": weight_gradient, "bias": bias_gradient}, step)
        self.output.refresh()

    # -- weights and checkpoints ---------------------------------------------------------------------------------

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Load parameters by name."""
        self.networks.load_state_dict(weights)
        self.refresh()

    def refresh(self) -> None:
        """Copy the current weights, after something else changed them."""
        self.output.refresh()
        if self.fused is not None:
            self.fused.refresh()

    def checkpoint(self, best: Best, history: list[dict[str, float]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and document, everything that `resume` needs."""
        tensors = self.networks.state_dict() | self._moments()
        tensors |= {f"best.{key}": value for key, value in (best.weights or {}).items()}
        document = {"history": history, "best": [best.score, best.epoch] if best.weights else None}
        steps = {name: adam.number for name, adam in self.adams.items()}
        return tensors, document | {"steps": steps, "precision": name_of(self.dtype)}

    def _moments(self) -> dict[str, Tensor]:
        """Return the optimizer moments of all parameters."""
        rows = {"rows.exp_avg": self.rows.exp_avg, "rows.exp_avg_sq": self.rows.exp_avg_sq}
        named = {f"{name}.{key}": moment for name, adam in self.adams.items() for key, moment in adam.moments().items()}
        return {f"moments.{name}": moment for name, moment in {**rows, **named}.items()}

    def resume(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Best:
        """Restore the state of a checkpoint; return its best epoch."""
        for name, moment in self._moments().items():
            moment.copy_(tensors[name])
        for name, adam in self.adams.items():
            adam.number = int(document["steps"][name])
        self.restore({name: tensors[name] for name in self.networks.state_dict()})
        best = document["best"]
        if best is None:
            return Best()
        weights = {key.removeprefix("best."): value for key, value in tensors.items() if key.startswith("best.")}
        return Best(float(best[0]), int(best[1]), weights)
