"""The baselines without latent factors: popularity, item neighbours, EASE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, ClassVar

import numpy as np
import scipy.linalg.lapack
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.errors import ConfigurationError, GhAssetsError
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.tuning import best_on_validation
from gh_assets.recommender.models.base import Recommender, Scores

BLOCK = 1024
"""Items per block where an item-item matrix is filled or scaled."""


class Popularity(Recommender):
    """Score items by their number of users, the same for every user."""

    name: ClassVar[str] = "popularity"

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        self.counts = np.bincount(stars.indices, minlength=self.items).astype(np.float32)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        return np.tile(self.counts, (stars.shape[0], 1))

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"counts": self.counts}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.counts = weights["counts"]


class ItemKNN(Recommender):
    """Item neighbours by shrunk cosine (Sarwar et al., WWW 2001; shrinkage of Bell & Koren, KDD 2007).

    The similarity of items i and j with c users in common is ``c / (√(n_i n_j) + shrinkage)``. An item's score is the
    sum over its neighbours that the user has.

    Parameters
    ----------
    neighbours, shrinkages : sequence
        Candidates for the number of neighbours per item and for the shrinkage. The best by NDCG@100 on the validation
        users are chosen; without validation users, the middle ones.
    """

    name: ClassVar[str] = "itemknn"

    def __init__(
        self, neighbours: tuple[int, ...] = (20, 50, 100, 200), shrinkages: tuple[float, ...] = (0.0, 10.0, 50.0)
    ) -> None:
        super().__init__()
        if not neighbours or min(neighbours) < 1 or not shrinkages or min(shrinkages) < 0:
            raise ConfigurationError("ItemKNN needs at least one neighbour and shrinkages that are not negative.")
        self.neighbours, self.shrinkages = tuple(neighbours), tuple(shrinkages)
        self.chosen = (neighbours[len(neighbours) // 2], shrinkages[len(shrinkages) // 2])

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        table: tuple[float, NDArray[np.int32], NDArray[np.float32]] | None = None

        def fit(chosen: tuple[int, float]) -> None:
            nonlocal table
            count, shrinkage = chosen
            if table is None or table[0] != shrinkage:
                # Fewer neighbours are a prefix of more: one pass over the items per shrinkage.
                most = count if validation is None else max(self.neighbours)
                table = (shrinkage, *_nearest(stars, most, shrinkage))
            self._set_neighbours(table[1][:count], table[2][:count])

        candidates = [(count, shrinkage) for shrinkage in self.shrinkages for count in self.neighbours]
        self.chosen = best_on_validation(self, fit, candidates, validation, self.chosen)

    def _set_neighbours(self, nearest: NDArray[np.int32], likeness: NDArray[np.float32]) -> None:
        self.nearest, self.likeness = nearest, likeness
        columns = np.tile(np.arange(self.items), len(nearest))
        similar = likeness.ravel() > 0
        self.similarity: Csr = sp.csr_array(
            (likeness.ravel()[similar], (nearest.ravel()[similar], columns[similar])), shape=(self.items, self.items)
        )

    def score(self, stars: Csr) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = (stars @ self.similarity).toarray()
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        users = np.repeat(np.arange(stars.shape[0]), np.diff(stars.indptr))
        explained = items[users]
        similarities = self.similarity[np.repeat(stars.indices, explained.shape[1]), explained.ravel()]
        contributions: NDArray[np.float32] = np.asarray(
            similarities.todense() if sp.issparse(similarities) else similarities
        )
        return contributions.reshape(explained.shape)

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"nearest": self.nearest, "likeness": self.likeness}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self._set_neighbours(weights["nearest"], weights["likeness"])

    def to_config(self) -> dict[str, Any]:
        return {"neighbours": [self.chosen[0]], "shrinkages": [self.chosen[1]]}


def _nearest(stars: Csr, count: int, shrinkage: float) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the `count` nearest items of each item and their similarities, nearest first; each (count, items)."""
    items = stars.shape[1]
    binary = sp.csc_array(stars)
    binary.data = np.ones_like(binary.data)
    transposed = binary.T.tocsr()
    lengths = np.sqrt(np.diff(binary.indptr)).astype(np.float32)
    count = min(count, max(items - 1, 1))
    parts = []
    for start in range(0, items, BLOCK):
        columns = np.arange(start, min(start + BLOCK, items))
        similarity = (transposed @ binary[:, columns]).toarray()
        similarity[columns, columns - start] = 0.0  # no item is its own neighbour
        similarity /= np.maximum(np.outer(lengths, lengths[columns]) + shrinkage, 1e-12)
        nearest = np.argpartition(-similarity, count - 1, axis=0)[:count]
        likeness = np.take_along_axis(similarity, nearest, axis=0)
        order = np.argsort(-likeness, axis=0, kind="stable")
        parts.append((np.take_along_axis(nearest, order, axis=0), np.take_along_axis(likeness, order, axis=0)))
    return (
        np.hstack([part[0] for part in parts]).astype(np.int32),
        np.hstack([part[1] for part in parts]).astype(np.float32),
    )


