"""Blending of recommenders' scores, and the quality of many blends, without the interpreter's lock; see `Hybrid`."""

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


@compiled
def discounted_gains(scores, counts, relevant, offsets, weights, discount):
    """Return the discounted cumulative gain of each user's items in the order of many blends.

    Parameters
    ----------
    scores : ndarray of float32, shape (users, parts, items)
        Scores of each user's candidates for the top by each part.
    counts : ndarray of int64, shape (users,)
        Number of each user's candidates: further scores of the row are ignored.
    relevant : ndarray of int64
        Places of the relevant items among each user's candidates, one user after the other.
    offsets : ndarray of int64, shape (users + 1,)
        Start of each user's relevant items.
    weights : ndarray of float32, shape (blends, parts)
    discount : ndarray of float64, shape (depth,)
        Gain of a relevant item at each rank; 0 below.

    Returns
    -------
    ndarray of float64, shape (users, blends)
    """
    users, parts, items = scores.shape
    gains = np.zeros((users, len(weights)))
    total = np.empty(items, np.float32)
    for user in range(users):
        count = counts[user]
        for blend in range(len(weights)):
            for item in range(count):
                total[item] = 0
            for part in range(parts):
                weight = weights[blend, part]
                for item in range(count):
                    total[item] += weight * scores[user, part, item]
            for place in relevant[offsets[user] : offsets[user + 1]]:
                score, rank = total[place], 0
                for item in range(place):  # equal scores are ordered by place
                    rank += total[item] >= score
                for item in range(place + 1, count):
                    rank += total[item] > score
                if rank < len(discount):
                    gains[user, blend] += discount[rank]
    return gains
