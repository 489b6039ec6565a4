"""RecVAE's training steps on a CPU: matrix products by torch, everything between them by `kernels`.

The data of a step have the same addresses in every step, and every kernel is bound to them once. A step's data push the
interpreter out of the processor's caches, and each operation that it then has to prepare takes tens of microseconds, a
tenth of an epoch in all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.recommender.cpu import kernels
from gh_assets.recommender.cpu.kernel import CHUNKS, Argument, Bound, Kernel
from gh_assets.recommender.engine.bags import portions
from gh_assets.recommender.engine.run import POSTERIOR_USERS, TrainingRun
from gh_assets.recommender.engine.softmax import padded

SPARE = 1.25
"""Allocated room relative to the stars of the batch that needs more: the next batch may have a few more."""


ARRAYS = """
    int64 users: batch
    int64 users+1: offsets, kept_offsets
    int64 stars: items, kept, row_users
    int64 items+1: row_offsets
    real 1: dropout
    real stars: chances
    real users: lengths, weights
    real users latent: noise
    stored users columns: whole_gradient
    real here: losses
    real here hidden: skipped
    real here latent: z
    real here 2*latent: posterior, old
    real layers here: inverses
    real chunks: out_of_range
    real chunks here: sums
    real chunks 2*latent: totals
    real layers chunks 3 hidden: vectors
    stored here columns: product, other
    stored here 2*latent: head, gradient
    stored here block: block_logits
    stored blocks here width: parts
    stored items here: logits
    stored items width: expected
    stored layers here hidden: slopes, normed
    stored layers here columns: activations
"""
"""Number type, shape and names of the memory of a step. `users` is the size of a batch, `here` the number of them that
this process computes, and `width` that of the softmax's table. Arrays with `columns` take part in products: columns
behind `hidden` are zero."""


class Layers(NamedTuple):
    """The encoder's layers behind the sum of item embeddings."""

    hidden: list[nn.Linear]
    norms: list[nn.LayerNorm]
    heads: tuple[nn.Linear, nn.Linear]  # mean and log-variance


