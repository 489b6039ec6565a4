"""Evaluation on held-out users: paired confidence intervals, user groups, coverage, novelty and popularity bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr, check_interactions
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, evaluate_users

LIST = 20
"""Length of the lists whose coverage and novelty are measured, as users see them."""

HISTORIES: Sequence[tuple[int, int | None]] = ((1, 4), (5, 20), (21, None))
"""Groups of users by their number of fold-in stars."""

LENGTHS: Sequence[int | None] = (1, 2, 3, 5, 10, None)
"""Numbers of known stars to which the histories of held-out users are cut; None: all that they have."""

WHOLE = 20
"""Number of stars from which users count with their whole history."""

RESAMPLES = 2000


class FittedRecommender(Predictor, Protocol):
    """What is evaluated: a fitted model."""

    name: ClassVar[str]
    items: int

    def recommend(self, fold_in: Csr, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the n best unseen items of each user, and their scores."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def bootstrap(
    values: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the percentile bootstrap of a mean over users (Efron 1979); for a difference, of paired differences."""
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [
            values[rng.integers(0, len(values), (count, len(values)))].mean(axis=1)
            for count in np.diff(np.linspace(0, resamples, 11).astype(int))
        ]
    )
    low, high = np.percentile(means, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(values.mean()), float(low), float(high))


@dataclass(frozen=True)
class Evaluation:
    """A model's results on held-out users.

    Attributes
    ----------
    name : str
    users : mapping of ndarray
        Each metric of each user that has a held-out item, for paired comparisons.
    histories : ndarray of int64
        Number of fold-in items of these users.
    lengths : mapping of int or None to ndarray
        The main metric of the same users with their histories cut; see `LENGTHS`.
    shares : ndarray, shape (lengths,)
        Share of the training users with each length; see `length_shares`.
    coverage : float
        Share of all items that appear among any user's first 20.
    novelty : float
        Mean self-information of the items in the first 20, in bits: −log2 of the share of training users that have
        the item (Vargas & Castells, RecSys 2011). Popular lists have low values.
    popularity_percentile : float
        Mean percentile of these items by their number of stars; 1 would be only the most popular.
    """

    name: str
    users: Mapping[str, NDArray[np.float64]]
    histories: NDArray[np.int64]
    lengths: Mapping[int | None, NDArray[np.float64]]
    shares: NDArray[np.float64]
    coverage: float
    novelty: float
    popularity_percentile: float

    def interval(self, metric: str) -> Interval:
        return bootstrap(self.users[metric])

    def against(self, other: Evaluation, metric: str) -> Interval:
        """Return the mean difference to another model on the same users, with its interval."""
        return bootstrap(self.users[metric] - other.users[metric])

    @property
    def means(self) -> dict[str, float]:
        return {name: float(values.mean()) for name, values in self.users.items()}

    @property
    def as_people_have(self) -> Interval:
        """The main metric's mean over the lengths of histories, weighted by how many people have them."""
        return bootstrap(as_people_have(self.lengths, self.shares))

    def by_history(self, metric: str) -> dict[str, float | None]:
        """Return the metric's mean for users with few, some and many fold-in stars; None for groups without users."""
        means: dict[str, float | None] = {}
        for low, high in HISTORIES:
            inside = self.users[metric][(self.histories >= low) & (self.histories <= (high or np.inf))]
            means[f"{low}_to_{high}" if high else f"{low}_up"] = float(inside.mean()) if len(inside) else None
        return means

    def summary(self) -> dict[str, float | None]:
        """Return a flat row with the columns of the table ``LEADERBOARD``."""
        interval, column = self.interval(MAIN_METRIC), MAIN_METRIC.replace("@", "_at_")
        people = self.as_people_have
        return {
            **{name.replace("@", "_at_"): value for name, value in self.means.items()},
            f"{column}_low": interval.low,
            f"{column}_high": interval.high,
            **{f"{column}_of_{group}": value for group, value in self.by_history(MAIN_METRIC).items()},
            **{f"{column}_given_{length}": float(values.mean()) for length, values in self.lengths.items() if length},
            f"{column}_as_people_have": people.mean,
            f"{column}_as_people_have_low": people.low,
            f"{column}_as_people_have_high": people.high,
            f"coverage_at_{LIST}": self.coverage,
            f"novelty_at_{LIST}": self.novelty,
            f"popularity_percentile_at_{LIST}": self.popularity_percentile,
        }


def evaluate_lengths(model: Predictor, fold_in: Csr, held_out: Csr) -> Mapping[int | None, NDArray[np.float64]]:
    """Return the main metric of each user that has held-out items, with histories cut to each of `LENGTHS`."""
    return {length: metrics[MAIN_METRIC] for length, metrics in _metrics_by_length(model, fold_in, held_out).items()}


def _metrics_by_length(
    model: Predictor, fold_in: Csr, held_out: Csr
) -> dict[int | None, Mapping[str, NDArray[np.float64]]]:
    return {length: evaluate_users(model, cut_histories(fold_in, length), held_out) for length in LENGTHS}


def length_shares(stars: Csr) -> NDArray[np.float64]:
    """Return the share of users whose history has each of `LENGTHS`: the longest that is not longer than it.

    Users with at least `WHOLE` stars count for the whole history.
    """
    borders = [length or WHOLE for length in LENGTHS]
    counts = np.diff(stars.indptr)
    places = np.searchsorted(borders, counts[counts > 0], side="right") - 1
    return np.bincount(places, minlength=len(borders)) / max(len(places), 1)


def as_people_have(
    lengths: Mapping[int | None, NDArray[np.float64]], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of each user's metric over the lengths of histories, weighted by how many people have them."""
    mean: NDArray[np.float64] = shares @ np.array(list(lengths.values()))
    return mean


def evaluate_in_full(model: FittedRecommender, fold_in: Csr, held_out: Csr, train: Csr) -> Evaluation:
    """Evaluate a model on held-out users.

    Parameters
    ----------
    model : FittedRecommender
    fold_in, held_out : scipy.sparse CSR, shape (users, items)
        See `evaluate`.
    train : scipy.sparse CSR, shape (training users, items)
        For the popularity of items.

    Raises
    ------
    InvalidInteractionsError
        If no user has a held-out item.
    """
    by_length = _metrics_by_length(model, fold_in, held_out)
    given = check_interactions(fold_in, name="fold-in matrix")[np.flatnonzero(np.diff(held_out.indptr))]
    items, _ = model.recommend(given, min(LIST, model.items))
    shown = items[items >= 0]
    counts = np.bincount(train.indices, minlength=model.items)
    # An item without users counts as one with half a user.
    information = -np.log2(np.maximum(counts, 0.5) / train.shape[0])
    percentile = (counts.argsort(kind="stable").argsort() + 1) / model.items
    return Evaluation(
        name=model.name,
        users=by_length[None],
        histories=np.diff(given.indptr).astype(np.int64),
        lengths={length: metrics[MAIN_METRIC] for length, metrics in by_length.items()},
        shares=length_shares(train),
        coverage=len(np.unique(shown)) / model.items,
        novelty=float(information[shown].mean()) if len(shown) else 0.0,
        popularity_percentile=float(percentile[shown].mean()) if len(shown) else 0.0,
    )
