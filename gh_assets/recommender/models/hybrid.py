"""A neural and a linear model together: each sees what the other misses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gh_assets.errors import ConfigurationError, GhAssetsError, StoredDataError
from gh_assets.recommender.cpu.blending import blend
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, ranking_metrics
from gh_assets.recommender.models.base import Recommender

USERS_AT_ONCE = 500

WEIGHTS = np.round(np.arange(21) * 0.05, 2)
POPULARITIES = np.round(np.arange(9) * 0.05, 2)
SMOOTHED = (5, 3)
"""Neighbouring weights and popularities that are judged together."""


class Hybrid(Recommender):
    """Blend of two recommenders: ``weight × first + (1 - weight) × second - popularity × log(1 + stars)``.

    Each user's scores of a part are shifted to mean 0 and scaled to standard deviation 1 over all items, so that the
    weight means the same for everybody; so are the logarithms of the items' numbers of stars. What many like, both
    parts like; added up it counts more than it is worth, which the last term takes back. Weight and popularity are the
    best on the validation users by NDCG@100, and chosen on them alone.

    Parameters
    ----------
    first, second : Recommender
        Those that are fitted already are left as they are.
    weight, popularity : float
        Where there are no validation users to choose them on.
    """

    name: ClassVar[str] = "hybrid"

    def __init__(self, first: Recommender, second: Recommender, weight: float = 0.5, popularity: float = 0.0) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ConfigurationError(f"The weight {weight} of a hybrid's first part is not between 0 and 1.")
        if popularity < 0:
            raise ConfigurationError(f"A hybrid's popularity {popularity} is what is taken back: not below 0.")
        self.first, self.second, self.weight, self.popularity = first, second, weight, popularity
        self._last: tuple[bytes, list[NDArray[np.float32]]] = b"", []

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        for part in (self.first, self.second):
            if not part.items:
                part.fit(stars, validation)
            elif part.items != self.items:
                raise GhAssetsError(
                    f"The hybrid's {part.name} knows {part.items} items; the training matrix has {self.items}."
                )
        self.popularity_z = _standardized(
            np.log1p(np.bincount(stars.indices, minlength=self.items))[None].astype(np.float32)
        )[0]
        if validation is not None:
            self.weight, self.popularity = self._best(*validation)

    def _best(self, fold_in: Csr, held_out: Csr) -> tuple[float, float]:
        """Weight and popularity."""
        users = np.flatnonzero(np.diff(held_out.indptr))
        gains = np.zeros((len(WEIGHTS), len(POPULARITIES)))
        for start in range(0, len(users), USERS_AT_ONCE):
            batch = users[start : start + USERS_AT_ONCE]
            given, hidden = fold_in[batch], held_out[batch]
            first, second = (_standardized(part._predict(given)) for part in (self.first, self.second))
            for (row, weight), (column, popularity) in product(enumerate(WEIGHTS), enumerate(POPULARITIES)):
                blended = np.float32(weight) * first + np.float32(1 - weight) * second
                blended -= np.float32(popularity) * self.popularity_z
                gains[row, column] += ranking_metrics(blended, given, hidden)[MAIN_METRIC].sum()
        # The top of the hill without its noise: a single place may be best by chance, its neighbours with it are not.
        top = np.unravel_index(np.argmax(uniform_filter(gains, SMOOTHED, mode="nearest")), gains.shape)
        return float(WEIGHTS[top[0]]), float(POPULARITIES[top[1]])

    def _blend(self, stars: Csr) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Scores, and the spread of each part's."""
        first, second = (part._predict(stars) for part in (self.first, self.second))
        spreads = blend(first, second, np.float32(self.weight), np.float32(self.popularity) * self.popularity_z)
        return first, list(spreads)

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        scores, spreads = self._blend(stars)
        self._last = _identity(stars), spreads
        return scores

    def _contributions(self, stars: Csr, items: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Those of both parts, on the scale on which their scores are added."""
        total: NDArray[np.float32] | None = None
        users = np.repeat(np.arange(stars.shape[0]), np.diff(stars.indptr))
        # Whoever explains a list has just scored it: the spreads need not be worked out again.
        identity, spreads = self._last
        if identity != _identity(stars):
            _, spreads = self._blend(stars)
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
        of_parts = {f"{place}.{key}": value for place, part in self.parts() for key, value in part._weights().items()}
        return {**of_parts, "fame": self.popularity_z}

    def _restore(self, weights: dict[str, NDArray[Any]]) -> None:
        # Those that were registered before there was such a term have none.
        self.popularity_z = weights.get("fame", np.zeros(self.items, np.float32))
        if self.popularity_z.shape != (self.items,) or self.popularity_z.dtype != np.float32:
            raise ValueError(
                f"the popularity of {self.items} items is {self.popularity_z.dtype} {self.popularity_z.shape}"
            )
        for place, part in self.parts():
            part.items = self.items
            own = {key.removeprefix(f"{place}."): value for key, value in weights.items() if key.startswith(place)}
            part._restore(own)

    def _config(self) -> dict[str, Any]:
        described = {place: {"model": part.name, "config": part._config()} for place, part in self.parts()}
        return {**described, "weight": self.weight, "popularity": self.popularity}

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> Self:
        from gh_assets.recommender.models.loading import MODELS

        parts = []
        for place in ("first", "second"):
            kind = MODELS.get(config[place]["model"])
            if kind is None or kind is cls:
                raise StoredDataError(f"A hybrid's part {config[place]['model']!r} is none of {', '.join(MODELS)}.")
            parts.append(kind._from_config(config[place]["config"]))
        first, second = parts
        return cls(first, second, config["weight"], config.get("popularity", 0.0))


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
