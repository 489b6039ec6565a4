"""From a trained model and somebody's stars to recommendations with reasons, for the asset, the CLI and the page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.catalogue import Catalogue, Neighbour
from gh_assets.recommender.interactions import Csr, UserItemMatrix
from gh_assets.recommender.metrics import rank_items
from gh_assets.recommender.training import TrainedModel
from gh_assets.schemas import RECOMMENDATIONS

USERS_AT_ONCE = 1000
REASONS = 3

STAND_INS = 3
"""Repositories that one counts as that the model does not know."""

DIVERSITY = 0.5
"""What a popular list gives up for being of all kinds."""


@dataclass(frozen=True)
class Reason:
    """One of the person's own stars that speaks for a recommendation."""

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
    kind: str = "personal"


def recommend_to(
    trained: TrainedModel,
    repo_ids: Sequence[int],
    n: int,
    *,
    without: Collection[int] = (),
    catalogue: Catalogue | None = None,
) -> list[Recommendation]:
    """Recommendations for one person, given the ids of repositories that the person starred.

    Repositories that the model doesn't know count as those that it knows and that are about the same, if there is a
    catalogue; else not at all. Who has no star that says anything gets what is popular, of all kinds.

    Parameters
    ----------
    trained : TrainedModel
    repo_ids : sequence of int
        What the person starred: never recommended.
    n : int
    without : collection of int
        Ids of more repositories that are not to be recommended; see `Unwanted.ids`.
    catalogue : Catalogue, optional
        Says what repositories are about.
    """
    starred = np.array(sorted(set(repo_ids)), np.int64)
    columns = trained.positions(starred)
    own = columns[columns >= 0]
    if catalogue is not None:
        stands_for = [
            neighbour.repo_id
            for neighbours in catalogue.neighbours_of(starred[columns < 0].tolist(), trained.repo_ids, STAND_INS)
            for neighbour in neighbours
        ]
        columns = np.concatenate([columns, trained.positions(np.array(stands_for, np.int64))])
    given = np.unique(columns[columns >= 0])
    hidden = np.unique(np.concatenate([own, _known(trained, without)]))
    if len(given) == 0:
        return _popular(trained, n, hidden)
    stars = _one_row(given, trained.model.items)
    items, scores = rank_items(trained.model.predict(stars), _one_row(hidden, trained.model.items), n)
    reasons, shares = trained.model.explain(stars, items, REASONS)
    return [
        Recommendation(
            rank + 1,
            int(trained.repo_ids[items[0, rank]]),
            str(trained.full_names[items[0, rank]]),
            float(scores[0, rank]),
            [
                Reason(str(trained.full_names[reason]), float(share))
                for reason, share in zip(reasons[0, rank], shares[0, rank], strict=True)
                if reason >= 0
            ],
        )
        for rank in range(items.shape[1])
        if items[0, rank] >= 0
    ]


def new_to_the_model(
    trained: TrainedModel, repo_ids: Sequence[int], n: int, catalogue: Catalogue, *, without: Collection[int] = ()
) -> list[Recommendation]:
    """Repositories that the model doesn't know, where those stand that are about the same.

    A repository's score is the mean of the scores of its neighbours in the catalogue, weighted by how alike they are,
    and they are its reasons. For people, these stand beside the list of `recommend_to`: nobody's stars speak for them.

    Parameters
    ----------
    trained, repo_ids, n, without
        See `recommend_to`.
    catalogue : Catalogue
    """
    known = trained.positions(np.array(sorted(set(repo_ids)), np.int64))
    stars = _one_row(np.unique(known[known >= 0]), trained.model.items)
    scores = trained.model.predict(stars)[0] if stars.nnz else _popularity(trained)
    hidden = {*without, *repo_ids}
    found: list[tuple[float, int, list[Neighbour]]] = []
    strange = catalogue.repo_ids[trained.positions(catalogue.repo_ids) < 0].tolist()
    wanted = [repo_id for repo_id in strange if repo_id not in hidden]
    alike = catalogue.neighbours_of(wanted, trained.repo_ids, STAND_INS)
    for repo_id, neighbours in zip(wanted, alike, strict=True):
        if neighbours:
            places = trained.positions(np.array([neighbour.repo_id for neighbour in neighbours], np.int64))
            weights = np.array([neighbour.likeness for neighbour in neighbours])
            found.append((float(np.average(scores[places], weights=weights)), repo_id, neighbours))
    found.sort(key=lambda entry: (-entry[0], entry[1]))
    names = dict(zip(catalogue.repo_ids.tolist(), catalogue.full_names, strict=True))
    return [
        Recommendation(
            rank + 1,
            repo_id,
            names[repo_id],
            score,
            [
                Reason(neighbour.full_name, neighbour.likeness / sum(other.likeness for other in neighbours))
                for neighbour in neighbours[:REASONS]
            ],
            "new",
        )
        for rank, (score, repo_id, neighbours) in enumerate(found[:n])
    ]


