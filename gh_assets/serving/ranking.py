"""From a trained model and somebody's stars to recommendations with reasons: for the asset, the CLI, the API, the page.

One `Ranker` holds one model and what is known of repositories, and never changes: whoever has it gets answers of
one version. Everybody asks it, so that the same person gets the same list everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr, UserItemMatrix
from gh_assets.recommender.evaluation.metrics import best_items
from gh_assets.recommender.training.training import TrainedModel
from gh_assets.schemas import RECOMMENDATIONS, REPOS
from gh_assets.serving.catalogue import Catalogue, Description, Neighbour
from gh_assets.serving.requests import DEFAULT_FILTERS, Filters, RecommendationRequest

USERS_AT_ONCE = 1000
REASONS = 3

SUBSTITUTES_PER_STAR = 3
"""Repositories that one counts as that the model does not know."""

POPULAR_DIVERSITY = 0.5
"""What a popular list gives up for being of all kinds, if nobody says otherwise."""

POOL = 200
"""The best ones, among which diversity chooses. Fixed, so that a longer list begins as a shorter one."""

POPULAR_POOL = 1000
"""The same for lists of what is popular."""

POPULARITY_WEIGHT = 3.0
"""Weight of `RecommendationRequest.popularity`: about the spread of standardized model scores at the top."""

MASKS = 256
"""Filters that are remembered."""

Kind = Literal["personal", "popular", "new"]


@dataclass(frozen=True)
class Reason:
    """One of the person's own stars that speaks for a recommendation, and its share in all that speaks for it."""

    full_name: str
    share: float


@dataclass(frozen=True)
class Recommendation:
    """One recommended repository.

    Attributes
    ----------
    rank : int
        1 is the best.
    repo_id : int
    full_name : str
    score : float
        Higher is better, comparable within one list.
    because : sequence of Reason
        The person's own stars that explain it most, strongest first.
    kind : str
        ``personal``; ``popular``: nothing is known of the person, and many starred it; ``new``: the model does not know
        the repository, and it is placed where those are that are about the same.
    """

    rank: int
    repo_id: int
    full_name: str
    score: float
    because: Sequence[Reason]
    kind: Kind = "personal"


@dataclass(frozen=True)
class Similar:
    """A repository like another one.

    Attributes
    ----------
    likeness : float
        Cosine, at most 1.
    kind : str
        ``stars``: the same people star both; ``content``: both are about the same.
    shared : sequence of str
        Topics, words and the language that both have, those that say most first.
    """

    repo_id: int
    full_name: str
    likeness: float
    kind: Literal["stars", "content"]
    shared: Sequence[str] = ()


