"""Effect of the two controls of a list: popularity and diversity.

Run: python benchmarks/controls.py --interactions FILE [--epochs 25]

Trains the hybrid on a file of stars without its held-out users (benchmarks/held_out.py's split), and gives those users
lists of 20 from their fold-in stars. Prints for each value of a control recall and NDCG at 20 (comparable within the
table), the mean percentile of the recommended repositories by number of stars (100: the most starred), the share of all
repositories that are in any user's list, and the mean similarity of two repositories of a list (cosine of their
vectors).
"""

import argparse
from pathlib import Path

import numpy as np
from interactions import read_interactions

from gh_assets.recommender import EASE, Hybrid, RecVAE, RecVAEConfig, strong_generalization_split
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.metrics import contains
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.serving.ranking import Ranker
from gh_assets.serving.requests import RecommendationRequest

LENGTH = 20
SETTINGS: list[tuple[str, dict[str, float]]] = [
    ("as the model ranks", {}),
    *((f"popularity {value:+.2g}", {"popularity": value}) for value in (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)),
    *((f"diversity {value:.2g}", {"diversity": value}) for value in (0.25, 0.5, 0.75, 1.0)),
]


def figures(ranker: Ranker, given: Csr, hidden: Csr, choice: dict[str, float]) -> list[float]:
    ids = ranker.trained.repo_ids
    lists = np.full((given.shape[0], LENGTH), -1, np.int64)
    for start in range(0, given.shape[0], 64):
        some = range(start, min(start + 64, given.shape[0]))
        stars = [ids[given.indices[given.indptr[row] : given.indptr[row + 1]]].tolist() for row in some]
        requests = [RecommendationRequest(stars=own, n=LENGTH, **choice) for own in stars]  # type: ignore[arg-type]
        for row, entries in zip(some, ranker.recommend_batch(requests, reasons=0), strict=True):
            lists[row, : len(entries)] = [entry.repo_id for entry in entries]
    hits = contains(hidden, lists)
    relevant = np.minimum(np.diff(hidden.indptr), LENGTH)
    discount = 1 / np.log2(np.arange(2, LENGTH + 2))
    gains = (hits * discount).sum(axis=1) / np.cumsum(discount)[relevant - 1]
    percentile = np.argsort(np.argsort(ranker.popularity)) / (len(ids) - 1)
    shown = lists[lists >= 0]
    directions = ranker.trained.model.item_vectors()
    assert directions is not None
    directions = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12)
    similarities = []
    for row in lists:
        vectors = directions[row[row >= 0]]
        similarity = vectors @ vectors.T
        similarities.append((similarity.sum() - np.trace(similarity)) / max(len(vectors) * (len(vectors) - 1), 1))
    return [
        float((hits.sum(axis=1) / relevant).mean()),
        float(gains.mean()),
        100 * float(percentile[shown].mean()),
        100 * len(np.unique(shown)) / len(ids),
        float(np.mean(similarities)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=25)
    options = parser.parse_args()
    stars = read_interactions(options.interactions)
    split = strong_generalization_split(stars, seed=0)
    validation = split.validation_fold_in, split.validation_held_out
    model = Hybrid(RecVAE(RecVAEConfig(epochs=options.epochs)), EASE()).fit(split.train, validation)
    items = stars.shape[1]
    names = np.array([f"o/r{item}" for item in range(items)])
    counts = np.bincount(split.train.indices, minlength=items).tolist()
    ranker = Ranker(TrainedModel(model, np.arange(items), names, data={"stars_of": counts}))
    given, hidden = split.test_fold_in, split.test_held_out
    with_stars = np.flatnonzero((np.diff(hidden.indptr) > 0) & (np.diff(given.indptr) > 0))
    print(f"{len(with_stars)} held-out users, {items:,} repositories")
    print("| order | recall@20 | NDCG@20 | popularity percentile | repositories shown | similarity within a list |")
    print("|---|---|---|---|---|---|")
    for name, choice in SETTINGS:
        recall, gain, percentile, shown, similarities = figures(ranker, given[with_stars], hidden[with_stars], choice)
        print(
            f"| {name} | {recall:.3f} | {gain:.3f} | {percentile:.1f} | {shown:.1f} % | {similarities:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
