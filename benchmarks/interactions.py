"""Matrices for the benchmarks: from a file of pairs, or generated at any size."""

from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr


def read_interactions(path: Path, minimum: int = 1) -> Csr:
    """Read a Parquet file of pairs (``user``, ``item`` or ``login``, ``repo``) as a matrix.

    Users and items with fewer than `minimum` are left out, repeatedly until none is.
    """
    table = pl.read_parquet(path)
    user, item = ("user", "item") if "user" in table.columns else ("login", "repo")
    pairs = table.select(user, item).unique()
    while True:
        before = pairs.height
        pairs = pairs.filter((pl.len().over(user) >= minimum) & (pl.len().over(item) >= minimum))
        if pairs.height == before:
            break
    rows, columns = (pairs[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in (user, item))
    matrix: Csr = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)))
    return matrix


def sample(interactions: Csr, users: int, seed: int) -> Csr:
    """Return a random sample of the users, with the items that at least two of them have."""
    chosen = np.sort(np.random.default_rng(seed).permutation(interactions.shape[0])[:users])
    stars = interactions[chosen]
    matrix: Csr = stars[:, np.flatnonzero(np.bincount(stars.indices, minlength=stars.shape[1]) > 1)]
    return matrix[np.flatnonzero(np.diff(matrix.indptr))]


def generated(users: int, items: int, stars: int, seed: int = 0, tastes: int = 50) -> Csr:
    """Generate users with a few tastes and items of which few are popular; `stars` is met to within one percent."""
    rng = np.random.default_rng(seed)
    counts = rng.lognormal(0.0, 1.0, users)
    counts = np.clip(counts * stars / counts.sum(), 1, items // 10).astype(np.int64)
    popularity = 1.0 / np.arange(1, items + 1) ** 0.8
    taste_of_item = rng.integers(0, tastes, items)
    taste_of_user = rng.integers(0, tastes, users)
    by_taste = [np.flatnonzero(taste_of_item == taste) for taste in range(tastes)]
    cumulative = np.cumsum(popularity) / popularity.sum()
    within = [np.cumsum(popularity[inside]) / popularity[inside].sum() for inside in by_taste]

    def drawn(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        columns = np.searchsorted(cumulative, rng.random(len(rows))).clip(max=items - 1)
        own = rng.random(len(rows)) < 0.7
        for taste in range(tastes):
            of_taste = np.flatnonzero(own & (taste_of_user[rows] == taste))
            places = np.searchsorted(within[taste], rng.random(len(of_taste))).clip(max=len(by_taste[taste]) - 1)
            columns[of_taste] = by_taste[taste][places]
        return columns

    pairs = np.empty(0, np.int64)
    while len(pairs) < 0.99 * stars:  # pairs that are drawn twice are replaced
        rows = np.repeat(np.arange(users), np.maximum(counts - np.bincount(pairs // items, minlength=users), 0))
        more = rows if len(rows) > 0.01 * stars else rng.integers(0, users, stars - len(pairs))
        pairs = np.unique(np.concatenate([pairs, more * items + drawn(more)]))
    matrix: Csr = sp.csr_array((np.ones(len(pairs), np.float32), (pairs // items, pairs % items)), shape=(users, items))
    return matrix
