"""RecVAE and the hybrid beside every baseline, all tuned on the validation users, on several splits of the same stars.

Run: python benchmarks/held_out.py --interactions FILE [--minimum 1] [--splits 5] [--factors 64 128 256] [--epochs 30]
Without --interactions: the synthetic world.

Every model is trained on the split's training users and tuned on its validation users: EASE's lambda, the neighbours
and shrinkage of kNN, factors, alpha and lambda of iALS, and gamma of RecVAE. Prints NDCG@100, Recall@20 and Recall@50
of each split's test users, and the seconds of training and tuning. Then, with 1, 2, 3, 5, 10 and all stars of the test
users known, the mean NDCG@100 of each model, and for RecVAE and the hybrid the mean difference to the baseline that is
best in the mean, paired over all splits' test users, with a 95 % bootstrap interval, and the ratio of the means.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from interactions import read_interactions
from numpy.typing import NDArray

from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.embedded.standin.world import World
from gh_assets.recommender import (
    ALS,
    EASE,
    GFCF,
    SVDAE,
    GraphFilter,
    Hybrid,
    ItemKNN,
    MultVAE,
    MultVAEConfig,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    RP3Beta,
    evaluate,
    evaluate_users,
    strong_generalization_split,
)
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.data.splits import StrongGeneralizationSplit
from gh_assets.recommender.evaluation.evaluation import LENGTHS, bootstrap, evaluate_lengths

MAIN = "ndcg@100"
LAMBDAS = (100.0, 200.0, 300.0, 500.0, 700.0, 1000.0)
GAMMAS = (0.002, 0.0035, 0.005, 0.01)
PROJECT_MODELS = ("recvae", "hybrid")


def matrix_of(world: World) -> Csr:
    """Return the stars of a world as a matrix, without repositories that have none."""
    starred = [repository for repository in world.repositories if len(repository.stargazers)]
    rows = np.concatenate([repository.stargazers for repository in starred])
    columns = np.repeat(np.arange(len(starred)), [len(repository.stargazers) for repository in starred])
    matrix: Csr = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)))
    return matrix


def best_of(candidates: Sequence[Callable[[], Recommender]], split: StrongGeneralizationSplit) -> Recommender:
    """Return the model that is best for the validation users."""
    fitted = [make().fit(split.train, split.validation) for make in candidates]
    return max(fitted, key=lambda model: evaluate(model, *split.validation)[MAIN])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--factors", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--gammas", type=float, nargs="+", default=GAMMAS)
    options = parser.parse_args()
    if options.interactions:
        matrix, name = read_interactions(options.interactions, options.minimum), options.interactions.name
    else:
        world = synthetic_world()
        matrix, name = matrix_of(world), world.description
    print(f"{name}: {matrix.shape[0]:,} users × {matrix.shape[1]:,} items, {matrix.nnz:,} pairs")
    metrics_of: dict[int | None, dict[str, list[NDArray[np.float64]]]] = {
        length: defaultdict(list) for length in LENGTHS
    }
    for seed in range(options.splits):
        split = strong_generalization_split(matrix, seed=seed)

        def show(
            model: Recommender, started: float, seed: int = seed, split: StrongGeneralizationSplit = split
        ) -> None:
            users = evaluate_users(model, *split.test)
            for length, values in evaluate_lengths(model, *split.test).items():
                metrics_of[length][model.name].append(values)
            figures = "  ".join(f"{metric} {values.mean():.4f}" for metric, values in users.items())
            elapsed = time.perf_counter() - started
            print(f"split {seed}  {model.name:<10}  {figures}  {elapsed:6.1f} s  {_reported(model)}", flush=True)

        factors = [lambda count=count: ALS(count, (0.1, 0.3, 1.0), (0.003, 0.01, 0.03)) for count in options.factors]
        configs = [RecVAEConfig(epochs=options.epochs, seed=seed, gamma=gamma) for gamma in options.gammas]
        trained: dict[str, Recommender] = {}
        for candidates in (
            [Popularity],
            [ItemKNN],
            [lambda: EASE(LAMBDAS)],
            [GraphFilter],
            [GFCF],
            [SVDAE],
            [RP3Beta],
            factors,
            [lambda seed=seed: MultVAE(MultVAEConfig(seed=seed))],
            [lambda config=config: RecVAE(config) for config in configs],
        ):
            started = time.perf_counter()
            model = best_of(candidates, split)
            trained[model.name] = model
            show(model, started)
        started = time.perf_counter()
        linear = EASE(LAMBDAS, (0.0, 0.66)).fit(split.train, split.validation)
        hybrid = Hybrid(
            trained["recvae"], linear, trained["graph-filter"], trained["gf-cf"]
        )  # as `hybrid_model` has it
        show(hybrid.fit(split.train, split.validation), started)
    for length, of_length in metrics_of.items():
        print(f"\n{length or 'all'} known stars")
        _compare(of_length)


def _compare(metrics_of: dict[str, list[NDArray[np.float64]]]) -> None:
    """Print the mean of each model, and the differences of the project's models to the best other one."""
    means = {model: float(np.mean([values.mean() for values in parts])) for model, parts in metrics_of.items()}
    print("mean  " + "  ".join(f"{model} {value:.4f}" for model, value in sorted(means.items(), key=lambda e: -e[1])))
    best = max((other for other in means if other not in PROJECT_MODELS), key=means.__getitem__)
    for name in PROJECT_MODELS:
        difference = bootstrap(np.concatenate(metrics_of[name]) - np.concatenate(metrics_of[best]))
        print(f"{name} - {best}: {difference}; ratio of the means {means[name] / means[best]:.3f}")


def _reported(model: Recommender) -> str:
    """Describe what was chosen on the validation users."""
    if isinstance(model, RecVAE):
        return f"gamma {model.config.gamma:g}"
    if isinstance(model, Hybrid):
        return "; ".join(" ".join(f"{name} {value:g}" for name, value in row.items()) for row in model.describe())
    if isinstance(model, EASE):
        return f"lambda {model.chosen[0]:g}, dropout {model.chosen[1]:g}"
    if isinstance(model, ALS):
        return f"{model.factors} factors, alpha {model.chosen[0]:g}, lambda {model.chosen[1]:g}"
    if isinstance(model, ItemKNN):
        return f"{model.chosen[0]} neighbours, shrinkage {model.chosen[1]:g}"
    return ""


if __name__ == "__main__":
    main()