class FusedRecVAE:
    """The steps of an epoch; see `engine.run.FusedSteps`.

    Parameters
    ----------
    run : TrainingRun
    layers : Layers
        Of the run's encoder.
    gamma : float
        KL weight per item of a user.
    prior : mapping of str to float
        The composite prior's constants, by their names in `kernels.objective`.

    Attributes
    ----------
    copies : dict of str to Tensor
        The encoder's matrices as products and sums see them, by the names of the parameters; those of products have
        more columns, which are zero.
    gradients : dict of str to Tensor
        Of the last backward pass in all parameters of the encoder but the embeddings, with as many columns.
    output_gradients : tuple of Tensor
        In weight and bias of the decoder.
    """

    def __init__(self, run: TrainingRun, layers: Layers, gamma: float, prior: Mapping[str, float]) -> None:
        self.run, self.layers, self.gamma, self.prior, self.output = run, layers, gamma, prior, run.output
        self.dtype, self.real = run.dtype, run.weight_dtype
        self.width, self.latent = len(run.encoder.bias), layers.heads[0].out_features
        self.biases = [run.encoder.bias, *(layer.bias for layer in layers.hidden)]
        self.all_offsets = torch.from_numpy(run.stars.indptr.astype(np.int64))
        self.all_items = torch.from_numpy(run.stars.indices.astype(np.int32, copy=False))
        self.counts: NDArray[np.int64] = np.diff(self.all_offsets.numpy())
        embeddings = run.encoder.embeddings.detach()
        self.embeddings = embeddings if self.dtype == self.real else torch.empty_like(embeddings, dtype=self.dtype)
        self.columns = padded(self.width)
        self.hidden = torch.zeros((len(layers.hidden), self.columns, self.columns), dtype=self.dtype)
        self.head = torch.zeros((2 * self.latent, self.columns), dtype=self.dtype)
        copies = self._by_parameter("weight", self.hidden[:, : self.width], self.head)
        self.copies = {"embeddings": self.embeddings, **copies}
        self.hidden_gradients, self.head_gradient = torch.empty_like(self.hidden), torch.empty_like(self.head)
        self.vector_gradients = torch.empty((len(self.biases), 3, self.width), dtype=self.real)
        self.bias_gradient = torch.empty(2 * self.latent, dtype=self.real)
        of_scale, of_shift, (of_first_bias, *of_biases) = self.vector_gradients.unbind(dim=1)
        self.gradients = {
            "bias": of_first_bias,
            **self._by_parameter("weight", self.hidden_gradients[:, : self.width], self.head_gradient),
            **self._by_parameter("bias", of_biases, self.bias_gradient),
            **{f"norms.{number}.weight": gradient for number, gradient in enumerate(of_scale)},
            **{f"norms.{number}.bias": gradient for number, gradient in enumerate(of_shift)},
        }
        self.output_gradients = torch.empty_like(run.decoder.weight), torch.empty_like(run.decoder.bias)
        self.adam_constants = torch.empty(5, dtype=self.real)
        self.adam_of_matrices = [self._adam(name) for name in run.adams["encoder"].row_wise]
        self.room: Room | None = None
        self.plans: dict[tuple[int, int, int], Plan] = {}
        self.refresh()

    @staticmethod
    def _by_parameter(kind: str, hidden: Sequence[Tensor] | Tensor, head: Tensor) -> dict[str, Tensor]:
        """Name what belongs to the layers: a tensor for each hidden one, and one for both heads."""
        mean, log_variance = head.chunk(2)
        named = {f"layers.{number}.{kind}": tensor for number, tensor in enumerate(hidden)}
        return named | {f"mean.{kind}": mean, f"log_variance.{kind}": log_variance}

    def refresh(self) -> None:
        """Copy the current weights, after something else changed them."""
        for name, copy in self.copies.items():
            parameter = self.run.encoder.get_parameter(name).detach()
            copy[:, : parameter.shape[1]] = parameter

    def _adam(self, name: str) -> Bound:
        """Bind row-wise Adam for a matrix of the encoder: each row of the gradient is a bag of its own."""
        adam, gradient, rows = (
            self.run.adams["encoder"],
            self.gradients[name],
            torch.arange(len(self.gradients[name]) + 1),
        )
        bags = {"gradients": gradient, "row_users": rows[:-1], "row_offsets": rows, "lazy": 0}
        state = {"weight": adam.parameters[name], "first": adam.exp_avg[name], "second": adam.exp_avg_sq[name]}
        return kernels.adam_of_rows.bound(
            self.dtype, copy=self.copies[name], constants=self.adam_constants, **bags, **state
        )

    # -- steps ---------------------------------------------------------------------------------------------------

    def encoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> float:
        """Train the encoder on a batch, given all users' posteriors before the round; return the loss."""
        plan, run, adam = self._drawn(batch, posteriors, self.run.config.dropout), self.run, self.run.adams["encoder"]
        loss = plan.encoder_gradients()
        if run.workers.count > 1:
            plan.whole_gradient.zero_()[plan.part] = plan.first_gradient
            gradients = self.hidden_gradients, self.head_gradient, self.vector_gradients, self.bias_gradient
            run.workers.add_up(plan.whole_gradient, *gradients)
        adam_step = run.next_step("encoder")
        self.adam_constants.numpy()[:] = adam_step.constants
        for step in (plan.adam_of_embeddings, *self.adam_of_matrices):
            step()
        vectors = {name: gradient for name, gradient in self.gradients.items() if name not in adam.row_wise}
        adam.step(vectors, adam_step)
        return loss

    def decoder_step(self, batch: NDArray[np.int64], posteriors: Tensor) -> None:
        """Train the decoder on a batch, given all users' current posteriors."""
        self._drawn(batch, posteriors, 0.0).decoder_gradients()
        self.run.step_decoder(*self.output_gradients, self.run.next_step("decoder"))

    def posteriors(self) -> Tensor:
        """Return mean and log-variance of all users, (users, 2 latent)."""
        posteriors = torch.empty((len(self.counts), 2 * self.latent), dtype=self.real)
        bias = self.head_bias()
        for number, out in enumerate(portions(posteriors, POSTERIOR_USERS)):
            users = np.arange(number * POSTERIOR_USERS, number * POSTERIOR_USERS + len(out))
            plan = self.plan(users, whole=True)
            plan.draw(users, 0.0, noise=False)
            plan.encode()
            torch.add(plan.arrays["head"], bias, out=out)
        return posteriors

    def head_bias(self) -> Tensor:
        """Return the bias of mean and log-variance, (2 latent,)."""
        return torch.cat([head.bias.detach() for head in self.layers.heads])

    def _drawn(self, batch: NDArray[np.int64], posteriors: Tensor, dropout: float) -> Plan:
        plan = self.plan(batch)
        plan.draw(batch, dropout)
        torch.index_select(posteriors, 0, plan.users, out=plan.old)
        return plan

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
        sizes = {"users": users, "stars": stars, "items": len(output.table), "latent": self.latent}
        sizes |= {"hidden": self.width, "columns": self.columns, "layers": len(self.biases), "chunks": CHUNKS}
        sizes |= {"block": output.block, "blocks": output.blocks, "width": output.width}
        return Room(sizes, {"int64": torch.int64, "real": self.real, "stored": self.dtype})


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
    first_gradient, whole_gradient : Tensor, shape (this process's users, columns) and (users, columns)
        After the backward pass, the gradient in the first layer's sums of rows before their weights; that of all
        processes.
    """

    def __init__(self, network: FusedRecVAE, room: Room, users: int, low: int, high: int) -> None:
        self.network, self.output, self.batch, self.part = network, network.output, users, slice(low, high)
        self.whole = whole = room.arrays(users, high - low)
        self.first_gradient = whole["other"]
        self.whole_gradient = whole["other"] if high - low == users else whole["whole_gradient"]
        # These keep contents from step to step: zeros, and ones for the bias.
        query, weighted = torch.zeros((2, high - low, self.output.width), dtype=network.dtype)
        transposed = torch.zeros((self.output.width, high - low), dtype=network.dtype)
        query[:, network.latent], transposed[network.latent] = 1, 1
        kept = {"query": query, "weighted": weighted, "transposed": transposed}
        kept["shifts"] = torch.zeros_like(whole["losses"])
        parts = {name: whole[name][self.part] for name in ("batch", "noise", "lengths", "weights")}
        offsets = {name: whole[name][low : high + 1] for name in ("offsets", "kept_offsets")}
        self.arrays = {**whole, **kept, **parts, **offsets}
        self.users, self.old = self.arrays["batch"], self.arrays["old"]
        self._bind_bags()
        self._bind_layers()
        self._bind_objective()
        self._bind_decoder()

    def _bound(self, kernel: Kernel, **arguments: Argument) -> Bound:
        """Bind a kernel to the arguments given and, for the others, to the arrays of their names."""
        arrays = {name: self.arrays[name] for name in kernel.layout if name not in arguments}
        return kernel.bound(self.network.dtype, **arguments, **arrays)

    def _bind_bags(self) -> None:
        network, rows = self.network, self.network.run.rows
        stars = {"all_offsets": network.all_offsets, "all_items": network.all_items}
        whole = {name: self.whole[name] for name in ("batch", "lengths", "weights", "offsets", "kept_offsets")}
        self._draw = self._bound(kernels.draw, **stars, **whole)
        self.transpose = self._bound(kernels.transpose, items=self.arrays["kept"], offsets=self.whole["kept_offsets"])
        table = {"weight": rows.table, "copy": network.embeddings, "first": rows.exp_avg, "second": rows.exp_avg_sq}
        table |= {"gradients": self.whole_gradient, "constants": network.adam_constants}
        self.adam_of_embeddings = self._bound(kernels.adam_of_rows, lazy=rows.lazy, **table)

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
        kept = {"items": arrays["kept"], "offsets": arrays["kept_offsets"]}
        table = {"start": network.biases[0], "table": network.embeddings, "out": arrays["skipped"]}
        self.first_sums = self._bound(kernels.sums_of_rows, **kept, **table)
        self.first_forward, self.first_backward = forward[0], backward[0]
        activations, hidden, gradients = arrays["activations"], network.hidden, network.hidden_gradients
        self.forward = [*zip(activations, hidden, forward[1:], strict=False)]
        self.backward = [*zip(activations, hidden, gradients, backward[1:], strict=False)][::-1]

    def _bind_objective(self) -> None:
        """Bind what lies between forward and backward pass: the likelihood by blocks of items, the divergence."""
        network, output, self.blocks = self.network, self.output, []
        for rows, part in zip(portions(output.table, output.block), self.arrays["parts"], strict=True):
            logits = self.arrays["block_logits"].view(-1)[: len(self.users) * len(rows)]
            exponential = self._bound(kernels.exponential, numbers=logits)
            self.blocks.append((rows.T, logits.view(len(self.users), len(rows)), exponential, rows, part))
        weights = {"share": 1 / self.batch, "gamma_share": network.gamma / self.batch}
        others = {"table": output.table, "sums": self.arrays["totals"]}
        self.objective = self._bound(kernels.objective, **weights, **network.prior, **others)

    def _bind_decoder(self) -> None:
        tensors = self.output.table, self.arrays["logits"], self.arrays["expected"]
        self.decoder_blocks = [*zip(*(portions(tensor, self.output.block) for tensor in tensors), strict=True)]
        self.exponentials = self._bound(kernels.exponentials)

    # -- a step --------------------------------------------------------------------------------------------------

    def draw(self, users: NDArray[np.int64], dropout: float, noise: bool = True) -> None:
        """Fill the users' bags, what dropout leaves of them, and noise."""
        generator, chances = self.network.run.generator, self.whole["chances"][: self.network.counts[users].sum()]
        self.whole["batch"].numpy()[:] = users
        self.whole["dropout"].fill_(dropout)
        if noise:
            chances.uniform_(generator=generator)
            self.whole["noise"].normal_(generator=generator)
        else:
            chances.fill_(1)
        self._draw()

    def encode(self) -> None:
        """Compute the heads' products without bias, ``arrays["head"]``, from what dropout left."""
        arrays = self.arrays
        self.first_sums()
        self.first_forward()
        for given, weight, layer in self.forward:
            torch.mm(given, weight.T, out=arrays["product"])
            layer()
        torch.mm(arrays["activations"][-1], self.network.head.T, out=arrays["head"])

    def encoder_gradients(self) -> float:
        """Return the loss; leave the gradients in the network and in `first_gradient`."""
        network, arrays, latent = self.network, self.arrays, self.network.latent
        self.transpose()
        self.encode()
        torch.add(arrays["head"], network.head_bias(), out=arrays["posterior"])
        arrays["query"][:, :latent] = self._sample(arrays["posterior"])
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
        arrays, latent, z = self.arrays, self.network.latent, self._sample(self.old)
        transposed, lengths = arrays["transposed"], arrays["lengths"]
        transposed[:latent] = z.T
        normalizers = self._normalizers()
        if not ((normalizers > kernels.MIN_NORMALIZER) & (normalizers < kernels.MAX_NORMALIZER)).all():
            column = self.output.inputs + 1
            transposed[column] = self.output.shifted(z, transposed.T)[0][:, column]
            normalizers = self._normalizers()
            transposed[column] = 0
        # What items' exponentials, less the observed share, are multiplied by for the gradient in rows and bias.
        factor = lengths * (1 / self.batch) / normalizers
        weighted = arrays["weighted"]
        weighted[:, :latent], weighted[:, latent] = z * factor[:, None], factor
        offsets, users = arrays["offsets"], torch.arange(len(z))
        stars, users = arrays["items"][offsets[0] : offsets[-1]], users.repeat_interleave(offsets.diff())
        observed = (normalizers / lengths).to(self.network.dtype)[users]
        arrays["logits"].view(-1).index_add_(0, stars * len(z) + users, observed, alpha=-1)
        for _, logits, expected in self.decoder_blocks:
            torch.mm(logits, weighted, out=expected)
        weight, bias = self.network.output_gradients
        weight.copy_(arrays["expected"][:, :latent])
        bias.copy_(arrays["expected"][:, latent])

    def _sample(self, posterior: Tensor) -> Tensor:
        """Return z = mean + noise × exp(log-variance / 2), the reparametrization."""
        mean, log_variance = posterior.chunk(2, dim=1)
        return torch.mul(log_variance, 0.5, out=self.arrays["z"]).exp_().mul_(self.arrays["noise"]).add_(mean)

    def _normalizers(self) -> Tensor:
        for rows, logits, _ in self.decoder_blocks:
            torch.mm(rows, self.arrays["transposed"], out=logits)
        self.exponentials()
        # numpy adds the chunks one after another: the sums do not depend on how many there are at once.
        return torch.from_numpy(self.arrays["sums"].numpy().sum(axis=0))


# -- memory ---------------------------------------------------------------------------------------------------------


class Room:
    """Memory for the steps, the same for all batch sizes, so that it stays in the processor's caches.

    Parameters
    ----------
    sizes : mapping of str to int
        The sizes in `ARRAYS`; those of users and stars are the maximum.
    dtypes : mapping of str to torch.dtype
        The number types in `ARRAYS`.
    """

    def __init__(self, sizes: Mapping[str, int], dtypes: Mapping[str, torch.dtype]) -> None:
        self.users, self.stars, self._sizes = sizes["users"], sizes["stars"], sizes
        shapes = self._shapes(self.users, self.users)
        self._memory = {name: torch.zeros(math.prod(shape), dtype=dtypes[kind]) for name, (kind, shape) in shapes}

    def _shapes(self, users: int, here: int) -> list[tuple[str, tuple[str, list[int]]]]:
        sizes, shapes = {**self._sizes, "users": users, "here": here}, []
        for line in ARRAYS.strip().splitlines():
            (kind, *lengths), names = (part.split() for part in line.replace(",", "").split(":"))
            shape = [int(eval(length, {}, sizes)) for length in lengths]  # noqa: S307 - a text of this module
            shapes += [(name, (kind, shape)) for name in names]
        return shapes

    def arrays(self, users: int, here: int) -> dict[str, Tensor]:
        """Return views for a batch of `users`, of which this process computes `here`."""
        shapes = self._shapes(users, here)
        return {name: self._memory[name][: math.prod(shape)].view(shape) for name, (_, shape) in shapes}
