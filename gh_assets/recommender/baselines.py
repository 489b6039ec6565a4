"""Popularity and EASE: what RecVAE has to beat, on the same split."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender.base import Recommender
from gh_assets.recommender.interactions import Csr
from gh_assets.recommender.metrics import NDCG_AT, evaluate


class Popularity(Recommender):
    """Everybody gets what most users have."""

    name: ClassVar[str] = "popularity"

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        self.counts = np.bincount(stars.indices, minlength=self.items).astype(np.float32)

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        return np.tile(self.counts, (stars.shape[0], 1))

    def _weights(self) -> dict[str, NDArray[Any]]:
        return {"counts": self.counts}

    def _restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.counts = weights["counts"]


class EASE(Recommender):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv 1905.03375).

    Parameters
    ----------
    lambdas : sequence of float
        L2 weights to choose from: the best on the validation users by NDCG@100; without them, the middle one.
    """

    name: ClassVar[str] = "ease"

    def __init__(self, lambdas: tuple[float, ...] | list[float] = (100.0, 300.0, 1000.0)) -> None:
        super().__init__()
        if not lambdas or min(lambdas) <= 0:
            raise InvalidInteractionsError("EASE needs at least one lambda, and all above zero.")
        self.lambdas = tuple(float(value) for value in lambdas)
        self.chosen_lambda = self.lambdas[len(self.lambdas) // 2]

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        gram = (stars.T @ stars).toarray().astype(np.float32)
        diagonal = np.diag_indices(self.items)
        candidates = self.lambdas if validation is not None else (self.chosen_lambda,)
        best: tuple[float, NDArray[np.float32]] | None = None
        for value in candidates:
            regularized = gram.copy()
            regularized[diagonal] += value
            # Eq. 8: B = I - P / diag(P) with P the inverse of the regularized Gram matrix.
            precision = scipy.linalg.cho_solve(
                scipy.linalg.cho_factor(regularized, overwrite_a=True, check_finite=False),
                np.eye(self.items, dtype=np.float32),
                overwrite_b=True,
                check_finite=False,
            )
            self.B = -precision / np.diag(precision)
            self.B[diagonal] = 0.0
            score = evaluate(self, *validation)[f"ndcg@{NDCG_AT}"] if validation is not None else 0.0
            if best is None or score > best[0]:
                best = (score, self.B)
                self.chosen_lambda = value
        if best is not None:
            self.B = best[1]

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = stars @ self.B
        return scores

    def _contributions(self, stars: Csr, items: NDArray[np.int64]) -> NDArray[np.float32]:
        users = np.repeat(np.arange(stars.shape[0]), np.diff(stars.indptr))
        contributions: NDArray[np.float32] = self.B[stars.indices[:, None], items[users]]
        return contributions

    def _weights(self) -> dict[str, NDArray[Any]]:
        return {"B": self.B}

    def _restore(self, weights: dict[str, NDArray[Any]]) -> None:
        self.B = weights["B"]

    def _config(self) -> dict[str, Any]:
        return {"lambdas": list(self.lambdas)}
