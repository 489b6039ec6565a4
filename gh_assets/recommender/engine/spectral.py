"""Spectral item factors from co-occurrence, which initialize the autoencoders' item embeddings."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.bags import Bags

EXPONENT = 0.5
OVERSAMPLING, ITERATIONS = 16, 4
"""Of the subspace iteration: enough for singular values that fall slowly."""

USERS_AT_ONCE = 16_384
"""Users whose projections exist at a time."""


def spectrum(
    stars: Csr, rank: int, *, seed: int = 0, exponent: float = EXPONENT
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the largest singular values of the normalized matrix, and the right singular vectors that go with them.

    Rows are divided by the square root of their number of stars, columns by theirs to the power `exponent`.

    Parameters
    ----------
    stars : scipy.sparse CSR, shape (users, items)
    rank : int
    exponent : float
        0.5 gives all items the same norm.

    Returns
    -------
    values : ndarray of float32, shape (at most rank,)
        Largest first.
    vectors : ndarray of float32, shape (items, at most rank)

    Notes
    -----
    Randomized subspace iteration (Halko et al. 2011): no dense array is larger than items × rank, or than
    `USERS_AT_ONCE` × rank.
    """
    rank = min(rank, min(stars.shape) - 1)
    if rank < 1:
        return np.zeros(0, np.float32), np.zeros((stars.shape[1], 0), np.float32)
    popularity = np.maximum(np.bincount(stars.indices, minlength=stars.shape[1]), 1)
    bags = Bags.of(stars, torch.device("cpu"))
    bags = replace(bags, weights=bags.weights * torch.from_numpy(popularity[stars.indices] ** -exponent).float())
    starts = range(0, stars.shape[0], USERS_AT_ONCE)
    parts = [bags.part(start, min(start + USERS_AT_ONCE, stars.shape[0])) for start in starts]
    transposed = [part.transposed() for part in parts]
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + OVERSAMPLING, *stars.shape)
    basis = torch.randn((stars.shape[1], width), generator=generator)
    for _ in range(ITERATIONS):
        image = torch.zeros_like(basis)
        for part, (items, users) in zip(parts, transposed, strict=True):
            image.index_add_(0, items, users.sums(part.sums(basis)))
        basis = torch.linalg.qr(image)[0]
    # The singular values of the users' sums, and their right singular vectors, by way of the small Gram matrix: in
    # float64, it loses no digit of theirs.
    gram = torch.zeros((width, width), dtype=torch.float64)
    for part in parts:
        sums = part.sums(basis).double()
        gram.addmm_(sums.T, sums)
    squares, vectors = torch.linalg.eigh(gram)
    values, right = squares.flip(0).clamp(min=0).sqrt().float(), vectors.flip(1).float()
    return values[:rank].numpy(), (basis @ right[:, :rank]).numpy()


def item_factors(stars: Csr, rank: int, *, seed: int = 0, exponent: float = EXPONENT) -> NDArray[np.float32]:
    """Return the vectors of `spectrum` times the square roots of their values, (items, at most rank)."""
    values, vectors = spectrum(stars, rank, seed=seed, exponent=exponent)
    return vectors * np.sqrt(values)
