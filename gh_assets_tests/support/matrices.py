"""Matrices whose structure a recommender should find."""

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import UserItemMatrix


def with_ids(
    stars: sp.csr_array,
    user_ids: NDArray[np.int64] | None = None,
    repo_ids: NDArray[np.int64] | None = None,
    full_names: NDArray[np.str_] | None = None,
) -> UserItemMatrix:
    """Return a matrix of stars with ids, by default from 0, and names, by default made of the ids."""
    users = np.arange(stars.shape[0]) if user_ids is None else user_ids
    repositories = np.arange(stars.shape[1]) if repo_ids is None else repo_ids
    names = np.char.add("o/r", repositories.astype(str)) if full_names is None else full_names
    return UserItemMatrix(stars, users, np.char.add("user-", users.astype(str)), repositories, names)


def checkerboard(users: int = 40, items: int = 20) -> sp.csr_array:
    """Even users have most even items, odd users most odd ones: a recommender of the other colour is wrong."""
    rng = np.random.default_rng(0)
    dense = np.zeros((users, items), np.float32)
    for user in range(users):
        own = np.arange(user % 2, items, 2)
        dense[user, rng.permutation(own)[: len(own) - 2]] = 1
    return sp.csr_array(dense)


def taste_matrix(users: int = 300, items: int = 60, tastes: int = 6) -> sp.csr_array:
    """Each user likes one or two of several groups of items, and some items are popular with all."""
    rng = np.random.default_rng(7)
    group = np.arange(items) % tastes
    dense = np.zeros((users, items), np.float32)
    for user in range(users):
        liked = rng.choice(tastes, size=rng.integers(1, 3), replace=False)
        weight = np.where(np.isin(group, liked), 1.0, 0.03) + 0.2 * (np.arange(items) < 4)
        chosen = rng.choice(items, size=rng.integers(8, 14), replace=False, p=weight / weight.sum())
        dense[user, chosen] = 1
    return sp.csr_array(dense)


def random_stars(seed: int, users: int, items: int) -> sp.csr_array:
    """Independent stars, with users and items that have none."""
    rng = np.random.default_rng(seed)
    return sp.csr_array((rng.random((users, items)) < 0.2).astype(np.float32))


def twelve_users() -> sp.csr_array:
    """Return twelve users and thirty items; all users have the first item."""
    dense = (np.random.default_rng(1).random((12, 30)) < 0.25).astype(np.float32)
    dense[:, 0] = 1
    return sp.csr_array(dense)
