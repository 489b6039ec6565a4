"""A blend of recommenders whose weights depend on how many stars of a user are known."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gh_assets.errors import ConfigurationError, GhAssetsError, StoredDataError
from gh_assets.recommender.cpu.blending import add_standardized, discounted_gains
from gh_assets.recommender.cpu.compilation import call
from gh_assets.recommender.data.interactions import Csr, row_numbers
from gh_assets.recommender.data.splits import cut_histories, sample_users
from gh_assets.recommender.evaluation.metrics import NDCG_AT, best_items, contains
from gh_assets.recommender.models.base import Recommender, Scores
from gh_assets.recommender.models.baselines import ALS, EASE, ItemKNN, Popularity, RP3Beta, linear_model
from gh_assets.recommender.models.graph_filters import GFCF, SVDAE, GraphFilter
from gh_assets.recommender.models.multvae import MultVAE
from gh_assets.recommender.models.recvae import RecVAE

KNOTS = (1, 2, 3, 5, 10, 20, 50)
"""Numbers of known stars for which weights are chosen; between them, weights are linear in the logarithm."""

POPULARITY_SPREAD = 0.25
"""Standard deviation of the candidates for the weight of popularity; the weights of the parts add up to 1."""

MIXTURES = 512
"""Number of candidates for the weights."""

CHOOSING_USERS = 500
"""Validation users on whom the weights are chosen. Candidates are compared user by user, so more hardly matter: at this
number, the 95 % interval of a difference in NDCG@100 is about ±0.005."""

ENOUGH = 10
"""Users that a knot needs for weights of its own; with fewer, it has those of the knot before."""

USERS_AT_ONCE = 250

CANDIDATES = 150
"""Best items of each part among which the best of a blend are sought."""

PARTS: Mapping[str, type[Recommender]] = {
    model.name: model for model in (RecVAE, MultVAE, EASE, GraphFilter, GFCF, SVDAE, RP3Beta, ALS, ItemKNN, Popularity)
}
"""Models that a saved hybrid can consist of, by name."""


def closed_form_parts(items: int) -> list[Recommender]:
    """Return the models, not fitted yet, that are blended with RecVAE."""
    return [linear_model(items), GraphFilter(), GFCF()]


class Hybrid(Recommender):
    """Blend of recommenders: ``Σ weight × part + popularity × log(1 + stars)``.

    The scores of each part are standardized per user over all items, so that a weight means the same for every user; so
    are the logarithms of the items' star counts. All weights are functions of the number n of the user's known stars:
    with few of them, what most users like and the coarse structure of tastes count more, with many the models that use
    every star. They are chosen by NDCG@100 on the validation users, whose histories are cut to 1, 2, 3, 5, ... stars.

    Parameters
    ----------
    parts : Recommender
        Parts that are fitted already are not fitted again. Without any: RecVAE and `closed_form_parts`.
    weights : array_like, shape (parts,) or (knots, parts), optional
        Used if `fit` gets no validation users to choose them on; by default, all parts weigh the same.
    popularity : float or array_like, shape (knots,)
        Weight of popularity in that case.
    knots : sequence of int
        Numbers of known stars to which the rows of the weights belong.
    """

    name: ClassVar[str] = "hybrid"

    def __init__(
        self,
        *parts: Recommender,
        weights: ArrayLike | None = None,
        popularity: ArrayLike = 0.0,
        knots: Sequence[int] = KNOTS,
    ) -> None:
        super().__init__()
        self.parts, self.knots = list(parts), tuple(knots)
        count = len(parts) or 4
        chosen = np.full(count, 1 / count) if weights is None else np.asarray(weights, np.float64)
        shape = (len(self.knots), count)
        if chosen.shape not in (shape, shape[1:]) or not (np.isfinite(chosen) & (chosen >= 0)).all():
            raise ConfigurationError(f"The weights of {count} parts must have the shape {shape} and not be negative.")
        if not self.knots or min(self.knots) < 1 or list(self.knots) != sorted(set(self.knots)):
            raise ConfigurationError(f"The knots {self.knots} of a hybrid must be ascending numbers of stars.")
        self.part_weights = np.broadcast_to(chosen, shape).copy()
        self.popularity_weights = np.broadcast_to(np.asarray(popularity, np.float64), len(self.knots)).copy()

    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None:
        if not self.parts:
            self.parts = [RecVAE(), *closed_form_parts(self.items)]
        for part in self.parts:
            if not part.items:
                part.fit(stars, validation)
            elif part.items != self.items:
                raise GhAssetsError(
                    f"The hybrid's {part.name} knows {part.items} items; the training matrix has {self.items}."
                )
        self.popularity_z = np.zeros((1, self.items), np.float32)
        counts = np.bincount(stars.indices, minlength=self.items)[None].astype(np.float32)
        call(add_standardized, self.popularity_z, np.log1p(counts), np.ones(1, np.float32))
        if validation is not None and validation[1].nnz:
            self.part_weights, self.popularity_weights = self._best_weights(*validation)

    # -- the choice of the weights -------------------------------------------------------------------------------

    def _best_weights(self, fold_in: Csr, held_out: Csr) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the weights of parts, (knots, parts), and of popularity, (knots,)."""
        users = sample_users(held_out, CHOOSING_USERS)
        given, hidden = fold_in[users], held_out[users]
        lengths = np.diff(given.indptr)
        candidates = _mixtures(len(self.parts))
        known, gains = [], []
        for length in (*self.knots, None):
            # A history that has no more stars than the knot is the whole one, which comes last.
            rows = np.arange(len(lengths)) if length is None else np.flatnonzero(lengths > length)
            cut = cut_histories(given, length)
            for start in range(0, len(rows), USERS_AT_ONCE):
                batch = rows[start : start + USERS_AT_ONCE]
                gains.append(self._gains(cut[batch], hidden[batch], candidates))
                known.append(np.diff(cut.indptr)[batch])
        gained, logarithms = np.concatenate(gains), np.log(np.maximum(np.concatenate(known), 1))
        return self._smoothed(candidates, gained, logarithms)

    def _smoothed(
        self, mixtures: NDArray[np.float32], gains: NDArray[np.float64], logarithms: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return for each knot the mean of the candidates, weighted by how likely each is as good as the best one."""
        chosen: list[NDArray[np.float64]] = []
        for knot in self.knots:
            near = np.maximum(1 - np.abs(logarithms - np.log(knot)), 0)  # histories up to e times as long count
            if knot == self.knots[-1]:
                near[logarithms > np.log(knot)] = 1
            if chosen and near.sum() ** 2 < ENOUGH * np.square(near).sum():
                chosen.append(chosen[-1])  # too few users to choose on
                continue
            near = near if near.any() else np.ones_like(near)
            means = near @ gains / near.sum()
            best = int(np.argmax(means))
            behind = means[best] - means
            centred = gains[:, [best]] - gains - behind
            errors = np.sqrt(np.square(near) @ np.square(centred)) / near.sum()
            likely = np.exp(-0.5 * np.square(behind / np.maximum(errors, 1e-12)))
            chosen.append(likely @ mixtures / likely.sum())
        weights = np.array(chosen, np.float64)
        return weights[:, :-1], weights[:, -1]

    def _gains(self, given: Csr, hidden: Csr, mixtures: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return NDCG@100 of each user for each candidate, (users, candidates)."""
        shape, ones = (given.shape[0], self.items), np.ones(given.shape[0], np.float32)
        seen = row_numbers(given), given.indices
        parts, best = [], []
        for scores in (*(part.score(given) for part in self.parts), np.repeat(self.popularity_z, shape[0], axis=0)):
            standardized = np.zeros(shape, np.float32)
            call(add_standardized, standardized, scores, ones)
            parts.append(standardized)
            masked = standardized.copy()
            masked[seen] = -np.inf
            best.append(best_items(masked, min(CANDIDATES, self.items))[0])
        candidates = np.sort(np.concatenate(best, axis=1), axis=1)
        candidates[:, 1:][candidates[:, 1:] == candidates[:, :-1]] = -1  # an item that several parts have among theirs
        candidates = -np.sort(-candidates, axis=1)
        users, places = contains(hidden, candidates).nonzero()
        depth = min(NDCG_AT, self.items)
        discount = 1 / np.log2(np.arange(2, depth + 2))
        gains: NDArray[np.float64] = call(
            discounted_gains,
            np.stack([np.take_along_axis(part, candidates.clip(0), axis=1) for part in parts], axis=1),
            (candidates >= 0).sum(axis=1),
            places,
            np.searchsorted(users, np.arange(len(candidates) + 1)),
            mixtures,
            discount,
        )
        ideal: NDArray[np.float64] = discount.cumsum()[np.minimum(np.diff(hidden.indptr), depth) - 1]
        return gains / ideal[:, None]

    # -- use -----------------------------------------------------------------------------------------------------

    def weights_of(self, known: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the weights of parts, (parts, users), and popularity, (users,), for users by their known stars."""
        places = np.log(np.maximum(known, 1))
        knots = np.log(self.knots)
        of_parts = np.array([np.interp(places, knots, column) for column in self.part_weights.T], np.float32)
        return of_parts, np.interp(places, knots, self.popularity_weights).astype(np.float32)

    def score(self, stars: Csr) -> NDArray[np.float32]:
        return self.score_with_spreads(stars).values

    def score_with_spreads(self, stars: Csr) -> Scores:
        weights, popularity = self.weights_of(np.diff(stars.indptr))
        total = popularity[:, None] * self.popularity_z
        spreads = np.ones_like(weights)
        for place, part in enumerate(self.parts):
            if weights[place].any():
                spreads[place] = call(add_standardized, total, part.score(stars), weights[place])
        return Scores(total, spreads)

    def contributions(
        self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None
    ) -> NDArray[np.float32] | None:
        """Add up the parts' contributions on the scale on which their scores are added."""
        spreads = scores.spreads if scores is not None else None
        if spreads is None:
            spreads = self.score_with_spreads(stars).spreads
        assert spreads is not None
        weights, _ = self.weights_of(np.diff(stars.indptr))
        total: NDArray[np.float32] | None = None
        for part, weight, spread in zip(self.parts, weights, spreads, strict=True):
            added = part.contributions(stars, items) if weight.any() else None
            if added is not None:
                added = added * (weight / spread)[row_numbers(stars)][:, None]
                total = added if total is None else total + added
        return total

    def item_vectors(self) -> NDArray[np.float32] | None:
        return next((vectors for part in self.parts if (vectors := part.item_vectors()) is not None), None)

    def describe(self) -> Iterator[dict[str, Any]]:
        """Yield the weights at each knot by the names of the parts."""
        for knot, weights, popularity in zip(self.knots, self.part_weights, self.popularity_weights, strict=True):
            of_parts = {part.name: float(weight) for part, weight in zip(self.parts, weights, strict=True)}
            yield {"known_stars": knot, **of_parts, "popularity": float(popularity)}

    # -- storage -------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, NDArray[Any]]:
        of_parts = {
            f"{number}.{key}": value for number, part in enumerate(self.parts) for key, value in part.weights().items()
        }
        return {**of_parts, "fame": self.popularity_z[0]}

    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        # Hybrids that were saved before the popularity term existed have no such array.
        popularity = weights.get("fame", np.zeros(self.items, np.float32))
        if popularity.shape != (self.items,) or popularity.dtype != np.float32:
            raise ValueError(f"the popularity of {self.items} items is {popularity.dtype} {popularity.shape}")
        self.popularity_z = popularity[None]
        for number, part in enumerate(self.parts):
            prefixes = tuple(f"{name}." for name in (number, *FORMER_PARTS[number : number + 1]))
            part.items = self.items
            part.restore({key.partition(".")[2]: v for key, v in weights.items() if key.startswith(prefixes)})

    def to_config(self) -> dict[str, Any]:
        return {
            "parts": [{"model": part.name, "config": part.to_config()} for part in self.parts],
            "knots": list(self.knots),
            "weights": self.part_weights.tolist(),
            "popularity_weights": self.popularity_weights.tolist(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        if "parts" not in config:  # two parts, with the same weights for all users, from which popularity is subtracted
            weight = config["weight"]
            parts = [_part(config[name]) for name in FORMER_PARTS]
            return cls(*parts, weights=[weight, 1 - weight], popularity=-config.get("popularity", 0.0))
        parts = [_part(part) for part in config["parts"]]
        return cls(*parts, weights=config["weights"], popularity=config["popularity_weights"], knots=config["knots"])


FORMER_PARTS = ("first", "second")
"""Names of the parts of hybrids that were saved before they could have three."""


def _part(document: Mapping[str, Any]) -> Recommender:
    if document["model"] not in PARTS:
        raise StoredDataError(f"A hybrid's part {document['model']!r} is none of {', '.join(PARTS)}.")
    return PARTS[document["model"]].from_config(document["config"])


def _mixtures(parts: int) -> NDArray[np.float32]:
    """Return candidates for the weights of the parts and, in the last column, of popularity.

    They are drawn at random, the parts' evenly from all that are possible; each part and popularity alone are added.
    """
    generator = np.random.default_rng(0)
    mixtures = generator.dirichlet(np.ones(parts), MIXTURES)
    drawn = np.column_stack([mixtures, generator.normal(0, POPULARITY_SPREAD, MIXTURES)])
    return np.concatenate([drawn, np.eye(parts + 1)]).astype(np.float32)


MODELS: Mapping[str, type[Recommender]] = {**PARTS, Hybrid.name: Hybrid}
"""All recommenders by name."""