@dataclass(frozen=True)
class _Lists:
    """Ranked items of some people, shape (people, n), -1 where there is no more; their reasons (people, n, k)."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    reasons: NDArray[np.int64]
    shares: NDArray[np.float32]
    popular: NDArray[np.bool_]


class Ranker:
    """Answers by one model.

    Parameters
    ----------
    trained : TrainedModel
    catalogue : Catalogue, optional
        What repositories are about, whose they are, and what they are forks of.
    """

    def __init__(self, trained: TrainedModel, catalogue: Catalogue | None = None) -> None:
        self.trained = trained
        self.catalogue = Catalogue(REPOS.empty()) if catalogue is None else catalogue
        self.items = trained.model.items
        self._row_of = self.catalogue.places(trained.repo_ids.tolist())
        self._item_of = trained.positions(self.catalogue.repo_ids)
        self._names: list[str] = trained.full_names.tolist()
        self._repo_ids: list[int] = trained.repo_ids.tolist()
        self._substitutes: dict[int, list[Neighbour]] = {}
        self._masks: dict[Filters, NDArray[np.bool_]] = {}

    def prepare(self) -> None:
        """Work out now what the first questions would have to wait for."""
        self.recommend_batch([RecommendationRequest(stars=self.trained.repo_ids[:2].tolist(), n=1)])
        self.unseen_recommendations(RecommendationRequest(n=1))
        self.similar(int(self.trained.repo_ids[0]), 1)

    # -- lists -------------------------------------------------------------------------------------------------------

    def recommend(self, request: RecommendationRequest) -> list[Recommendation]:
        """The list of one person; see `recommend_batch`."""
        return self.recommend_batch([request])[0]

    def recommend_batch(
        self, requests: Sequence[RecommendationRequest], *, reasons: int = REASONS
    ) -> list[list[Recommendation]]:
        """The lists of several people, scored together.

        Repositories that the model doesn't know count as those that it knows and that are about the same. Who has no
        star that says anything gets what is popular, of all kinds.
        """
        own = [np.unique(_ids(request.stars)) for request in requests]
        ends = np.cumsum([0, *map(len, own)])
        stars = np.concatenate(own)
        columns = np.split(self.trained.positions(stars), ends[1:-1])
        rows = np.split(self.catalogue.places(stars), ends[1:-1])
        given, hidden = [], []
        for request, mine, items, places in zip(requests, own, columns, rows, strict=True):
            known = items[items >= 0]
            given.append(known if len(known) == len(items) else self._with_substitutes(mine, items))
            related = self._item_of[self.catalogue.related(request.login, request.filters, places)]
            hidden.append(np.concatenate([known, self._known(_ids(request.hidden)), related[related >= 0]]))
        lists = self._rank(_rows(given, self.items), hidden, requests, reasons)
        return [self._told(lists, row, len(request.shown)) for row, request in enumerate(requests)]

    def recommend_all(
        self, matrix: UserItemMatrix, n: int, *, reasons: int = REASONS, filters: Filters = DEFAULT_FILTERS
    ) -> Iterator[pl.DataFrame]:
        """Lists of every user of a matrix, a frame of schema ``RECOMMENDATIONS`` for some users at a time.

        Memory is bounded by the users of one frame, whatever their number. Without `reasons` (0) it takes a fraction.
        """
        trained = self.trained
        places = trained.positions(matrix.repo_ids)
        strange = np.flatnonzero(places < 0)
        alike = [self._known(_ids(self._substitutes_for(int(matrix.repo_ids[place])))) for place in strange]
        counts_as = sp.csr_array(
            (
                np.ones(sum(map(len, alike)), np.float32),
                (np.repeat(strange, [len(items) for items in alike]), np.concatenate([*alike, np.empty(0, np.int64)])),
            ),
            shape=(len(matrix.repo_ids), self.items),
        )
        full_names, logins = pl.Series(trained.full_names.tolist()), pl.Series(matrix.logins.tolist())
        rows_there = self.catalogue.places(matrix.repo_ids.tolist())
        for start in range(0, matrix.stars.shape[0], USERS_AT_ONCE):
            batch = matrix.stars[start : start + USERS_AT_ONCE]
            known = _in_columns(batch, places, self.items)
            given = known + batch @ counts_as if len(strange) else known
            given.data[:] = 1.0
            given.sort_indices()
            requests = [
                RecommendationRequest(login=login, n=n, filters=filters)
                for login in logins[start : start + batch.shape[0]]
            ]
            hidden = []
            for row, request in enumerate(requests):
                own = slice(batch.indptr[row], batch.indptr[row + 1])
                related = self.catalogue.related(request.login, filters, rows_there[batch.indices[own]])
                columns = known.indices[known.indptr[row] : known.indptr[row + 1]]
                there = self._item_of[related]
                hidden.append(np.concatenate([columns, there[there >= 0]]))
            lists = self._rank(given, hidden, requests, reasons)
            users, ranks = np.nonzero(lists.items >= 0)
            from_repositories = lists.items[users, ranks]
            why, how_much = lists.reasons[users, ranks], lists.shares[users, ranks]
            yield pl.DataFrame(
                {
                    "user_id": matrix.user_ids[start + users],
                    "login": logins.gather(start + users),
                    "rank": ranks + 1,
                    "repo_id": trained.repo_ids[from_repositories],
                    "full_name": full_names.gather(from_repositories),
                    "score": lists.scores[users, ranks],
                    "because": _lists(full_names.gather(why[why >= 0]), why >= 0),
                    "because_share": _lists(pl.Series(how_much[why >= 0], dtype=pl.Float32), why >= 0),
                },
                schema=RECOMMENDATIONS.dtypes,
                strict=False,
            )

    def _rank(
        self, given: Csr, hidden: Sequence[NDArray[np.int64]], requests: Sequence[RecommendationRequest], reasons: int
    ) -> _Lists:
        """The one way from stars to a list; all lists are as long as the longest that was asked for."""
        trained = self.trained
        popular = np.diff(given.indptr) == 0
        scores = trained.model.predict(given)
        allowed = np.empty(scores.shape, bool)
        for row, request in enumerate(requests):
            if request.popularity and not popular[row]:
                scores[row] = (
                    _standardized(scores[row]) + np.float32(POPULARITY_WEIGHT * request.popularity) * self._popularity_z
                )
            allowed[row] = self._mask(request.filters)
            allowed[row, hidden[row]] = False
        np.copyto(scores, -np.inf, where=~allowed)
        lengths = [request.n + len(request.shown) for request in requests]
        diverse = [bool(request.diversity) for request in requests]
        items, values = best_items(scores, min(max([*lengths, POOL * any(diverse)]), self.items))
        found = np.full((len(requests), max(request.n for request in requests)), -1, np.int64)
        comparable_score = np.full(found.shape, -np.inf, np.float32)
        for row, request in enumerate(requests):
            length = lengths[row]
            if popular[row]:
                order, value = self._popular(request, allowed[row], length)
            else:
                order, value = items[row], values[row]
                if diverse[row]:
                    order, value = self._diversified(order, value, float(request.diversity or 0.0))
                order, value = order[:length], value[:length]
            if len(request.shown):
                fresh = ~np.isin(order, self._known(_ids(request.shown)))
                order, value = order[fresh], value[fresh]
            order, value = order[: request.n], value[: request.n]
            found[row, : len(order)], comparable_score[row, : len(order)] = order, value
        why, shares = trained.model.explain(given, found, reasons)
        return _Lists(found, comparable_score, why, shares, popular)

    def _told(self, lists: _Lists, row: int, before: int) -> list[Recommendation]:
        names, ids = self._names, self._repo_ids
        kind: Kind = "popular" if lists.popular[row] else "personal"
        entries = zip(
            lists.items[row].tolist(),
            lists.scores[row].tolist(),
            lists.reasons[row].tolist(),
            lists.shares[row].tolist(),
            strict=True,
        )
        return [
            Recommendation(
                before + rank,
                ids[item],
                names[item],
                score,
                [Reason(names[reason], share) for reason, share in zip(reasons, shares, strict=True) if reason >= 0],
                kind,
            )
            for rank, (item, score, reasons, shares) in enumerate(entries, start=1)
            if item >= 0
        ]

    # -- what counts, and what is left out ---------------------------------------------------------------------------

    def _with_substitutes(self, stars: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Items that somebody with these stars has, those that stand for others included."""
        stands_for = [neighbour for star in stars[columns < 0].tolist() for neighbour in self._substitutes_for(star)]
        return np.union1d(columns[columns >= 0], self._known(_ids(stands_for)))

    def substitutes(self, repo_ids: Sequence[int]) -> Mapping[int, Sequence[Neighbour]]:
        """What repositories that the model does not know count as."""
        ids = _ids(repo_ids)
        strange = ids[self.trained.positions(ids) < 0].tolist()
        missing = [repo_id for repo_id in strange if repo_id not in self._substitutes]
        in_catalogue = self.catalogue.places(missing) >= 0
        asked = [repo_id for repo_id, there in zip(missing, in_catalogue.tolist(), strict=True) if there]
        found = self.catalogue.neighbours_of(asked, self.trained.repo_ids, SUBSTITUTES_PER_STAR)
        self._substitutes |= zip(asked, found, strict=True)  # only of what the catalogue holds: it has an end
        return {repo_id: self._substitutes.get(repo_id, []) for repo_id in strange}

    def _substitutes_for(self, repo_id: int) -> list[int]:
        return [neighbour.repo_id for neighbour in self.substitutes([repo_id])[repo_id]]

    def _known(self, repo_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        places = self.trained.positions(repo_ids)
        return np.unique(places[places >= 0])

    def _mask(self, filters: Filters) -> NDArray[np.bool_]:
        """Items that pass filters; of what is in no catalogue nothing is known, so that it passes none."""
        # Not by lru_cache: its reference back would keep the model in memory until somebody looks for such circles.
        kept = self._masks.get(filters)
        if kept is None:
            while len(self._masks) >= MASKS:
                self._masks.pop(next(iter(self._masks), filters), None)
            kept = self._masks[filters] = self._passing(filters)
        return kept

    def _passing(self, filters: Filters) -> NDArray[np.bool_]:
        passing = self.catalogue.passing(filters)
        strange = filters.accepts_unknown
        return np.where(self._row_of >= 0, passing[self._row_of] if len(passing) else strange, strange)

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """Number of users who starred each item; from a model that did not note it, all alike."""
        counts = np.asarray(self.trained.data.get("stars_of", ()), np.float64)
        return counts if len(counts) == self.items else np.ones(self.items)

    @cached_property
    def _popularity_z(self) -> NDArray[np.float32]:
        return _standardized(np.log1p(self.popularity).astype(np.float32))

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        """Items as vectors of length 1; of a model without a notion of likeness, what they are about has to do."""
        vectors = self.trained.model.item_vectors()
        if vectors is None:
            vectors = np.zeros((self.items, 1), np.float32)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        directions: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
        return directions

    # -- order -------------------------------------------------------------------------------------------------------

    def _diversified(
        self, items: NDArray[np.int64], scores: NDArray[np.float32], diversity: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best ones in another order, and behind them the others as they were."""
        there = items >= 0
        items, scores = items[there], scores[there]
        pool = items[:POOL]
        if len(pool) == 0:
            return items, scores
        low, high = float(scores[: len(pool)].min()), float(scores[: len(pool)].max())
        relevance = (scores[: len(pool)] - low) / max(high - low, 1e-12)
        order = _marginal_relevance(relevance, self._directions[pool], len(pool), diversity)
        return np.concatenate([pool[order], items[len(pool) :]]), np.concatenate([scores[order], scores[len(pool) :]])

    def _popular(
        self, request: RecommendationRequest, allowed: NDArray[np.bool_], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What many starred, one kind after another: each next one is popular and unlike those before it.

        Below 0, `RecommendationRequest.popularity` leaves out so large a share of the most popular ones.
        """
        order = np.argsort(-self.popularity, kind="stable")
        if request.popularity < 0:
            order = order[min(int(-request.popularity * len(order)), len(order) - 1) :]
        candidates = order[allowed[order]][:POPULAR_POOL]
        comparable_score = self.popularity[candidates]
        diversity = POPULAR_DIVERSITY if request.diversity is None else request.diversity
        relevance = (comparable_score / max(float(comparable_score.max(initial=0.0)), 1e-12)).astype(np.float32)
        chosen = _marginal_relevance(relevance, self._directions[candidates], min(length, len(candidates)), diversity)
        return candidates[chosen], comparable_score[chosen].astype(np.float32)

    # -- what the model does not know --------------------------------------------------------------------------------

    def unseen_recommendations(self, request: RecommendationRequest) -> list[Recommendation]:
        """Repositories that the model doesn't know, where those stand that are about the same.

        A repository's score is the mean of the scores of its neighbours in the catalogue, weighted by how alike they
        are, and they are its reasons. For people, these stand beside the list of `recommend`: nobody's stars speak for
        them.
        """
        ids, places, weights = self._unseen_items
        if len(ids) == 0:
            return []
        stars = np.unique(_ids(request.stars))
        known = self._known(stars)
        scores = self.trained.model.predict(_rows([known], self.items))[0] if len(known) else self.popularity
        rows = self.catalogue.places(ids.tolist())
        related = self.catalogue.related(request.login, request.filters, self.catalogue.places(stars.tolist()))
        hidden = {*self.catalogue.repo_ids[related].tolist(), *request.hidden, *request.shown, *stars.tolist()}
        fitting = self.catalogue.passing(request.filters)[rows] & ~np.isin(ids, _ids(hidden))
        comparable_score = np.where(fitting, (scores[places] * weights).sum(axis=1), -np.inf)
        order = np.lexsort((ids, -comparable_score))[: request.n]
        return [
            Recommendation(
                rank + 1,
                int(ids[place]),
                self.catalogue.full_names[rows[place]],
                float(comparable_score[place]),
                [
                    Reason(str(self.trained.full_names[item]), float(weight))
                    for item, weight in zip(places[place], weights[place], strict=True)
                    if weight > 0
                ],
                "new",
            )
            for rank, place in enumerate(order.tolist())
            if fitting[place]
        ]

    @cached_property
    def _unseen_items(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Repositories that are like others that the model knows: their ids, those items, and weights of sum 1."""
        strange = self.catalogue.repo_ids[self._item_of < 0].tolist()
        alike = self.substitutes(strange)
        found = [repo_id for repo_id in strange if alike[repo_id]]
        places = np.zeros((len(found), SUBSTITUTES_PER_STAR), np.int64)
        weights = np.zeros((len(found), SUBSTITUTES_PER_STAR))
        for row, repo_id in enumerate(found):
            neighbours = alike[repo_id]
            places[row, : len(neighbours)] = self.trained.positions(_ids(one.repo_id for one in neighbours))
            weights[row, : len(neighbours)] = [neighbour.likeness for neighbour in neighbours]
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        return np.array(found, np.int64), places, weights

    # -- likeness ----------------------------------------------------------------------------------------------------

    def similar(
        self, repository: int | Description, n: int, filters: Filters = DEFAULT_FILTERS, hidden: Collection[int] = ()
    ) -> list[Similar]:
        """Repositories like one: by who stars them, and where the model does not know it, by what it is about.

        Parameters
        ----------
        repository : int or Description
            An id; or what is known of a repository that is in no catalogue.
        n : int
        filters : Filters
        hidden : collection of int
            Ids of those that are not to be shown.
        """
        own = repository if isinstance(repository, int) else -1
        item = int(self.trained.positions(np.array([own]))[0]) if own >= 0 else -1
        if item >= 0 and self.trained.model.item_vectors() is not None:
            likeness = self._directions @ self._directions[item]
            likeness[~self._mask(replace(filters, own=True, forks=True))] = -np.inf
            likeness[[item, *self._known(_ids(hidden)).tolist()]] = -np.inf
            order = np.argsort(-likeness, kind="stable")[:n].tolist()
            return [
                Similar(
                    int(self.trained.repo_ids[place]),
                    str(self.trained.full_names[place]),
                    float(likeness[place]),
                    "stars",
                    self.catalogue.shared(own, int(self.trained.repo_ids[place])),
                )
                for place in order
                if likeness[place] > 0
            ]
        passing = self.catalogue.repo_ids[self.catalogue.passing(filters)]
        among = np.setdiff1d(passing, _ids(hidden))
        return [
            Similar(
                neighbour.repo_id,
                neighbour.full_name,
                neighbour.likeness,
                "content",
                self.catalogue.shared(repository, neighbour.repo_id),
            )
            for neighbour in self.catalogue.neighbours_of([repository], among, n)[0]
        ]


def _marginal_relevance(
    relevance: NDArray[np.float32], directions: NDArray[np.float32], n: int, diversity: float
) -> list[int]:
    """Places in the order of maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998)."""
    nearest = np.zeros(len(relevance), np.float32)
    left = np.ones(len(relevance), bool)
    chosen: list[int] = []
    for _ in range(n):
        value = np.where(left, (1 - diversity) * relevance - diversity * nearest, -np.inf)
        best = int(np.argmax(value))
        chosen.append(best)
        left[best] = False
        np.maximum(nearest, directions @ directions[best], out=nearest)
    return chosen


def _standardized(values: NDArray[np.float32]) -> NDArray[np.float32]:
    centred = values - values.mean()
    standardized: NDArray[np.float32] = centred / max(float(centred.std()), 1e-12)
    return standardized


def _ids(repo_ids: Collection[int] | Iterator[int]) -> NDArray[np.int64]:
    return np.fromiter(repo_ids, np.int64)


def _rows(columns: Sequence[NDArray[np.int64]], width: int) -> Csr:
    """A row of ones for each; columns ascending."""
    ends = np.cumsum([0, *map(len, columns)])
    places = np.concatenate([*columns, np.empty(0, np.int64)])
    rows: Csr = sp.csr_array((np.ones(len(places), np.float32), places, ends), shape=(len(columns), width))
    return rows


def _in_columns(stars: Csr, places: NDArray[np.int64], width: int) -> Csr:
    """A matrix whose columns are elsewhere in another one; those that are not there (-1) are left out."""
    coordinates = stars.tocoo()
    keep = places[coordinates.col] >= 0
    moved: Csr = sp.csr_array(
        (coordinates.data[keep], (coordinates.row[keep], places[coordinates.col[keep]])), shape=(stars.shape[0], width)
    )
    moved.sort_indices()
    return moved


def _lists(values: pl.Series, present: NDArray[np.bool_]) -> pl.Series:
    """A column of lists: each row of `present` takes as many of the values as it has entries that are true."""
    counts = pl.Series(present.sum(axis=1))
    rows = pl.DataFrame({"row": np.repeat(np.arange(len(counts)), counts), "value": values})
    grouped = rows.group_by("row", maintain_order=True).agg("value")
    whole = pl.DataFrame({"row": np.arange(len(counts))}).join(grouped, on="row", how="left", maintain_order="left")
    return whole["value"].fill_null([])
