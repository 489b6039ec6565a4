"""RecVAE's epoch on a CPU with and without the compiled kernels.

Run: python benchmarks/kernels.py [--interactions FILE] [--minimum 1] [--rounds 5] [--precision bfloat16]
Without --interactions: generated stars (benchmarks/interactions.py).

Both train one epoch in turns, for several rounds after one that compiles the kernels. Prints the seconds of each round
and the median of the rounds' ratios. The kernels stay in the project if they make an epoch at least 1.4 times as fast.
"""

import argparse
import statistics
from pathlib import Path

import torch
from interactions import generated, read_interactions

from gh_assets.recommender import RecVAE, RecVAEConfig
from gh_assets.recommender.cpu.allocator import freed_memory_kept
from gh_assets.recommender.cpu.llvm_internals import usable
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.engine.run import TrainingRun

SIZE = 6_000, 5_000, 210_000
"""Users, repositories and stars that are generated."""

MIN_RATIO = 1.4


class WithoutKernels(RecVAE):
    """RecVAE by torch's operations."""

    def fused_steps(self) -> None:
        return None


def prepared(kind: type[RecVAE], stars: Csr, config: RecVAEConfig) -> tuple[RecVAE, TrainingRun]:
    """Return a model with random weights and the state of its training."""
    model = kind(config)
    torch.manual_seed(config.seed)
    model.build(stars.shape[1])
    return model, model.training_run(stars)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=Path)
    parser.add_argument("--minimum", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    if not usable():
        raise SystemExit("The kernels need GNU OpenMP, which this build of torch does not use.")
    stars = read_interactions(options.interactions, options.minimum) if options.interactions else generated(*SIZE)
    config = RecVAEConfig(device="cpu", precision=options.precision)
    trainings = {"with": prepared(RecVAE, stars, config), "without": prepared(WithoutKernels, stars, config)}
    print(
        f"{stars.shape[0]:,} users × {stars.shape[1]:,} items, {stars.nnz:,} pairs; {trainings['with'][1].dtype}, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    with freed_memory_kept():  # as in `fit`
        for number in range(options.rounds + 1):
            for name, (model, run) in trainings.items():
                elapsed = model.train_epoch(number + 1, run)["seconds"]
                if number > 0:  # the first round compiles
                    seconds[name].append(elapsed)
            if number > 0:
                print(f"round {number}: " + ", ".join(f"{n} {s[-1]:.2f} s" for n, s in seconds.items()), flush=True)
    ratios = sorted(slow / fast for fast, slow in zip(seconds["with"], seconds["without"], strict=True))
    ratio = statistics.median(ratios)
    print(
        f"an epoch: with kernels {statistics.median(seconds['with']):.2f} s, without "
        f"{statistics.median(seconds['without']):.2f} s; {ratio:.2f} × as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    if ratio < MIN_RATIO:
        raise SystemExit(f"The kernels do not pay here: less than {MIN_RATIO} × as fast.")


if __name__ == "__main__":
    main()
