"""Closed-form low-pass filters on the graph of users and items, which need few stars of a user."""

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.data.interactions import Csr, row_numbers
from gh_assets.recommender.data.splits import cut_histories, sample_users
from gh_assets.recommender.engine.spectral import spectrum
from gh_assets.recommender.evaluation.evaluation import LENGTHS
from gh_assets.recommender.models.base import Recommender, Scores
from gh_assets.recommender.models.baselines import CHOOSING_USERS, best_on_validation


class GraphFilter(Recommender):
    """A graph Wiener filter: it keeps the more of a frequency, the more stars of the user are known.

    The user's stars are a signal on the graph whose items are joined by the users in common, normalized as in GF-CF
    (Shen et al., CIKM 2021, arXiv 2108.07567). Its frequencies are the singular vectors v of the normalized matrix, and
    the energy that a user's taste has in one is proportional to the squared singular value σ². A few stars are a noisy
    sample of the taste, with a variance that falls with their number n; the linear estimate with the least squared
    error then weighs each frequency by σ² / (σ² + noise / n) (Wiener; on graphs: Perraudin & Vandergheynst, IEEE TSP
    2017, arXiv 1601.02522). GF-CF's ideal filter is its limit: 1 up to a frequency, 0 above, for all users.

    Parameters
    ----------
    factors : int
        Number of frequencies.
    noises : sequence of float
        Candidates. The best by the mean of NDCG@100 over `LENGTHS` of the validation users is chosen; without
        validation users, the middle one.
    """

    name: ClassVar[str] = "graph-filter"

    def __init__(self, factors: int = 128, noises: tuple[float, ...] | list[float] = (0.3, 1.0, 3.0, 10.0)) -> None:
        super().__init__()
        if factors < 1 or not noises or min(noises) < 0:
            raise ConfigurationError("A graph filter needs at least one factor, and noises that are not negative.")
        self.factors, self.noises = factors, tuple(map(float, noises))
        self.noise = self.noises[len(self.noises) // 2]

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        values, vectors = spectrum(stars, self.factors)
        counts = np.bincount(stars.indices, minlength=self.items)
        roots = np.sqrt(np.maximum(counts, 1)).astype(np.float32)
        self.restore({"values": values, "vectors": vectors, "roots": roots})

        def fit(noise: float) -> None:
            self.noise = noise

        candidates = self.noises if len(self.noises) > 1 else ()
        cut = validation if validation is None else all_lengths(*validation)
        self.noise = best_on_validation(self, fit, candidates, cut, self.noise)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        ones: Csr = sp.csr_array((np.ones(stars.nnz, np.float32), stars.indices, stars.indptr), shape=stars.shape)
        scores: NDArray[np.float32] = (ones @ self.inputs) * self._gains(stars) @ self.outputs
        return scores

    def contributions(self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None) -> NDArray[np.float32]:
        given = self.inputs[stars.indices] * self._gains(stars)[row_numbers(stars)]
        contributions = np.empty((stars.nnz, items.shape[1]), np.float32)
        for user in range(stars.shape[0]):
            low, high = stars.indptr[user], stars.indptr[user + 1]
            contributions[low:high] = given[low:high] @ self.outputs[:, items[user]]
        return contributions

    def _gains(self, stars: Csr) -> NDArray[np.float32]:
        """Return how much of each frequency is kept, (users, factors)."""
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
        # The maps from stars to frequencies, (items, factors), and from frequencies to scores, (factors, items).
        self.inputs, self.outputs = self.vectors / self.roots[:, None], self.vectors.T * self.roots

    def to_config(self) -> dict[str, Any]:
        return {"factors": self.factors, "noises": [self.noise]}


def all_lengths(fold_in: Csr, held_out: Csr) -> tuple[Csr, Csr]:
    """Return up to `CHOOSING_USERS` users, each once for each length of their histories; see `LENGTHS`."""
    users = sample_users(held_out, CHOOSING_USERS)
    given: Csr = sp.csr_array(sp.vstack([cut_histories(fold_in[users], length) for length in LENGTHS]))
    hidden: Csr = sp.csr_array(sp.vstack([held_out[users]] * len(LENGTHS)))
    return given, hidden