class EASE(Recommender):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv 1905.03375), with optional dropout.

    It needs one dense float32 matrix of items × items: the Gram matrix is filled block by block, and inverted and
    scaled in place.

    Parameters
    ----------
    lambdas : sequence of float
        Candidates for the L2 weight. The best by NDCG@100 on the validation users is chosen; without validation users,
        the middle one.
    dropouts : sequence of float
        Candidates for the share of a user's items hidden in training, in closed form (Steck, NeurIPS 2020,
        "Autoencoders that don't overfit towards the identity", eq. 10), which regularizes frequent items more. Without
        validation users, the first one.
    """

    name: ClassVar[str] = "ease"

    def __init__(self, lambdas: Sequence[float] = (100.0, 300.0, 1000.0), dropouts: Sequence[float] = (0.0,)) -> None:
        super().__init__()
        if not lambdas or min(lambdas) <= 0:
            raise ConfigurationError("EASE needs at least one lambda, and all above zero.")
        if not dropouts or min(dropouts) < 0 or max(dropouts) >= 1:
            raise ConfigurationError("EASE needs at least one dropout, and all in [0, 1).")
        self.lambdas = tuple(float(value) for value in lambdas)
        self.dropouts = tuple(float(value) for value in dropouts)
        self.chosen_lambda, self.chosen_dropout = self.lambdas[len(self.lambdas) // 2], self.dropouts[0]

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        def fit(chosen: tuple[float, float]) -> None:
            # Only one matrix at a time: the previous one is freed before the next is made.
            self.B = np.empty((0, 0), np.float32)
            self.B = ease_weights(stars, *chosen)

        default = self.chosen_lambda, self.chosen_dropout
        candidates = product(self.lambdas, self.dropouts)
        self.chosen_lambda, self.chosen_dropout = best_on_validation(self, fit, candidates, validation, default)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = stars @ self.B
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        users = np.repeat(np.arange(stars.shape[0]), np.diff(stars.indptr))
        contributions: NDArray[np.float32] = self.B[stars.indices[:, None], items[users]]
        return contributions

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"B": self.B}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.B = weights["B"]

    def to_config(self) -> dict[str, Any]:
        return {"lambdas": [self.chosen_lambda], "dropouts": [self.chosen_dropout]}


def ease_weights(stars: Csr, weight: float, dropout: float = 0.0) -> NDArray[np.float32]:
    """Return the item-item weights of EASE (eq. 8): ``B = I - P / diag(P)`` with P the inverse of ``XᵀX + weight I``.

    Parameters
    ----------
    stars : scipy.sparse CSR, shape (users, items)
    weight : float
        Weight of the L2 norm.
    dropout : float
        A dropout p adds ``p / (1 - p) diag(XᵀX)`` before the inversion.

    Returns
    -------
    ndarray of float32, shape (items, items)
        C-ordered; the diagonal is zero.

    Raises
    ------
    GhAssetsError
        If the matrix cannot be inverted in float32: the weight is too small.
    """
    items = stars.shape[1]
    columns = sp.csc_array(stars)
    transposed = columns.T.tocsr()
    gram = np.empty((items, items), np.float32, order="F")
    for start in range(0, items, BLOCK):
        block = slice(start, min(start + BLOCK, items))
        gram[:, block] = (transposed @ columns[:, block]).toarray()
    diagonal = np.diag_indices(items)
    gram[diagonal] += weight + dropout / (1 - dropout) * gram[diagonal]
    gram, info = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1, clean=0)
    if info == 0:
        gram, info = scipy.linalg.lapack.spotri(gram, lower=1, overwrite_c=1)
    if info != 0:
        raise GhAssetsError(f"EASE cannot invert its matrix with lambda {weight:g}: choose a larger one.")
    # LAPACK leaves the inverse in the lower triangle of the Fortran-ordered matrix: the upper one of its transpose.
    inverse: NDArray[np.float32] = gram.T
    scale = inverse.diagonal().copy()
    for start in range(0, items, BLOCK):
        block = slice(start, min(start + BLOCK, items))
        inside = np.triu(inverse[block, block])
        inverse[block, block] = inside + np.triu(inside, 1).T
        inverse[block.stop :, block] = inverse[block, block.stop :].T
    for start in range(0, items, BLOCK):
        inverse[start : start + BLOCK] /= -scale
    np.fill_diagonal(inverse, 0.0)
    return inverse
