"""Choice of hyperparameters on the validation users: the one rule for every baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, evaluate

Candidate = TypeVar("Candidate")


def best_on_validation(
    model: Predictor,
    fit: Callable[[Candidate], None],
    candidates: Iterable[Candidate],
    validation: tuple[Csr, Csr],
) -> Candidate:
    """Fit each candidate and leave the model fitted with the best by NDCG@100 on the validation users.

    Only one fitted model is in memory at a time: if the best is not the last, it is fitted again.
    """
    best: tuple[float, Candidate] | None = None
    last: Candidate | None = None
    for candidate in candidates:
        fit(candidate)
        last = candidate
        score = evaluate(model, *validation)[MAIN_METRIC]
        if best is None or score > best[0]:
            best = (score, candidate)
    if best is None:
        raise ValueError("There is no candidate to choose from.")
    if best[1] is not last:
        fit(best[1])
    return best[1]
