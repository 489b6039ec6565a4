"""Closed-form low-pass filters on the graph of users and items, which need few stars of a user."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.data.interactions import Csr, row_numbers
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.engine.spectral import spectrum
from gh_assets.recommender.evaluation.evaluation import LENGTHS
from gh_assets.recommender.models.base import Recommender, Scores
from gh_assets.recommender.models.baselines import Neighbours, best_on_validation, choosing_users, climb, nearest_items


class LowRank(Recommender):
    """Scores that are a linear map of a user's stars to a few frequencies, and of these to items.

    Attributes
    ----------
    inputs : ndarray of float32, shape (items, frequencies)
    outputs : ndarray of float32, shape (frequencies, items)
    of_items : ndarray of float32, shape (items, frequencies)
        The outputs transposed.
    """

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    of_items: NDArray[np.float32]

    def set_factors(self, inputs: NDArray[np.float32], outputs: NDArray[np.float32]) -> None:
        # Both orders, since few users are scored faster in one, and explained item by item in the other.
        self.inputs = inputs
        self.outputs, self.of_items = np.ascontiguousarray(outputs), np.ascontiguousarray(outputs.T)

    def gains(self, stars: Csr) -> NDArray[np.float32]:
        """Return how much of each frequency is kept, (users, frequencies) or (1, frequencies)."""
        return np.ones((1, len(self.outputs)), np.float32)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        ones: Csr = sp.csr_array((np.ones(stars.nnz, np.float32), stars.indices, stars.indptr), shape=stars.shape)
        scores: NDArray[np.float32] = (ones @ self.inputs) * self.gains(stars) @ self.outputs
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        gains = np.broadcast_to(self.gains(stars), (stars.shape[0], len(self.outputs)))
        given = self.inputs[stars.indices] * gains[row_numbers(stars)]
        outputs = self.of_items[items]
        contributions = np.empty((stars.nnz, items.shape[1]), np.float32)
        for user in range(stars.shape[0]):
            low, high = stars.indptr[user], stars.indptr[user + 1]
            np.matmul(given[low:high], outputs[user].T, out=contributions[low:high])
        return contributions

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"inputs": self.inputs, "outputs": self.outputs}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.set_factors(weights["inputs"], weights["outputs"])
        if self.inputs.shape != self.outputs.shape[::-1] or len(self.inputs) != self.items:
            raise ValueError(f"its factors do not fit {self.items} items")


class GraphFilter(LowRank):
    """A graph Wiener filter: it keeps the more of a frequency, the more stars of the user are known.

    The user's stars are a signal on the graph whose items are joined by the users in common, normalized as in `GFCF`.
    Its frequencies are the singular vectors v of the normalized matrix, and the energy that a user's taste has in one
    is proportional to the squared singular value σ². A few stars are a noisy sample of the taste, with a variance that
    falls with their number n; the linear estimate with the least squared error then weighs each frequency by
    σ² / (σ² + noise / n) (Wiener; on graphs: Perraudin & Vandergheynst, IEEE TSP 2017, arXiv 1601.02522).

    Parameters
    ----------
    factors : int
        Number of frequencies.
    noises : sequence of float
        Candidates. The best by the mean of NDCG@100 over `LENGTHS` of the validation users is chosen; without
        validation users, the middle one.
    """

    name: ClassVar[str] = "graph-filter"

    def __init__(self, factors: int = 128, noises: Sequence[float] = (0.3, 1.0, 3.0, 10.0)) -> None:
        super().__init__()
        if factors < 1 or not noises or min(noises) < 0:
            raise ConfigurationError("A graph filter needs at least one factor, and noises that are not negative.")
        self.factors, self.noises = factors, tuple(map(float, noises))
        self.noise = self.noises[len(self.noises) // 2]

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        values, vectors = spectrum(stars, self.factors)
        self.restore({"values": values, "vectors": vectors, "roots": root_counts(stars)})

        def fit(noise: float) -> None:
            self.noise = noise

        candidates = self.noises if len(self.noises) > 1 else ()
        cut = validation if validation is None else all_lengths(*validation)
        self.noise = best_on_validation(self, fit, candidates, cut, self.noise)

    def gains(self, stars: Csr) -> NDArray[np.float32]:
        energy = np.square(self.values)
        noise = self.noise / np.maximum(np.diff(stars.indptr), 1)[:, None]
        gains: NDArray[np.float32] = (energy / np.maximum(energy + noise, 1e-12)).astype(np.float32)
        return gains

    def item_vectors(self) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.vectors * self.values
        return vectors

    def weights(self) -> dict[str, NDArray[Any]]:
        return {"values": self.values, "vectors": self.vectors, "roots": self.roots}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.values, self.vectors, self.roots = weights["values"], weights["vectors"], weights["roots"]
        if self.vectors.shape != (self.items, len(self.values)) or self.roots.shape != (self.items,):
            raise ValueError(f"its factors do not fit {self.items} items")
        self.set_factors(self.vectors / self.roots[:, None], self.vectors.T * self.roots)

    def to_config(self) -> dict[str, Any]:
        return {"factors": self.factors, "noises": [self.noise]}


class SVDAE(LowRank):
    """SVD-AE, a linear autoencoder in closed form (Hong et al., IJCAI 2024, arXiv 2405.04746).

    It is the least-squares map from the rows of the normalized matrix, see `spectrum`, to those of the matrix itself,
    with all but the largest singular values left out: ``VΣ⁻¹UᵀR``.

    Parameters
    ----------
    factors : sequence of int
        Candidates, ascending, for the number of singular values. The best by NDCG@100 on the validation users is
        chosen, see `climb`; without validation users, the middle one.
    """

    name: ClassVar[str] = "svd-ae"

    def __init__(self, factors: Sequence[int] = (16, 32, 64, 128, 256)) -> None:
        super().__init__()
        if not factors or min(factors) < 1:
            raise ConfigurationError("SVD-AE needs at least one factor.")
        self.factors = tuple(factors)
        self.chosen: tuple[float, ...] = (factors[len(factors) // 2],)

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        values, vectors = spectrum(stars, max(self.factors) if validation else int(self.chosen[0]))
        inputs = vectors / np.maximum(values, 1e-6) / root_counts(stars)[:, None]
        lengths = np.sqrt(np.maximum(np.diff(stars.indptr), 1)).astype(np.float32)
        ones: Csr = sp.csr_array((np.ones(stars.nnz, np.float32), stars.indices, stars.indptr), shape=stars.shape)
        outputs = (ones.T @ (ones @ inputs / lengths[:, None])).T

        def fit(chosen: tuple[float, ...]) -> None:
            count = int(chosen[0])
            self.restore({"inputs": inputs[:, :count], "outputs": outputs[:count]})

        self.chosen = climb(self, fit, (self.factors,), self.chosen, validation)

    def to_config(self) -> dict[str, Any]:
        return {"factors": [int(self.chosen[0])]}


class GFCF(LowRank, Neighbours):
    """GF-CF: a linear and an ideal low-pass filter on the graph of users and items (Shen et al., CIKM 2021).

    With R̃ the matrix whose entries are divided by the square roots of the user's and the item's number of stars, the
    linear filter is R̃ᵀR̃. The ideal one keeps the frequencies of R̃ with the largest singular values as they are, and
    drops the others (arXiv 2108.07567, eq. 9). Unlike the paper's, the linear filter is cut to the nearest neighbours
    of each item: this needs no matrix of items × items, and is better.

    Parameters
    ----------
    factors : sequence of int
        Candidates, ascending, for the number of frequencies that the ideal filter keeps.
    alphas : sequence of float
        Candidates, ascending, for the weight of the ideal filter.
    neighbours : sequence of int
        Candidates, ascending, for the number of neighbours of each item in the linear filter. The best combination by
        NDCG@100 on the validation users is chosen, see `climb`; without validation users, the middle ones.
    """

    name: ClassVar[str] = "gf-cf"

    def __init__(
        self,
        factors: Sequence[int] = (32, 64, 128, 256),
        alphas: Sequence[float] = (0.1, 0.3, 1.0),
        neighbours: Sequence[int] = (50, 200),
    ) -> None:
        super().__init__()
        if not all((factors, alphas, neighbours)) or min(*factors, *neighbours) < 1 or min(alphas) < 0:
            raise ConfigurationError("GF-CF needs at least one factor and neighbour, and alphas that are not negative.")
        self.factors, self.alphas, self.neighbours = tuple(factors), tuple(alphas), tuple(neighbours)
        self.chosen: tuple[float, ...] = tuple(axis[len(axis) // 2] for axis in (factors, alphas, neighbours))

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        axes = self.factors, self.alphas, self.neighbours
        most = [int(max(axis)) for axis in axes] if validation else [int(value) for value in self.chosen]
        _, vectors = spectrum(stars, most[0])
        nearest, likeness = nearest_items(stars, most[2], users=1.0)
        roots = root_counts(stars)

        def fit(chosen: tuple[float, ...]) -> None:
            kept, neighbours = vectors[:, : int(chosen[0])], int(chosen[2])
            self.set_factors(chosen[1] * kept / roots[:, None], kept.T * roots)
            self.set_neighbours(nearest[:neighbours], likeness[:neighbours])

        self.chosen = climb(self, fit, axes, self.chosen, validation)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        return LowRank.score(self, stars) + Neighbours.score(self, stars)

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        return LowRank.contributions(self, stars, items) + Neighbours.contributions(self, stars, items)

    def weights(self) -> dict[str, NDArray[Any]]:
        return {**LowRank.weights(self), **Neighbours.weights(self)}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        LowRank.restore(self, weights)
        Neighbours.restore(self, weights)

    def to_config(self) -> dict[str, Any]:
        factors, alpha, neighbours = self.chosen
        return {"factors": [int(factors)], "alphas": [alpha], "neighbours": [int(neighbours)]}


def root_counts(stars: Csr) -> NDArray[np.float32]:
    """Return the square root of each item's number of stars, at least 1."""
    return np.sqrt(np.maximum(np.bincount(stars.indices, minlength=stars.shape[1]), 1)).astype(np.float32)


def all_lengths(fold_in: Csr, held_out: Csr) -> tuple[Csr, Csr]:
    """Return up to `CHOOSING_USERS` users, each once for each length of their histories; see `LENGTHS`."""
    whole, held_out = choosing_users((fold_in, held_out))
    given: Csr = sp.csr_array(sp.vstack([cut_histories(whole, length) for length in LENGTHS]))
    hidden: Csr = sp.csr_array(sp.vstack([held_out] * len(LENGTHS)))
    return given, hidden
