"""RecVAE's training on a CPU: matrix products by torch, all that lies between them by `kernels`.

What a step works with lies at the same place in every step, and every kernel is bound to it once. That saves more than
it looks: a step's data push the interpreter out of the processor's caches, and each operation it then has to prepare
takes tens of microseconds, a tenth of an epoch in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.recommender.cpu import kernels
from gh_assets.recommender.cpu.kernels import Bound, together
from gh_assets.recommender.models.autoencoder import FusedSteps, TrainingRun
from gh_assets.recommender.models.recvae import LOG_ROOT_2PI, USERS_AT_ONCE, RecVAE
from gh_assets.recommender.training.engine import AdamStep, Bags, portions

LINE = 32
"""Numbers of two bytes in a line of a cache."""

TURNED = "found", "rows", "starts", "of_all", "who", "ordered"
"""Arrays that `kernels.turn_around` fills."""

SPARE = 1.25
"""Room for so many times the stars of the batch that asks for more room: the next one might have some more."""


@contextmanager
def in_halves(table: Tensor, dtype: torch.dtype) -> Iterator[None]:
    """A table of which products see bfloat16 lies in halves meanwhile, so that a sum of rows reads no more than that.

    See `kernels.halve`. Nobody but the kernels can read it so; outside it is what it was, and what was learned.

    Parameters
    ----------
    table : Tensor of float32 or float64, shape (rows, columns)
    dtype : torch.dtype
        Of the products. With another than bfloat16, rows stay whole.
    """
    kernels.halve(dtype, *table.shape, table)
    try:
        yield
    finally:
        kernels.join(dtype, *table.shape, table)


class FusedRecVAE(FusedSteps):
    """The steps of an epoch.

    Parameters
    ----------
    model : RecVAE
        Built.
    run : TrainingRun
        With all but the steps.
    """

    def __init__(self, model: RecVAE, run: TrainingRun) -> None:
        encoder, decoder = model.encoder, model.decoder
        self.run, self.config, self.encoder, self.output = run, model.config, encoder, run.output
        self.dtype, self.real = run.dtype, encoder.bias.dtype
        self.layers = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
        self.norms = [norm for norm in encoder.norms if isinstance(norm, nn.LayerNorm)]
        self.biases = [encoder.bias, *(layer.bias for layer in self.layers)]
        self.heads = encoder.mean, encoder.log_variance
        self.table, self.latent, self.width = run.rows.table, encoder.mean.out_features, len(encoder.bias)
        self.begins = torch.from_numpy(run.stars.indptr.astype(np.int64))
        self.items = torch.from_numpy(run.stars.indices.astype(np.int32, copy=False))
        self.counts: NDArray[np.int64] = np.diff(self.begins.numpy())
        # Weights as products see them, and gradients.
        self.copies = [torch.empty_like(layer.weight, dtype=run.dtype) for layer in self.layers]
        self.head = torch.empty((2 * self.latent, self.width), dtype=run.dtype)
        self.gradients = [torch.empty_like(copy) for copy in self.copies]
        self.head_gradient = torch.empty_like(self.head)
        self.vector_gradients = torch.empty((len(self.norms), 3, self.width), dtype=self.real)
        self.bias_gradient = torch.empty(2 * self.latent, dtype=self.real)
        self.output_gradients = torch.empty_like(decoder.weight), torch.empty_like(decoder.bias)
        self.encoder_numbers, self.decoder_numbers = torch.empty((2, 5), dtype=self.real)
        self.encoder_adam, self.decoder_adam = self._adam_of_encoder(), self._adam_of_decoder(decoder)
        self.room: Room | None = None
        self.plans: dict[tuple[int, int, int], Plan] = {}
        self.refresh()

    def refresh(self) -> None:
        for layer, copy in zip(self.layers, self.copies, strict=True):
            copy.copy_(layer.weight.detach())
        for head, copy in zip(self.heads, torch.split(self.head, self.latent), strict=True):
            copy.copy_(head.weight.detach())

    def working(self) -> AbstractContextManager[None]:
        return in_halves(self.table, self.dtype)

    # -- steps ---------------------------------------------------------------------------------------------------

    def encoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> float:
        plan = self.plan(batch)
        plan.draw(batch, self.config.dropout)
        torch.index_select(posteriors, 0, plan.which, out=plan.old)
        loss = plan.encoder_gradients()
        if self.run.workers.count > 1:
            plan.first_gradient.zero_()[plan.low : plan.high] = plan.skipped
            self.run.workers.add_up(
                *(plan.first_gradient, *self.gradients, self.head_gradient, self.vector_gradients, self.bias_gradient)
            )
        self._count("encoder", self.encoder_numbers)
        plan.encoder_adam()
        return loss

    def decoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        plan = self.plan(batch)
        plan.draw(batch, 0.0)
        torch.index_select(posteriors, 0, plan.which, out=plan.old)
        plan.decoder_gradients()
        self.run.workers.add_up(*self.output_gradients)
        self._count("decoder", self.decoder_numbers)
        self.decoder_adam()

    def posteriors(self) -> Tensor:
        users, latent = len(self.counts), self.latent
        posteriors = torch.empty((users, 2 * latent), dtype=self.real)
        for start, out in zip(range(0, users, USERS_AT_ONCE), portions(posteriors, USERS_AT_ONCE), strict=True):
            which = np.arange(start, start + len(out))
            plan = self.plan(which, whole=True)
            plan.draw(which, 0.0, noise=False)
            plan.encode()
            for place, head in zip((slice(latent), slice(latent, None)), self.heads, strict=True):
                torch.add(plan.head[:, place], head.bias.detach(), out=out[:, place])
        return posteriors

    def plan(self, users: NDArray[np.int64], whole: bool = False) -> Plan:
        """What to do with so many users; the part of this process, or all of them."""
        room, stars = self.room, int(self.counts[users].sum())
        if room is None or len(users) > room.users or stars > room.stars:
            most = (0, 0) if room is None else (room.users, room.stars)
            self.plans, self.room, room = {}, None, None  # theirs is not needed any more, and may be large
            self.room = room = Room(self, max(len(users), most[0]), max(int(SPARE * stars), most[1]))
        low, high = (0, len(users)) if whole else self.run.workers.part(len(users))
        key = len(users), low, high
        if key not in self.plans:
            self.plans[key] = Plan(self, room, *key)
        return self.plans[key]

    def gradients_by_parameter(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the last way back, but the embeddings'."""
        for layer, gradient in zip(self.layers, self.gradients, strict=True):
            yield layer.weight, gradient
        halves = (torch.split(part, self.latent) for part in (self.head_gradient, self.bias_gradient))
        for head, weight, bias in zip(self.heads, *halves, strict=True):
            yield from ((head.weight, weight), (head.bias, bias))
        for norm, bias, gradients in zip(self.norms, self.biases, self.vector_gradients, strict=True):
            yield from zip((norm.weight, norm.bias, bias), gradients, strict=True)

    # -- Adam ----------------------------------------------------------------------------------------------------

    def _count(self, name: str, numbers: Tensor) -> None:
        """One more step, and its numbers."""
        adam = self.run.adams[name]
        adam.number += 1
        numbers.numpy()[:] = AdamStep(self.run.learning_rate, adam.number).numbers

    def _adam_of_encoder(self) -> Bound:
        """For all that there are gradients of."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.encoder.named_parameters()}
        adam, parts = self.run.adams["encoder"], []
        halves = torch.split(self.head, self.latent)
        copies: dict[Tensor, Tensor] = dict(zip([layer.weight for layer in self.layers], self.copies, strict=True))
        copies |= dict(zip([head.weight for head in self.heads], halves, strict=True))
        for parameter, gradient in self.gradients_by_parameter():
            name, copy = names[parameter], copies.get(parameter)
            rows = 1 if copy is None else len(parameter)
            tensors = gradient, parameter, adam.exp_avg[name], adam.exp_avg_sq[name]
            where = [tensor.data_ptr() for tensor in tensors]
            parts.append([rows, parameter.numel() // rows, *where, 0 if copy is None else copy.data_ptr()])
        return kernels.adam_of_parts.bound(self.dtype, len(parts), self.encoder_numbers, torch.tensor(parts))

    def _adam_of_decoder(self, decoder: nn.Linear) -> Bound:
        adam = self.run.adams["decoder"]
        weight, bias = ((adam.exp_avg[name], adam.exp_avg_sq[name]) for name in ("weight", "bias"))
        return kernels.adam_of_output.bound(
            self.dtype,
            *(*decoder.weight.shape, self.output.width, *self.output_gradients, decoder.weight.detach(), *weight),
            *(decoder.bias.detach(), *bias, self.decoder_numbers, self.output.table),
        )


class Room:
    """Memory for the steps of so many users and stars at most: the same for all, which is in the caches therefore.

    Parameters
    ----------
    network : FusedRecVAE
    users, stars : int
    """

    def __init__(self, network: FusedRecVAE, users: int, stars: int) -> None:
        self.network, self.users, self.stars = network, users, stars
        dtypes = {"whole": torch.int64, "real": network.real, "stored": network.dtype}
        self._memory = {
            kind: torch.empty(sum(_lines(math.prod(shape)) for shape in shapes.values()), dtype=dtypes[kind])
            for kind, shapes in self._shapes(users, users).items()
        }

    def _shapes(self, users: int, here: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Of all arrays, by what they consist of."""
        network, stars, chunks = self.network, (self.stars,), kernels.CHUNKS
        items, latent, width, layers = len(network.table), network.latent, network.width, len(network.norms)
        blocks, block, wide = network.output.blocks, network.output.block, network.output.width
        bags = {"items": stars, "offsets": (users + 1,), "kept": stars, "kept_offsets": (users + 1,)}
        turned = {"found": (1,), "rows": (items,), "starts": (items + 1,), "of_all": (items + 1,), "who": stars}
        weights = {"weights": stars, "kept_weights": stars, "ordered": stars, "lengths": (users,)}
        return {
            "whole": {"users": (users,), **bags, **turned},
            "real": {
                **weights,
                "noise": (users, latent),
                "first_gradient": (0 if here == users else users, width),
                "skipped": (here, width),
                "inverses": (layers, here),
                "vectors": (layers, chunks, 3, width),
                "sampled": (3, here, latent),
                "old": (here, 2 * latent),
                "losses": (here,),
                "totals": (chunks, 2 * latent),
                "useless": (chunks,),
                "sums": (chunks, here),
                "normalizers": (here,),
            },
            "stored": {
                "kept_of_layers": (layers, 2, here, width),
                "activations": (layers, here, width),
                "product": (here, width),
                "other": (here, width),
                "head": (here, 2 * latent),
                "gradient": (here, 2 * latent),
                "logits": (here, block),
                "parts": (blocks, here, wide),
                "shares": (items, here),
                "weighted": (here, wide),
                "expected": (items, wide),
            },
        }

    def arrays(self, users: int, here: int) -> dict[str, Tensor]:
        """For a batch of so many users, so many of them here."""
        found = {}
        for kind, shapes in self._shapes(users, here).items():
            start = 0
            for name, shape in shapes.items():
                size = math.prod(shape)
                found[name] = self._memory[kind][start : start + size].view(shape)
                start += _lines(size)
        return found


