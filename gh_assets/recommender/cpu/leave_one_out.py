"""What each star contributes to a score, on one processor in one call: for a server with many concurrent requests.

The result is that of the torch operations in `models.ablation`. There, each of some hundred small operations releases
the interpreter's lock and waits to get it back; beside a thread that answers requests, that takes longer than the
arithmetic. Here the lock is released once. The products are those of BLAS, through numba; float32 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import nn

from gh_assets.recommender.cpu.number_types import exp

ABLATED_ROWS = 1024
"""Rows that go through the network together."""


class Network(NamedTuple):
    """An encoder's weights as BLAS takes them.

    Attributes
    ----------
    layers : ndarray of float32, shape (layers, hidden, hidden)
        Transposed: inputs are rows.
    biases : ndarray of float32, shape (layers, hidden)
    gains, shifts : ndarray of float32, shape (layers + 1, hidden)
        Of the norms.
    head : ndarray of float32, shape (hidden, latent)
    head_bias : ndarray of float32, shape (latent,)
    epsilon : float
        Of the norms.
    """

    layers: NDArray[np.float32]
    biases: NDArray[np.float32]
    gains: NDArray[np.float32]
    shifts: NDArray[np.float32]
    head: NDArray[np.float32]
    head_bias: NDArray[np.float32]
    epsilon: float


class Stars(NamedTuple):
    """The stars of several users.

    Attributes
    ----------
    offsets : ndarray of int64, shape (users + 1,)
        Start of each user's stars.
    items : ndarray of int64, shape (stars,)
    weights : ndarray of float32, shape (stars,)
        Weights in the first layer's sum.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int64]
    weights: NDArray[np.float32]


@torch.no_grad()
def network_of(layers: Sequence[nn.Linear], norms: Sequence[nn.LayerNorm], mean: nn.Linear) -> Network:
    """Copy an encoder's weights."""
    return Network(
        torch.stack([layer.weight.T for layer in layers]).contiguous().numpy(),
        torch.stack([layer.bias for layer in layers]).numpy(),
        torch.stack([norm.weight for norm in norms]).numpy(),
        torch.stack([norm.bias for norm in norms]).numpy(),
        mean.weight.T.contiguous().numpy(),
        mean.bias.clone().numpy(),
        norms[0].eps,
    )


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to use this module: on a CPU, in float32, where the caller has one processor."""
    return device.type == "cpu" and dtype == torch.float32 and torch.get_num_threads() == 1


def compiled(function: Any) -> Any:
    """Compile a function to run without the interpreter's lock; the result is cached on disk if possible."""
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except (OSError, RuntimeError):  # no place for the cache: the disk is full or read-only
        return njit(**options)(function)


@compiled
def _activate(inputs, gain, shift, epsilon, outputs):
    """Apply swish and layer norm to each row."""
    width = inputs.shape[1]
    for row in range(inputs.shape[0]):
        total = np.float32(0)
        for place in range(width):
            x = inputs[row, place]
            y = x / (np.float32(1) + exp(-x))
            outputs[row, place] = y
            total += y
        mean = total / np.float32(width)
        spread = np.float32(0)
        for place in range(width):
            offset = outputs[row, place] - mean
            spread += offset * offset
        scale = np.float32(1) / np.sqrt(spread / np.float32(width) + np.float32(epsilon))
        for place in range(width):
            outputs[row, place] = (outputs[row, place] - mean) * scale * gain[place] + shift[place]


@compiled
def _add(target, other, bias):
    for row in range(target.shape[0]):
        for place in range(target.shape[1]):
            target[row, place] += other[row, place] + bias[place]


@compiled
def latent_means(network, first):
    """Map the first layer's sums (rows, hidden) to the means (rows, latent)."""
    hidden = np.empty_like(first)
    _activate(first, network.gains[0], network.shifts[0], network.epsilon, hidden)
    skipped = hidden.copy()
    product = np.empty_like(first)
    nothing = np.zeros(first.shape[1], np.float32)
    for layer in range(network.layers.shape[0]):
        np.dot(hidden, network.layers[layer], product)
        _add(product, skipped, network.biases[layer])
        _activate(product, network.gains[layer + 1], network.shifts[layer + 1], network.epsilon, hidden)
        _add(skipped, hidden, nothing)
    means = np.dot(hidden, network.head)
    for row in range(means.shape[0]):
        means[row] += network.head_bias
    return means


@compiled
def _norm_backward(inputs, gain, epsilon, gradients):
    """Replace the gradients in ``norm(swish(inputs))`` by those in `inputs`, one row."""
    width = len(inputs)
    gate, swish = np.empty(width, np.float32), np.empty(width, np.float32)
    total = np.float32(0)
    for place in range(width):
        gate[place] = np.float32(1) / (np.float32(1) + exp(-inputs[place]))
        swish[place] = inputs[place] * gate[place]
        total += swish[place]
    mean = total / np.float32(width)
    spread = np.float32(0)
    for place in range(width):
        spread += (swish[place] - mean) ** 2
    scale = np.float32(1) / np.sqrt(spread / np.float32(width) + np.float32(epsilon))
    for row in range(gradients.shape[0]):
        plain, along = np.float32(0), np.float32(0)
        for place in range(width):
            inner = gradients[row, place] * gain[place]
            plain += inner
            along += inner * (swish[place] - mean) * scale
        plain /= np.float32(width)
        along /= np.float32(width)
        for place in range(width):
            inner = gradients[row, place] * gain[place] - plain - (swish[place] - mean) * scale * along
            slope = gate[place] + swish[place] * (np.float32(1) - gate[place])
            gradients[row, place] = inner * scale * slope


