"""Processor time of an evaluation: whole histories alone, and everything that the leaderboard shows.

Run: python benchmarks/evaluation.py [--users 10000] [--items 10000]

The matrix is generated. The models are fitted on twice as many users as are evaluated, the RecVAE in one epoch, since
the time of an evaluation does not depend on how good a model is.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from interactions import generated

from gh_assets.recommender import (
    EASE,
    GraphFilter,
    Hybrid,
    Popularity,
    Recommender,
    RecVAE,
    RecVAEConfig,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.evaluation.evaluation import bootstrap, evaluate_in_full


def processor_seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=10_000)
    options = parser.parse_args()
    matrix = generated(3 * options.users, options.items, 90 * options.users)
    split = strong_generalization_split(
        matrix, validation_users=options.users // 10, test_users=options.users, min_stars=5
    )
    print(f"{options.users:,} test users × {options.items:,} items", flush=True)
    parts: list[Recommender] = [RecVAE(RecVAEConfig(epochs=1)), EASE((300.0,)), GraphFilter()]
    fitted = [Popularity().fit(split.train), *(part.fit(split.train) for part in parts)]
    for model in [*fitted, Hybrid(*parts).fit(split.train)]:
        evaluate(model, *(part[:100] for part in split.test))  # compiles what is compiled
        whole = processor_seconds(partial(evaluate, model, *split.test))
        full = processor_seconds(partial(evaluate_in_full, model, *split.test, split.train))
        print(
            f"{model.name:<13} whole histories {whole:6.1f} s, in full {full:6.1f} s: {full / whole:.2f} ×", flush=True
        )
    values = np.random.default_rng(0).random(options.users)
    print(f"an interval: {processor_seconds(lambda: bootstrap(values)):.2f} s")


if __name__ == "__main__":
    main()
