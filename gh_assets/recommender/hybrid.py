"""A neural and a linear model together: each sees what the other misses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gh_assets.errors import ConfigurationError, GhAssetsError, StoredDataError
from gh_assets.recommender.base import Recommender
from gh_assets.recommender.blending import blend
from gh_assets.recommender.interactions import Csr
from gh_assets.recommender.metrics import MAIN_METRIC, ranking_metrics

USERS_AT_ONCE = 500
SMOOTHED = 5
"""Neighbouring weights that are judged together."""

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))


class Hybrid(Recommender):
    """Blend of two recommenders: ``weight × first + (1 - weight) × second`` of their standardized scores.

    Each user's scores of a part are shifted to mean 0 and scaled to standard deviation 1 over all items, so that the
    weight means the same for everybody. It is the best on the validation users by NDCG@100, and chosen on them alone.

    Parameters
    ----------
    first, second : Recommender
        Those that are fitted already are left as they are.
    weight : float
        Of the first, where there are no validation users to choose it on.
    """

    name: ClassVar[str] = "hybrid"

    def __init__(self, first: Recommender, second: Recommender, weight: float = 0.5) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ConfigurationError(f"The weight {weight} of a hybrid's first part is not between 0 and 1.")
        self.first, self.second, self.weight = first, second, weight
        self._last: tuple[bytes, list[NDArray[np.float32]]] = b"", []

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        for part in (self.first, self.second):
            if not part.items:
                part.fit(stars, validation)
            elif part.items != self.items:
                raise GhAssetsError(
                    f"The hybrid's {part.name} knows {part.items} items; the training matrix has {self.items}."
                )
        if validation is not None:
            self.weight = self._best_weight(*validation)

    def _best_weight(self, fold_in: Csr, held_out: Csr) -> float:
        users = np.flatnonzero(np.diff(held_out.indptr))
        gains = np.zeros(len(WEIGHTS))
        for start in range(0, len(users), USERS_AT_ONCE):
            batch = users[start : start + USERS_AT_ONCE]
            given, hidden = fold_in[batch], held_out[batch]
            first, second = (_standardized(part._predict(given)) for part in (self.first, self.second))
            for place, weight in enumerate(WEIGHTS):
                blended = np.float32(weight) * first + np.float32(1 - weight) * second
                gains[place] += ranking_metrics(blended, given, hidden)[MAIN_METRIC].sum()
        # The top of the curve without its noise: a single weight may be best by chance, its neighbours with it are not.
        near = np.convolve(np.pad(gains, SMOOTHED // 2, mode="edge"), np.ones(SMOOTHED), "valid")
        return WEIGHTS[int(np.argmax(near))]

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        first, second = (part._predict(stars) for part in (self.first, self.second))
        spreads = blend(first, second, np.float32(self.weight))
        self._last = _identity(stars), list(spreads)
        return first

    def _contributions(self, stars: Csr, items: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Those of both parts, on the scale on which their scores are added."""
        total: NDArray[np.float32] | None = None
        users = np.repeat(np.arange(stars.shape[0]), np.diff(stars.indptr))
        # Whoever explains a list has just scored it: the spreads need not be worked out again.
        identity, spreads = self._last
        if identity != _identity(stars):
            first, second = (part._predict(stars) for part in (self.first, self.second))
            spreads = list(blend(first, second, np.float32(self.weight)))
        for place, (part, weight) in enumerate(((self.first, self.weight), (self.second, 1 - self.weight))):
            found = part._contributions(stars, items) if weight > 0 else None
            if found is not None:
                spread = spreads[place]
                found = found * (weight / spread).astype(np.float32)[users][:, None]
                total = found if total is None else total + found
        return total

    def item_vectors(self) -> NDArray[np.float32] | None:
        found = self.first.item_vectors()
        return found if found is not None else self.second.item_vectors()

    def parts(self) -> Iterator[tuple[str, Recommender]]:
        yield from (("first", self.first), ("second", self.second))

    def _weights(self) -> dict[str, NDArray[Any]]:
        return {f"{place}.{key}": value for place, part in self.parts() for key, value in part._weights().items()}

    def _restore(self, weights: dict[str, NDArray[Any]]) -> None:
        for place, part in self.parts():
            part.items = self.items
            own = {key.removeprefix(f"{place}."): value for key, value in weights.items() if key.startswith(place)}
            part._restore(own)

    def _config(self) -> dict[str, Any]:
        described = {place: {"model": part.name, "config": part._config()} for place, part in self.parts()}
        return {**described, "weight": self.weight}

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> Self:
        from gh_assets.recommender.models import MODELS

        parts = []
        for place in ("first", "second"):
            kind = MODELS.get(config[place]["model"])
            if kind is None or kind is cls:
                raise StoredDataError(f"A hybrid's part {config[place]['model']!r} is none of {', '.join(MODELS)}.")
            parts.append(kind._from_config(config[place]["config"]))
        first, second = parts
        return cls(first, second, config["weight"])


def _standardized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean 0, standard deviation 1 for each user; in place."""
    scores -= scores.mean(axis=1, keepdims=True)
    scores /= np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
    return scores


def _identity(stars: Csr) -> bytes:
    """Equal for equal stars."""
    digest = hashlib.blake2b(stars.indptr.tobytes(), digest_size=16)
    digest.update(stars.indices.tobytes())
    return digest.digest()
