"""The hybrid beside its parts and popularity, with 1, 2, 3, 5, 10 and all stars of each user known.

Run: python benchmarks/known_stars.py [--interactions FILE] [--minimum 1] [--splits 3] [--epochs 25]
Without --interactions: the synthetic world.

All models are fitted on the training users of each split, and the hybrid's weights are chosen on its validation users.
The test users' histories are cut, the same users at each length. Prints NDCG@100 and Recall@20 over all splits' test
users, and the mean difference in NDCG@100 between the hybrid and the best other model of each length, paired, with its
95 % bootstrap interval.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from held_out import matrix_of
from interactions import read_interactions
from numpy.typing import NDArray

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.recommender import (
    GraphFilter,
    Hybrid,
    Popularity,
    RecVAE,
    RecVAEConfig,
    evaluate_users,
    strong_generalization_split,
)
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.evaluation.evaluation import LENGTHS, bootstrap
from gh_assets.recommender.models.baselines import linear_model

NDCG, RECALL = "ndcg@100", "recall@20"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=25)
    options = parser.parse_args()
    matrix = matrix_of(synthetic_world())
    if options.interactions:
        matrix = read_interactions(options.interactions, options.minimum)
    print(f"{matrix.shape[0]:,} users × {matrix.shape[1]:,} items, {matrix.nnz:,} pairs", flush=True)
    collected: dict[tuple[str, int | None], dict[str, list[NDArray[np.float64]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for seed in range(options.splits):
        split = strong_generalization_split(matrix, seed=seed)
        recvae = RecVAE(RecVAEConfig(epochs=options.epochs, seed=seed))
        hybrid = Hybrid(recvae, linear_model(matrix.shape[1]), GraphFilter()).fit(split.train, split.validation)
        for row in hybrid.describe():
            print(f"split {seed}: " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()), flush=True)
        for model in [Popularity().fit(split.train), *hybrid.parts, hybrid]:
            for length in LENGTHS:
                users = evaluate_users(model, cut_histories(split.test_fold_in, length, seed=1), split.test_held_out)
                for metric in (NDCG, RECALL):
                    collected[model.name, length][metric].append(users[metric])
    names = list(dict.fromkeys(name for name, _ in collected))
    print("known stars   " + "".join(f"{'all' if length is None else length:>16}" for length in LENGTHS))
    joined = {key: {metric: np.concatenate(v) for metric, v in of.items()} for key, of in collected.items()}
    for name in names:
        cells = [
            f"{joined[name, length][NDCG].mean():.4f} / {joined[name, length][RECALL].mean():.4f}" for length in LENGTHS
        ]
        print(f"{name:<14}" + "".join(f"{cell:>16}" for cell in cells))
    for length in LENGTHS:
        others = {name: joined[name, length][NDCG].mean() for name in names if name != Hybrid.name}
        best = max(others, key=lambda name: others[name])
        own = joined[Hybrid.name, length][NDCG]
        difference = bootstrap(own - joined[best, length][NDCG])
        print(f"{length or 'all'} known: hybrid - {best}: {difference}, {own.mean() / others[best]:.3f} ×")


if __name__ == "__main__":
    main()
