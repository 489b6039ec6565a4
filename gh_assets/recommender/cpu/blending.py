"""Blending of two recommenders' scores in one pass over memory, without the interpreter's lock; see `Hybrid`."""

import numpy as np

from gh_assets.recommender.cpu.compilation import compiled


@compiled
def blend(first, second, weight, offsets):
    """Compute ``weight × first + (1 - weight) × second - offsets`` from scores standardized per user.

    Parameters
    ----------
    first, second : ndarray of float32, shape (users, items)
        `first` is overwritten with the result.
    weight : float32
    offsets : ndarray of float32, shape (items,)

    Returns
    -------
    ndarray of float32, shape (2, users)
        The standard deviations of both.
    """
    users, items = first.shape
    spreads = np.empty((2, users), np.float32)
    for user in range(users):
        one, other = np.float64(0), np.float64(0)
        for item in range(items):
            one += first[user, item]
            other += second[user, item]
        mean_one, mean_other = np.float32(one / items), np.float32(other / items)
        one, other = np.float64(0), np.float64(0)
        for item in range(items):
            one += np.float64(first[user, item] - mean_one) ** 2
            other += np.float64(second[user, item] - mean_other) ** 2
        spreads[0, user] = max(np.float32(np.sqrt(one / items)), np.float32(1e-12))
        spreads[1, user] = max(np.float32(np.sqrt(other / items)), np.float32(1e-12))
        scale_one = weight / spreads[0, user]
        scale_other = (np.float32(1) - weight) / spreads[1, user]
        for item in range(items):
            one_part = (first[user, item] - mean_one) * scale_one
            other_part = (second[user, item] - mean_other) * scale_other
            first[user, item] = one_part + other_part - offsets[item]
    return spreads
