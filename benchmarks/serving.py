"""Measure the cost of serving: one user's top 20 with reasons, and the top 100 of all users.

Run: python benchmarks/serving.py [--repositories 10000] [--users 350000] [--people 500]

Prints, for RecVAE and the hybrid, median and 99th percentile of one list on one core, and the seconds and peak
memory of `Ranker.recommend_all` without reasons and with them. The stars are generated (benchmarks/interactions.py).
"""

import argparse
import os
import resource
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `gh-assets serve` does, before numpy is loaded

import numpy as np
import torch
from interactions import generated

from gh_assets.recommender import EASE, GFCF, GraphFilter, Hybrid, Recommender, RecVAE, RecVAEConfig
from gh_assets.recommender.data.interactions import Csr, UserItemMatrix
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.serving.ranking import AllLists, Ranker
from gh_assets.serving.requests import RecommendationRequest


def named(stars: Csr) -> UserItemMatrix:
    users, items = stars.shape
    logins, names = (
        np.char.add(f"{kind}-", np.arange(size).astype(str)) for kind, size in (("u", users), ("o/r", items))
    )
    return UserItemMatrix(stars, np.arange(users), logins, np.arange(items), names)


def single_users(trained: TrainedModel, stars: Csr, count: int) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    chosen = rng.choice(stars.shape[0], count, replace=False)
    seconds = []
    ranker = Ranker(trained)
    for user in chosen:
        own = stars.indices[stars.indptr[user] : stars.indptr[user + 1]].tolist()
        started = time.perf_counter()
        ranker.recommend(RecommendationRequest(stars=own))
        seconds.append(time.perf_counter() - started)
    milliseconds = 1000 * np.array(seconds[10:])
    print(
        f"{trained.model.name}: top 20 with reasons, one core, {count} users with "
        f"{np.diff(stars.indptr)[chosen].mean():.0f} stars (at most {np.diff(stars.indptr)[chosen].max()}): "
        f"median {np.median(milliseconds):.1f} ms, 99th percentile {np.percentile(milliseconds, 99):.1f} ms",
        flush=True,
    )


def all_users(trained: TrainedModel, matrix: UserItemMatrix, reasons: int) -> None:
    torch.set_num_threads(2)
    started, rows = time.perf_counter(), 0
    for table in Ranker(trained).recommend_all(matrix, AllLists(100, reasons=reasons)):
        rows += table.height
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{trained.model.name}: top 100 of {matrix.stars.shape[0]:,} users with {reasons} reasons each: "
        f"{time.perf_counter() - started:.0f} s, {rows:,} rows, peak {peak:.0f} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=350_000)
    parser.add_argument("--stars", type=int, default=12_000_000)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--hybrid", action="store_true", help="Also recommend for all users by the hybrid.")
    options = parser.parse_args()
    stars = generated(options.users, options.repositories, options.stars)
    some = stars[:20_000]
    recvae = RecVAE(RecVAEConfig(epochs=1)).fit(some)
    closed_form = EASE((500.0,)), GraphFilter(noises=[1.0]), GFCF([128], [0.3], [200])
    models: list[Recommender] = [recvae, Hybrid(recvae, *closed_form).fit(some)]
    matrix = named(stars)
    trained = [TrainedModel(model, matrix.repo_ids, matrix.full_names) for model in models]
    for model in trained:
        single_users(model, stars, options.people)
    for model in trained[: 2 if options.hybrid else 1]:
        all_users(model, matrix, 0)


if __name__ == "__main__":
    main()