@compiled
def _mean_gradients(network, first, directions):
    """Return the gradients of one user's ``directions @ mean`` in the first layer's sum, (n, hidden)."""
    depth, width = network.layers.shape[0], len(first)
    inputs = np.empty((depth + 1, width), np.float32)
    inputs[0] = first
    hidden = np.empty((1, width), np.float32)
    _activate(inputs[:1], network.gains[0], network.shifts[0], network.epsilon, hidden)
    skipped = hidden[0].copy()
    for layer in range(depth):
        inputs[layer + 1] = np.dot(hidden, network.layers[layer])[0] + network.biases[layer] + skipped
        _activate(
            inputs[layer + 1 : layer + 2], network.gains[layer + 1], network.shifts[layer + 1], network.epsilon, hidden
        )
        skipped += hidden[0]
    hidden_gradient = np.dot(directions, network.head.T)
    skipped_gradient = np.zeros_like(hidden_gradient)
    for layer in range(depth - 1, -1, -1):
        _norm_backward(inputs[layer + 1], network.gains[layer + 1], network.epsilon, hidden_gradient)
        skipped_gradient += hidden_gradient
        hidden_gradient = np.dot(hidden_gradient, network.layers[layer].T) + skipped_gradient
    _norm_backward(inputs[0], network.gains[0], network.epsilon, hidden_gradient)
    return hidden_gradient


@compiled
def _chosen_stars(network, stars, embeddings, first, directions, limits, added):
    """Choose the stars to leave out; write estimates for those of users with too many into `added`.

    Returns
    -------
    chosen : ndarray of int64
        Stars, user by user.
    ends : ndarray of int64, shape (users + 1,)
        Start of each user's chosen stars.
    """
    all_up_to, strongest = limits
    chosen = np.empty(len(stars.items), np.int64)
    ends = np.zeros(len(first) + 1, np.int64)
    count = 0
    for user in range(len(first)):
        low, high = stars.offsets[user], stars.offsets[user + 1]
        if high - low <= all_up_to:
            for star in range(low, high):
                chosen[count] = star
                count += 1
        else:
            gradients = _mean_gradients(network, first[user], directions[user])
            inputs = np.empty((high - low, first.shape[1]), np.float32)
            for star in range(low, high):
                inputs[star - low] = embeddings[stars.items[star]] * stars.weights[star]
            estimate = np.dot(inputs, gradients.T)
            best = np.empty(high - low, np.float32)
            for star in range(high - low):
                best[star] = -estimate[star].max()
                added[low + star] = estimate[star]
            for star in np.argsort(best)[:strongest]:
                chosen[count] = low + star
                count += 1
        ends[user + 1] = count
    return chosen, ends


@compiled
def _ablate(network, stars, embeddings, first, directions, chosen, ends, added):
    """Write into `added` what leaving out each chosen star takes from the scores of some users."""
    users = len(first)
    rows = np.empty((users + ends[users] - ends[0], first.shape[1]), np.float32)
    rows[:users] = first
    place = users
    for user in range(users):
        for star in chosen[ends[user] : ends[user + 1]]:
            rows[place] = first[user] - embeddings[stars.items[star]] * stars.weights[star]
            place += 1
    means = latent_means(network, rows)
    place = users
    for user in range(users):
        size = ends[user + 1] - ends[user]
        if size == 0:
            continue
        lost = np.empty((size, means.shape[1]), np.float32)
        for number in range(size):
            lost[number] = means[user] - means[place + number]
        drops = np.dot(lost, directions[user].T)
        for number in range(size):
            added[chosen[ends[user] + number]] = drops[number]
        place += size


@compiled
def contributions(network, stars, embeddings, first, directions, limits):
    """Return what each star adds to the scores of its user's items; see `models.ablation.contributions`.

    Parameters
    ----------
    network : Network
    stars : Stars
    embeddings : ndarray of float32, shape (items, hidden)
    first : ndarray of float32, shape (users, hidden)
        The first layer's sums.
    directions : ndarray of float32, shape (users, n, latent)
        Decoder rows of the items to explain, less the mean row.
    limits : pair of int
        Number of stars up to which all are left out, and how many of users with more.

    Returns
    -------
    ndarray of float32, shape (stars, n)
    """
    users = len(first)
    added = np.empty((len(stars.items), directions.shape[1]), np.float32)
    chosen, ends = _chosen_stars(network, stars, embeddings, first, directions, limits, added)
    low = 0
    while low < users:
        high = low + 1
        while high < users and ends[high + 1] - ends[low] + high + 1 - low <= ABLATED_ROWS:
            high += 1
        _ablate(network, stars, embeddings, first[low:high], directions[low:high], chosen, ends[low : high + 1], added)
        low = high
    return added
