"""Training that the variational autoencoders share: epochs, early stopping, checkpoints, prediction.

A model defines its networks and one epoch; everything around an epoch is here.
"""

import hashlib
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.errors import ConfigurationError, InvalidInteractionsError
from gh_assets.recommender.cpu.allocator import freed_memory_kept
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.bags import Bags, SparseEncoder
from gh_assets.recommender.engine.checkpoints import Checkpoints, data_fingerprint
from gh_assets.recommender.engine.precision import device_of, name_of
from gh_assets.recommender.engine.progress import ProgressMeter, TrainingProgress
from gh_assets.recommender.engine.run import Best, FusedSteps, TrainingConfig, TrainingRun
from gh_assets.recommender.engine.spectral import item_factors
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, evaluate
from gh_assets.recommender.models.base import Recommender

LAYOUT = 4
"""Version of the checkpoints' layout: checkpoints of another layout are ignored."""


@dataclass(frozen=True)
class WarmStart:
    """Weights of an earlier model of the same kind and sizes, with which a training begins.

    Attributes
    ----------
    weights : dict of str to ndarray
        See `Recommender.weights`.
    rows : ndarray of int64, shape (items,)
        Row of each item in that model's tables; -1 for new items, which keep their random initial weights.
    """

    weights: Mapping[str, NDArray[Any]]
    rows: NDArray[np.int64]

    def fits(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether all parameters but the tables of items have the same shapes."""
        shapes = {name: values.shape for name, values in self.weights.items()}
        return shapes.keys() == tensors.keys() and all(
            shapes[name][name in ITEM_TABLES :] == tuple(tensor.shape)[name in ITEM_TABLES :]
            for name, tensor in tensors.items()
        )

    def digest(self) -> str:
        """Return the SHA-256 of weights and rows."""
        digest = hashlib.sha256(self.rows.tobytes())
        for name, values in sorted(self.weights.items()):
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()


ITEM_TABLES = ("encoder.embeddings", "decoder.weight", "decoder.bias")
"""Parameters with one row per item."""


class Autoencoder(Recommender):
    """A variational autoencoder with a sparse first layer and a softmax over all items.

    Parameters
    ----------
    config : TrainingConfig, optional
        Of the model's `config_type`.
    on_epoch : callable, optional
        Called with the row of `history` after each epoch.
    on_progress : callable, optional
        Called with a `TrainingProgress` within an epoch, at most once a second.
    checkpoints : Path, optional
        Folder for the state of an unfinished training. `fit` resumes from it, with the same result as an uninterrupted
        training, and deletes it at the end.
    start : WarmStart, optional
        Weights with which `fit` begins instead of initial ones.

    Attributes
    ----------
    requested : TrainingConfig
        The configuration that was given.
    config : TrainingConfig
        The configuration that the training used: with the precision that the machine has in place of "auto", and
        with values for the training users in place of those that are left to the data.
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
        on_progress: Callable[[TrainingProgress], None] | None = None,
        start: WarmStart | None = None,
    ) -> None:
        super().__init__()
        self.requested = self.config = config or self.config_type()
        self.on_epoch, self.on_progress = on_epoch, on_progress
        self.checkpoints, self.start = checkpoints, start
        self.device = device_of(self.config.device)

    @abstractmethod
    def _networks(self) -> tuple[SparseEncoder, nn.Linear]: ...

    @abstractmethod
    def _epoch(self, epoch: int, run: TrainingRun) -> float:
        """Train one epoch; return the mean loss of the encoder's steps."""

    def fused_steps(self) -> Callable[[TrainingRun], FusedSteps | None] | None:
        """Return what makes a run's compiled or recorded steps, if this machine can train the model by them."""
        return None

    def build(self, items: int) -> None:
        """Create the networks for a number of items, with random weights."""
        self.items = items
        dtype = torch.float64 if self.config.precision == "float64" else torch.float32
        encoder, decoder = self._networks()
        self.encoder, self.decoder = encoder.to(self.device, dtype), decoder.to(self.device, dtype)

    # -- training ------------------------------------------------------------------------------------------------

    def training_run(self, stars: Csr, precision_name: str | None = None) -> TrainingRun:
        """Return the state of a training of the built networks on some users."""
        self.config = self.config.settled(stars)
        return TrainingRun(
            self.config,
            self.encoder,
            self.decoder,
            stars,
            fused_steps=self.fused_steps(),
            precision_name=precision_name,
        )

    @freed_memory_kept()
    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        stars = stars[np.flatnonzero(np.diff(stars.indptr))]  # users without stars teach nothing
        self.config = self.requested
        # The global generator keeps its state: a notebook's other draws must not depend on the training.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            self.build(self.items)
        checkpoints = self._checkpoints(stars, validation)
        run, best = self._begin(stars, checkpoints)
        self.config = replace(self.config, precision=name_of(run.dtype))
        report = self.on_progress or (lambda progress: None)
        meter = ProgressMeter(report, stars.shape[0], self.config.passes, len(self.history), self.config.final_epoch)
        run.on_batch = meter.count
        for epoch in range(len(self.history) + 1, self.config.final_epoch + 1):
            if self.history and best.epoch and len(self.history) - best.epoch >= self.config.patience:
                break
            meter.begin_epoch(epoch)
            row = self.train_epoch(epoch, run)
            if validation is not None:
                started = time.perf_counter()
                row |= evaluate(self, *validation)
                row["validation_seconds"] = time.perf_counter() - started
                if row[MAIN_METRIC] > best.score:
                    best = Best(row[MAIN_METRIC], epoch, {key: value.clone() for key, value in self.tensors().items()})
            self.history.append(row)
            if checkpoints is not None and run.workers.rank == 0:
                checkpoints.save(*run.checkpoint(best, self.history))
            if self.on_epoch is not None:
                self.on_epoch(row)
        run.fused = None  # frees its memory now: it refers to the run, which refers to it
        if best.weights:
            run.restore(best.weights)
            self._weights_changed()
        if checkpoints is not None and run.workers.rank == 0:
            checkpoints.forget()

    def _checkpoints(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> Checkpoints | None:
        if self.checkpoints is None:
            return None
        determined_by = {"layout": LAYOUT, "name": self.name, **self.to_config()}
        if self.start is not None:
            determined_by["start"] = self.start.digest()
        return Checkpoints(self.checkpoints, data_fingerprint(determined_by, stars, *(validation or ())))

    def _begin(self, stars: Csr, checkpoints: Checkpoints | None) -> tuple[TrainingRun, Best]:
        """Resume from a checkpoint, or begin with initial weights."""
        checkpoint = checkpoints.load() if checkpoints is not None else None
        self.history = []
        if checkpoint is not None:
            tensors, document = checkpoint
            # With the precision of its beginning, also on another machine.
            run = self.training_run(stars, document["precision"])
            self.history = [dict(row) for row in document["history"]]
            best = run.resume(tensors, document)
        else:
            run, best = self.training_run(stars), Best()
            if self.start is not None:
                self._copy(self.start)
            elif self.config.initialization == "spectral":
                self._initialize(stars)
        run.refresh()
        self._weights_changed()
        return run, best

    def train_epoch(self, epoch: int, run: TrainingRun) -> dict[str, float]:
        """Train one epoch; return its row of `history` without validation metrics.

        Raises
        ------
        InvalidInteractionsError
            If the loss is not finite.
        """
        started = time.perf_counter()
        run.begin_epoch(epoch)
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

    @torch.no_grad()
    def _copy(self, start: WarmStart) -> None:
        """Take the weights of an earlier model, for items by their rows.

        Raises
        ------
        ConfigurationError
            If that model has other sizes.
        """
        tensors = self.tensors()
        if not start.fits(tensors):
            raise ConfigurationError(f"The model with whose weights {self.name} is to begin has other sizes.")
        known = torch.from_numpy(np.flatnonzero(start.rows >= 0)).to(self.device)
        for name, tensor in tensors.items():
            values = start.weights[name]
            if name in ITEM_TABLES:
                tensor[known] = torch.from_numpy(values[start.rows[start.rows >= 0]]).to(tensor)
            else:
                tensor.copy_(torch.from_numpy(values))

    def _initialize(self, stars: Csr) -> None:
        """Set the first columns of both item tables to spectral factors."""
        rank = min(self.decoder.in_features, self.encoder.embeddings.shape[1])
        factors = item_factors(stars, rank, seed=self.config.seed)
        if factors.shape[1] == 0:
            return
        with torch.no_grad():
            spectral = torch.from_numpy(factors)
            for parameter in (self.encoder.embeddings, self.decoder.weight):
                scale = self.config.initial_scale * parameter.std().cpu() / spectral.std().clamp(min=1e-12)
                parameter[:, : spectral.shape[1]] = (spectral * scale).to(parameter)

    # -- use -----------------------------------------------------------------------------------------------------

    @property
    def weight_dtype(self) -> torch.dtype:
        """Type of the weights: float32, or float64 with that precision."""
        return self.decoder.weight.dtype

    @torch.no_grad()
    def score(self, stars: Csr) -> NDArray[np.float32]:
        # In the weights' type, whatever the training's products were in: bfloat16 has too few digits to rank by.
        first = self.encoder.first(Bags.of(stars, self.device, self.weight_dtype))
        mean = self.encoder.latent_mean(first, self.weight_dtype)
        hidden = self.encoder.represent(mean, self.weight_dtype)
        scores: NDArray[np.float32] = self.decoder(hidden).float().cpu().numpy()
        return scores

    def item_vectors(self) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.decoder.weight.detach().float().cpu().numpy()
        return vectors

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        return dict(self._both().state_dict())

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Load parameters by name."""
        self._both().load_state_dict(tensors)
        self._weights_changed()

    def _both(self) -> nn.Module:
        return nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder})

    def weights(self) -> dict[str, NDArray[Any]]:
        return {key: value.detach().cpu().numpy() for key, value in self.tensors().items()}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        with torch.random.fork_rng(devices=[]):
            self.build(self.items)
        self.load_tensors({key: torch.from_numpy(value) for key, value in weights.items()})

    def _weights_changed(self) -> None:
        """Drop everything derived from the weights; the compiled kernels write them where torch does not notice."""

    def to_config(self) -> dict[str, Any]:
        return asdict(self.config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        # The device is that of this machine, not of the one that trained.
        return cls(cls.config_type(**{**config, "device": "auto"}))
