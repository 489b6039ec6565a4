"""Choice of hyperparameters on the validation users: the one rule for every baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, evaluate

Candidate = TypeVar("Candidate")


def best_on_validation(
    model: Predictor,
    fit: Callable[[Candidate], None],
    candidates: Iterable[Candidate],
    validation: tuple[Csr, Csr] | None,
    default: Candidate,
) -> Candidate:
    """Fit each candidate and leave the model fitted with the best by NDCG@100 on the validation users.

    Without validation users, it is fitted with the default. Only one fitted model is in memory at a time: if the best
    is not the last, it is fitted again.
    """
    if validation is None:
        fit(default)
        return default
    best, best_score, last = default, -math.inf, None
    for candidate in candidates:
        fit(candidate)
        last = candidate
        score = evaluate(model, *validation)[MAIN_METRIC]
        if score > best_score:
            best, best_score = candidate, score
    if best is not last:
        fit(best)
    return best
