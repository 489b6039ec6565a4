"""Training that the variational autoencoders share: epochs, schedule, early stopping, checkpoints, several processes.

A model says what its networks are and what one epoch does; everything around an epoch is here.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError, InvalidInteractionsError
from gh_assets.recommender.cpu.allocator import freed_memory_kept
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, evaluate
from gh_assets.recommender.models.base import Recommender
from gh_assets.recommender.training.checkpoints import Checkpoint, Checkpoints, data_fingerprint
from gh_assets.recommender.training.engine import (
    LAZY_BELOW,
    AdamStep,
    Bags,
    DenseAdam,
    RowAdam,
    SoftmaxOutput,
)
from gh_assets.recommender.training.precision import PRECISIONS, name_of, precision
from gh_assets.recommender.training.spectral import item_factors

LAYOUT = 4
"""Of the checkpoints: one that was made before the layout changed is not gone on from."""


@dataclass(frozen=True)
class TrainingConfig:
    """What decides the training of any of the autoencoders."""

    epochs: int = 25
    seed: int = 0
    hidden_size: int = 600  # as published
    latent_size: int = 200  # as published
    dropout: float = 0.5  # share of a user's items hidden from the encoder
    batch_size: int = 500
    learning_rate: float = 5e-4
    schedule: str = "cosine"  # or "constant", as published
    initialization: str = "spectral"  # item embeddings that know which items go together; or "random", as published
    initial_scale: float = 0.4  # spread of those embeddings against random ones
    patience: int = 12  # stop after so many epochs without a better validation NDCG@100; best weights are restored
    device: str = "auto"  # "auto": CUDA if there is one
    precision: str = "auto"  # of matrix products: "auto" measures whether bfloat16 is faster on the machine

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "constant"):
            raise ConfigurationError(f"The schedule {self.schedule!r} is neither 'cosine' nor 'constant'.")
        if self.initialization not in ("spectral", "random"):
            raise ConfigurationError(f"The initialization {self.initialization!r} is neither 'spectral' nor 'random'.")
        if self.precision not in ("auto", *PRECISIONS):
            raise ConfigurationError(f"The precision {self.precision!r} is none of auto, {', '.join(PRECISIONS)}.")
        if not 0 <= self.dropout < 1 or self.learning_rate <= 0:
            raise ConfigurationError("dropout must be in [0, 1) and learning_rate above 0.")
        for name in ("epochs", "hidden_size", "latent_size", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}.")


class SparseEncoder(nn.Module):
    """A network whose first layer is a sum of item embeddings.

    Parameters
    ----------
    items, hidden : int
    """

    def __init__(self, items: int, hidden: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(items)  # what a dense layer on all items would begin with
        self.embeddings = nn.Parameter(torch.empty(items, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))

    @abstractmethod
    def rest(self, first: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """From the first layer's sum to mean and log-variance, each (users, latent); products in `dtype`."""

    def represent(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """From the latent vector to what the softmax over all items sees."""
        return z

    def first(self, bags: Bags) -> Tensor:
        """The first layer's sums, (users, hidden), without a graph: its gradients are the engine's affair."""
        return bags.sums(self.embeddings.detach()) + self.bias.detach()

    def forward(self, bags: Bags, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.rest(self.first(bags), dtype)

    def latent_mean(self, first: Tensor, dtype: torch.dtype) -> Tensor:
        """The mean alone, (users, latent), from the first layer's sums: all that it takes to rank."""
        return self.rest(first, dtype)[0]


class FusedSteps(ABC):
    """The steps of an epoch with fused kernels instead of torch's operations, and the gradients and copies of the
    weights that they need."""

    @abstractmethod
    def refresh(self) -> None:
        """Take over the weights' present values: they changed from outside."""

    @abstractmethod
    def working(self) -> AbstractContextManager[None]:
        """What the steps of an epoch are made in: meanwhile, the embeddings are for them alone."""

    @abstractmethod
    def encoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> float:
        """One for some users; gives the loss. All users' posteriors are those before the round."""

    @abstractmethod
    def decoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        """One for some users, whose posteriors are the present ones."""

    @abstractmethod
    def posteriors(self) -> Tensor:
        """Mean and log-variance of all users, (users, 2 latent)."""


class Workers:
    """The processes that train together: one, or those of torch's default process group.

    Every process draws the same batches and the same noise and computes its part of a batch's users; sums over the
    parts are then the same everywhere, and so are the weights.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def part(self, users: int) -> tuple[int, int]:
        """From which to which of a batch's users this process computes."""
        return users * self.rank // self.count, users * (self.rank + 1) // self.count

    def add_up(self, *parts: Tensor) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count > 1:
            for part in parts:
                dist.all_reduce(part)


class Autoencoder(Recommender):
    """A variational autoencoder with a sparse first layer and a softmax over all items.

    Parameters
    ----------
    config : TrainingConfig, optional
        Of the model's own kind.
    on_epoch : callable, optional
        Called with the row of `history` after each epoch.
    checkpoints : Path, optional
        Folder for the state of an unfinished training. `fit` goes on from it, with the same result as if it had not
        been interrupted, and removes it when it is done.
    """

    config_type: ClassVar[type[TrainingConfig]]
    config: TrainingConfig
    encoder: SparseEncoder
    decoder: nn.Linear

    def __init__(
        self,
        config: TrainingConfig | None = None,
        on_epoch: Callable[[dict[str, float]], None] | None = None,
        checkpoints: Path | None = None,
    ) -> None:
        super().__init__()
        self.config = config or self.config_type()
        self.on_epoch = on_epoch
        self.checkpoints = checkpoints
        wanted = self.config.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(wanted)
        except RuntimeError:
            raise ConfigurationError(f"{wanted!r} is no device: give auto, cpu, cuda or cuda:1.") from None
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError(f"There is no GPU with CUDA for the device {wanted!r}: give auto or cpu.")

    @abstractmethod
    def _networks(self) -> tuple[SparseEncoder, nn.Linear]: ...

    @abstractmethod
    def _epoch(self, epoch: int, run: TrainingRun) -> float:
        """Train one epoch; gives the mean loss of the encoder's steps."""

    @property
    def _has_fused_steps(self) -> bool:
        """Whether a training can be made of them here."""
        return False

    def _fused_steps(self, run: TrainingRun) -> FusedSteps:
        raise NotImplementedError

    def _build(self) -> None:
        exact = torch.float64 if self.config.precision == "float64" else torch.float32
        encoder, decoder = self._networks()
        self.encoder, self.decoder = encoder.to(self.device, exact), decoder.to(self.device, exact)

    # -- training ------------------------------------------------------------------------------------------------

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        with freed_memory_kept():
            self._train(stars, validation)

    def _train(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        stars = stars[np.flatnonzero(np.diff(stars.indptr))]  # a user without stars has nothing to teach
        # The global generator is left as it was found: a notebook's other draws must not depend on us.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self._build()
        kept = None
        if self.checkpoints is not None:
            decided_by = {"layout": LAYOUT, "name": self.name, **self._config()}
            fingerprint = data_fingerprint(decided_by, stars, *(validation or ()))
            kept = Checkpoints(self.checkpoints, fingerprint)
        best = Best()
        self.history = []
        checkpoint = kept.load() if kept is not None else None
        if checkpoint is not None:
            # In the precision that it began with: a machine that is busy might be measured otherwise now.
            run = TrainingRun(self, stars, checkpoint.document["precision"])
            self.history = [dict(row) for row in checkpoint.document["history"]]
            best = run.resume(checkpoint)
        else:
            run = TrainingRun(self, stars)
            if self.config.initialization == "spectral":
                self._initialize(stars)
        run.refresh()
        for epoch in range(len(self.history) + 1, self.config.epochs + 1):
            if self.history and best.epoch and len(self.history) - best.epoch >= self.config.patience:
                break
            row = self._timed_epoch(epoch, run)
            if validation is not None:
                started = time.perf_counter()
                row |= evaluate(self, *validation)
                row["validation_seconds"] = time.perf_counter() - started
                if row[MAIN_METRIC] > best.score:
                    best = Best(row[MAIN_METRIC], epoch, run.weights(copy=True))
            self.history.append(row)
            if kept is not None and run.workers.rank == 0:
                kept.save(run.checkpoint(best, self.history))
            if self.on_epoch is not None:
                self.on_epoch(row)
        if best.weights:
            run.restore(best.weights)
        if kept is not None and run.workers.rank == 0:
            kept.forget()

    def _timed_epoch(self, epoch: int, run: TrainingRun) -> dict[str, float]:
        started = time.perf_counter()
        run.begin(epoch)
        with run.working():
            loss = self._epoch(epoch, run)
        self._weights_changed()
        if not math.isfinite(loss):
            raise InvalidInteractionsError(
                f"Training diverged in epoch {epoch} (loss {loss}): lower the learning rate."
            )
        return {
            "epoch": float(epoch),
            "learning_rate": run.learning_rate,
            "loss": loss,
            "seconds": time.perf_counter() - started,
        }

    def _initialize(self, stars: Csr) -> None:
        """Begin with item embeddings that already know which items go together."""
        rank = min(self.decoder.in_features, self.encoder.embeddings.shape[1])
        factors = item_factors(stars, rank, seed=self.config.seed)
        if factors.shape[1] == 0:
            return
        with torch.no_grad():
            known = torch.from_numpy(factors)
            for parameter in (self.encoder.embeddings, self.decoder.weight):
                spread = self.config.initial_scale * parameter.std().cpu() / known.std().clamp(min=1e-12)
                parameter[:, : known.shape[1]] = (known * spread).to(parameter)

    # -- use -----------------------------------------------------------------------------------------------------

    @property
    def _exact(self) -> torch.dtype:
        return self.decoder.weight.dtype

    @torch.no_grad()
    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        # In float32, whatever the training was in: bfloat16 has too few digits to rank by.
        mean = self.encoder.latent_mean(self.encoder.first(Bags.of(stars, self.device, self._exact)), self._exact)
        hidden = self.encoder.represent(mean, self._exact)
        scores: NDArray[np.float32] = self.decoder(hidden).float().cpu().numpy()
        return scores

    def item_vectors(self) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.decoder.weight.detach().float().cpu().numpy()
        return vectors

    def _parameters(self) -> dict[str, Tensor]:
        tensors = {f"encoder.{key}": value for key, value in self.encoder.state_dict().items()}
        tensors |= {f"decoder.{key}": value for key, value in self.decoder.state_dict().items()}
        return tensors

    def _weights(self) -> dict[str, NDArray[Any]]:
        return {key: value.detach().cpu().numpy() for key, value in self._parameters().items()}

    def _restore(self, weights: dict[str, NDArray[Any]]) -> None:
        with torch.random.fork_rng(devices=[]):
            self._build()
        self._load({key: torch.from_numpy(value) for key, value in weights.items()})

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        for prefix, module in (("encoder.", self.encoder), ("decoder.", self.decoder)):
            module.load_state_dict(
                {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            )
        self._weights_changed()

    def _weights_changed(self) -> None:
        """Told whenever they did: what was made of them does not hold any more.

        The engine's kernels write weights where torch does not see it.
        """

    def _config(self) -> dict[str, Any]:
        return asdict(self.config)

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> Self:
        # Where it is used need not be where it was trained.
        return cls(cls.config_type(**{**config, "device": "auto"}))


@dataclass(frozen=True)
class Best:
    """The best epoch so far by the validation users."""

    score: float = -math.inf
    epoch: int = 0
    weights: Mapping[str, Tensor] | None = None


class TrainingRun:
    """What a training has besides the weights: optimizers, the random numbers of the epoch, the other processes.

    Parameters
    ----------
    model : Autoencoder
        Built.
    stars : scipy.sparse CSR
        What it is trained on.
    numbers : str, optional
        Of the products: see `precision`. The configuration's, if not given.
    """

    def __init__(self, model: Autoencoder, stars: Csr, numbers: str | None = None) -> None:
        config = model.config
        self.model, self.stars = model, stars
        self.dtype = precision(numbers or config.precision, model.device)
        self.workers = Workers()
        self.generator = torch.Generator(model.device)
        self.learning_rate = config.learning_rate
        encoder, decoder = model.encoder, model.decoder
        dense: dict[str, Tensor] = {name: p for name, p in encoder.named_parameters() if name != "embeddings"}
        first = self.dtype if model._has_fused_steps else None
        self.rows = RowAdam(encoder.embeddings.data, self._touched(stars) < LAZY_BELOW, first)
        self.adams = {
            "encoder": DenseAdam(dense, row_wise=True, first=first),
            "decoder": DenseAdam(dict(decoder.named_parameters()), row_wise=False),
        }
        self.output = SoftmaxOutput(decoder.weight, decoder.bias, self.dtype)
        self.posteriors: Tensor | None = None
        self.fused = model._fused_steps(self) if model._has_fused_steps else None

    def working(self) -> AbstractContextManager[None]:
        """What the steps of an epoch are made in."""
        return nullcontext() if self.fused is None else self.fused.working()

    def _touched(self, stars: Csr) -> float:
        """Share of the items that a batch is expected to touch."""
        config = self.model.config
        chance = np.bincount(stars.indices, minlength=stars.shape[1]) / stars.shape[0] * (1 - config.dropout)
        return float((1 - (1 - chance) ** min(config.batch_size, stars.shape[0])).mean())

    def begin(self, epoch: int) -> None:
        """Random numbers and learning rate of an epoch: of nothing but seed and epoch, so that it can be resumed."""
        config = self.model.config
        self.order, self.keys = (np.random.default_rng([config.seed, epoch, stream]) for stream in range(2))
        self.generator.manual_seed(config.seed * 1_000_003 + epoch)
        self.learning_rate = config.learning_rate
        if config.schedule == "cosine":
            self.learning_rate *= 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.epochs))

    def batches(self, users: int) -> Iterator[NDArray[np.int64]]:
        """All users in random order, in batches of equal size: a last one of two would move the weights as far."""
        yield from np.array_split(self.order.permutation(users), -(-users // self.model.config.batch_size))

    def draw(self, users: NDArray[np.int64], dropout: float) -> tuple[Bags, Bags, Tensor]:
        """What a step of some users begins with.

        Returns
        -------
        bags, dropped : Bags
            What the users have, and what of it is left when items are hidden at random.
        noise : Tensor, shape (users, latent)
            Standard normal.
        """
        model = self.model
        bags = Bags.of(self.stars[users], model.device, model._exact)
        shape = len(users), model.config.latent_size
        noise = torch.randn(shape, generator=self.generator, device=model.device, dtype=model._exact)
        return bags, bags.dropped(dropout, self.generator), noise

    def step_encoder(self, bags: Bags, first_gradient: Tensor) -> None:
        """Step with the gradients that lie at the parameters.

        Parameters
        ----------
        bags : Bags
            What of all users' items the encoder saw.
        first_gradient : Tensor, shape (users here, hidden)
            In the first layer's sums of this process's part of the users.
        """
        adam = self.adams["encoder"]
        step = AdamStep(self.learning_rate, adam.number + 1)
        if self.workers.count > 1:
            users = len(bags.lengths)
            low, high = self.workers.part(users)
            whole = first_gradient.new_zeros((users, first_gradient.shape[1]))
            whole[low:high] = first_gradient
            first_gradient = whole
            self.workers.add_up(first_gradient, *self._inner_gradients().values())
        self.rows.step(bags, first_gradient, step)
        adam.step({**self._inner_gradients(), "bias": first_gradient.sum(dim=0)}, self.learning_rate)

    def _inner_gradients(self) -> dict[str, Tensor]:
        """Those that lie at the parameters between the first layer's sums and the latent space."""
        named = self.model.encoder.named_parameters()
        return {name: p.grad for name, p in named if name not in ("embeddings", "bias") and p.grad is not None}

    def step_decoder(self, weight_gradient: Tensor, bias_gradient: Tensor) -> None:
        """Step with the gradients of this process's part of the users."""
        self.workers.add_up(weight_gradient, bias_gradient)
        self.adams["decoder"].step({"weight": weight_gradient, "bias": bias_gradient}, self.learning_rate)
        self.output.refresh()

    def weights(self, copy: bool = False) -> dict[str, Tensor]:
        """The parameters by name."""
        tensors = self.model._parameters()
        return {key: value.detach().clone() for key, value in tensors.items()} if copy else tensors

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        self.model._load(weights)
        self.refresh()

    def refresh(self) -> None:
        """Take over the weights' present values: they changed from outside."""
        self.output.refresh()
        if self.fused is not None:
            self.fused.refresh()

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def checkpoint(self, best: Best, history: list[dict[str, float]]) -> Checkpoint:
        tensors = dict(self.weights())
        tensors |= {f"best.{key}": value for key, value in (best.weights or {}).items()}
        tensors |= self._moments()
        document = {"history": history, "best": [best.score, best.epoch] if best.weights else None}
        steps = {name: adam.number for name, adam in self.adams.items()}
        return Checkpoint(tensors, document | {"steps": steps, "precision": name_of(self.dtype)})

    def _moments(self) -> dict[str, Tensor]:
        """Of all parameters."""
        of_rows = {"rows.exp_avg": self.rows.exp_avg, "rows.exp_avg_sq": self.rows.exp_avg_sq}
        named = {f"{name}.{key}": moment for name, adam in self.adams.items() for key, moment in adam.moments().items()}
        return {f"moments.{name}": moment for name, moment in {**of_rows, **named}.items()}

    def resume(self, checkpoint: Checkpoint) -> Best:
        """Be where the checkpoint was made; gives the best epoch so far."""
        tensors = checkpoint.tensors
        for name, moment in self._moments().items():
            moment.copy_(tensors[name])
        for name, adam in self.adams.items():
            adam.number = int(checkpoint.document["steps"][name])
        self.restore({key: value for key, value in tensors.items() if key.startswith(("encoder.", "decoder."))})
        found = checkpoint.document["best"]
        if found is None:
            return Best()
        weights = {key.removeprefix("best."): value for key, value in tensors.items() if key.startswith("best.")}
        return Best(float(found[0]), int(found[1]), weights)
