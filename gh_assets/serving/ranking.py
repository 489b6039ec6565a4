"""Ranking: from a trained model and a user's stars to recommendations with reasons.

A `Ranker` holds one model and one catalogue and never changes. The asset, the command, the API and the page all use it,
so that a user gets the same list everywhere.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from gh_assets import __version__
from gh_assets.local.concurrency import map_in_order
from gh_assets.recommender.data.interactions import Csr, UserItemMatrix, positions_of
from gh_assets.recommender.evaluation.metrics import best_items
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.schemas import RECOMMENDATIONS, REPOS
from gh_assets.serving.catalogue import Catalogue, Description, Neighbour
from gh_assets.serving.fingerprints import list_fingerprints
from gh_assets.serving.requests import DEFAULT_FILTERS, Filters, RecommendationRequest

USERS_PER_BATCH = 1000

REASONS = 3
"""Reasons per recommendation."""

SUBSTITUTES_PER_STAR = 3
"""Repositories that substitute a starred one that the model does not know."""

POPULAR_DIVERSITY = 0.5
"""Diversity of popular lists, unless the request sets one."""

POOL = 200
"""Candidates among which diversity reorders. It is fixed, so that a longer list begins like a shorter one."""

POPULAR_POOL = 1000
"""Candidates of popular lists."""

POPULARITY_WEIGHT = 3.0
"""Weight of `RecommendationRequest.popularity`: about the spread of standardized model scores at the top."""

CACHED_MASKS = 256
"""Filters whose masks are cached."""

Kind = Literal["personal", "popular", "new"]


@dataclass(frozen=True)
class Reason:
    """A starred repository that explains a recommendation, and its share in the explanation."""

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
        Higher is better; comparable within one list.
    because : sequence of Reason
        Starred repositories that explain it most, strongest first.
    kind : str
        ``personal``; ``popular``: recommended because the user's stars are unknown; ``new``: unknown to the model, and
        ranked by similarity in content.
    """

    rank: int
    repo_id: int
    full_name: str
    score: float
    because: Sequence[Reason]
    kind: Kind = "personal"


@dataclass(frozen=True)
class Similar:
    """A repository similar to another one.

    Attributes
    ----------
    likeness : float
        Cosine, at most 1.
    kind : str
        ``stars``: starred by the same users; ``content``: similar in content.
    shared : sequence of str
        Topics, words and languages that both have, most significant first.
    """

    repo_id: int
    full_name: str
    likeness: float
    kind: Literal["stars", "content"]
    shared: Sequence[str] = ()


@dataclass(frozen=True)
class AllLists:
    """Which lists all users get.

    Attributes
    ----------
    n : int
        Repositories in a list.
    reasons : int
        Reasons of each. Without reasons (0) it is much faster.
    filters : Filters
    made_by : str
        Names the model in the lists' fingerprints.
    """

    n: int
    reasons: int = REASONS
    filters: Filters = DEFAULT_FILTERS
    made_by: str = ""


@dataclass(frozen=True)
class _Inputs:
    """What the lists of some users are made from: see `list_fingerprints`."""

    logins: list[str]
    given: Csr
    hidden: list[NDArray[np.int64]]
    fingerprints: NDArray[np.int64]


