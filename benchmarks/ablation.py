"""Ablation of RecVAE's training: one choice at a time against the defaults, over several splits and seeds.

Run: python benchmarks/ablation.py --interactions FILE [--minimum 1] [--splits 5] [--epochs 30] [--only NAME ...]
     [--users N]

With --users, each split has a random sample of that many users. Prints for every variant NDCG@100 on the test users
(mean over splits; the split's number is also the seed), its paired difference to the defaults with a 95 % bootstrap
interval over all splits' test users, seconds of training, and how many epochs it took, with the best one.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from interactions import read_interactions, sample

from gh_assets.recommender import RecVAE, RecVAEConfig, evaluate_users, strong_generalization_split
from gh_assets.recommender.engine import run as engine
from gh_assets.recommender.evaluation.evaluation import bootstrap

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "as published": {"initialization": "random", "schedule": "constant"},
    "random initialization": {"initialization": "random"},
    "constant learning rate": {"schedule": "constant"},
    "initial scale 0.2": {"initial_scale": 0.2},
    "initial scale 1": {"initial_scale": 1.0},
    "dropout 0.7": {"dropout": 0.7},
    "gamma 0.002": {"gamma": 0.002},
    "gamma 0.0035": {"gamma": 0.0035},
    "gamma 0.01": {"gamma": 0.01},
    "learning rate 0.001": {"learning_rate": 1e-3},
    "latent 128": {"latent_size": 128},
    "latent 300": {"latent_size": 300},
    "batch 250": {"batch_size": 250},
    "float32": {"precision": "float32"},
    "10 epochs": {"epochs": 10},
    "25 epochs": {"epochs": 25},
    "50 epochs": {"epochs": 50},
    "100 epochs": {"epochs": 100},
}

LAZY_BELOW = engine.LAZY_BELOW

ENGINES = ("eager rows",)
"""Variants of the engine instead of the configuration: every step updates all rows of the first layer."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--users", type=int)
    parser.add_argument("--only", nargs="*", choices=sorted([*VARIANTS, *ENGINES]))
    options = parser.parse_args()
    matrix = read_interactions(options.interactions, options.minimum)
    print(f"{matrix.shape[0]:,} users × {matrix.shape[1]:,} items, {matrix.nnz:,} pairs; {options.splits} splits")
    variants = ["defaults", *(name for name in options.only or [*VARIANTS, *ENGINES] if name != "defaults")]
    base: np.ndarray[Any, np.dtype[np.float64]] | None = None
    for name in variants:
        users, means, lengths, best, started = [], [], [], [], time.perf_counter()
        for seed in range(options.splits):
            stars = matrix if options.users is None else sample(matrix, options.users, seed)
            split = strong_generalization_split(stars, seed=seed)
            config = replace(RecVAEConfig(epochs=options.epochs, seed=seed), **VARIANTS.get(name, {}))
            vars(engine)["LAZY_BELOW"] = 0.0 if name == "eager rows" else LAZY_BELOW
            model = RecVAE(config).fit(split.train, split.validation)
            users.append(evaluate_users(model, *split.test)["ndcg@100"])
            means.append(float(users[-1].mean()))
            lengths.append(len(model.history))
            best.append(1 + int(np.argmax([row["ndcg@100"] for row in model.history])))
        elapsed = (time.perf_counter() - started) / options.splits
        metrics = np.concatenate(users)
        base = metrics if base is None else base
        difference = "" if name == "defaults" else f"  {bootstrap(metrics - base)}"
        epochs = f"  {np.mean(lengths):.0f} epochs, best {np.mean(best):.0f}"
        spread = ", ".join(f"{value:.4f}" for value in means)
        print(f"{name:<24} {np.mean(means):.4f} ({spread})  {elapsed:5.0f} s{epochs}{difference}", flush=True)


if __name__ == "__main__":
    main()
