"""Blending of recommenders' scores in one pass over memory each, without the interpreter's lock; see `Hybrid`."""

import numpy as np

from gh_assets.recommender.cpu.compilation import compiled


@compiled
def add_standardized(total, scores, weights):
    """Add ``weight × (scores - mean) / standard deviation`` of each user to `total`.

    Parameters
    ----------
    total : ndarray of float32, shape (users, items)
        Changed.
    scores : ndarray of float32, shape (users, items)
    weights : ndarray of float32, shape (users,)

    Returns
    -------
    ndarray of float32, shape (users,)
        The standard deviations.
    """
    users, items = scores.shape
    spreads = np.empty(users, np.float32)
    for user in range(users):
        added = np.float64(0)
        for item in range(items):
            added += scores[user, item]
        mean = np.float32(added / items)
        squares = np.float64(0)
        for item in range(items):
            squares += np.float64(scores[user, item] - mean) ** 2
        spreads[user] = max(np.float32(np.sqrt(squares / items)), np.float32(1e-12))
        scale = weights[user] / spreads[user]
        for item in range(items):
            total[user, item] += (scores[user, item] - mean) * scale
    return spreads
