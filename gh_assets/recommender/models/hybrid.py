"""A blend of a neural and a linear model, whose errors differ."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from gh_assets.errors import ConfigurationError, GhAssetsError, StoredDataError
from gh_assets.recommender.cpu.blending import blend
from gh_assets.recommender.cpu.compilation import call
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, ranking_metrics
from gh_assets.recommender.models.base import Recommender, Scores
from gh_assets.recommender.models.baselines import ALS, EASE, ItemKNN, Popularity
from gh_assets.recommender.models.multvae import MultVAE
from gh_assets.recommender.models.recvae import RecVAE

USERS_AT_ONCE = 500

WEIGHTS = np.round(np.arange(21) * 0.05, 2)
POPULARITIES = np.round(np.arange(9) * 0.05, 2)
SMOOTHING = (5, 3)
"""Neighbouring weights and popularities whose scores are averaged before the best is chosen."""

PARTS: Mapping[str, type[Recommender]] = {
    model.name: model for model in (RecVAE, MultVAE, EASE, ALS, ItemKNN, Popularity)
}
"""Models that a saved hybrid can consist of, by name."""


class Hybrid(Recommender):
    """Blend of two recommenders: ``weight × first + (1 - weight) × second - popularity × log(1 + stars)``.

    The scores of each part are standardized per user over all items, so that the weight means the same for every user;
    so are the logarithms of the items' star counts. Both parts favour popular items, and their sum favours them too
    much; the last term corrects that. Weight and popularity are chosen by NDCG@100 on the validation users alone.

    Parameters
    ----------
    first, second : Recommender
        Parts that are fitted already are not fitted again.
    weight, popularity : float
        Used if `fit` gets no validation users to choose them on.
    """

    name: ClassVar[str] = "hybrid"

    def __init__(self, first: Recommender, second: Recommender, weight: float = 0.5, popularity: float = 0.0) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ConfigurationError(f"The weight {weight} of a hybrid's first part is not between 0 and 1.")
        if popularity < 0:
            raise ConfigurationError(f"The popularity {popularity} that a hybrid subtracts must not be below 0.")
        self.first, self.second, self.weight, self.popularity = first, second, weight, popularity

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
            self.weight, self.popularity = self._best_parameters(*validation)

    def _best_parameters(self, fold_in: Csr, held_out: Csr) -> tuple[float, float]:
        """Return weight and popularity with the best smoothed NDCG@100."""
        users = np.flatnonzero(np.diff(held_out.indptr))
        gains = np.zeros((len(WEIGHTS), len(POPULARITIES)))
        for start in range(0, len(users), USERS_AT_ONCE):
            batch = users[start : start + USERS_AT_ONCE]
            given, hidden = fold_in[batch], held_out[batch]
            first, second = (_standardized(part.score(given)) for part in (self.first, self.second))
            for (row, weight), (column, popularity) in product(enumerate(WEIGHTS), enumerate(POPULARITIES)):
                blended = np.float32(weight) * first + np.float32(1 - weight) * second
                blended -= np.float32(popularity) * self.popularity_z
                gains[row, column] += ranking_metrics(blended, given, hidden)[MAIN_METRIC].sum()
        # One grid point may be best by chance; a neighbourhood is not.
        best = np.unravel_index(np.argmax(uniform_filter(gains, SMOOTHING, mode="nearest")), gains.shape)
        return float(WEIGHTS[best[0]]), float(POPULARITIES[best[1]])

    def score(self, stars: Csr) -> NDArray[np.float32]:
        return self.score_with_spreads(stars).values

    def score_with_spreads(self, stars: Csr) -> Scores:
        first, second = (part.score(stars) for part in (self.first, self.second))
        spreads = call(blend, first, second, np.float32(self.weight), np.float32(self.popularity) * self.popularity_z)
        return Scores(first, spreads)

    def contributions(
        self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None
    ) -> NDArray[np.float32] | None:
        """Add up the parts' contributions on the scale on which their scores are added."""
        spreads = scores.spreads if scores is not None else None
        if spreads is None:
            spreads = self.score_with_spreads(stars).spreads
        assert spreads is not None
        total: NDArray[np.float32] | None = None
        users = np.repeat(np.arange(stars.shape[0]), np.diff(stars.indptr))
        for spread, part, weight in zip(
            spreads, (self.first, self.second), (self.weight, 1 - self.weight), strict=True
        ):
            added = part.contributions(stars, items) if weight > 0 else None
            if added is not None:
                added = added * (weight / spread).astype(np.float32)[users][:, None]
                total = added if total is None else total + added
        return total

    def item_vectors(self) -> NDArray[np.float32] | None:
        vectors = self.first.item_vectors()
        return vectors if vectors is not None else self.second.item_vectors()

    def parts(self) -> Iterator[tuple[str, Recommender]]:
        """Yield both parts with the names under which they are saved."""
        yield from (("first", self.first), ("second", self.second))

    def weights(self) -> dict[str, NDArray[Any]]:
        of_parts = {f"{name}.{key}": value for name, part in self.parts() for key, value in part.weights().items()}
        return {**of_parts, "fame": self.popularity_z}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        # Hybrids that were saved before the popularity term existed have no such array.
        self.popularity_z = weights.get("fame", np.zeros(self.items, np.float32))
        if self.popularity_z.shape != (self.items,) or self.popularity_z.dtype != np.float32:
            raise ValueError(
                f"the popularity of {self.items} items is {self.popularity_z.dtype} {self.popularity_z.shape}"
            )
        for name, part in self.parts():
            part.items = self.items
            part.restore({key.removeprefix(f"{name}."): v for key, v in weights.items() if key.startswith(f"{name}.")})

    def to_config(self) -> dict[str, Any]:
        parts = {name: {"model": part.name, "config": part.to_config()} for name, part in self.parts()}
        return {**parts, "weight": self.weight, "popularity": self.popularity}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        parts = []
        for name in ("first", "second"):
            kind = PARTS.get(config[name]["model"])
            if kind is None:
                raise StoredDataError(f"A hybrid's part {config[name]['model']!r} is none of {', '.join(PARTS)}.")
            parts.append(kind.from_config(config[name]["config"]))
        first, second = parts
        return cls(first, second, config["weight"], config.get("popularity", 0.0))


def _standardized(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each user's scores to mean 0 and standard deviation 1, in place."""
    scores -= scores.mean(axis=1, keepdims=True)
    scores /= np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
    return scores


MODELS: Mapping[str, type[Recommender]] = {**PARTS, Hybrid.name: Hybrid}
"""All recommenders by name."""
