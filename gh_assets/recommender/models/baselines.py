"""The baselines: popularity, item neighbours, EASE and iALS. Their hyperparameters are chosen by one rule."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, TypeVar

import numpy as np
import scipy.linalg.lapack
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from gh_assets.errors import ConfigurationError, GhAssetsError
from gh_assets.recommender.cpu.co_occurrence import add_common_users
from gh_assets.recommender.cpu.compilation import call
from gh_assets.recommender.data.interactions import Csr, row_numbers
from gh_assets.recommender.data.splits import sample_users
from gh_assets.recommender.engine.bags import Bags, portions
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, check_held_out, evaluate
from gh_assets.recommender.models.base import Recommender, Scores

Candidate = TypeVar("Candidate")

MAX_EASE_ITEMS = 12_000
"""Number of repositories up to which EASE is trained: its dense item-item matrix grows with their square."""

CHOOSING_USERS = 1000
"""Validation users on whom the parameters of a model are chosen. Candidates are compared user by user: with as many,
the 95 % interval of a difference in NDCG@100 is about ±0.004."""

CHOOSING_TRAINING_USERS = 25_000
"""Training users with whom the parameters of iALS are chosen: of more, a sample."""

CHOOSING_ITEMS = 6000
"""Items with which the parameters of EASE are chosen: of more, a sample, since a fit's time grows with their cube."""

MOST_FITS = 12
"""Combinations of parameters that are fitted at most: with 6,000 items, a fit of EASE takes some three seconds."""

BLOCK = 1024
"""Items per block where an item-item matrix is filled or scaled."""

ROWS_AT_ONCE = 20_000
"""Rows whose vectors are solved for together."""

LAST_SWEEPS = 3
"""Sweeps of iALS over all training users after those over a sample of them."""

STEPS, FOLD_IN_STEPS = 4, 16
"""Steps of iALS's conjugate gradients: few from the last sweep's result, more from zero."""


