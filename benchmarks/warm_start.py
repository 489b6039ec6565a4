"""A training that begins with the weights of the model before, beside one that begins anew, after the data grew.

Run: python benchmarks/warm_start.py [--interactions FILE] [--minimum 1] [--share 0.9] [--splits 3]
Without --interactions: the synthetic world.

A RecVAE is trained on a random share of the users and the items that two of them have. Then the others are added, and
RecVAE is trained twice on all of them: anew, and from the first model's weights. Prints for each split NDCG@100 on the
test users that none of the three was trained on, and seconds; at the end the paired difference over all splits with its
95 % bootstrap interval, and the ratio of the times.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from held_out import matrix_of
from interactions import read_interactions

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.recommender import RecVAEConfig, UserItemMatrix, evaluate_users
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.evaluation import bootstrap
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.recommender.training.training import split_of, train_recvae

MAIN = "ndcg@100"


def matrix_with_ids(stars: Csr, users: np.ndarray, items: np.ndarray) -> UserItemMatrix:
    """Return the users and items with these ids as the assets have them."""
    part: Csr = stars[users][:, items]
    return UserItemMatrix(part, users, users.astype(np.str_), items, items.astype(np.str_))


def trained(matrix: UserItemMatrix, seed: int, earlier: TrainedModel | None = None) -> tuple[TrainedModel, float]:
    """Train with the defaults; return the model and the seconds."""
    started = time.perf_counter()
    result = train_recvae(matrix, RecVAEConfig(seed=seed), split_seed=seed, earlier=earlier)
    return result.trained, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.9)
    parser.add_argument("--splits", type=int, default=3)
    options = parser.parse_args()
    if options.interactions:
        stars = read_interactions(options.interactions, options.minimum)
    else:
        stars = matrix_of(synthetic_world())
    every = np.arange(stars.shape[1])
    differences, seconds = [], np.zeros(2)
    for seed in range(options.splits):
        drawn = np.random.default_rng(seed).permutation(stars.shape[0])
        first = np.sort(drawn[: int(options.share * len(drawn))])
        known = np.flatnonzero(np.bincount(stars[first].indices, minlength=len(every)) > 1)
        earlier, before = trained(matrix_with_ids(stars, first, known), seed)
        matrix = matrix_with_ids(stars, np.arange(stars.shape[0]), every)
        split = split_of(matrix, seed, unseen=earlier.data["test_users"])
        figures = []
        for start in (None, earlier):
            model, elapsed = trained(matrix, seed, start)
            figures.append((evaluate_users(model.model, *split.test)[MAIN], elapsed, len(model.model.history)))
        (cold, cold_seconds, cold_epochs), (warm, warm_seconds, warm_epochs) = figures
        differences.append(warm - cold)
        seconds += cold_seconds, warm_seconds
        print(
            f"split {seed}: {len(first):,} then {len(drawn):,} users, {len(known):,} then {len(every):,} items, "
            f"{len(warm)} test users; first model {before:.1f} s; anew {cold.mean():.4f} in {cold_seconds:.1f} s "
            f"({cold_epochs} epochs); from its weights {warm.mean():.4f} in {warm_seconds:.1f} s "
            f"({warm_epochs} epochs)",
            flush=True,
        )
    print(f"difference {bootstrap(np.concatenate(differences))}, {seconds[1] / seconds[0]:.2f} × the time")


if __name__ == "__main__":
    main()
