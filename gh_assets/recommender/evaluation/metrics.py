"""Ranking metrics of Liang et al. 2018 (arXiv 1802.05814, section 4.2), seen items masked."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender.data.interactions import Csr, check_interactions

NDCG_AT = 100
RECALL_AT = (20, 50)
MAIN_METRIC = f"ndcg@{NDCG_AT}"
"""Metric for model selection, early stopping and registration."""
DEPTH = max(NDCG_AT, *RECALL_AT)


class Predictor(Protocol):
    """Anything that scores items for users."""

    def predict(self, fold_in: Csr) -> NDArray[np.float32]:
        """Return scores, shape (users, items)."""


def evaluate(model: Predictor, fold_in: Csr, held_out: Csr, *, batch_size: int = 500) -> dict[str, float]:
    """Return the mean ranking metrics over users.

    Parameters
    ----------
    model : Predictor
    fold_in, held_out : scipy.sparse CSR, shape (users, items)
        Known items of each user, and items to predict. Users without held-out items don't count.
    batch_size : int
        Users scored per batch.

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
    """Return the metrics of each user that has held-out items, for paired comparisons; see `evaluate`."""
    return evaluate_lists(model, fold_in, held_out, batch_size=batch_size)[0]


def check_held_out(fold_in: Csr, held_out: Csr) -> tuple[Csr, Csr]:
    """Return checked matrices of users' given and held-out items.

    Raises
    ------
    InvalidInteractionsError
        If one is not a matrix of interactions, they are not of the same users, or no item is held out.
    """
    given = check_interactions(fold_in, name="fold-in matrix")
    hidden = check_interactions(held_out, items=given.shape[1], name="held-out matrix")
    if given.shape != hidden.shape:
        raise InvalidInteractionsError(
            f"Fold-in {given.shape} and held-out {hidden.shape} matrices differ in their users."
        )
    if hidden.nnz == 0:
        raise InvalidInteractionsError("No user has a held-out item: there is nothing to predict.")
    return given, hidden


def evaluate_lists(
    model: Predictor, fold_in: Csr, held_out: Csr, *, batch_size: int = 500
) -> tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64]]:
    """Return the metrics of each user that has held-out items, and the lists that they are of.

    Returns
    -------
    metrics : mapping of ndarray, shape (users,)
    lists : ndarray of int64, shape (users, at most `DEPTH`)
        The best unseen items of each of these users; see `rank_items`.
    """
    given, hidden = check_held_out(fold_in, held_out)
    users = np.flatnonzero(np.diff(hidden.indptr))
    depth = min(DEPTH, given.shape[1])
    batches = np.array_split(users, -(-len(users) // batch_size))
    lists = [rank_items(model.predict(given[batch]), given[batch], depth)[0] for batch in batches]
    parts = [ranking_metrics(ranked, hidden[batch]) for ranked, batch in zip(lists, batches, strict=True)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, np.concatenate(lists)


def ranking_metrics(ranked: NDArray[np.int64], hidden: Csr) -> dict[str, NDArray[np.float64]]:
    """Return the metrics of users from their lists.

    Parameters
    ----------
    ranked : ndarray of int64, shape (users, depth)
        Best first; as many of `DEPTH` as there are items.
    hidden : scipy.sparse CSR, shape (users, items)
        Every user has a hidden item.
    """
    depth = ranked.shape[1]
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    ideal = np.cumsum(discount)
    hits = contains(hidden, ranked)
    relevant = np.diff(hidden.indptr)
    gains = (hits[:, :NDCG_AT] * discount[:NDCG_AT]).sum(axis=1)
    metrics = {MAIN_METRIC: gains / ideal[np.minimum(relevant, min(NDCG_AT, depth)) - 1]}
    for k in RECALL_AT:
        metrics[f"recall@{k}"] = hits[:, :k].sum(axis=1) / np.minimum(relevant, k)
    return metrics


def contains(matrix: Csr, items: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row of the matrix contains each of the row's items; -1 is contained in none. Shape of `items`."""
    width = matrix.shape[1]
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))
    cells = np.sort(rows * width + matrix.indices)
    if len(cells) == 0:
        return np.zeros(items.shape, bool)
    queries = np.arange(len(items), dtype=np.int64)[:, None] * width + items
    contained: NDArray[np.bool_] = cells[np.searchsorted(cells, queries).clip(max=len(cells) - 1)] == queries
    return contained & (items >= 0)


def rank_items(scores: NDArray[np.float32], seen: Csr, n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the n best unseen items of each user, best first.

    Parameters
    ----------
    scores : ndarray of float32, shape (users, items)
        Overwritten.
    seen : scipy.sparse CSR, shape (users, items)
        Items to exclude.
    n : int

    Returns
    -------
    items : ndarray of int64, shape (users, n)
        -1 where a user has fewer than n unseen items. Equal scores are ordered by item.
    scores : ndarray of float32, shape (users, n)
        -inf in these places.
    """
    scores[np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)), seen.indices] = -np.inf
    return best_items(scores, n)


def best_items(scores: NDArray[np.float32], n: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the n best items of each user, best first, without those of score -inf; see `rank_items`."""
    import torch  # takes seconds, which loading the definitions need not wait for

    width = scores.shape[1]
    take = min(n, width)
    table = torch.from_numpy(scores)
    best = torch.topk(table, take, dim=1, sorted=True)
    values, candidates = best.values.numpy(), best.indices.numpy()
    if take < width:
        # topk chooses arbitrarily among equal scores at the end of the list: such rows are sorted whole.
        last = best.values[:, -1:]
        more = ((table == last).sum(dim=1) > (best.values == last).sum(dim=1)) & ~torch.isneginf(last[:, 0])
        for row in np.flatnonzero(more.numpy()):
            candidates[row] = np.argsort(-scores[row], kind="stable")[:take]
            values[row] = scores[row, candidates[row]]
    order = np.lexsort((candidates, -values), axis=1)
    items = np.take_along_axis(candidates, order, axis=1)
    values = np.take_along_axis(values, order, axis=1)
    items[np.isneginf(values)] = -1
    if take < n:
        items = np.pad(items, ((0, 0), (0, n - take)), constant_values=-1)
        values = np.pad(values, ((0, 0), (0, n - take)), constant_values=-np.inf)
    return items, values
