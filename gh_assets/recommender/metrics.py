"""Ranking metrics of Liang et al. 2018 (arXiv 1802.05814, section 4.2), seen items masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender.interactions import Csr, check_interactions

NDCG_AT = 100
RECALL_AT = (20, 50)


class Predictor(Protocol):
    """Anything that scores items for users."""

    def predict(self, fold_in: Csr) -> NDArray[np.float32]:
        """Scores, shape (users, items)."""


def evaluate(model: Predictor, fold_in: Csr, held_out: Csr, *, batch_size: int = 500) -> dict[str, float]:
    """Mean ranking metrics over users.

    Parameters
    ----------
    model : Predictor
    fold_in, held_out : scipy.sparse CSR, shape (users, items)
        What is given of each user, and what is to be predicted. Users without held-out items don't count.
    batch_size : int
        Users scored at once.

    Returns
    -------
    dict
        ``ndcg@100``, ``recall@20``, ``recall@50``.
    """
    rows = evaluate_users(model, fold_in, held_out, batch_size=batch_size)
    return {name: float(values.mean()) for name, values in rows.items()}


def evaluate_users(
    model: Predictor, fold_in: Csr, held_out: Csr, *, batch_size: int = 500
) -> Mapping[str, NDArray[np.float64]]:
    """The metrics of each user that has held-out items, for paired comparisons. See `evaluate`."""
    given = check_interactions(fold_in, name="fold-in matrix")
    hidden = check_interactions(held_out, items=given.shape[1], name="held-out matrix")
    if given.shape != hidden.shape:
        raise InvalidInteractionsError(
            f"Fold-in {given.shape} and held-out {hidden.shape} matrices differ in their users."
        )
    users = np.flatnonzero(np.diff(hidden.indptr))
    if len(users) == 0:
        raise InvalidInteractionsError("No user has a held-out item: there is nothing to predict.")
    depth = min(max(NDCG_AT, *RECALL_AT), given.shape[1])
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    ideal = np.cumsum(discount)
    columns: dict[str, list[Any]] = {f"ndcg@{NDCG_AT}": [], **{f"recall@{k}": [] for k in RECALL_AT}}
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        ranked = rank_items(model.predict(given[batch]), given[batch], depth)[0]
        hits = np.take_along_axis(hidden[batch].toarray() > 0, ranked.clip(0), axis=1) & (ranked >= 0)
        relevant = np.diff(hidden.indptr)[batch]
        gains = (hits[:, :NDCG_AT] * discount[:NDCG_AT]).sum(axis=1)
        columns[f"ndcg@{NDCG_AT}"].append(gains / ideal[np.minimum(relevant, min(NDCG_AT, depth)) - 1])
        for k in RECALL_AT:
            columns[f"recall@{k}"].append(hits[:, :k].sum(axis=1) / np.minimum(relevant, k))
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def rank_items(scores: NDArray[np.float32], seen: Csr, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The n best unseen items of each user, best first.

    Parameters
    ----------
    scores : ndarray of float32, shape (users, items)
        Overwritten.
    seen : scipy.sparse CSR, shape (users, items)
        Items never to rank.
    n : int

    Returns
    -------
    items : ndarray of int64, shape (users, n)
        -1 where a user has fewer than n unseen items. Equal scores are ordered by item.
    scores : ndarray of float32, shape (users, n)
        -inf in these places.
    """
    scores[np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)), seen.indices] = -np.inf
    width = scores.shape[1]
    take = min(n, width)
    candidates = np.argpartition(-scores, take - 1, axis=1)[:, :take] if take < width else None
    if candidates is None:
        candidates = np.tile(np.arange(width), (scores.shape[0], 1))
    candidates.sort(axis=1)
    values = np.take_along_axis(scores, candidates, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    items = np.take_along_axis(candidates, order, axis=1).astype(np.int64)
    values = np.take_along_axis(values, order, axis=1)
    items[np.isneginf(values)] = -1
    if take < n:
        items = np.pad(items, ((0, 0), (0, n - take)), constant_values=-1)
        values = np.pad(values, ((0, 0), (0, n - take)), constant_values=-np.inf)
    return items, values
