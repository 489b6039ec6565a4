"""What each star contributes to a score: the score's loss when the star is left out, the other stars as they were.

Up to `ABLATE_ALL` stars of a user are left out one by one. Of more stars, only the `ABLATE_STRONGEST` with the largest
gradient × input are; for the others, gradient × input is the estimate.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gh_assets.recommender.cpu import leave_one_out
from gh_assets.recommender.cpu.compilation import call
from gh_assets.recommender.engine.bags import Bags, SparseEncoder

ABLATE_ALL = 64
"""Maximum number of stars of a user up to which all are ablated."""

ABLATE_STRONGEST = 24
"""Number of stars ablated of users with more."""

GRADIENT_USERS = 32
"""Users per gradient batch."""

ABLATED_ROWS = 512
"""Ablated inputs per batch."""


@torch.no_grad()
def contributions(
    encoder: SparseEncoder,
    compiled: Callable[[], leave_one_out.Network],
    decoder: Tensor,
    mean_item: Tensor,
    bags: Bags,
    items: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return what each star adds to the scores of its user's items, relative to the mean item.

    Parameters
    ----------
    encoder : SparseEncoder
    compiled : callable
        Returns the encoder as `leave_one_out` takes it.
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
        result: NDArray[np.float32] = call(
            leave_one_out.contributions, compiled(), stars, embeddings, sums, output[items] - mean, limits
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
    encoder: SparseEncoder,
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


def mean_gradients(encoder: SparseEncoder, first: Tensor, directions: Tensor) -> Tensor:
    """Return the gradients of users' means in several directions, with one forward pass per user.

    Parameters
    ----------
    encoder : SparseEncoder
    first : Tensor, shape (users, hidden)
        The first layer's sums.
    directions : Tensor, shape (users, n, latent)

    Returns
    -------
    Tensor, shape (users, n, hidden)
        Gradients of each user's ``directions @ mean`` in `first`.
    """
    with torch.enable_grad():
        rows = first.detach().requires_grad_()
        means = encoder.latent_mean(rows, rows.dtype)
        (gradients,) = torch.autograd.grad(means, rows, directions.transpose(0, 1), is_grads_batched=True)
    return gradients.transpose(0, 1)
