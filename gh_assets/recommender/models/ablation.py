"""What each star contributes to a score: the score's loss when the star is left out, the other stars as they were.

Up to `ABLATE_ALL` stars of a user are left out one by one. Of more stars, only the `ABLATE_STRONGEST` with the largest
gradient × input are; for the others, gradient × input is the estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from gh_assets.recommender.cpu import leave_one_out
from gh_assets.recommender.engine.bags import Bags

ABLATE_ALL = 64
"""Maximum number of stars of a user up to which all are ablated."""

ABLATE_STRONGEST = 24
"""Number of stars ablated of users with more."""

GRADIENT_USERS = 32
"""Users per gradient batch."""

ABLATED_ROWS = 512
"""Ablated inputs per batch."""


class Encoder(Protocol):
    """What is needed of `recvae.Encoder`."""

    embeddings: nn.Parameter
    mean: nn.Linear

    @property
    def linears(self) -> list[nn.Linear]: ...

    @property
    def layer_norms(self) -> list[nn.LayerNorm]: ...

    def first(self, bags: Bags) -> Tensor: ...

    def latent_mean(self, first: Tensor, dtype: torch.dtype) -> Tensor: ...

    def compiled(self) -> leave_one_out.Network: ...


@torch.no_grad()
def contributions(
    encoder: Encoder, decoder: Tensor, mean_item: Tensor, bags: Bags, items: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return what each star adds to the scores of its user's items, relative to the mean item.

    Parameters
    ----------
    encoder : Encoder
    decoder : Tensor, shape (items, latent)
    mean_item : Tensor, shape (latent,)
        Mean of the decoder's rows.
    bags : Bags
        The users' stars.
    items : ndarray of int64, shape (users, n)
        Items to explain.

    Returns
    -------
    ndarray of float32, shape (stars, n)
    """
    first = encoder.first(bags)
    if leave_one_out.usable(decoder.device, decoder.dtype):
        stars = leave_one_out.Stars(*(t.numpy() for t in (bags.offsets, bags.items, bags.weights)))
        tables = (encoder.embeddings.detach(), first, decoder, mean_item)
        embeddings, sums, output, mean = (tensor.contiguous().numpy() for tensor in tables)
        limits = ABLATE_ALL, ABLATE_STRONGEST
        result: NDArray[np.float32] = leave_one_out.contributions(
            encoder.compiled(), stars, embeddings, sums, output[items] - mean, limits
        )
        return result
    directions = decoder[torch.from_numpy(items).to(decoder.device)] - mean_item
    added = first.new_empty((len(bags.items), items.shape[1]))
    embeddings_of = encoder.embeddings.detach()
    batch: list[tuple[int, Tensor]] = []
    waiting = 0
    many = (bags.counts > ABLATE_ALL).nonzero()[:, 0].tolist()
    gradients: dict[int, Tensor] = {}
    for users in (many[start : start + GRADIENT_USERS] for start in range(0, len(many), GRADIENT_USERS)):
        gradients |= zip(users, mean_gradients(encoder, first[users], directions[users]), strict=True)
    for user, (low, high) in enumerate(pairwise(bags.offsets.tolist())):
        places = torch.arange(low, high, device=decoder.device)
        if user in gradients:
            inputs = embeddings_of[bags.items[low:high]] * bags.weights[low:high, None]
            estimate = inputs @ gradients[user].T
            added[low:high] = estimate
            places = low + estimate.amax(dim=1).topk(ABLATE_STRONGEST).indices
        batch.append((user, places))
        waiting += len(places)
        if waiting >= ABLATED_ROWS:
            _ablate(encoder, batch, first, bags, directions, added)
            batch, waiting = [], 0
    if batch:
        _ablate(encoder, batch, first, bags, directions, added)
    return np.asarray(added.float().cpu(), np.float32)


def _ablate(
    encoder: Encoder,
    batch: Sequence[tuple[int, Tensor]],
    first: Tensor,
    bags: Bags,
    directions: Tensor,
    added: Tensor,
) -> None:
    """Write into `added` what leaving out each chosen star takes away, for several users together."""
    users = torch.tensor([user for user, _ in batch], device=first.device)
    places = torch.cat([chosen for _, chosen in batch])
    counts = [len(chosen) for _, chosen in batch]
    owners = torch.repeat_interleave(users, torch.tensor(counts, device=first.device))
    per_star = encoder.embeddings[bags.items[places]] * bags.weights[places, None]
    means = encoder.latent_mean(torch.cat([first[users], first[owners] - per_star]), first.dtype)
    whole, without = means[: len(users)], torch.split(means[len(users) :], counts)
    for row, ((user, chosen), rest) in enumerate(zip(batch, without, strict=True)):
        added[chosen] = (whole[row] - rest) @ directions[user].T


def mean_gradients(encoder: Encoder, first: Tensor, directions: Tensor) -> Tensor:
    """Return the gradients of users' means in several directions, with one forward pass per user.

    Parameters
    ----------
    encoder : Encoder
    first : Tensor, shape (users, hidden)
        The first layer's sums.
    directions : Tensor, shape (users, n, latent)

    Returns
    -------
    Tensor, shape (users, n, hidden)
        Gradients of each user's ``directions @ mean`` in `first`.
    """

    def norm_backward(norm: nn.LayerNorm, x: Tensor, gradients: Tensor) -> Tensor:
        """Return the gradients of ``norm(swish(x))`` in x."""
        gate = torch.sigmoid(x)
        swish = x * gate
        centred = swish - swish.mean(dim=-1, keepdim=True)
        scale = (centred.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt()
        normal = centred * scale
        inner = gradients * norm.weight
        inner = inner - inner.mean(dim=-1, keepdim=True) - normal * (inner * normal).mean(dim=-1, keepdim=True)
        return inner * scale * (gate + swish * (1 - gate))

    layers, norms = encoder.linears, encoder.layer_norms
    inputs = [first[:, None]]
    hidden = norms[0](F.silu(inputs[0]))
    skipped = hidden
    for layer, norm in zip(layers, norms[1:], strict=True):
        inputs.append(layer(hidden) + skipped)
        hidden = norm(F.silu(inputs[-1]))
        skipped = skipped + hidden
    hidden_gradient = directions @ encoder.mean.weight
    skipped_gradient = torch.zeros_like(hidden_gradient)
    for layer, norm, layer_input in zip(layers[::-1], norms[:0:-1], inputs[:0:-1], strict=True):
        input_gradient = norm_backward(norm, layer_input, hidden_gradient)
        skipped_gradient = skipped_gradient + input_gradient
        hidden_gradient = input_gradient @ layer.weight + skipped_gradient
    return norm_backward(norms[0], inputs[0], hidden_gradient)
