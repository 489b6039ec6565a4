"""RecVAE beside popularity and EASE on held-out users, on several splits of a file of stars.

Run: python benchmarks/held_out.py --stars FILE [--splits 3] [--epochs 25]; without --stars: the synthetic world.
Prints NDCG@100, Recall@20 and Recall@50 of each split's test users, the seconds of training, and RecVAE / EASE.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.embedded.standin.world import World, read_world
from gh_assets.recommender import EASE, Popularity, Recommender, RecVAE, RecVAEConfig, evaluate
from gh_assets.recommender.interactions import Csr, strong_generalization_split


def matrix_of(world: World) -> Csr:
    """All stars of a world as a matrix, without repositories that nobody starred."""
    starred = [repository for repository in world.repositories if len(repository.stargazers)]
    rows = np.concatenate([repository.stargazers for repository in starred])
    columns = np.repeat(np.arange(len(starred)), [len(repository.stargazers) for repository in starred])
    matrix: Csr = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)))
    return matrix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stars", type=Path)
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=RecVAEConfig.epochs)
    options = parser.parse_args()
    world = read_world(options.stars) if options.stars else synthetic_world()
    matrix = matrix_of(world)
    print(f"{world.description}: {matrix.shape[0]:,} users × {matrix.shape[1]:,} repositories, {matrix.nnz:,} stars")
    ratios = []
    for seed in range(options.splits):
        split = strong_generalization_split(matrix, seed=seed)
        validation = (split.validation_fold_in, split.validation_held_out)
        scores = {}
        models: list[Recommender] = [Popularity(), EASE(), RecVAE(RecVAEConfig(epochs=options.epochs, seed=seed))]
        for model in models:
            started = time.perf_counter()
            model.fit(split.train, validation)
            elapsed = time.perf_counter() - started
            metrics = evaluate(model, split.test_fold_in, split.test_held_out)
            scores[model.name] = metrics["ndcg@100"]
            figures = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            print(f"split {seed}  {model.name:<10}  {figures}  {elapsed:6.1f} s", flush=True)
        ratios.append(scores["recvae"] / scores["ease"])
        print(f"split {seed}  RecVAE / EASE: {ratios[-1]:.3f}")
    print(f"RecVAE / EASE on NDCG@100: mean {statistics.mean(ratios):.3f}, least {min(ratios):.3f}")


if __name__ == "__main__":
    main()
