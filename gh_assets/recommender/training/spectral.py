"""Item factors from who has what with what: where the autoencoders' item embeddings begin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.training.engine import Bags

EXPONENT = 0.5
OVERSAMPLING, ITERATIONS = 16, 4  # of the subspace iteration: enough for singular values that fall slowly


def item_factors(stars: Csr, rank: int, *, seed: int = 0, exponent: float = EXPONENT) -> NDArray[np.float32]:
    """The leading right singular vectors of the column-normalized matrix, by √ of their singular value.

    Parameters
    ----------
    stars : scipy.sparse CSR, shape (users, items)
    rank : int
    exponent : float
        Columns are divided by their sum to this power: 0.5 makes all items equally long.

    Returns
    -------
    ndarray of float32, shape (items, at most rank)
        Randomized subspace iteration (Halko et al. 2011): nothing larger than items × rank is ever dense.
    """
    rank = min(rank, min(stars.shape) - 1)
    if rank < 1:
        return np.zeros((stars.shape[1], 0), np.float32)
    popularity = np.maximum(np.bincount(stars.indices, minlength=stars.shape[1]), 1)
    there = Bags.of(stars, torch.device("cpu"))
    there = replace(there, weights=there.weights * torch.from_numpy(popularity[stars.indices] ** -exponent).float())
    items, back = there.transposed()
    generator = torch.Generator().manual_seed(seed)
    width = min(rank + OVERSAMPLING, *stars.shape)
    basis = torch.randn((stars.shape[1], width), generator=generator)
    for _ in range(ITERATIONS):
        image = torch.zeros_like(basis)
        image[items] = back.sums(there.sums(basis))
        basis = torch.linalg.qr(image)[0]
    _, values, right = torch.linalg.svd(there.sums(basis), full_matrices=False)
    result: NDArray[np.float32] = (basis @ right[:rank].T * values[:rank].sqrt()).numpy()
    return result
