"""Evaluation on held-out users: paired confidence intervals, user groups, coverage, novelty and popularity bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.data.splits import cut_histories, sample_users
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, evaluate_lists, evaluate_users

LIST = 20
"""Length of the lists whose coverage and novelty are measured, as users see them."""

HISTORIES: Sequence[tuple[int, int | None]] = ((1, 1), (2, 2), (3, 3), (4, 4), (1, 4), (5, 20), (21, None))
"""Groups of users by the number of stars that they really have beside those to be predicted."""

LENGTHS: Sequence[int | None] = (1, 2, 3, 5, 10, None)
"""Numbers of known stars to which the histories of held-out users are cut; None: all that they have."""

WHOLE = 20
"""Number of stars from which users count with their whole history."""

LENGTH_USERS = 1000
"""Users whose histories are cut for the leaderboard. On the GitHub stars of 2022, the 95 % interval of a mean NDCG@100
over as many is ±0.006 and that of a paired difference ±0.004. All 10,000 test users at five lengths would take five
times as long as their whole histories do."""

RESAMPLES = 2000


class FittedRecommender(Predictor, Protocol):
    """What is evaluated: a fitted model."""

    name: ClassVar[str]
    items: int


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
    few, few_histories : ndarray of float64, ndarray of int64
        The main metric of other users, who really have few items, and their numbers of fold-in items.
    lengths : mapping of int or None to ndarray
        The main metric with histories cut to each of `LENGTHS`, of the same users or a sample of them.
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
    few: NDArray[np.float64]
    few_histories: NDArray[np.int64]
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

    def by_history(self) -> dict[str, NDArray[np.float64]]:
        """Return the main metric of the users of each group of `HISTORIES`: people as they are, no history is cut."""
        values = np.concatenate([self.users[MAIN_METRIC], self.few])
        known = np.concatenate([self.histories, self.few_histories])
        return {group_name(low, high): values[(known >= low) & (known <= (high or np.inf))] for low, high in HISTORIES}

    def summary(self) -> dict[str, float | int | None]:
        """Return a flat row with the columns of the table ``LEADERBOARD``."""
        interval, column = self.interval(MAIN_METRIC), MAIN_METRIC.replace("@", "_at_")
        people, groups = self.as_people_have, self.by_history()
        return {
            **{name.replace("@", "_at_"): value for name, value in self.means.items()},
            f"{column}_low": interval.low,
            f"{column}_high": interval.high,
            **{
                f"{column}_of_{group}": float(values.mean()) if len(values) else None
                for group, values in groups.items()
            },
            **{f"users_of_{group}": len(values) for group, values in groups.items()},
            **{f"{column}_given_{length}": float(values.mean()) for length, values in self.lengths.items() if length},
            f"{column}_as_people_have": people.mean,
            f"{column}_as_people_have_low": people.low,
            f"{column}_as_people_have_high": people.high,
            f"coverage_at_{LIST}": self.coverage,
            f"novelty_at_{LIST}": self.novelty,
            f"popularity_percentile_at_{LIST}": self.popularity_percentile,
        }


def group_name(low: int, high: int | None) -> str:
    """Return the name of a group of `HISTORIES` in the columns of the table ``LEADERBOARD``."""
    return f"{low}_up" if high is None else f"{low}_to_{high}" if high > low else f"{low}"


def evaluate_lengths(
    model: Predictor, fold_in: Csr, held_out: Csr, *, most: int | None = None
) -> Mapping[int | None, NDArray[np.float64]]:
    """Return the main metric of users that have held-out items, with histories cut to each of `LENGTHS`.

    Parameters
    ----------
    model : Predictor
    fold_in, held_out : scipy.sparse CSR, shape (users, items)
        See `evaluate`.
    most : int, optional
        Maximum number of users, sampled evenly, the same ones for every model; by default all.
    """
    users = sample_users(held_out, held_out.shape[0] if most is None else most)
    given, hidden = fold_in[users], held_out[users]
    return _by_length(model, given, hidden, evaluate_users(model, given, hidden)[MAIN_METRIC])


def _by_length(
    model: Predictor, fold_in: Csr, held_out: Csr, whole: NDArray[np.float64]
) -> dict[int | None, NDArray[np.float64]]:
    """Return the metric by length, given that of whole histories, which short ones are not scored for again."""
    by_length: dict[int | None, NDArray[np.float64]] = {}
    for length in LENGTHS:
        by_length[length] = whole.copy()
        longer = np.flatnonzero(np.diff(fold_in.indptr) > (length or np.inf))
        if len(longer):
            cut = cut_histories(fold_in, length)[longer]
            by_length[length][longer] = evaluate_users(model, cut, held_out[longer])[MAIN_METRIC]
    return by_length


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


def scores_as_people_have(
    model: Predictor, fold_in: Csr, held_out: Csr, train: Csr, *, most: int | None = None
) -> NDArray[np.float64]:
    """Return each user's main metric with as many known stars as people have.

    See `evaluate_lengths`, `as_people_have` and `length_shares`.
    """
    return as_people_have(evaluate_lengths(model, fold_in, held_out, most=most), length_shares(train))


def evaluate_in_full(
    model: FittedRecommender, fold_in: Csr, held_out: Csr, train: Csr, few: tuple[Csr, Csr] | None = None
) -> Evaluation:
    """Evaluate a model on held-out users.

    Parameters
    ----------
    model : FittedRecommender
    fold_in, held_out : scipy.sparse CSR, shape (users, items)
        See `evaluate`.
    train : scipy.sparse CSR, shape (training users, items)
        For the popularity of items.
    few : pair of CSR, optional
        Fold-in and held-out items of other users, who have few; a sample of them is evaluated.

    Raises
    ------
    InvalidInteractionsError
        If no user has a held-out item.
    """
    metrics, lists = evaluate_lists(model, fold_in, held_out)
    users = np.flatnonzero(np.diff(held_out.indptr))
    sample = sample_users(held_out, LENGTH_USERS)
    whole = metrics[MAIN_METRIC][np.searchsorted(users, sample)]
    shown = lists[:, :LIST][lists[:, :LIST] >= 0]
    others, few_histories = np.empty(0), np.empty(0, np.int64)
    if few is not None and few[1].nnz:
        chosen = sample_users(few[1], LENGTH_USERS)
        others = evaluate_users(model, few[0][chosen], few[1][chosen])[MAIN_METRIC]
        few_histories = np.diff(few[0].indptr)[chosen].astype(np.int64)
    counts = np.bincount(train.indices, minlength=model.items)
    # An item without users counts as one with half a user.
    information = -np.log2(np.maximum(counts, 0.5) / train.shape[0])
    percentile = (counts.argsort(kind="stable").argsort() + 1) / model.items
    return Evaluation(
        name=model.name,
        users=metrics,
        histories=np.diff(fold_in.indptr)[users].astype(np.int64),
        few=others,
        few_histories=few_histories,
        lengths=_by_length(model, fold_in[sample], held_out[sample], whole),
        shares=length_shares(train),
        coverage=len(np.unique(shown)) / model.items,
        novelty=float(information[shown].mean()) if len(shown) else 0.0,
        popularity_percentile=float(percentile[shown].mean()) if len(shown) else 0.0,
    )