def _lines(size: int) -> int:
    """So many numbers as fill whole lines of a cache: what does not begin with one is slow to read."""
    return -(-size // LINE) * LINE


class Plan:
    """What is done with some number of users, and where.

    Parameters
    ----------
    network : FusedRecVAE
    room : Room
    users : int
        Of the whole batch.
    low, high : int
        From which to which of them this process computes; these are the users here.

    Attributes
    ----------
    which : Tensor of int64, shape (users here,)
    old : Tensor, shape (users here, 2 latent)
        Mean and log-variance of what is known before the step.
    head : Tensor, shape (users here, 2 latent)
        Products of the last layer for mean and log-variance, without their bias.
    skipped : Tensor, shape (users here, hidden)
        The first layer's sums, then of the layers so far; on the way back gradient in it, at last in the first sums.
    first_gradient : Tensor, shape (users, hidden)
        The same of all processes.
    """

    def __init__(self, network: FusedRecVAE, room: Room, users: int, low: int, high: int) -> None:
        self.network, self.output, self.low, self.high = network, network.output, low, high
        self.arrays = arrays = room.arrays(users, high - low)
        self.batch, self.here, self.part = users, high - low, slice(low, high)
        self.which = arrays["users"][self.part]
        self.old, self.head, self.skipped = self.of("old", "head", "skipped")
        self.activations, self.product, self.other = self.of("activations", "product", "other")
        self.z, self.weighted = arrays["sampled"][2], arrays["weighted"]
        self.first_gradient = self.skipped if self.here == users else arrays["first_gradient"]
        # Of these, something stays from step to step: zeros, and a one for the bias.
        self.query = self.head.new_zeros((self.here, self.output.width))
        self.turned = self.head.new_zeros((self.output.width, self.here))
        self.query[:, network.latent], self.turned[network.latent] = 1, 1
        self.shifts = torch.zeros_like(arrays["losses"])
        self._bind_draw()
        self._bind_layers()
        self._bind_objective()
        self._bind_encoder_adam()
        self._bind_decoder()

    def of(self, *names: str) -> list[Tensor]:
        """Arrays of the room."""
        return [self.arrays[name] for name in names]

    def _bind_draw(self) -> None:
        network, items = self.network, len(self.network.table)
        self.drawing = kernels.draw.bound(
            network.real,
            *(self.batch, len(network.counts), len(network.items), 0, 0, 0),
            *(self.arrays["users"], network.begins, network.items),
            *self.of("items", "weights", "offsets", "lengths", "kept", "kept_weights", "kept_offsets", "noise"),
        )
        self.turn_kept = kernels.turn_around.bound(
            network.real, self.batch, items, *self.of("kept", "kept_offsets", "kept_weights", *TURNED)
        )

    def _bind_layers(self) -> None:
        """The way from items to mean and log-variance, and back."""
        network, arrays, here, low = self.network, self.arrays, self.here, self.low
        dtype, real, width, layers = network.dtype, network.real, network.width, len(network.norms)
        forward, backward = [], []
        for number, (norm, bias) in enumerate(zip(network.norms, network.biases, strict=True)):
            of_layer = arrays["kept_of_layers"][number], arrays["inverses"][number]
            forward.append(
                kernels.layer_forward.bound(
                    dtype,
                    *(here, width, number == 0, self.product, bias.detach(), self.skipped),
                    *(norm.weight.detach(), norm.bias.detach(), *of_layer, self.activations[number]),
                )
            )
            backward.append(
                kernels.layer_backward.bound(
                    dtype,
                    *(here, width, number == 0, number == layers - 1, self.product, self.skipped),
                    *(*of_layer, norm.weight.detach(), self.other, arrays["vectors"][number]),
                )
            )
        first_sums = kernels.sums_of_halved_rows.bound(
            dtype,
            *(here, width, len(network.table), arrays["kept"], arrays["kept_weights"], arrays["kept_offsets"][low:]),
            *(network.encoder.bias.detach(), network.table, self.skipped),
        )
        self.first_layer = together(first_sums, forward[0])
        way = zip(self.activations, network.copies, forward[1:], strict=False)
        self.way = [(given, copy.T, layer) for given, copy, layer in way]
        self.way_out = self.activations[-1], network.head.T
        back = zip(self.activations, network.copies, network.gradients, backward[1:], strict=False)
        self.way_back, self.turned_other = [*back][::-1], self.other.T
        self.way_in = arrays["gradient"].T, self.activations[-1]
        self.last_back = together(
            backward[0],
            kernels.add_chunks.bound(real, layers, 3 * width, arrays["vectors"], network.vector_gradients),
            kernels.add_chunks.bound(real, 1, 2 * network.latent, arrays["totals"], network.bias_gradient),
        )

    def _bind_objective(self) -> None:
        """What lies between the way there and the way back: the likelihood by blocks of items, the divergence."""
        network, arrays, output, config = self.network, self.arrays, self.output, self.network.config
        dtype, sampled, noise = network.dtype, arrays["sampled"], arrays["noise"][self.part]
        self.blocks = []
        for rows, found in zip(portions(output.table, output.block), arrays["parts"], strict=True):
            logits = arrays["logits"].view(-1)[: self.here * len(rows)].view(self.here, len(rows))
            exponential = kernels.exponential.bound(dtype, logits.numel(), logits)
            self.blocks.append((rows.T, logits, exponential, rows, found))
        sizes = self.here, network.latent, output.width
        biases = (head.bias.detach() for head in network.heads)
        self.sample = kernels.sample.bound(dtype, *sizes, self.head, *biases, noise, *sampled, self.query)
        numbers = torch.tensor(
            [
                *(1 / self.batch, config.gamma / self.batch),
                *(math.log(weight) - LOG_ROOT_2PI for weight in config.prior_weights),
                *(config.wide_log_variance, math.exp(-config.wide_log_variance), LOG_ROOT_2PI),
            ],
            dtype=network.real,
        )
        self.objective = kernels.objective.bound(
            dtype,
            *(*sizes, len(output.table), len(arrays["items"]), output.blocks),
            *(output.table, arrays["items"], arrays["offsets"][self.low :], arrays["parts"]),
            *(self.shifts, arrays["lengths"][self.part], *sampled, noise, self.old, numbers),
            *self.of("losses", "gradient", "totals", "useless"),
        )

    def _bind_encoder_adam(self) -> None:
        network, moments, items = self.network, self.network.run.rows, len(self.network.table)
        count, *rows = self.of("found", "rows", "starts")
        if not moments.lazy:
            count, rows = torch.tensor([items]), [torch.arange(items), self.arrays["of_all"]]
        self.encoder_adam = together(
            kernels.adam_of_rows.bound(
                network.dtype,
                *(count, network.width, items, self.batch),
                *(*rows, *self.of("who", "ordered"), self.first_gradient),
                *(network.table, moments.exp_avg, moments.exp_avg_sq, network.encoder_numbers),
            ),
            network.encoder_adam,
        )

    def _bind_decoder(self) -> None:
        network, output, here, latent = self.network, self.output, self.here, self.network.latent
        real, dtype, items = network.real, network.dtype, len(network.table)
        scale = torch.tensor([-1 / self.batch], dtype=real)
        noise, lengths, offsets = (self.arrays[name] for name in ("noise", "lengths", "offsets"))
        turned = self.of("weights", *TURNED)
        self.begin_decoder = together(
            kernels.turn_around.bound(real, here, items, self.arrays["items"], offsets[self.low :], *turned),
            kernels.sample_again.bound(dtype, here, latent, self.old, noise[self.part], self.z, self.turned),
        )
        of_blocks = (portions(part, output.block) for part in (output.table, *self.of("shares", "expected")))
        self.shares = [*zip(*of_blocks, strict=True)]
        self.weigh = together(
            kernels.exponentials.bound(dtype, items, here, *self.of("shares", "sums")),
            kernels.weigh.bound(
                dtype,
                *(here, latent, output.width, self.arrays["sums"], lengths[self.part], self.z, scale),
                *self.of("normalizers", "weighted"),
            ),
        )
        self.output_gradient = kernels.output_gradient.bound(
            dtype,
            *(items, latent, output.width, here),
            *self.of("expected", "of_all", "who"),
            *(self.z, scale, *network.output_gradients),
        )

    def draw(self, which: NDArray[np.int64], dropout: float, noise: bool = True) -> None:
        """Bags of the users, what dropout leaves of them, and noise for them."""
        self.arrays["users"].numpy()[:] = which
        words = self.drawing.words
        words[3] = self.arrays["noise"].numel() if noise else 0
        words[4] = int(self.network.run.keys.integers(1 << 63)) if noise else 0
        words[5] = round(dropout * (1 << 32))
        self.drawing()

    def fill(self, bags: Bags, dropped: Bags, noise: Tensor) -> None:
        """Instead of `draw`."""
        given = bags.items, bags.weights, bags.offsets, bags.lengths, dropped.items, dropped.weights, dropped.offsets
        names = "items", "weights", "offsets", "lengths", "kept", "kept_weights", "kept_offsets", "noise"
        for name, values in zip(names, (*given, noise), strict=True):
            self.arrays[name][: len(values)] = values

    def encode(self) -> None:
        """From what dropout left to `head`."""
        self.first_layer()
        for given, weight, layer in self.way:
            torch.mm(given, weight, out=self.product)
            layer()
        torch.mm(*self.way_out, out=self.head)

    def encoder_gradients(self) -> float:
        """Loss and gradients of the encoder's objective: they lie in the network, the first sums' in `skipped`."""
        self.turn_kept()
        self.encode()
        self.sample()
        self._objective()
        if self.arrays["useless"].numpy().any():  # exponentials overflowed or vanished
            column = self.output.inputs + 1
            shifted, self.shifts[:] = self.output.shifted(self.z, self.query)
            self.query[:, column] = shifted[:, column]
            self._objective()
            self.query[:, column] = 0
            self.shifts.zero_()
        network = self.network
        torch.mm(*self.way_in, out=network.head_gradient)
        torch.mm(self.arrays["gradient"], network.head, out=self.product)
        for given, copy, gradient, layer in self.way_back:
            layer()
            torch.mm(self.turned_other, given, out=gradient)
            torch.mm(self.other, copy, out=self.product)
        self.last_back()
        return float(self.arrays["losses"].numpy().sum(dtype=np.float64))

    def _objective(self) -> None:
        for turned, logits, exponential, rows, part in self.blocks:
            torch.mm(self.query, turned, out=logits)
            exponential()
            torch.mm(logits, rows, out=part)
        self.objective()

    def decoder_gradients(self) -> None:
        """Gradients of the likelihood in the last layer: they lie in the network."""
        self.begin_decoder()
        self._exponentials()
        normalizers = self.arrays["normalizers"].numpy()
        usable = (normalizers > kernels.SMALLEST) & (normalizers < kernels.LARGEST)
        if not usable.all():
            column = self.output.inputs + 1
            self.turned[column] = self.output.shifted(self.z, self.turned.T)[0][:, column]
            self._exponentials()
            self.turned[column] = 0
        for _, share, expected in self.shares:
            torch.mm(share, self.weighted, out=expected)
        self.output_gradient()

    def _exponentials(self) -> None:
        for block, share, _ in self.shares:
            torch.mm(block, self.turned, out=share)
        self.weigh()