def best_on_validation(
    model: Predictor,
    fit: Callable[[Candidate], None],
    candidates: Iterable[Candidate],
    validation: tuple[Csr, Csr] | None,
    default: Candidate,
) -> Candidate:
    """Fit each candidate and leave the model fitted with the best by NDCG@100 on the validation users.

    Without validation users, it is fitted with the default. Only one fitted model is in memory at a time: if the best
    is not the last, it is fitted again.
    """
    if validation is None:
        fit(default)
        return default
    best, best_score, last = default, -math.inf, None
    for candidate in candidates:
        fit(candidate)
        last = candidate
        score = evaluate(model, *validation)[MAIN_METRIC]
        if score > best_score:
            best, best_score = candidate, score
    if best is not last:
        fit(best)
    return best


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` of the numbers below `count`, at even distances."""
    return np.linspace(0, count - 1, min(most, count)).astype(np.int64)


def choosing_users(validation: tuple[Csr, Csr]) -> tuple[Csr, Csr]:
    """Return the fold-in and held-out matrix of up to `CHOOSING_USERS` of the validation users."""
    fold_in, held_out = check_held_out(*validation)
    users = sample_users(held_out, CHOOSING_USERS)
    return fold_in[users], held_out[users]


def climb(
    model: Predictor,
    fit: Callable[[tuple[float, ...]], None],
    axes: Sequence[Sequence[float]],
    start: tuple[float, ...],
    validation: tuple[Csr, Csr] | None,
    most: int = MOST_FITS,
) -> tuple[float, ...]:
    """Leave the model fitted with values from which no neighbouring one on an axis is better; see `best_on_validation`.

    Each axis is walked along from `start` for as long as NDCG@100 rises, and all of them in turn until none does, or
    `most` combinations have been fitted. Up to `CHOOSING_USERS` validation users are asked.
    """
    if validation is None:
        fit(start)
        return start
    fold_in, held_out = choosing_users(validation)
    scores: dict[tuple[float, ...], float] = {}

    def score(values: tuple[float, ...]) -> float:
        if values not in scores:
            try:
                fit(values)
                scores[values] = evaluate(model, fold_in, held_out)[MAIN_METRIC]
            except GhAssetsError:
                if values == start:
                    raise
                scores[values] = -math.inf
        return scores[values]

    best, before = start, None
    while best != before:
        before = best
        for axis, candidates in enumerate(axes):
            for step in (1, -1):
                place = candidates.index(best[axis]) + step
                while 0 <= place < len(candidates) and len(scores) < most:
                    neighbour = (*best[:axis], candidates[place], *best[axis + 1 :])
                    if score(best) >= score(neighbour):
                        break
                    best, place = neighbour, place + step
    if not scores or list(scores)[-1] != best:
        fit(best)
    return best


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


class Neighbours(Recommender):
    """An item's score is the sum of its similarities to those of its nearest neighbours that the user has.

    Attributes
    ----------
    nearest : ndarray of int32, shape (neighbours, items)
        Neighbours of each item, nearest first.
    likeness : ndarray of float32, shape (neighbours, items)
        Their similarities. No matrix of items × items is needed: only `BLOCK` of its rows exist at a time.
    """

    def set_neighbours(self, nearest: NDArray[np.int32], likeness: NDArray[np.float32]) -> None:
        # Each item's neighbours in one piece: lists are explained item by item.
        self.nearest, self.likeness = np.asfortranarray(nearest), np.asfortranarray(likeness)
        columns = np.tile(np.arange(self.items), len(nearest))
        similar = likeness.ravel() > 0
        self.similarity: Csr = sp.csr_array(
            (likeness.ravel()[similar], (nearest.ravel()[similar], columns[similar])), shape=(self.items, self.items)
        )

    def score(self, stars: Csr) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = (stars @ self.similarity).toarray()
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        contributions = np.zeros((stars.nnz, items.shape[1]), np.float32)
        place_of = np.full(self.items, -1)
        for user, explained in enumerate(items):
            low, high = stars.indptr[user], stars.indptr[user + 1]
            place_of[stars.indices[low:high]] = np.arange(low, high)
            places = place_of[self.nearest.T[explained]]
            columns, neighbours = np.nonzero(places >= 0)
            contributions[places[columns, neighbours], columns] = self.likeness.T[explained[columns], neighbours]
            place_of[stars.indices[low:high]] = -1
        return contributions

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"nearest": self.nearest, "likeness": self.likeness}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.set_neighbours(weights["nearest"], weights["likeness"])


class ItemKNN(Neighbours):
    """Item neighbours by shrunk cosine (Sarwar et al., WWW 2001; shrinkage of Bell & Koren, KDD 2007).

    The similarity of items i and j with c users in common is ``c / (√(n_i n_j) + shrinkage)``.

    Parameters
    ----------
    neighbours, shrinkages : sequence
        Candidates for the number of neighbours per item and for the shrinkage. The best by NDCG@100 on the validation
        users are chosen; without validation users, the middle ones.
    """

    name: ClassVar[str] = "itemknn"

    def __init__(
        self, neighbours: Sequence[int] = (20, 50, 100, 200), shrinkages: Sequence[float] = (0.0, 10.0, 50.0)
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
                table = (shrinkage, *nearest_items(stars, most, shrinkage=shrinkage))
            self.set_neighbours(table[1][:count], table[2][:count])

        if validation is not None:
            validation = choosing_users(validation)
        candidates = [(count, shrinkage) for shrinkage in self.shrinkages for count in self.neighbours]
        self.chosen = best_on_validation(self, fit, candidates, validation, self.chosen)

    def to_config(self) -> dict[str, Any]:
        return {"neighbours": [self.chosen[0]], "shrinkages": [self.chosen[1]]}


class RP3Beta(Neighbours):
    """Random walks of three steps, with popular items reranked (Paudel et al., ACM TiiS 7(1), 2016: RP³β).

    A walk goes from the user to one of its items i, to another user of it, to one of that user's items j. Items i and j
    are as similar as ``Σ 1 / (n_i n_u)^α / n_j^β`` over the users u in common, with n stars each.

    Parameters
    ----------
    betas, alphas : sequence of float
        Candidates, ascending. The best by NDCG@100 on the validation users are chosen, see `climb`; without validation
        users, the middle ones.
    neighbours : sequence of int
        Candidates for the number of neighbours per item.
    """

    name: ClassVar[str] = "rp3beta"

    def __init__(
        self,
        betas: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
        alphas: Sequence[float] = (0.5, 0.75, 1.0, 1.25),
        neighbours: Sequence[int] = (25, 50, 100, 200),
    ) -> None:
        super().__init__()
        if not all((betas, alphas, neighbours)) or min(neighbours) < 1 or min(*betas, *alphas) < 0:
            raise ConfigurationError("RP3beta needs at least one neighbour, and exponents that are not negative.")
        self.betas, self.alphas, self.neighbours = tuple(betas), tuple(alphas), tuple(neighbours)
        self.chosen: tuple[float, ...] = tuple(axis[len(axis) // 2] for axis in (betas, alphas, neighbours))

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        counts = np.maximum(np.bincount(stars.indices, minlength=self.items), 1).astype(np.float32)
        most = max(self.neighbours) if validation else int(self.chosen[2])

        @cache
        def walks(alpha: float) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
            return nearest_items(stars, most, users=alpha, own=alpha, recommended=0.0)

        def fit(chosen: tuple[float, ...]) -> None:
            beta, alpha, count = chosen
            nearest, likeness = walks(alpha)  # β does not change which neighbours an item has
            self.set_neighbours(nearest[: int(count)], likeness[: int(count)] / counts**beta)

        axes = self.betas, self.alphas, self.neighbours
        self.chosen = climb(self, fit, axes, self.chosen, validation, math.prod(map(len, axes)))

    def to_config(self) -> dict[str, Any]:
        beta, alpha, count = self.chosen
        return {"betas": [beta], "alphas": [alpha], "neighbours": [int(count)]}


def nearest_items(
    stars: Csr, count: int, *, users: float = 0.0, own: float = 0.5, recommended: float = 0.5, shrinkage: float = 0.0
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the nearest neighbours of each item, by weighted counts of the users in common.

    The similarity of a user's item i to a recommended item j is the sum of ``1 / n_u^users`` over the users u of both,
    divided by ``n_i^own n_j^recommended + shrinkage``, with n the numbers of stars.

    Returns
    -------
    nearest : ndarray of int32, shape (count, items)
        Nearest first.
    likeness : ndarray of float32, shape (count, items)
    """
    items = stars.shape[1]
    counts = np.maximum(np.bincount(stars.indices, minlength=items), 1).astype(np.float32)
    lengths = np.maximum(np.diff(stars.indptr), 1).astype(np.float32)
    count = min(count, max(items - 1, 1))
    nearest, likeness = np.empty((items, count), np.int32), np.empty((items, count), np.float32)

    def fill(start: int, similarity: NDArray[np.float32]) -> None:
        rows = np.arange(start, start + len(similarity))
        similarity[rows - start, rows] = 0.0  # no item is its own neighbour
        similarity /= np.outer(counts[rows] ** recommended, counts**own) + shrinkage
        best = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(similarity, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        nearest[rows], likeness[rows] = (np.take_along_axis(part, order, axis=1) for part in (best, values))

    common_users(stars, lengths**-users, fill)
    return nearest.T, likeness.T


def common_users(stars: Csr, weights: NDArray[np.float32], use: Callable[[int, NDArray[np.float32]], None]) -> None:
    """Add up the weights of the users whom each two items have in common, `BLOCK` items at a time in all threads.

    Parameters
    ----------
    stars : scipy.sparse CSR, shape (users, items)
    weights : ndarray of float32, shape (users,)
    use : callable
        Called with the first item of a block and the sums, (items of the block, items), in any order of the blocks.
    """
    columns = stars.tocsc()
    sides = [
        (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False)) for matrix in (columns, stars)
    ]
    items, threads = stars.shape[1], torch.get_num_threads()
    size = -(-BLOCK // threads)

    def block(start: int) -> None:
        total = np.zeros((min(size, items - start), items), np.float32)
        call(add_common_users, total, start, *sides[0], *sides[1], weights)
        use(start, total)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(block, range(0, items, size)))


class EASE(Recommender):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv 1905.03375), with optional dropout and scaling.

    It needs dense float32 matrices of items × items: the Gram matrix is filled block by block, and inverted and scaled
    in place; while parameters are chosen, a second one is kept.

    Parameters
    ----------
    lambdas : sequence of float
        Candidates for the L2 weight, ascending. The best by NDCG@100 on the validation users is chosen, see `climb`,
        with up to `CHOOSING_ITEMS`; without validation users, the middle one.
    dropouts : sequence of float
        Candidates, ascending, for the share of a user's items hidden in training, in closed form (Steck, NeurIPS 2020,
        "Autoencoders that don't overfit towards the identity", eq. 10: EDLAE), which regularizes frequent items more.
        Without validation users, the first one.
    scalings : sequence of float
        Candidates, ascending, for an exponent t: items are divided by their number of users to the power t before the
        fit, and the weights scaled back, as the normalization of linear autoencoders by popularity does (Park et al.,
        SIGIR 2024). It leaves rare items more of their weight. Without validation users, the first one.
    """

    name: ClassVar[str] = "ease"

    def __init__(
        self,
        lambdas: Sequence[float] = (10.0, 30.0, 100.0, 300.0, 1000.0),
        dropouts: Sequence[float] = (0.0,),
        scalings: Sequence[float] = (0.0,),
    ) -> None:
        super().__init__()
        if not lambdas or min(lambdas) <= 0:
            raise ConfigurationError("EASE needs at least one lambda, and all above zero.")
        if not dropouts or min(dropouts) < 0 or max(dropouts) >= 1:
            raise ConfigurationError("EASE needs at least one dropout, and all in [0, 1).")
        if not scalings or min(scalings) < 0:
            raise ConfigurationError("EASE needs at least one scaling, and none below zero.")
        self.lambdas, self.dropouts, self.scalings = (tuple(map(float, axis)) for axis in (lambdas, dropouts, scalings))
        self.chosen: tuple[float, ...] = (self.lambdas[len(self.lambdas) // 2], self.dropouts[0], self.scalings[0])

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        axes = self.lambdas, self.dropouts, self.scalings
        larger: Iterator[float] = iter(())
        if validation is not None and self.items > CHOOSING_ITEMS:
            train, *others = (matrix[:, evenly(self.items, CHOOSING_ITEMS)] for matrix in (stars, *validation))
            if train.nnz and others[1].nnz:
                self.chosen, validation = EASE(*axes).fit(train, (others[0], others[1])).chosen, None
                larger = (value for value in self.lambdas if value > self.chosen[0])
        gram = gram_matrix(stars)

        def fit(chosen: tuple[float, ...]) -> None:
            # The previous matrix is freed before the next is made.
            self.B = np.empty((0, 0), np.float32)
            self.B = ease_weights(gram.copy(order="F"), *chosen)

        while True:
            try:
                self.chosen = climb(self, fit, axes, self.chosen, validation)
                return
            except GhAssetsError:  # a λ that suffices for a sample of the items may be too small for all of them
                if (value := next(larger, None)) is None:
                    raise
                self.chosen = (value, *self.chosen[1:])

    def score(self, stars: Csr) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = stars @ self.B
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        users = row_numbers(stars)
        contributions: NDArray[np.float32] = self.B[stars.indices[:, None], items[users]]
        return contributions

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"B": self.B}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.B = weights["B"]

    def to_config(self) -> dict[str, Any]:
        weight, dropout, scaling = self.chosen
        return {"lambdas": [weight], "dropouts": [dropout], "scalings": [scaling]}


def linear_model(items: int) -> Recommender:
    """Return EASE, or item neighbours if there are too many items for its dense matrices."""
    if items > MAX_EASE_ITEMS:
        return ItemKNN()
    return EASE((10.0, 30.0, 100.0, 300.0, 1000.0), (0.0, 0.5, 0.66, 0.8), (0.0, 0.2, 0.4))


def gram_matrix(stars: Csr) -> NDArray[np.float32]:
    """Return the number of users whom each two items have in common, (items, items)."""
    gram = np.empty((stars.shape[1], stars.shape[1]), np.float32, order="F")

    def fill(start: int, common: NDArray[np.float32]) -> None:
        gram[:, start : start + len(common)] = common.T

    common_users(stars, np.ones(stars.shape[0], np.float32), fill)
    return gram


def ease_weights(
    gram: NDArray[np.float32], weight: float, dropout: float = 0.0, scaling: float = 0.0
) -> NDArray[np.float32]:
    """Return the item-item weights of EASE (eq. 8): ``B = I - P / diag(P)`` with P the inverse of ``XᵀX + weight I``.

    Parameters
    ----------
    gram : ndarray of float32, shape (items, items)
        ``XᵀX``, in Fortran's order; overwritten.
    weight : float
        Weight of the L2 norm.
    dropout : float
        A dropout p adds ``p / (1 - p) diag(XᵀX)`` before the inversion.
    scaling : float
        Columns of X are divided by their number of users, relative to the mean, to this power; see `EASE`.

    Returns
    -------
    ndarray of float32, shape (items, items)
        C-ordered; the diagonal is zero.

    Raises
    ------
    GhAssetsError
        If the matrix cannot be inverted in float32: the weight is too small.
    """
    items = len(gram)
    counts = np.maximum(gram.diagonal(), 1)
    factors = ((counts / counts.mean()) ** -scaling).astype(np.float32)
    for start in range(0, items, BLOCK):
        gram[:, start : start + BLOCK] *= factors[:, None] * factors[start : start + BLOCK]
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
        inverse[start : start + BLOCK] *= factors[start : start + BLOCK, None] / (-scale * factors)
    np.fill_diagonal(inverse, 0.0)
    return inverse


@dataclass(frozen=True)
class _Rows:
    """Rows of a matrix as bags, and as the sparsity pattern at which products of two factors are computed."""

    bags: Bags
    pattern: Tensor  # sparse CSR

    @classmethod
    def of(cls, stars: Csr) -> list[_Rows]:
        parts = []
        for low in range(0, stars.shape[0], ROWS_AT_ONCE):
            part = stars[low : low + ROWS_AT_ONCE]
            bags = Bags.of(part, torch.device("cpu"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # sparse CSR tensors are in beta
                pattern = torch.sparse_csr_tensor(
                    torch.from_numpy(part.indptr.astype(np.int64)), bags.items, torch.zeros(part.nnz), part.shape
                )
            parts.append(cls(bags, pattern))
        return parts

    def observed(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the sum of ``(pq) q`` over the columns q of each row p."""
        products = torch.sparse.sampled_addmm(self.pattern, rows, columns.T, beta=0.0).values()
        return replace(self.bags, weights=products).sums(columns)


class ALS(Recommender):
    """iALS (Hu, Koren & Volinsky, ICDM 2008) as Rendle et al. tune it (RecSys 2022, arXiv 2110.14037).

    Minimizes, over the vectors p of users and q of items, ``Σ_stars (1 - pq)² + alpha Σ_all (pq)²`` plus L2 norms that
    are weighted by how often a user or an item occurs: ``lambda (n + alpha m)`` for one that has n of the m others.
    Each half of a sweep solves its normal equations by conjugate gradients (Takács et al., RecSys 2011), for thousands
    of rows at once.

    Parameters
    ----------
    factors : int
        Length of the vectors.
    alphas, lambdas : sequence of float
        Candidates. The best by NDCG@100 on the validation users are chosen, first alpha with the middle lambda, then
        lambda; without validation users, the middle ones. They are chosen with up to `CHOOSING_TRAINING_USERS`; both
        count relative to the number of users. Where there are more, `LAST_SWEEPS` over all of them follow.
    sweeps : int
    seed : int
    """

    name: ClassVar[str] = "ials"

    def __init__(
        self,
        factors: int = 128,
        alphas: tuple[float, ...] | list[float] = (0.03, 0.1, 0.3),
        lambdas: tuple[float, ...] | list[float] = (0.001, 0.003, 0.01),
        sweeps: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if factors < 1 or sweeps < 1:
            raise ConfigurationError("iALS needs at least one factor and one sweep.")
        if not alphas or min(alphas) <= 0 or not lambdas or min(lambdas) <= 0:
            raise ConfigurationError("iALS needs at least one alpha and one lambda, and all above zero.")
        self.factors, self.sweeps, self.seed = factors, sweeps, seed
        self.alphas, self.lambdas = tuple(map(float, alphas)), tuple(map(float, lambdas))
        self.chosen = (self.alphas[len(self.alphas) // 2], self.lambdas[len(self.lambdas) // 2])

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        sample = stars
        if validation is not None and stars.shape[0] > CHOOSING_TRAINING_USERS:
            sample = stars[evenly(stars.shape[0], CHOOSING_TRAINING_USERS)]
        users, items = _Rows.of(sample), _Rows.of(sample.T.tocsr())

        def fit(chosen: tuple[float, float]) -> None:
            self.chosen = chosen
            generator = torch.Generator().manual_seed(self.seed)
            self.vectors = torch.randn((self.items, self.factors), generator=generator) * 0.1 / self.factors**0.5
            self._alternate(users, items, self.sweeps)

        middle = self.chosen[1]
        if validation is not None:
            validation = choosing_users(validation)
            candidates = [(alpha, middle) for alpha in self.alphas]
            self.chosen = best_on_validation(self, fit, candidates, validation, self.chosen)
        candidates = [(self.chosen[0], weight) for weight in self.lambdas]
        self.chosen = best_on_validation(self, fit, candidates, validation, self.chosen)
        if sample is not stars:
            self._alternate(_Rows.of(stars), _Rows.of(stars.T.tocsr()), LAST_SWEEPS)

    def _alternate(self, users: list[_Rows], items: list[_Rows], sweeps: int) -> None:
        """Solve for the vectors of users and of items in turn, beginning with those that the items have."""
        user_vectors = torch.zeros((sum(len(part.bags.lengths) for part in users), self.factors))
        for _ in range(sweeps):
            user_vectors = self._solved(users, self.vectors, user_vectors, STEPS)
            self.vectors = self._solved(items, user_vectors, self.vectors, STEPS)

    def _solved(self, parts: list[_Rows], others: Tensor, start: Tensor, steps: int) -> Tensor:
        """Solve for the vectors of the rows, given those of the columns, by weighted least squares."""
        alpha, weight = self.chosen
        common = alpha * (others.T @ others)
        solved = []
        for part, vectors in zip(parts, portions(start, ROWS_AT_ONCE), strict=True):
            ridge = weight * (part.bags.lengths + alpha * len(others))[:, None]

            def applied(rows: Tensor, part: _Rows = part, ridge: Tensor = ridge) -> Tensor:
                return part.observed(rows, others) + rows @ common + ridge * rows

            solved.append(_conjugate_gradients(applied, part.bags.sums(others, weighted=False), vectors, steps))
        return torch.cat(solved)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        start = torch.zeros((stars.shape[0], self.factors))
        users = self._solved(_Rows.of(stars), self.vectors, start, FOLD_IN_STEPS)
        scores: NDArray[np.float32] = (users @ self.vectors.T).numpy()
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        """Return the exact terms ``qᵀ W⁻¹ q_i`` of a score over the user's items i (Hu et al. 2008, section 5)."""
        alpha, weight = self.chosen
        vectors = self.vectors.double()
        common = alpha * (vectors.T @ vectors)
        contributions = np.zeros((stars.nnz, items.shape[1]), np.float32)
        for user in range(stars.shape[0]):
            low, high = stars.indptr[user], stars.indptr[user + 1]
            own = vectors[torch.from_numpy(stars.indices[low:high].astype(np.int64))]
            ridge = weight * (high - low + alpha * self.items)
            normal = common + own.T @ own + ridge * torch.eye(self.factors, dtype=torch.float64)
            solved = torch.linalg.solve(normal, vectors[torch.from_numpy(items[user])].T)
            contributions[low:high] = (own @ solved).float().numpy()
        return contributions

    def item_vectors(self) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.vectors.numpy()
        return vectors

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"vectors": self.vectors.numpy()}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.vectors = torch.from_numpy(weights["vectors"])

    def to_config(self) -> dict[str, Any]:
        alpha, weight = self.chosen
        return {
            "factors": self.factors,
            "alphas": [alpha],
            "lambdas": [weight],
            "sweeps": self.sweeps,
            "seed": self.seed,
        }


def _conjugate_gradients(applied: Callable[[Tensor], Tensor], target: Tensor, start: Tensor, steps: int) -> Tensor:
    """Solve a system for each row by conjugate gradients from `start`."""
    solution = start.clone()
    residual = target - applied(solution)
    direction = residual.clone()
    squared = (residual * residual).sum(dim=1, keepdim=True)
    for _ in range(steps):
        image = applied(direction)
        step = squared / (direction * image).sum(dim=1, keepdim=True).clamp(min=1e-20)
        solution += step * direction
        residual -= step * image
        after = (residual * residual).sum(dim=1, keepdim=True)
        direction = residual + after / squared.clamp(min=1e-20) * direction
        squared = after
    return solution
