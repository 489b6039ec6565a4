"""What each star was worth to a list, on one processor and in one piece: for a server, where many ask at once.

The same as `RecVAE._contributions` does by torch. There each of some hundred small operations gives the interpreter
away and waits to get it back; beside a thread that answers requests that takes longer than the arithmetic. Here the
interpreter is given away once. The products are BLAS's, by numba; float32 only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from gh_assets.recommender.cpu.kernels import exp

ROWS_AT_ONCE = 1024
"""Rows that go through the network together."""


class Network(NamedTuple):
    """An encoder's weights as BLAS wants them.

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


def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this is the way: on a CPU of which the caller has one processor."""
    return device.type == "cpu" and dtype == torch.float32 and torch.get_num_threads() == 1


def compiled(function: Any) -> Any:
    """By numba, to run without the interpreter, and kept on disk if there is room."""
    options = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except (OSError, RuntimeError):  # nowhere to keep it: a disk that is full or not to be written
        return njit(**options)(function)


@compiled
def _activate(inputs, gain, shift, epsilon, outputs):
    """Swish and norm of each row."""
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
            off = outputs[row, place] - mean
            spread += off * off
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
    """From the first layer's sums (rows, hidden) to the means (rows, latent)."""
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
def _back_through(inputs, gain, epsilon, gradients):
    """Gradients of ``norm(swish(inputs))`` for one row of inputs; in place."""
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
def slopes(network, first, directions):
    """Gradients of one user's mean in directions (n, latent), in the first layer's sum (hidden); (n, hidden)."""
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
    of_hidden = np.dot(directions, network.head.T)
    of_skipped = np.zeros_like(of_hidden)
    for layer in range(depth - 1, -1, -1):
        _back_through(inputs[layer + 1], network.gains[layer + 1], network.epsilon, of_hidden)
        of_skipped += of_hidden
        of_hidden = np.dot(of_hidden, network.layers[layer].T) + of_skipped
    _back_through(inputs[0], network.gains[0], network.epsilon, of_hidden)
    return of_hidden


@compiled
def contributions(network, starts, items, weights, embeddings, first, wanted, decoder, mean_item, left_out, strongest):
    """What each star adds to the scores of the items that its user wants explained.

    Parameters
    ----------
    network : Network
    starts : ndarray of int64, shape (users + 1,)
        Where each user's stars begin.
    items, weights : ndarray of int64 and float32, shape (stars,)
        The stars, and their weights in the first layer's sum.
    embeddings : ndarray of float32, shape (all items, hidden)
    first : ndarray of float32, shape (users, hidden)
        The first layer's sums.
    wanted : ndarray of int64, shape (users, n)
    decoder, mean_item : ndarray of float32, shape (all items, latent) and (latent,)
    left_out, strongest : int
        See `recvae.LEFT_OUT` and `recvae.STRONGEST`.

    Returns
    -------
    ndarray of float32, shape (stars, n)
    """
    users, count = wanted.shape
    hidden, latent = first.shape[1], decoder.shape[1]
    found = np.empty((len(items), count), np.float32)
    chosen = np.empty(len(items), np.int64)
    ends = np.empty(users, np.int64)
    directions = np.empty((users, count, latent), np.float32)
    taken = 0
    for user in range(users):
        for place in range(count):
            directions[user, place] = decoder[wanted[user, place]] - mean_item
        low, high = starts[user], starts[user + 1]
        if high - low <= left_out:
            for star in range(low, high):
                chosen[taken] = star
                taken += 1
        else:
            gradients = slopes(network, first[user], directions[user])
            stars = np.empty((high - low, hidden), np.float32)
            for star in range(low, high):
                stars[star - low] = embeddings[items[star]] * weights[star]
            estimate = np.dot(stars, gradients.T)
            best = np.empty(high - low, np.float32)
            for star in range(high - low):
                best[star] = -estimate[star].max()
                found[low + star] = estimate[star]
            for star in np.argsort(best)[:strongest]:
                chosen[taken] = low + star
                taken += 1
        ends[user] = taken
    user = 0
    while user < users:
        begun, start = user, 0 if user == 0 else ends[user - 1]
        user += 1
        while user < users and ends[user] - start + user + 1 - begun <= ROWS_AT_ONCE:
            user += 1
        group, stop = user - begun, ends[user - 1]
        rows = np.empty((group + stop - start, hidden), np.float32)
        place = group
        for owner in range(begun, user):
            rows[owner - begun] = first[owner]
            for number in range(0 if owner == 0 else ends[owner - 1], ends[owner]):
                star = chosen[number]
                rows[place] = first[owner] - embeddings[items[star]] * weights[star]
                place += 1
        means = latent_means(network, rows)
        place = group
        for owner in range(begun, user):
            one = 0 if owner == 0 else ends[owner - 1]
            size = ends[owner] - one
            if size == 0:
                continue
            lost = np.empty((size, latent), np.float32)
            for number in range(size):
                lost[number] = means[owner - begun] - means[place + number]
            worth = np.dot(lost, directions[owner].T)
            for number in range(size):
                found[chosen[one + number]] = worth[number]
            place += size
    return found
