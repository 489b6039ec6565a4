"""RecVAE's training steps on a GPU: recorded as CUDA graphs once, then replayed.

A step is three hundred operations that each take microseconds: starting them one by one takes longer than they run,
and every number that Python reads from the GPU stops it. A recorded step is started as a whole. Its tensors keep their
addresses and shapes, so it has the users of the largest batch, as rows of a matrix of all items; places that a batch
does not need are filled with a user without items, who changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.adam import AdamStep
from gh_assets.recommender.engine.bags import DenseBags, SparseEncoder, UserBags
from gh_assets.recommender.engine.run import TrainingRun

WARM_UP = 2
"""Calls of a function before it is recorded: libraries allocate their memory at the first ones."""

MEMORY_SHARE = 0.5
"""Maximum share of the GPU's memory that stars and steps may take."""

BYTES_PER_CELL = 32
"""Memory of a step for each user of a batch and each item, estimated: matrices, random numbers and logits."""

PACKED_USERS = 1024
"""Users whose stars are packed at once."""


class RecordedModel(Protocol):
    """What the steps need of RecVAE."""

    @property
    def encoder(self) -> SparseEncoder: ...

    def update_encoder(
        self,
        run: TrainingRun,
        drawn: tuple[UserBags, UserBags, Tensor],
        old: Tensor,
        users: int | Tensor,
        step: AdamStep,
    ) -> Tensor: ...

    def update_decoder(
        self, run: TrainingRun, drawn: tuple[UserBags, Tensor], posteriors: Tensor, users: int | Tensor, step: AdamStep
    ) -> None: ...


class Recorded:
    """A function of tensors whose addresses do not change, recorded on a GPU; on a CPU, it is called.

    Parameters
    ----------
    function : callable
        Reads and writes tensors on the generator's device. Must neither read their values nor depend on other state.
    generator : torch.Generator
        The source of its random numbers.
    """

    def __init__(self, function: Callable[[], Tensor], generator: torch.Generator) -> None:
        self.function, self.generator, self.calls = function, generator, 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> Tensor:
        """Call or replay the function; a result is overwritten by the next call."""
        if self.generator.device.type != "cuda":
            return self.function()
        with torch.cuda.device(self.generator.device):  # streams are those of the current device
            return self._on_gpu()

    def _on_gpu(self) -> Tensor:
        self.calls += 1
        if self.graph is None:
            current, beside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            if self.calls <= WARM_UP:
                beside.wait_stream(current)
                with torch.cuda.stream(beside):
                    result = self.function()
                current.wait_stream(beside)
                return result
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph, stream=beside):
                self.result = self.function()
            self.graph = graph
        self.graph.replay()
        return self.result


class RecordedSteps:
    """The steps of an epoch; see `engine.run.FusedSteps`.

    Parameters
    ----------
    run : TrainingRun
    model : RecordedModel
    """

    def __init__(self, run: TrainingRun, model: RecordedModel) -> None:
        self.run, self.model = run, model
        run.output.always_shift = True
        users, size, device = int(run.stars.shape[0]), run.largest_batch, run.device
        self.packed = packed(run.stars, device)
        self.bits = 2 ** torch.arange(8, dtype=torch.uint8, device=device)
        self.without_items = users
        self.batch = torch.full((size,), users, device=device)
        self.numbers = torch.ones(3, dtype=torch.float64, device=device)
        self.users, self.learning_rate, self.number = self.numbers.unbind()
        self.given = torch.zeros((size, 2 * run.config.latent_size), dtype=run.weight_dtype, device=device)
        self._encoder, self._decoder, self._posteriors = (
            Recorded(function, run.generator)
            for function in (self._update_encoder, self._update_decoder, self._compute_posteriors)
        )

    def refresh(self) -> None:
        """Nothing: there are no copies of the weights."""

    def encoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> Tensor:
        """Train the encoder on a batch, given all users' posteriors before the round; return the loss."""
        self._fill(batch, posteriors, self.run.next_step("encoder"))
        return self._encoder()

    def decoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        """Train the decoder on a batch, given all users' current posteriors."""
        self._fill(batch, posteriors, self.run.next_step("decoder"))
        self._decoder()

    def posteriors(self) -> Tensor:
        """Return mean and log-variance of all users, (users, 2 latent)."""
        posteriors = self.given.new_empty((self.without_items, self.given.shape[1]))
        for users in np.split(np.arange(len(posteriors)), range(len(self.batch), len(posteriors), len(self.batch))):
            self.fill(users)
            posteriors[users[0] : users[-1] + 1] = self._posteriors()[: len(users)]
        return posteriors

    def _fill(self, batch: NDArray[np.int64], posteriors: Tensor, step: AdamStep) -> None:
        self.fill(batch)
        self.numbers.copy_(torch.tensor([len(batch), step.learning_rate, step.number], dtype=torch.float64))
        self.given[: len(batch)] = posteriors.index_select(0, self.batch[: len(batch)])

    def fill(self, batch: NDArray[np.int64]) -> None:
        """Set the users of the next step."""
        users = torch.full(self.batch.shape, self.without_items)
        users[: len(batch)] = torch.from_numpy(batch)
        self.batch.copy_(users)

    # -- recorded ------------------------------------------------------------------------------------------------

    def _update_encoder(self) -> Tensor:
        drawn = self.draw(self.run.config.dropout)
        return self.model.update_encoder(self.run, drawn, self.given, self.users, self._adam_step())

    def _update_decoder(self) -> Tensor:
        bags, _, noise = self.draw(0.0)
        self.model.update_decoder(self.run, (bags, noise), self.given, self.users, self._adam_step())
        return self.numbers

    @torch.no_grad()
    def _compute_posteriors(self) -> Tensor:
        return torch.cat(self.model.encoder(self._bags(), self.run.dtype), dim=1)

    def _adam_step(self) -> AdamStep:
        return AdamStep(self.learning_rate, self.number)

    def draw(self, dropout: float) -> tuple[DenseBags, DenseBags, Tensor]:
        """Draw the input of a step; see `TrainingRun.draw`."""
        bags = self._bags()
        return bags, bags.dropped(dropout, self.run.generator), self.run.noise(len(self.batch))

    def _bags(self) -> DenseBags:
        stars = self.packed.index_select(0, self.batch)[:, :, None].bitwise_and(self.bits) != 0
        items = self.run.stars.shape[1]
        return DenseBags.of(stars.flatten(1)[:, :items].to(self.run.dtype), self.run.weight_dtype)


def packed(stars: Csr, device: torch.device) -> Tensor:
    """Return the stars as bits, lowest first, with a row for a user without stars at the end; (users + 1, bytes)."""
    users, items = stars.shape
    rows = torch.zeros((users + 1, -(-items // 8)), dtype=torch.uint8, device=device)
    for start in range(0, users, PACKED_USERS):
        part = stars[start : start + PACKED_USERS].astype(np.bool_).toarray()
        rows[start : start + len(part)] = torch.from_numpy(np.packbits(part, axis=1, bitorder="little"))
    return rows


def recorded_steps(run: TrainingRun, model: RecordedModel) -> RecordedSteps | None:
    """Return recorded steps of a run on a GPU; None if several processes share it, or memory does not suffice."""
    users, items = run.stars.shape
    needed = users * items / 8 + BYTES_PER_CELL * run.largest_batch * items
    available = torch.cuda.get_device_properties(run.device).total_memory
    return RecordedSteps(run, model) if run.workers.count == 1 and needed < MEMORY_SHARE * available else None
