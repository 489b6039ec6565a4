"""iALS: matrix factorization for implicit feedback by alternating least squares."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gh_assets.errors import ConfigurationError
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.bags import Bags, portions
from gh_assets.recommender.evaluation.tuning import best_on_validation
from gh_assets.recommender.models.base import Recommender, Scores

ROWS_AT_ONCE = 20_000
STEPS, FOLD_IN_STEPS = 4, 16
"""Steps of conjugate gradients: few from the last sweep's result, more from zero."""


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
        lambda; without validation users, the middle ones.
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
        users, items = _Rows.of(stars), _Rows.of(stars.T.tocsr())

        def fit(chosen: tuple[float, float]) -> None:
            self.chosen = chosen
            generator = torch.Generator().manual_seed(self.seed)
            self.vectors = torch.randn((self.items, self.factors), generator=generator) * 0.1 / self.factors**0.5
            user_vectors = torch.zeros((stars.shape[0], self.factors))
            for _ in range(self.sweeps):
                user_vectors = self._solved(users, self.vectors, user_vectors, STEPS)
                self.vectors = self._solved(items, user_vectors, self.vectors, STEPS)

        middle = self.chosen[1]
        if validation is not None:
            candidates = [(alpha, middle) for alpha in self.alphas]
            self.chosen = best_on_validation(self, fit, candidates, validation, self.chosen)
        candidates = [(self.chosen[0], weight) for weight in self.lambdas]
        self.chosen = best_on_validation(self, fit, candidates, validation, self.chosen)

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
