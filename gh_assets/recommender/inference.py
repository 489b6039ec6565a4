"""From a trained model and somebody's stars to recommendations with reasons, for the asset, the CLI and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.recommender.interactions import Csr, UserItemMatrix
from gh_assets.recommender.training import TrainedModel
from gh_assets.schemas import RECOMMENDATIONS

USERS_AT_ONCE = 1000
REASONS = 3


@dataclass(frozen=True)
class Reason:
    """One of the person's own stars that speaks for a recommendation."""

    full_name: str
    share: float


@dataclass(frozen=True)
class Recommendation:
    """One recommended repository."""

    rank: int
    repo_id: int
    full_name: str
    score: float
    because: Sequence[Reason]


def recommend_to(trained: TrainedModel, repo_ids: Sequence[int], n: int) -> list[Recommendation]:
    """Recommendations for one person, given the ids of repositories that the person starred.

    Repositories that the model doesn't know are ignored; if it knows none, what it gives to everybody comes out.
    """
    columns = np.unique(trained.positions(np.array(repo_ids, np.int64)))
    columns = columns[columns >= 0].astype(np.int32)
    ones = np.ones(len(columns), np.float32)
    stars: Csr = sp.csr_array((ones, columns, np.array([0, len(columns)])), shape=(1, len(trained.repo_ids)))
    items, scores, reasons, shares = _ranked(trained, stars, n)
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


def recommend_to_all(trained: TrainedModel, matrix: UserItemMatrix, n: int) -> Iterator[pl.DataFrame]:
    """Recommendations for every user of a matrix, a frame of schema ``RECOMMENDATIONS`` for some users at a time."""
    stars = matrix.stars
    if not np.array_equal(trained.repo_ids, matrix.repo_ids):
        stars = _in_columns_of(trained, matrix)
    for start in range(0, stars.shape[0], USERS_AT_ONCE):
        batch = stars[start : start + USERS_AT_ONCE]
        items, scores, reasons, shares = _ranked(trained, batch, n)
        users, ranks = np.nonzero(items >= 0)
        picked = items[users, ranks]
        why, how_much = reasons[users, ranks], shares[users, ranks]
        names = [trained.full_names[row[row >= 0]].tolist() for row in why]
        parts = [row[: len(kept)].tolist() for row, kept in zip(how_much, names, strict=True)]
        yield pl.DataFrame(
            {
                "user_id": matrix.user_ids[start + users],
                "login": matrix.logins[start + users].tolist(),
                "rank": ranks + 1,
                "repo_id": trained.repo_ids[picked],
                "full_name": trained.full_names[picked].tolist(),
                "score": scores[users, ranks],
                "because": names,
                "because_share": parts,
            },
            schema=RECOMMENDATIONS.dtypes,
            strict=False,
        )


def _ranked(
    trained: TrainedModel, stars: Csr, n: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    items, scores = trained.model.recommend(stars, n)
    reasons, shares = trained.model.explain(stars, items, REASONS)
    return items, scores, reasons, shares


def _in_columns_of(trained: TrainedModel, matrix: UserItemMatrix) -> Csr:
    """The matrix with the model's columns: data move on while a model stays."""
    places = trained.positions(matrix.repo_ids)
    coordinates = matrix.stars.tocoo()
    keep = places[coordinates.col] >= 0
    moved: Csr = sp.csr_array(
        (coordinates.data[keep], (coordinates.row[keep], places[coordinates.col[keep]])),
        shape=(matrix.stars.shape[0], len(trained.repo_ids)),
    )
    moved.sort_indices()
    return moved
