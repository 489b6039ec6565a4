"""RecVAE with many items or users: seconds per epoch, memory, quality beside iALS, growth of cost.

Run: python benchmarks/large.py train --interactions FILE [--epochs 25] [--factors 256] [--device cpu] [--seeds 0]
     python benchmarks/large.py scale [--picture FILE.png] [--largest]
     python benchmarks/large.py whole [USERS REPOSITORIES STARS]

``train``: RecVAE on all of FILE, then iALS tuned on the same validation users. ``scale``: generated stars
(benchmarks/interactions.py); one epoch for several numbers of users, of repositories and of stars, the others held
fixed, with the slope of cost against size on logarithmic axes (1: proportional). ``--largest`` trains an epoch of
350,000 users × 10,000 repositories × 12 million stars. Each measurement is a process of its own, for its peak memory.
``whole``: what follows RecVAE's training at one size, generated as well: the fit of the hybrid, its evaluation and its
registration in the embedded services, and the whole leaderboard. Each is compared with an epoch of RecVAE in the same
process, in seconds and in processor time.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import scipy.sparse as sp
from interactions import generated, read_interactions

from gh_assets.recommender import (
    ALS,
    Hybrid,
    RecVAE,
    RecVAEConfig,
    UserItemMatrix,
    evaluate,
    strong_generalization_split,
)
from gh_assets.recommender.cpu.allocator import freed_memory_kept
from gh_assets.recommender.data.splits import StrongGeneralizationSplit
from gh_assets.recommender.evaluation.evaluation import evaluate_in_full
from gh_assets.recommender.models.hybrid import closed_form_parts
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.recommender.training.training import TrainingResult, compare, split_of
from gh_assets.registry import ModelRegistry
from gh_assets.registry.training import register
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.objects import ObjectStore

Size = tuple[int, int, int]

BASE: Size = (20_000, 10_000, 700_000)
SERIES: dict[str, list[Size]] = {
    "users": [(users, 10_000, 35 * users) for users in (5_000, 10_000, 20_000, 40_000)],
    "repositories": [(20_000, items, 700_000) for items in (2_500, 5_000, 10_000, 20_000, 40_000)],
    "stars": [(20_000, 10_000, stars) for stars in (200_000, 400_000, 800_000, 1_600_000)],
}
LARGEST: Size = (350_000, 10_000, 12_000_000)
PARTS = ("hybrid", "leaderboard")
EPOCH_PART = 10
"""An epoch of ``whole`` is measured with every tenth user: its cost is proportional to their number."""


def peak() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(path: Path, epochs: int, factors: list[int], device: str, seeds: list[int]) -> None:
    matrix = read_interactions(path)
    split = strong_generalization_split(matrix)
    print(f"{matrix.shape[0]:,} users × {matrix.shape[1]:,} items, {matrix.nnz:,} pairs", flush=True)
    for seed in seeds:
        recvae(split, RecVAEConfig(epochs=epochs, device=device, seed=seed))
    for count in factors:
        started = time.perf_counter()
        als = ALS(count, (0.03, 0.1, 0.3), (0.001, 0.003, 0.01)).fit(split.train, split.validation)
        alpha, weight = als.chosen
        print(
            f"ials, {count} factors, alpha {alpha:g}, lambda {weight:g}: {_figures(evaluate(als, *split.test))}  "
            f"{time.perf_counter() - started:.0f} s",
            flush=True,
        )


def recvae(split: StrongGeneralizationSplit, config: RecVAEConfig) -> None:
    model = RecVAE(
        config,
        on_epoch=lambda row: print(
            f"epoch {row['epoch']:.0f}: {row['seconds']:.1f} s, validation {row['validation_seconds']:.1f} s, "
            f"ndcg@100 {row['ndcg@100']:.4f}, peak {peak():.0f} MiB",
            flush=True,
        ),
    ).fit(split.train, split.validation)
    seconds = [row["seconds"] for row in model.history]
    print(
        f"recvae, seed {config.seed}: {np.median(seconds):.1f} s an epoch, validation "
        f"{np.median([row['validation_seconds'] for row in model.history]) / np.median(seconds):.0%} of it, peak "
        f"{peak():.0f} MiB; {_figures(evaluate(model, *split.test))}",
        flush=True,
    )


def _figures(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def measure(size: Size) -> None:
    """Measure one epoch, after a short one that initializes the libraries; print JSON."""
    stars = generated(*size)
    model = RecVAE(RecVAEConfig(batch_size=500))  # not what the thousand users of the short one would have
    model.build(stars.shape[1])
    with freed_memory_kept():
        for some in (stars[:1000], stars):
            run = model.training_run(some)
            if some is not stars:
                model.train_epoch(1, run)
        seconds = model.train_epoch(1, run)["seconds"]
    print(json.dumps({"seconds": seconds, "mib": peak(), "stars": int(stars.nnz)}))


def measured(size: Size) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "measure", *map(str, size)],
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    users, items, _ = size
    print(
        f"{users:>9,} users × {items:>7,} repositories, {result['stars']:>10,.0f} stars: "
        f"{result['seconds']:7.2f} s an epoch, peak {result['mib']:5.0f} MiB",
        flush=True,
    )
    return result


class Steps:
    """Prints what each step took, compared with an epoch."""

    def __init__(self) -> None:
        self.epoch: tuple[float, float] | None = None
        self.begin()

    def begin(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def done(self, what: str, times: int = 1) -> None:
        now = time.perf_counter(), time.process_time()
        seconds, processor = (times * (end - start) for start, end in zip(self.started, now, strict=True))
        self.epoch = self.epoch or (seconds, processor)
        print(
            f"{what:<40} {seconds:7.1f} s, {processor:7.1f} s of processor time, {seconds / self.epoch[0]:5.2f} and "
            f"{processor / self.epoch[1]:5.2f} epochs, peak so far {peak():5.0f} MiB",
            flush=True,
        )
        self.begin()


def whole(part: str, path: Path) -> None:
    """Measure the parts ``hybrid`` or ``leaderboard`` with the stars of a file."""
    stars = sp.csr_array(sp.load_npz(path))
    users, items = (np.arange(count) for count in stars.shape)
    names = items.astype(str)
    print(
        f"{part}: {stars.shape[0]:,} users × {stars.shape[1]:,} repositories × {stars.nnz:,} stars, "
        f"{(np.diff(stars.indptr) < 5).mean():.0%} of the users with 1 to 4, peak {peak():.0f} MiB",
        flush=True,
    )
    matrix = UserItemMatrix(stars, users, users.astype(str), items, names)
    split, steps = split_of(matrix, 0), Steps()
    recvae = RecVAE(RecVAEConfig(batch_size=500))
    recvae.build(len(items))
    with freed_memory_kept():
        run = recvae.training_run(split.train[:1000])
        recvae.train_epoch(1, run)  # initializes the libraries
        run = recvae.training_run(split.train[::EPOCH_PART])
        steps.begin()
        recvae.train_epoch(1, run)
    steps.done("an epoch of RecVAE", EPOCH_PART)
    del run
    if part == "hybrid":
        hybrid = Hybrid(recvae, *closed_form_parts(len(items))).fit(split.train, split.validation)
        steps.done("hybrid: fit without RecVAE")
        evaluate_in_full(hybrid, *split.test, split.train, split.few)
        steps.done("hybrid: whole evaluation")
        registered(TrainedModel(hybrid, matrix.repo_ids, names), steps)
        return
    before: list[str] = []

    def on_step(done: int, total: int, text: str) -> None:
        name = text.partition(":")[0]
        if before[-1:] != [name]:
            if before:
                steps.done(f"leaderboard: {before[-1]}")
            before.append(name)

    started = steps.started
    compare(matrix, [recvae], on_step=on_step)
    steps.done(f"leaderboard: {before[-1]}")
    steps.started = started
    steps.done("leaderboard: all of it")


def registered(model: TrainedModel, steps: Steps) -> None:
    """Measure the registration of a model in the embedded services."""
    with TemporaryDirectory() as home:
        settings = load_settings().model_copy(update={"home": Path(home)})
        database = connect_mongo(settings)
        registry = ModelRegistry(ObjectStore(connect_gcs(settings), "models", create=True), database["models"])
        registry.list()
        steps.begin()
        result = TrainingResult(replace(model, metrics={"ndcg@100": 0.0}), {}, {})
        stored = register(registry, result, tag="")
        steps.done(f"registration of {(stored.unpacked or 0) / 1e6:.0f} MB as {(stored.size or 0) / 1e6:.0f} MB")


def scale(picture: Path | None, largest: bool) -> None:
    curves = {}
    for name, sizes in SERIES.items():
        place = ("users", "repositories", "stars").index(name)
        result = [measured(size) for size in sizes]
        x = [
            float(entry["stars"]) if name == "stars" else float(size[place])
            for size, entry in zip(sizes, result, strict=True)
        ]
        y = [entry["seconds"] for entry in result]
        slope = float(np.polyfit(np.log(x), np.log(y), 1)[0])
        curves[name] = (x, y, slope)
        print(f"cost against {name}: slope {slope:.2f}", flush=True)
    if largest:
        measured(LARGEST)
    if picture is not None:
        _draw(curves, picture)


def _draw(curves: dict[str, tuple[list[float], list[float], float]], picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for place, (name, (x, y, slope)) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(1, len(curves), place)
        axes.loglog(x, y, "o-")
        axes.set_ylim(1, 20)
        axes.set_xticks(x, [f"{value / 1e6:.1f}M" if value >= 1e6 else f"{value / 1e3:.3g}k" for value in x])
        axes.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
        axes.minorticks_off()
        axes.set_xlabel(name)
        axes.set_ylabel("seconds an epoch")
        axes.set_title(f"slope {slope:.2f}")
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("--interactions", type=Path, required=True)
    trains.add_argument("--epochs", type=int, default=25)
    trains.add_argument("--factors", type=int, nargs="*", default=[256])
    trains.add_argument("--device", default="cpu")
    trains.add_argument("--seeds", type=int, nargs="+", default=[0])
    scales = commands.add_parser("scale")
    scales.add_argument("--picture", type=Path)
    scales.add_argument("--largest", action="store_true")
    one = commands.add_parser("measure")
    one.add_argument("size", type=int, nargs=3)
    everything = commands.add_parser("whole")
    everything.add_argument("size", type=int, nargs="*", default=LARGEST)
    part = commands.add_parser("part")
    part.add_argument("part", choices=PARTS)
    part.add_argument("stars", type=Path)
    options = parser.parse_args()
    if options.command == "train":
        train(options.interactions, options.epochs, options.factors, options.device, options.seeds)
    elif options.command == "scale":
        scale(options.picture, options.largest)
    elif options.command == "part":
        whole(options.part, options.stars)
    elif options.command == "whole":
        with TemporaryDirectory() as folder:
            path = Path(folder) / "stars.npz"
            sp.save_npz(path, generated(*options.size))
            for name in PARTS:  # each in a process of its own, for its peak memory
                subprocess.run([sys.executable, __file__, "part", name, str(path)], check=True)
    else:
        users, items, stars = options.size
        measure((users, items, stars))


if __name__ == "__main__":
    main()
