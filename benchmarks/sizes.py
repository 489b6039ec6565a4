"""Every model with its defaults beside popularity, from 50 to 350,000 users.

Run: python benchmarks/sizes.py [--sizes 50 200 1000 5000] [--seeds 3] [--models recvae hybrid] [--interactions FILE]
Other sizes: --sizes 40000 350000, of which each takes hours with all models.

Each size is a world of the synthetic kind with a quarter as many repositories as users (at least 40, at most 10,000);
from 20,000 users on, a matrix of `interactions.generated`. With --interactions it is a random sample of the file's
users with the items that at least two of them have. Prints for each seed what the defaults became for this matrix and
NDCG@100 of the test users, and for each size the mean of each model with its paired difference to popularity over all
seeds' test users and a 95 % bootstrap interval. Exits with 1 if a model is certainly worse than popularity.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from held_out import matrix_of
from interactions import generated, read_interactions, sample
from numpy.typing import NDArray

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.recommender import (
    ALS,
    GraphFilter,
    Hybrid,
    ItemKNN,
    MultVAE,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    evaluate_users,
    strong_generalization_split,
)
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.evaluation.evaluation import bootstrap
from gh_assets.recommender.models.baselines import linear_model

MAIN = "ndcg@100"
LARGE = 20_000
MODELS = ("recvae", "multvae", "linear", "graph-filter", "itemknn", "ials", "hybrid")


def sampled(users: int, seed: int, interactions: Csr | None) -> Csr:
    """Return a matrix of about that number of users."""
    if interactions is not None:
        return sample(interactions, users, seed)
    if users >= LARGE:
        return generated(users, 10_000, 34 * users, seed)
    return matrix_of(synthetic_world(seed, users=users, repositories=int(np.clip(users // 4, 40, 10_000))))


def fitted(name: str, split_items: int, seed: int, others: dict[str, Recommender]) -> Recommender:
    """Return a model with its defaults; a hybrid takes the parts that were fitted before."""
    if name == "hybrid":
        return Hybrid(*(others[part] for part in ("recvae", "linear", "graph-filter") if part in others))
    makers: dict[str, Callable[[], Recommender]] = {"multvae": MultVAE, "itemknn": ItemKNN, "ials": ALS}
    makers["recvae"] = lambda: RecVAE(RecVAEConfig(seed=seed))
    makers |= {"linear": lambda: linear_model(split_items), "graph-filter": GraphFilter, "popularity": Popularity}
    return makers[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 1000, 5000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--minimum", type=int, default=1)
    options = parser.parse_args()
    interactions = read_interactions(options.interactions, options.minimum) if options.interactions else None
    worse = []
    for users in options.sizes:
        scores: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for seed in range(options.seeds):
            matrix = sampled(users, seed, interactions)
            split = strong_generalization_split(matrix, seed=seed)
            print(f"{users} users, seed {seed}: {split.train.shape}, {split.train.nnz:,} stars", flush=True)
            models: dict[str, Recommender] = {}
            for name in ("popularity", *options.models):
                started = time.perf_counter()
                model = fitted(name, matrix.shape[1], seed, models).fit(split.train, split.validation)
                models[name] = model
                elapsed = time.perf_counter() - started
                scores[name].append(evaluate_users(model, *split.test)[MAIN])
                print(f"  {name:<13} {scores[name][-1].mean():.4f}  {elapsed:6.1f} s  {described(model)}", flush=True)
        popularity = np.concatenate(scores["popularity"])
        print(f"{users} users: popularity {popularity.mean():.4f} ({len(popularity)} test users)")
        for name in options.models:
            own = np.concatenate(scores[name])
            difference = bootstrap(own - popularity)
            print(f"  {name:<13} {own.mean():.4f}, less popularity {difference}", flush=True)
            if difference.high < 0:
                worse.append(f"{name} with {users} users")
    if worse:
        sys.exit(f"worse than popularity: {', '.join(worse)}")


def described(model: Recommender) -> str:
    """Return what the defaults of an autoencoder became, and its best epoch."""
    if not isinstance(model, RecVAE):
        return ""
    best = max(model.history, key=lambda row: row[MAIN])
    config = model.config
    return (
        f"gamma {config.gamma:.4f}, batches of {config.batch_size}, best epoch {best['epoch']:.0f} of {config.epochs}"
    )


if __name__ == "__main__":
    main()