@dataclass(frozen=True)
class _Lists:
    """Ranked items, shape (users, n), padded with -1; their reasons and shares, shape (users, n, k).

    ``unseen`` are the scores of repositories that the model does not know, shape (users, repositories), if wanted.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    reasons: NDArray[np.int64]
    shares: NDArray[np.float32]
    popular: NDArray[np.bool_]
    unseen: NDArray[np.float64]


class Ranker:
    """Recommendations of one model.

    Parameters
    ----------
    trained : TrainedModel
    catalogue : Catalogue, optional
        Descriptions, owners and forks of repositories.
    """

    def __init__(self, trained: TrainedModel, catalogue: Catalogue | None = None) -> None:
        self.trained = trained
        self.catalogue = Catalogue(REPOS.empty()) if catalogue is None else catalogue
        self.items = trained.model.items
        self._row_of = self.catalogue.places(trained.repo_ids.tolist())
        self._item_of = trained.positions(self.catalogue.repo_ids)
        self._names: list[str] = trained.full_names.tolist()
        self._repo_ids: list[int] = trained.repo_ids.tolist()
        self._known_ids = frozenset(self._repo_ids)
        self._substitutes: dict[int, list[Neighbour]] = {}
        self._masks: dict[Filters, NDArray[np.bool_]] = {}

    def warm_up(self) -> None:
        """Compute what is cached, so that the first requests do not wait for it."""
        self.recommend_batch([RecommendationRequest(stars=self.trained.repo_ids[:2].tolist(), n=1)])
        self.unseen_recommendations(RecommendationRequest(n=1))
        self.similar(int(self.trained.repo_ids[0]), 1)

    # -- lists -------------------------------------------------------------------------------------------------------

    def recommend(self, request: RecommendationRequest) -> list[Recommendation]:
        """Return the list for one request; see `recommend_batch`."""
        return self.recommend_batch([request])[0]

    def recommend_batch(
        self, requests: Sequence[RecommendationRequest], *, reasons: int = REASONS
    ) -> list[list[Recommendation]]:
        """Return the lists for several requests, scored together.

        Starred repositories that the model does not know are substituted by similar ones that it knows. A request
        without usable stars gets popular repositories of all kinds.
        """
        return [entries for entries, _ in self.recommend_batch_with_unseen(requests, 0, reasons=reasons)]

    def recommend_batch_with_unseen(
        self, requests: Sequence[RecommendationRequest], n: int, *, reasons: int = REASONS
    ) -> list[tuple[list[Recommendation], list[Recommendation]]]:
        """Return the lists of `recommend_batch`, and beside each up to n repositories that the model does not know.

        There are none beside later pages, and for requests that want none.
        The score of such a repository is the mean score of its neighbours in the catalogue, weighted by similarity,
        and these neighbours are its reasons.
        """
        stars_of = [np.unique(_ids(request.stars)) for request in requests]
        ends = np.cumsum([0, *map(len, stars_of)])
        stars = np.concatenate(stars_of)
        items_of = np.split(self.trained.positions(stars), ends[1:-1])
        rows_of = np.split(self.catalogue.places(stars), ends[1:-1])
        given, hidden, related_of = [], [], []
        for request, starred, items, rows in zip(requests, stars_of, items_of, rows_of, strict=True):
            known = items[items >= 0]
            given.append(known if len(known) == len(items) else self._with_substitutes(starred, items))
            related_of.append(self.catalogue.related(request.login, request.filters, rows))
            hidden.append(np.concatenate([known, self._known(_ids(request.hidden)), self._in_model(related_of[-1])]))
        lists = self._rank(_rows(given, self.items), hidden, requests, reasons, with_unseen=n > 0)
        return [
            (
                self._recommendations(lists, row, len(request.shown)),
                self._unseen(request, stars_of[row], related_of[row], lists.unseen[row], n)
                if n and request.new and not request.shown
                else [],
            )
            for row, request in enumerate(requests)
        ]

    def recommend_all(self, matrix: UserItemMatrix, wanted: AllLists) -> Iterator[pl.DataFrame]:
        """Yield the lists of all users of a matrix, as frames of schema ``RECOMMENDATIONS``.

        A frame has the lists of `USERS_PER_BATCH` users, and as many frames are computed at the same time as torch has
        threads, which bounds the memory.
        """
        inputs_from = self._inputs_of(matrix, wanted)

        def table(start: int) -> pl.DataFrame:
            inputs = inputs_from(start)
            requests = [RecommendationRequest(login=one, n=wanted.n, filters=wanted.filters) for one in inputs.logins]
            lists = self._rank(inputs.given, inputs.hidden, requests, wanted.reasons)
            return self._table(lists, matrix.user_ids[start:], inputs)

        # Much of the work is not a matrix product, so batches at the same time are faster than one in many threads.
        starts, threads = range(0, matrix.stars.shape[0], USERS_PER_BATCH), torch.get_num_threads()
        try:
            # A product in several threads of BLAS waits for those that compute another batch: twice the time.
            with threadpool_limits(1, user_api="blas"):
                yield from map_in_order(table, starts, threads, initializer=partial(torch.set_num_threads, 1))
        finally:
            torch.set_num_threads(threads)  # otherwise threads that are started later would have one

    def fingerprints(self, matrix: UserItemMatrix, wanted: AllLists) -> NDArray[np.int64]:
        """Return the fingerprints that the lists of `recommend_all` have, shape (users,), without making the lists."""
        inputs_from = self._inputs_of(matrix, wanted)
        starts = range(0, matrix.stars.shape[0], USERS_PER_BATCH)
        return np.concatenate([inputs_from(start).fingerprints for start in starts])

    def _inputs_of(self, matrix: UserItemMatrix, wanted: AllLists) -> Callable[[int], _Inputs]:
        """Return the function that prepares the lists of `USERS_PER_BATCH` users from a given row."""
        items = self.trained.positions(matrix.repo_ids)
        rows = self.catalogue.places(matrix.repo_ids.tolist())
        substitutes = self._substitute_matrix(matrix.repo_ids, items)
        allowed = hashlib.sha256(self._mask(wanted.filters).tobytes()).hexdigest()
        common = f"{__version__} {wanted.made_by} {wanted.n} {wanted.reasons} {allowed}"

        def inputs(start: int) -> _Inputs:
            stars = matrix.stars[start : start + USERS_PER_BATCH]
            known = _in_columns(stars, items, self.items)
            given = known if substitutes is None else known + stars @ substitutes
            given.data[:] = 1.0
            given.sort_indices()
            logins = matrix.logins[start : start + stars.shape[0]].tolist()
            hidden = [
                np.concatenate([known_items, self._related_items(login, wanted.filters, rows[starred])])
                for login, known_items, starred in zip(logins, _columns(known), _columns(stars), strict=True)
            ]
            return _Inputs(logins, given, hidden, list_fingerprints(common, logins, given, hidden))

        return inputs

    def _substitute_matrix(self, repo_ids: NDArray[np.int64], items: NDArray[np.int64]) -> Csr | None:
        """Map columns of a matrix that the model does not know to their substitutes, shape (columns, items)."""
        unknown = np.flatnonzero(items < 0)
        if len(unknown) == 0:
            return None
        found = self.substitutes(repo_ids[unknown].tolist())  # at once: one by one, each would take a pass of its own
        substitutes = [
            self._known(_ids(one.repo_id for one in found[repo_id])) for repo_id in repo_ids[unknown].tolist()
        ]
        columns = np.repeat(unknown, [len(one) for one in substitutes])
        places = np.concatenate([*substitutes, np.empty(0, np.int64)])
        matrix: Csr = sp.csr_array(
            (np.ones(len(columns), np.float32), (columns, places)), shape=(len(repo_ids), self.items)
        )
        return matrix

    def _related_items(self, login: str | None, filters: Filters, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._in_model(self.catalogue.related(login, filters, rows))

    def _in_model(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items of those rows of the catalogue that the model knows."""
        items = self._item_of[rows]
        return items[items >= 0]

    def _table(self, lists: _Lists, user_ids: NDArray[np.int64], inputs: _Inputs) -> pl.DataFrame:
        users, ranks = np.nonzero(lists.items >= 0)
        items = lists.items[users, ranks]
        reasons, shares = lists.reasons[users, ranks], lists.shares[users, ranks]
        names = pl.Series(self._names)
        return pl.DataFrame(
            {
                "user_id": user_ids[users],
                "login": pl.Series(inputs.logins).gather(users),
                "rank": ranks + 1,
                "repo_id": self.trained.repo_ids[items],
                "full_name": names.gather(items),
                "score": lists.scores[users, ranks],
                "because": _list_column(names.gather(reasons[reasons >= 0]), reasons >= 0),
                "because_share": _list_column(pl.Series(shares[reasons >= 0], dtype=pl.Float32), reasons >= 0),
                "made_from": inputs.fingerprints[users],
            },
            schema=RECOMMENDATIONS.dtypes,
            strict=False,
        )

    def _rank(
        self,
        given: Csr,
        hidden: Sequence[NDArray[np.int64]],
        requests: Sequence[RecommendationRequest],
        reasons: int,
        *,
        with_unseen: bool = False,
    ) -> _Lists:
        """Rank items for each row of `given`; all lists are as long as the longest requested one."""
        popular = np.diff(given.indptr) == 0
        predicted = self.trained.model.predict_scores(given)
        scores = predicted.values
        unseen = self._unseen_scores(scores, popular) if with_unseen else np.empty((len(requests), 0))
        allowed = np.empty(scores.shape, bool)
        for row, request in enumerate(requests):
            if request.popularity and not popular[row]:
                weight = np.float32(POPULARITY_WEIGHT * request.popularity)
                scores[row] = _standardized(scores[row]) + weight * self._popularity_z
            allowed[row] = self._mask(request.filters)
            allowed[row, hidden[row]] = False
        np.copyto(scores, -np.inf, where=~allowed)
        longest = max(request.n + len(request.shown) for request in requests)
        pool = POOL if any(request.diversity for request in requests) else 0
        best, values = best_items(scores, min(max(longest, pool), self.items))
        items = np.full((len(requests), max(request.n for request in requests)), -1, np.int64)
        ranked_scores = np.full(items.shape, -np.inf, np.float32)
        for row, request in enumerate(requests):
            if popular[row]:
                order, value = self._popular(request, allowed[row])
            else:
                order, value = self._personal(request, best[row], values[row])
            if len(request.shown):
                fresh = ~np.isin(order, self._known(_ids(request.shown)))
                order, value = order[fresh], value[fresh]
            order, value = order[: request.n], value[: request.n]
            items[row, : len(order)], ranked_scores[row, : len(order)] = order, value
        reason_items, shares = self.trained.model.explain(given, items, reasons, scores=predicted)
        return _Lists(items, ranked_scores, reason_items, shares, popular, unseen)

    def _recommendations(self, lists: _Lists, row: int, before: int) -> list[Recommendation]:
        """Return the list of one row, which continues after `before` recommendations."""
        names, ids = self._names, self._repo_ids
        kind: Kind = "popular" if lists.popular[row] else "personal"
        columns = lists.items, lists.scores, lists.reasons, lists.shares
        entries = zip(*(column[row].tolist() for column in columns), strict=True)
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

    # -- substitutes, masks and popularity -----------------------------------------------------------------------------

    def _with_substitutes(self, stars: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items of a user's stars, including substitutes for those that the model does not know."""
        substitutes = [repo_id for star in stars[items < 0].tolist() for repo_id in self._substitute_ids(star)]
        return np.union1d(items[items >= 0], self._known(_ids(substitutes)))

    def substitutes(self, repo_ids: Sequence[int]) -> Mapping[int, Sequence[Neighbour]]:
        """Return the substitutes for those repositories that the model does not know."""
        # No arrays: beside busy threads, each of their functions waits for the interpreter's lock.
        unknown = [repo_id for repo_id in repo_ids if repo_id not in self._known_ids]
        if not unknown:
            return {}
        missing = [repo_id for repo_id in unknown if repo_id not in self._substitutes]
        in_catalogue = self.catalogue.places(missing) >= 0
        # Only repositories of the catalogue are cached, which bounds the cache.
        described = [repo_id for repo_id, known in zip(missing, in_catalogue.tolist(), strict=True) if known]
        neighbours = self.catalogue.neighbours_of(described, self.trained.repo_ids, SUBSTITUTES_PER_STAR)
        self._substitutes |= zip(described, neighbours, strict=True)
        return {repo_id: self._substitutes.get(repo_id, []) for repo_id in unknown}

    def _substitute_ids(self, repo_id: int) -> list[int]:
        return [neighbour.repo_id for neighbour in self.substitutes([repo_id])[repo_id]]

    def _known(self, repo_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items of those repositories that the model knows."""
        items = self.trained.positions(repo_ids)
        return np.unique(items[items >= 0])

    def _mask(self, filters: Filters) -> NDArray[np.bool_]:
        """Return a mask of the items that pass the filters."""
        # lru_cache would refer back to the ranker and keep the model in memory until the next garbage collection.
        mask = self._masks.get(filters)
        if mask is None:
            while len(self._masks) >= CACHED_MASKS:
                self._masks.pop(next(iter(self._masks), filters), None)
            mask = self._masks[filters] = self._passing(filters)
        return mask

    def _passing(self, filters: Filters) -> NDArray[np.bool_]:
        passing, unknown = self.catalogue.passing(filters), filters.accepts_unknown
        return np.where(self._row_of >= 0, passing[self._row_of] if len(passing) else unknown, unknown)

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """Number of users who starred each item; 1 for all if the model does not record it."""
        counts = np.asarray(self.trained.data.get("stars_of", ()), np.float64)
        return counts if len(counts) == self.items else np.ones(self.items)

    @cached_property
    def _popularity_z(self) -> NDArray[np.float32]:
        return _standardized(np.log1p(self.popularity).astype(np.float32))

    @cached_property
    def _directions(self) -> NDArray[np.float32]:
        """Item vectors of unit length; zeros if the model has none."""
        vectors = self.trained.model.item_vectors()
        if vectors is None:
            vectors = np.zeros((self.items, 1), np.float32)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        directions: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
        return directions

    # -- order -------------------------------------------------------------------------------------------------------

    def _personal(
        self, request: RecommendationRequest, items: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the best items; with diversity, the first `POOL` of them are reordered."""
        length = request.n + len(request.shown)
        if not request.diversity:
            return items[:length], scores[:length]
        valid = items >= 0
        items, scores = items[valid], scores[valid]
        pool = items[:POOL]
        if len(pool):
            low, high = float(scores[: len(pool)].min()), float(scores[: len(pool)].max())
            relevance = (scores[: len(pool)] - low) / max(high - low, 1e-12)
            order = _marginal_relevance(relevance, self._directions[pool], len(pool), float(request.diversity))
            items = np.concatenate([pool[order], items[len(pool) :]])
            scores = np.concatenate([scores[order], scores[len(pool) :]])
        return items[:length], scores[:length]

    def _popular(
        self, request: RecommendationRequest, allowed: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return popular items of all kinds: each next one is popular and dissimilar to those before it.

        A negative `RecommendationRequest.popularity` skips that share of the most popular items.
        """
        order = np.argsort(-self.popularity, kind="stable")
        if request.popularity < 0:
            order = order[min(int(-request.popularity * len(order)), len(order) - 1) :]
        candidates = order[allowed[order]][:POPULAR_POOL]
        counts = self.popularity[candidates]
        diversity = POPULAR_DIVERSITY if request.diversity is None else request.diversity
        relevance = (counts / max(float(counts.max(initial=0.0)), 1e-12)).astype(np.float32)
        length = min(request.n + len(request.shown), len(candidates))
        chosen = _marginal_relevance(relevance, self._directions[candidates], length, diversity)
        return candidates[chosen], counts[chosen].astype(np.float32)

    # -- repositories that the model does not know -------------------------------------------------------------------

    def unseen_recommendations(self, request: RecommendationRequest) -> list[Recommendation]:
        """Return repositories that the model does not know; see `recommend_batch_with_unseen`."""
        return self.recommend_batch_with_unseen([replace(request, n=1)], request.n, reasons=0)[0][1]

    def _unseen_scores(self, scores: NDArray[np.float32], popular: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the scores of the repositories of `_unseen_items`, shape (users, repositories)."""
        _, neighbours, weights = self._unseen_items
        means: NDArray[np.float64] = (scores[:, neighbours] * weights).sum(axis=2)
        means[popular] = (self.popularity[neighbours] * weights).sum(axis=1)
        return means

    def _unseen(
        self,
        request: RecommendationRequest,
        stars: NDArray[np.int64],
        related: NDArray[np.int64],
        scores: NDArray[np.float64],
        n: int,
    ) -> list[Recommendation]:
        """Return the best n repositories that the model does not know, of those that a request may get."""
        ids, neighbours, weights = self._unseen_items
        if len(ids) == 0:
            return []
        places = self._unseen_places
        hidden = np.concatenate([self.catalogue.repo_ids[related], _ids(request.hidden), stars])
        allowed = self.catalogue.passing(request.filters)[places]
        found = positions_of(hidden, ids)
        allowed[found[found >= 0]] = False
        values = np.where(allowed, scores, -np.inf)
        order = np.argsort(-values, kind="stable")[:n]  # the ids ascend
        return [
            Recommendation(
                rank,
                int(ids[place]),
                self.catalogue.full_names[places[place]],
                float(values[place]),
                [
                    Reason(self._names[item], float(weight))
                    for item, weight in zip(neighbours[place], weights[place], strict=True)
                    if weight > 0
                ],
                "new",
            )
            for rank, place in enumerate(order.tolist(), start=1)
            if allowed[place]
        ]

    @cached_property
    def _unseen_places(self) -> NDArray[np.int64]:
        """Rows of the catalogue of the repositories of `_unseen_items`."""
        return self.catalogue.places(self._unseen_items[0].tolist())

    @cached_property
    def _unseen_items(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Ids of unknown repositories with substitutes, the items of the substitutes, and weights of sum 1."""
        unknown = self.catalogue.repo_ids[self._item_of < 0].tolist()
        substitutes = self.substitutes(unknown)
        ids = [repo_id for repo_id in unknown if substitutes[repo_id]]
        items = np.zeros((len(ids), SUBSTITUTES_PER_STAR), np.int64)
        weights = np.zeros((len(ids), SUBSTITUTES_PER_STAR))
        for row, repo_id in enumerate(ids):
            neighbours = substitutes[repo_id]
            items[row, : len(neighbours)] = self.trained.positions(_ids(one.repo_id for one in neighbours))
            weights[row, : len(neighbours)] = [neighbour.likeness for neighbour in neighbours]
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        return np.array(ids, np.int64), items, weights

    # -- similar repositories ----------------------------------------------------------------------------------------

    def similar(
        self, repository: int | Description, n: int, filters: Filters = DEFAULT_FILTERS, hidden: Collection[int] = ()
    ) -> list[Similar]:
        """Return repositories similar to one: starred by the same users, or else similar in content.

        Parameters
        ----------
        repository : int or Description
            An id, or the metadata of a repository that is not in the catalogue.
        n : int
        filters : Filters
        hidden : collection of int
            Ids of repositories to exclude.
        """
        kind: Literal["stars", "content"] = "content"
        item = -1
        if isinstance(repository, int) and self.trained.model.item_vectors() is not None:
            item = int(self.trained.positions(np.array([repository]))[0])
        if item >= 0:
            kind, near = "stars", self._neighbours_by_stars(item, n, filters, hidden)
        else:
            among = np.setdiff1d(self.catalogue.repo_ids[self.catalogue.passing(filters)], _ids(hidden))
            near = self.catalogue.neighbours_of([repository], among, n)[0]
        return [
            Similar(one.repo_id, one.full_name, one.likeness, kind, self.catalogue.shared(repository, one.repo_id))
            for one in near
        ]

    def _neighbours_by_stars(self, item: int, n: int, filters: Filters, hidden: Collection[int]) -> list[Neighbour]:
        likeness = self._directions @ self._directions[item]
        likeness[~self._mask(replace(filters, own=True, forks=True))] = -np.inf
        likeness[[item, *self._known(_ids(hidden)).tolist()]] = -np.inf
        return [
            Neighbour(self._repo_ids[place], self._names[place], float(likeness[place]))
            for place in np.argsort(-likeness, kind="stable")[:n].tolist()
            if likeness[place] > 0
        ]


def _marginal_relevance(
    relevance: NDArray[np.float32], directions: NDArray[np.float32], n: int, diversity: float
) -> list[int]:
    """Return places in the order of maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998)."""
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
    """Return a matrix with ones in the given columns of each row, which are ascending."""
    ends = np.cumsum([0, *map(len, columns)])
    places = np.concatenate([*columns, np.empty(0, np.int64)])
    rows: Csr = sp.csr_array((np.ones(len(places), np.float32), places, ends), shape=(len(columns), width))
    return rows


def _columns(rows: Csr) -> list[NDArray[np.int64]]:
    """Return the columns of the entries of each row."""
    return [rows.indices[start:end] for start, end in zip(rows.indptr[:-1], rows.indptr[1:], strict=True)]


def _in_columns(stars: Csr, places: NDArray[np.int64], width: int) -> Csr:
    """Move the columns of a matrix to other places; those with place -1 are dropped."""
    coordinates = stars.tocoo()
    keep = places[coordinates.col] >= 0
    moved: Csr = sp.csr_array(
        (coordinates.data[keep], (coordinates.row[keep], places[coordinates.col[keep]])), shape=(stars.shape[0], width)
    )
    moved.sort_indices()
    return moved


def _list_column(values: pl.Series, present: NDArray[np.bool_]) -> pl.Series:
    """Return a column of lists: each row takes as many of the values as `present` has true entries."""
    ends = np.cumsum([0, *present.sum(axis=1)])
    return pl.Series(pa.LargeListArray.from_arrays(ends, values.to_arrow()))