def _popular(trained: TrainedModel, n: int, hidden: NDArray[np.int64]) -> list[Recommendation]:
    """What many starred, one kind after another: each next one is popular and unlike those before it.

    Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998) among the most popular.
    """
    popularity = _popularity(trained)
    candidates = np.setdiff1d(np.argsort(-popularity, kind="stable")[: max(10 * n, 100) + len(hidden)], hidden)
    vectors = trained.model.item_vectors()
    kinds = np.zeros((len(candidates), 1)) if vectors is None else vectors[candidates]
    kinds = kinds / np.maximum(np.linalg.norm(kinds, axis=1, keepdims=True), 1e-12)
    highest = max(float(popularity[candidates].max(initial=0.0)), 1e-12)
    nearest = np.zeros(len(candidates))
    chosen: list[int] = []
    worth = popularity[candidates] / highest
    for _ in range(min(n, len(candidates))):
        value = (1 - DIVERSITY) * worth - DIVERSITY * nearest
        value[chosen] = -np.inf
        best = int(np.argmax(value))
        chosen.append(best)
        nearest = np.maximum(nearest, kinds @ kinds[best])
    return [
        Recommendation(
            rank + 1, int(trained.repo_ids[item]), str(trained.full_names[item]), float(popularity[item]), (), "popular"
        )
        for rank, item in enumerate(candidates[chosen].tolist())
    ]


def _popularity(trained: TrainedModel) -> NDArray[np.float64]:
    """Number of users who starred each repository; from a model that did not note it, all alike."""
    counts = np.asarray(trained.data.get("stars_of", ()), np.float64)
    return counts if len(counts) == len(trained.repo_ids) else np.ones(len(trained.repo_ids))


def _known(trained: TrainedModel, repo_ids: Collection[int]) -> NDArray[np.int64]:
    places = trained.positions(np.fromiter(repo_ids, np.int64, len(repo_ids)))
    return places[places >= 0]


def _one_row(columns: NDArray[np.int64], items: int) -> Csr:
    ones = np.ones(len(columns), np.float32)
    row: Csr = sp.csr_array((ones, columns, np.array([0, len(columns)])), shape=(1, items))
    return row


@dataclass(frozen=True)
class Unwanted:
    """What is not to be recommended, to anybody of whom a model and a catalogue know; see `Catalogue.unwanted`."""

    catalogue: Catalogue
    own: bool = True
    forks: bool = True
    archived: bool = True

    def of(self, trained: TrainedModel, logins: Sequence[str | None], stars: Csr) -> Csr:
        """For people with these stars, in the columns of the model."""
        there = _in_columns(stars, self.catalogue.places(trained.repo_ids.tolist()), len(self.catalogue))
        hidden = self.catalogue.unwanted(logins, there, own=self.own, forks=self.forks, archived=self.archived)
        return _in_columns(hidden, trained.positions(self.catalogue.repo_ids), len(trained.repo_ids))

    def ids(self, login: str | None, repo_ids: Collection[int]) -> set[int]:
        """For one person who starred these; whether a model knows them or not."""
        places = self.catalogue.places(repo_ids)
        row = _one_row(np.unique(places[places >= 0]), len(self.catalogue))
        hidden = self.catalogue.unwanted([login], row, own=self.own, forks=self.forks, archived=self.archived)
        return set(self.catalogue.repo_ids[hidden.indices].tolist())


def recommend_to_all(
    trained: TrainedModel,
    matrix: UserItemMatrix,
    n: int,
    *,
    reasons: int = REASONS,
    unwanted: Unwanted | None = None,
) -> Iterator[pl.DataFrame]:
    """Recommendations for every user of a matrix, a frame of schema ``RECOMMENDATIONS`` for some users at a time.

    Memory is bounded by the users of one frame, whatever their number. Without `reasons` (0) it takes a fraction.
    """
    stars = matrix.stars
    if not np.array_equal(trained.repo_ids, matrix.repo_ids):  # data move on while a model stays
        stars = _in_columns(stars, trained.positions(matrix.repo_ids), len(trained.repo_ids))
    full_names, logins = pl.Series(trained.full_names.tolist()), pl.Series(matrix.logins.tolist())
    for start in range(0, stars.shape[0], USERS_AT_ONCE):
        batch = stars[start : start + USERS_AT_ONCE]
        hidden = batch
        if unwanted is not None:
            hidden = batch + unwanted.of(trained, logins[start : start + batch.shape[0]].to_list(), batch)
        items, scores = rank_items(trained.model.predict(batch), hidden, n)
        explained, shares = trained.model.explain(batch, items, reasons)
        users, ranks = np.nonzero(items >= 0)
        picked = items[users, ranks]
        why, how_much = explained[users, ranks], shares[users, ranks]
        yield pl.DataFrame(
            {
                "user_id": matrix.user_ids[start + users],
                "login": logins.gather(start + users),
                "rank": ranks + 1,
                "repo_id": trained.repo_ids[picked],
                "full_name": full_names.gather(picked),
                "score": scores[users, ranks],
                "because": _lists(full_names.gather(why[why >= 0]), why >= 0),
                "because_share": _lists(pl.Series(how_much[why >= 0], dtype=pl.Float32), why >= 0),
            },
            schema=RECOMMENDATIONS.dtypes,
            strict=False,
        )


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
