"""What each star contributes to a score, on one processor in one call: for a server with many concurrent requests.

The result is that of the torch operations in `models.ablation`. There, each of some hundred small operations releases
the interpreter's lock and waits to get it back; beside a thread that answers requests, that takes longer than the
arithmetic. Here the lock is released once. The products are those of BLAS, through numba; float32 only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gh_assets.recommender.cpu.compilation import compiled
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
    head_bias : ndarray of float32, shape (1, latent)
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
        mean.bias.clone().numpy()[None],
        norms[0].eps,
    )


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to use this module: on a CPU, in float32, where the caller has one processor."""
    return device.type == "cpu" and dtype == torch.float32 and torch.get_num_threads() == 1


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
def _copy(rows, source):
    """Copy each row; this and `_add` compile in a fraction of the seconds that numpy's assignments and sums take."""
    for row in range(rows.shape[0]):
        for place in range(rows.shape[1]):
            rows[row, place] = source[row, place]


@compiled
def _add(rows, added):
    """Add to each row the row of `added` with its number, or the only one."""
    for row in range(rows.shape[0]):
        for place in range(rows.shape[1]):
            rows[row, place] += added[min(row, added.shape[0] - 1), place]


@compiled
def _forward(network, inputs):
    """Fill the inputs of the layers' swish, (layers + 1, rows, hidden), from the first ones; return the last output."""
    hidden = np.empty_like(inputs[0])
    _activate(inputs[0], network.gains[0], network.shifts[0], network.epsilon, hidden)
    skipped = hidden.copy()
    for layer in range(network.layers.shape[0]):
        product = inputs[layer + 1]
        np.dot(hidden, network.layers[layer], product)
        _add(product, skipped)
        _add(product, network.biases[layer : layer + 1])
        _activate(product, network.gains[layer + 1], network.shifts[layer + 1], network.epsilon, hidden)
        _add(skipped, hidden)
    return hidden


@compiled
def latent_means(network, first):
    """Map the first layer's sums (rows, hidden) to the means (rows, latent)."""
    inputs = np.empty((network.layers.shape[0] + 1, *first.shape), np.float32)
    _copy(inputs[0], first)
    means = np.dot(_forward(network, inputs), network.head)
    _add(means, network.head_bias)
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
    """Return the gradients of one user's ``directions @ mean`` in the first layer's sum (1, hidden), (n, hidden)."""
    depth = network.layers.shape[0]
    inputs = np.empty((depth + 1, *first.shape), np.float32)
    _copy(inputs[0], first)
    _forward(network, inputs)
    hidden_gradient = np.dot(directions, network.head.T)
    skipped_gradient = np.zeros_like(hidden_gradient)
    for layer in range(depth - 1, -1, -1):
        _norm_backward(inputs[layer + 1, 0], network.gains[layer + 1], network.epsilon, hidden_gradient)
        _add(skipped_gradient, hidden_gradient)
        hidden_gradient = np.dot(hidden_gradient, network.layers[layer].T)
        _add(hidden_gradient, skipped_gradient)
    _norm_backward(inputs[0, 0], network.gains[0], network.epsilon, hidden_gradient)
    return hidden_gradient


@compiled
def _fill_inputs(stars, embeddings, places, sign, inputs):
    """Write what some stars add to the first layer's sums, times `sign`, into (places, hidden)."""
    for row in range(len(places)):
        item, weight = stars.items[places[row]], np.float32(sign) * stars.weights[places[row]]
        for place in range(embeddings.shape[1]):
            inputs[row, place] = weight * embeddings[item, place]


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
        if high - low > all_up_to:
            gradients = _mean_gradients(network, first[user : user + 1], directions[user])
            inputs = np.empty((high - low, first.shape[1]), np.float32)
            _fill_inputs(stars, embeddings, np.arange(low, high), 1, inputs)
            _copy(added[low:high], np.dot(inputs, gradients.T))
            best = np.full(high - low, -np.inf, np.float32)
            for star in range(high - low):
                for item in range(added.shape[1]):
                    best[star] = max(best[star], added[low + star, item])
            for _ in range(strongest):
                chosen[count] = low + best.argmax()
                best[chosen[count] - low] = -np.inf
                count += 1
        else:
            for star in range(low, high):
                chosen[count] = star
                count += 1
        ends[user + 1] = count
    return chosen, ends


@compiled
def _ablate(network, stars, embeddings, first, directions, chosen, ends, added):
    """Write into `added` what leaving out each chosen star takes from the scores of some users."""
    users, begin = len(first), ends[0]
    places = chosen[begin : ends[users]]
    rows = np.empty((users + len(places), first.shape[1]), np.float32)
    _copy(rows[:users], first)
    _fill_inputs(stars, embeddings, places, -1, rows[users:])
    for user in range(users):
        _add(rows[users + ends[user] - begin : users + ends[user + 1] - begin], first[user : user + 1])
    means = latent_means(network, rows)
    for user in range(users):
        low, high = ends[user] - begin, ends[user + 1] - begin
        without = means[users + low : users + high]
        for place in range(high - low):
            for latent in range(means.shape[1]):
                without[place, latent] = means[user, latent] - without[place, latent]
        drops = np.dot(without, directions[user].T)
        for place in range(low, high):
            _copy(added[places[place] : places[place] + 1], drops[place - low : place - low + 1])


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
