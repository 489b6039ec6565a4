"""RecVAE's training steps on a CPU: matrix products by torch, everything between them by `kernels`.

The data of a step have the same addresses in every step, and every kernel is bound to them once. A step's data push the
interpreter out of the processor's caches, and each operation that it then has to prepare takes tens of microseconds, a
tenth of an epoch in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.recommender.cpu import kernels
from gh_assets.recommender.cpu.halves import in_halves
from gh_assets.recommender.cpu.kernel import CHUNKS, Argument, Bound, Kernel, together
from gh_assets.recommender.cpu.room import Room
from gh_assets.recommender.engine.adam import AdamStep
from gh_assets.recommender.engine.bags import portions
from gh_assets.recommender.engine.run import POSTERIOR_USERS, FusedSteps, TrainingRun

SPARE = 1.25
"""Allocated room relative to the stars of the batch that needs more: the next batch may have a few more."""


class Layers(NamedTuple):
    """The encoder's layers behind the sum of item embeddings."""

    hidden: list[nn.Linear]
    norms: list[nn.LayerNorm]
    heads: tuple[nn.Linear, nn.Linear]  # mean and log-variance


class FusedRecVAE(FusedSteps):
    """The steps of an epoch.

    Parameters
    ----------
    run : TrainingRun
    layers : Layers
        Of the run's encoder.
    gamma : float
        KL weight per item of a user.
    prior : mapping of str to float
        The composite prior's constants, by their names in `kernels.objective`.
    """

    def __init__(self, run: TrainingRun, layers: Layers, gamma: float, prior: Mapping[str, float]) -> None:
        self.run, self.layers, self.gamma, self.prior, self.output = run, layers, gamma, prior, run.output
        self.dtype, self.real, self.table = run.dtype, run.weight_dtype, run.rows.table
        self.width, self.latent = len(run.encoder.bias), layers.heads[0].out_features
        self.biases = [run.encoder.bias, *(layer.bias for layer in layers.hidden)]
        self.all_offsets = torch.from_numpy(run.stars.indptr.astype(np.int64))
        self.all_items = torch.from_numpy(run.stars.indices.astype(np.int32, copy=False))
        self.counts: NDArray[np.int64] = np.diff(self.all_offsets.numpy())
        # Weights as products see them, and gradients.
        self.copies = [torch.empty_like(layer.weight, dtype=self.dtype) for layer in layers.hidden]
        self.head = torch.empty((2 * self.latent, self.width), dtype=self.dtype)
        self.gradients = [torch.empty_like(copy) for copy in self.copies]
        self.head_gradient = torch.empty_like(self.head)
        self.vector_gradients = torch.empty((len(layers.norms), 3, self.width), dtype=self.real)
        self.bias_gradient = torch.empty(2 * self.latent, dtype=self.real)
        self.output_gradients = torch.empty_like(run.decoder.weight), torch.empty_like(run.decoder.bias)
        self.adam_constants = {name: torch.empty(5, dtype=self.real) for name in run.adams}
        self.encoder_adam, self.decoder_adam = self._encoder_adam(), self._decoder_adam()
        self.room: Room | None = None
        self.plans: dict[tuple[int, int, int], Plan] = {}
        self.refresh()

    def refresh(self) -> None:
        for layer, copy in zip(self.layers.hidden, self.copies, strict=True):
            copy.copy_(layer.weight.detach())
        for head, copy in zip(self.layers.heads, torch.split(self.head, self.latent), strict=True):
            copy.copy_(head.weight.detach())

    def during_epoch(self) -> AbstractContextManager[None]:
        return in_halves(self.table, self.dtype)

    # -- steps ---------------------------------------------------------------------------------------------------

    def encoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> float:
        plan = self.plan(batch)
        plan.draw(batch, self.run.config.dropout)
        torch.index_select(posteriors, 0, plan.users, out=plan.old)
        loss = plan.encoder_gradients()
        if self.run.workers.count > 1:
            plan.first_gradient.zero_()[plan.part] = plan.skipped
            self.run.workers.add_up(
                *(plan.first_gradient, *self.gradients, self.head_gradient, self.vector_gradients, self.bias_gradient)
            )
        self._count_step("encoder")
        plan.encoder_adam()
        return loss

    def decoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        plan = self.plan(batch)
        plan.draw(batch, 0.0)
        torch.index_select(posteriors, 0, plan.users, out=plan.old)
        plan.decoder_gradients()
        self.run.workers.add_up(*self.output_gradients)
        self._count_step("decoder")
        self.decoder_adam()

    def posteriors(self) -> Tensor:
        posteriors = torch.empty((len(self.counts), 2 * self.latent), dtype=self.real)
        bias = torch.cat([head.bias.detach() for head in self.layers.heads])
        for number, out in enumerate(portions(posteriors, POSTERIOR_USERS)):
            users = np.arange(number * POSTERIOR_USERS, number * POSTERIOR_USERS + len(out))
            plan = self.plan(users, whole=True)
            plan.draw(users, 0.0, noise=False)
            plan.encode()
            torch.add(plan.arrays["head"], bias, out=out)
        return posteriors

    def plan(self, users: NDArray[np.int64], whole: bool = False) -> Plan:
        """Return the bound steps for a number of users: this process's part of them, or all."""
        room, stars = self.room, int(self.counts[users].sum())
        if room is None or len(users) > room.users or stars > room.stars:
            least = (0, 0) if room is None else (room.users, room.stars)
            self.plans, self.room, room = {}, None, None  # frees the old room before the new one is allocated
            self.room = room = self._new_room(max(len(users), least[0]), max(int(SPARE * stars), least[1]))
        low, high = (0, len(users)) if whole else self.run.workers.part(len(users))
        key = len(users), low, high
        if key not in self.plans:
            self.plans[key] = Plan(self, room, *key)
        return self.plans[key]

    def _new_room(self, users: int, stars: int) -> Room:
        output = self.output
        sizes = {"users": users, "stars": stars, "items": len(self.table), "latent": self.latent, "hidden": self.width}
        sizes |= {"layers": len(self.biases), "chunks": CHUNKS}
        sizes |= {"block": output.block, "blocks": output.blocks, "width": output.width}
        return Room(sizes, {"int64": torch.int64, "real": self.real, "stored": self.dtype})

    # -- Adam ----------------------------------------------------------------------------------------------------

    def gradients_by_parameter(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each parameter of the encoder but the embeddings with its gradient of the last backward pass."""
        for layer, gradient in zip(self.layers.hidden, self.gradients, strict=True):
            yield layer.weight, gradient
        halves = (torch.split(part, self.latent) for part in (self.head_gradient, self.bias_gradient))
        for head, weight, bias in zip(self.layers.heads, *halves, strict=True):
            yield from ((head.weight, weight), (head.bias, bias))
        for norm, bias, gradients in zip(self.layers.norms, self.biases, self.vector_gradients, strict=True):
            yield from zip((norm.weight, norm.bias, bias), gradients, strict=True)

    def _count_step(self, network: str) -> None:
        adam = self.run.adams[network]
        adam.number += 1
        self.adam_constants[network].numpy()[:] = AdamStep(self.run.learning_rate, adam.number).constants

    def _encoder_adam(self) -> Bound:
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.run.encoder.named_parameters()}
        matrices = [layer.weight for layer in (*self.layers.hidden, *self.layers.heads)]
        copies = dict(zip(matrices, (*self.copies, *torch.split(self.head, self.latent)), strict=True))
        steps = []
        for parameter, gradient in self.gradients_by_parameter():
            tensors = self._adam_arguments("encoder", names[parameter], parameter, gradient)
            if parameter in copies:
                steps.append(kernels.adam_of_matrix.bound(self.dtype, copy=copies[parameter], **tensors))
            else:
                steps.append(kernels.adam_of_vector.bound(self.dtype, **tensors))
        return together(*steps, wait=False)

    def _decoder_adam(self) -> Bound:
        decoder, (weight, bias) = self.run.decoder, self.output_gradients
        of_bias = self._adam_arguments("decoder", "bias", decoder.bias, bias)
        of_weight = self._adam_arguments("decoder", "weight", decoder.weight, weight)
        table = {"bias": decoder.bias, "table": self.output.table}
        return together(
            kernels.adam_of_vector.bound(self.dtype, **of_bias),
            kernels.adam_of_output.bound(self.dtype, **of_weight, **table),
        )

    def _adam_arguments(self, network: str, name: str, parameter: Tensor, gradient: Tensor) -> dict[str, Tensor]:
        adam = self.run.adams[network]
        moments = {"first": adam.exp_avg[name], "second": adam.exp_avg_sq[name]}
        return {"gradient": gradient, "weight": parameter, "constants": self.adam_constants[network], **moments}


class Plan:
    """The bound steps for one number of users.

    Parameters
    ----------
    network : FusedRecVAE
    room : Room
    users : int
        Users of the whole batch.
    low, high : int
        Range of them that this process computes.

    Attributes
    ----------
    users : Tensor of int64, shape (this process's users,)
    old : Tensor, shape (this process's users, 2 latent)
        Mean and log-variance before the step.
    skipped : Tensor, shape (this process's users, hidden)
        Sums of the first layer, then of the layers so far; after the backward pass, the gradient in the first sums.
    first_gradient : Tensor, shape (users, hidden)
        The gradient of all processes.
    """

    def __init__(self, network: FusedRecVAE, room: Room, users: int, low: int, high: int) -> None:
        self.network, self.output, self.batch, self.part = network, network.output, users, slice(low, high)
        self.whole = whole = room.arrays(users, high - low)
        self.first_gradient = whole["skipped"] if high - low == users else whole["first_gradient"]
        # These keep contents from step to step: zeros, and ones for the bias.
        query = torch.zeros((high - low, self.output.width), dtype=network.dtype)
        transposed = torch.zeros((self.output.width, high - low), dtype=network.dtype)
        query[:, network.latent], transposed[network.latent] = 1, 1
        kept = {"query": query, "transposed": transposed, "shifts": torch.zeros_like(whole["losses"])}
        parts = {name: whole[name][self.part] for name in ("batch", "noise", "lengths")}
        offsets = {name: whole[name][low : high + 1] for name in ("offsets", "kept_offsets")}
        self.arrays = {**whole, **kept, **parts, **offsets}
        self.users, self.old, self.skipped = (self.arrays[name] for name in ("batch", "old", "skipped"))
        self._bind_bags()
        self._bind_layers()
        self._bind_objective()
        self._bind_decoder()

    def _bound(self, kernel: Kernel, **arguments: Argument) -> Bound:
        """Bind a kernel to the arguments given and, for the others, to the arrays of their names."""
        arrays = {name: self.arrays[name] for name in kernel.layout if name not in arguments}
        return kernel.bound(self.network.dtype, **arguments, **arrays)

    def _kept(self) -> dict[str, Tensor]:
        return {name: self.arrays[f"kept_{name}"] for name in ("weights", "offsets")} | {"items": self.arrays["kept"]}

    def _bind_bags(self) -> None:
        network, rows = self.network, self.network.run.rows
        stars = {"all_offsets": network.all_offsets, "all_items": network.all_items}
        whole = {name: self.whole[name] for name in ("batch", "lengths", "offsets", "kept_offsets")}
        noise = self.whole["noise"].view(-1)
        self._draw = self._bound(kernels.draw, key=0, hidden=0, noise_size=0, noise=noise, **stars, **whole)
        bags = self._kept() | {"offsets": self.whole["kept_offsets"]}
        self.transpose_kept = self._bound(kernels.transpose, **bags)
        table = {"weight": network.table, "first": rows.exp_avg, "second": rows.exp_avg_sq}
        table |= {"gradients": self.first_gradient, "constants": network.adam_constants["encoder"]}
        if not rows.lazy:
            every = torch.arange(len(network.table))
            offsets = self.arrays["row_offsets"]
            table |= {"count": torch.tensor([len(every)]), "touched": every, "touched_offsets": offsets}
        self.encoder_adam = together(self._bound(kernels.adam_of_rows, **table), network.encoder_adam)

    def _bind_layers(self) -> None:
        """Bind the forward pass from items to mean and log-variance, and the backward pass."""
        network, arrays, forward, backward = self.network, self.arrays, [], []
        for number, (norm, bias) in enumerate(zip(network.layers.norms, network.biases, strict=True)):
            layer: dict[str, Argument] = {name: arrays[name][number] for name in ("slopes", "normed", "inverses")}
            layer |= {"is_first": number == 0, "scale": norm.weight}
            out = {"bias": bias, "shift": norm.bias, "out": arrays["activations"][number]}
            forward.append(self._bound(kernels.layer_forward, **layer, **out))
            layer |= {"is_last": number == len(network.biases) - 1, "sums": arrays["vectors"][number]}
            given = {"given": arrays["product"], "out": arrays["other"]}
            backward.append(self._bound(kernels.layer_backward, **layer, **given))
        table = {"start": network.biases[0], "table": network.table, "out": self.skipped}
        self.first_layer = together(self._bound(kernels.sums_of_halved_rows, **self._kept(), **table), forward[0])
        copies, activations = network.copies, arrays["activations"]
        self.forward = [*zip(activations, [copy.T for copy in copies], forward[1:], strict=False)]
        self.backward = [*zip(activations, copies, network.gradients, backward[1:], strict=False)][::-1]
        self.first_backward = backward[0]

    def _bind_objective(self) -> None:
        """Bind what lies between forward and backward pass: the likelihood by blocks of items, the divergence."""
        network, output, self.blocks = self.network, self.output, []
        for rows, part in zip(portions(output.table, output.block), self.arrays["parts"], strict=True):
            logits = self.arrays["block_logits"].view(-1)[: len(self.users) * len(rows)]
            exponential = self._bound(kernels.exponential, numbers=logits)
            self.blocks.append((rows.T, logits.view(len(self.users), len(rows)), exponential, rows, part))
        mean, log_variance = (head.bias for head in network.layers.heads)
        head = self.arrays["head"]
        self.sample = self._bound(kernels.sample, product=head, mean_bias=mean, log_variance_bias=log_variance)
        weights = {"share": 1 / self.batch, "gamma_share": network.gamma / self.batch}
        others = {"table": output.table, "sums": self.arrays["totals"]}
        self.objective = self._bound(kernels.objective, **weights, **network.prior, **others)

    def _bind_decoder(self) -> None:
        output, scale, blocks = self.output, -1 / self.batch, []
        for tensor in (output.table, self.arrays["logits"], self.arrays["expected"]):
            blocks.append([*portions(tensor, output.block)])
        self.decoder_blocks = [*zip(*blocks, strict=True)]
        self.transpose = self._bound(kernels.transpose)
        weigh = self._bound(kernels.weigh, scale=scale, out=self.arrays["weighted"])
        self.weigh = together(self._bound(kernels.exponentials), weigh)
        weight, bias = self.network.output_gradients
        self.output_gradient = self._bound(kernels.output_gradient, scale=scale, weight=weight, bias=bias)

    # -- a step --------------------------------------------------------------------------------------------------

    def draw(self, users: NDArray[np.int64], dropout: float, noise: bool = True) -> None:
        """Fill the users' bags, what dropout leaves of them, and noise."""
        self.whole["batch"].numpy()[:] = users
        key = int(self.network.run.keys.integers(1 << 63)) if noise else 0
        size = self.whole["noise"].numel() if noise else 0
        self._draw.set(noise_size=size, key=key, hidden=round(dropout * (1 << 32)))
        self._draw()

    def encode(self) -> None:
        """Compute the heads' products without bias, ``arrays["head"]``, from what dropout left."""
        self.first_layer()
        for given, weight, layer in self.forward:
            torch.mm(given, weight, out=self.arrays["product"])
            layer()
        torch.mm(self.arrays["activations"][-1], self.network.head.T, out=self.arrays["head"])

    def encoder_gradients(self) -> float:
        """Return the loss; leave the gradients in the network, those in the first sums in `skipped`."""
        network, arrays = self.network, self.arrays
        self.transpose_kept()
        self.encode()
        self.sample()
        self._objective()
        if arrays["out_of_range"].numpy().any():
            column = self.output.inputs + 1
            shifted, arrays["shifts"][:] = self.output.shifted(arrays["z"], arrays["query"])
            arrays["query"][:, column] = shifted[:, column]
            self._objective()
            arrays["query"][:, column] = 0
            arrays["shifts"].zero_()
        torch.mm(arrays["gradient"].T, arrays["activations"][-1], out=network.head_gradient)
        torch.mm(arrays["gradient"], network.head, out=arrays["product"])
        for given, copy, gradient, layer in self.backward:
            layer()
            torch.mm(arrays["other"].T, given, out=gradient)
            torch.mm(arrays["other"], copy, out=arrays["product"])
        self.first_backward()
        torch.sum(arrays["vectors"], dim=1, out=network.vector_gradients)
        torch.sum(arrays["totals"], dim=0, out=network.bias_gradient)
        return float(arrays["losses"].numpy().sum(dtype=np.float64))

    def _objective(self) -> None:
        for transposed, logits, exponential, rows, part in self.blocks:
            torch.mm(self.arrays["query"], transposed, out=logits)
            exponential()
            torch.mm(logits, rows, out=part)
        self.objective()

    def decoder_gradients(self) -> None:
        """Leave the gradients of the likelihood in the last layer in the network."""
        z, transposed = self.arrays["z"], self.arrays["transposed"]
        mean, log_variance = self.old.chunk(2, dim=1)
        torch.mul(log_variance, 0.5, out=z).exp_().mul_(self.arrays["noise"]).add_(mean)
        transposed[: self.network.latent] = z.T
        self.transpose()
        self._exponentials()
        normalizers = self.arrays["normalizers"].numpy()
        if not ((normalizers > kernels.MIN_NORMALIZER) & (normalizers < kernels.MAX_NORMALIZER)).all():
            column = self.output.inputs + 1
            transposed[column] = self.output.shifted(z, transposed.T)[0][:, column]
            self._exponentials()
            transposed[column] = 0
        for _, logits, expected in self.decoder_blocks:
            torch.mm(logits, self.arrays["weighted"], out=expected)
        self.output_gradient()

    def _exponentials(self) -> None:
        for rows, logits, _ in self.decoder_blocks:
            torch.mm(rows, self.arrays["transposed"], out=logits)
        self.weigh()
