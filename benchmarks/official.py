"""RecVAE here against the authors' own code: seconds per epoch, and quality of the trained models.

Run: python benchmarks/official.py --official FOLDER --interactions FILE [--minimum 20] [--rounds 5] [--seeds 3]
     [--device cpu]

FOLDER holds the authors' ``model.py`` (github.com/ilya-shenbin/RecVAE), which you have to fetch; it is no part of
this project. Its epoch is that of their ``run.py``: three passes for the encoder, the prior updated, one pass
for the decoder, dense batches of 500, Adam at 5e-4; only the device is the one that both are given. Users and items
with fewer than ``--minimum`` interactions are left out; users are held out whole.

Speed: each trains in its own process, one epoch of each in turns for some rounds; the result is the median of the
rounds' ratios. Quality: both are trained on the same split with each seed until the validation NDCG@100 has not risen
for 8 epochs (official) or as configured (here), and tested at their best epoch.
"""

import argparse
import copy
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from interactions import read_interactions
from numpy.typing import NDArray

from gh_assets.recommender import RecVAE, RecVAEConfig, evaluate, strong_generalization_split
from gh_assets.recommender.cpu.allocator import freed_memory_kept
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.data.splits import StrongGeneralizationSplit

PATIENCE = 8
MAIN = "ndcg@100"


def load(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("official_recvae", folder / "model.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{folder} has no model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Official:
    """The authors' model behind `predict`, trained as their run.py does."""

    def __init__(self, module: ModuleType, items: int, gamma: float, seed: int, device: str) -> None:
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.gamma, self.device = gamma, device
        self.model: Any = module.VAE(600, 200, items).to(device)
        self.encoder = torch.optim.Adam(list(self.model.encoder.parameters()), lr=5e-4)
        self.decoder = torch.optim.Adam(list(self.model.decoder.parameters()), lr=5e-4)

    def epoch(self, train: Csr) -> None:
        self.model.train()
        self._passes(self.encoder, train, 3, 0.5)
        self.model.update_prior()
        self._passes(self.decoder, train, 1, 0.0)

    def _passes(self, optimizer: torch.optim.Optimizer, train: Csr, count: int, dropout: float) -> None:
        for _ in range(count):
            order = self.rng.permutation(train.shape[0])
            for start in range(0, len(order), 500):
                rows = torch.Tensor(train[order[start : start + 500]].toarray()).to(self.device)
                optimizer.zero_grad()
                _, loss = self.model(rows, gamma=self.gamma, dropout_rate=dropout)
                loss.backward()
                optimizer.step()

    @torch.no_grad()
    def predict(self, fold_in: Csr) -> NDArray[np.float32]:
        self.model.eval()
        rows = torch.Tensor(fold_in.toarray()).to(self.device)
        scores: NDArray[np.float32] = self.model(rows, calculate_loss=False).cpu().numpy()
        return scores


def train_official(module: ModuleType, split: StrongGeneralizationSplit, config: RecVAEConfig, epochs: int) -> Official:
    model = Official(module, split.train.shape[1], config.gamma or 0.0, config.seed, config.device)
    best, best_epoch, weights = -1.0, 0, None
    for epoch in range(epochs):
        model.epoch(split.train)
        score = evaluate(model, *split.validation)[MAIN]
        if score > best:
            best, best_epoch, weights = score, epoch, copy.deepcopy(model.model.state_dict())
        elif epoch - best_epoch >= PATIENCE:
            break
    model.model.load_state_dict(weights)
    return model


def speed(folder: Path, train: Csr, config: RecVAEConfig, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name in ("official", "here"):
        pipes[name], end = context.Pipe()
        context.Process(target=_epochs, args=(name, folder, train, config, end), daemon=True).start()
    seconds: dict[str, list[float]] = {"official": [], "here": []}
    for number in range(-1, rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            elapsed = pipe.recv()
            if number >= 0:  # the first epoch initializes the libraries
                seconds[name].append(elapsed)
        if number >= 0:
            print(f"round {number}: " + ", ".join(f"{name} {s[-1]:.2f} s" for name, s in seconds.items()), flush=True)
    for pipe in pipes.values():
        pipe.send(False)
    ratios = sorted(official / here for official, here in zip(*seconds.values(), strict=True))
    print(
        f"an epoch: official {statistics.median(seconds['official']):.2f} s, here "
        f"{statistics.median(seconds['here']):.2f} s; {statistics.median(ratios):.1f} × as fast "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f} in {rounds} rounds)",
        flush=True,
    )


def _epochs(name: str, folder: Path, train: Csr, config: RecVAEConfig, pipe: Connection) -> None:
    """Train an epoch per request and send its duration."""
    if name == "official":
        official = Official(load(folder), train.shape[1], config.gamma or 0.0, 0, config.device)
        while pipe.recv():
            pipe.send(_seconds(lambda: official.epoch(train)))
        return
    model = RecVAE(config)
    model.build(train.shape[1])
    run = model.training_run(train)
    with freed_memory_kept():  # as in `fit`
        while pipe.recv():
            pipe.send(_seconds(lambda: model.train_epoch(1, run)))


def _seconds(work: Callable[[], object]) -> float:
    """Return the duration until the device has finished."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def quality(module: ModuleType, split: StrongGeneralizationSplit, config: RecVAEConfig, seeds: int, most: int) -> None:
    scores: dict[str, list[float]] = {"official": [], "here": []}
    for seed in range(seeds):
        for name in scores:
            started = time.perf_counter()
            model: Official | RecVAE
            if name == "here":
                model = RecVAE(replace(config, seed=seed)).fit(split.train, split.validation)
            else:
                model = train_official(module, split, replace(config, seed=seed), most)
            elapsed = time.perf_counter() - started
            metrics = evaluate(model, *split.test)
            scores[name].append(metrics[MAIN])
            figures = "  ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
            print(f"seed {seed}  {name:<8}  {figures}  {elapsed:6.0f} s", flush=True)
    official, here = (statistics.mean(scores[name]) for name in ("official", "here"))
    print(f"{MAIN}, mean of {seeds} seeds: official {official:.4f}, here {here:.4f}, difference {here - official:+.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--interactions", type=Path, required=True)
    parser.add_argument("--minimum", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--gamma", type=float, default=0.005)
    parser.add_argument("--epochs", type=int, default=30, help="Maximum number of epochs here.")
    parser.add_argument("--most", type=int, default=80, help="Maximum number of epochs of the official code.")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    matrix = read_interactions(options.interactions, options.minimum)
    split = strong_generalization_split(matrix)
    print(
        f"{matrix.shape[0]:,} users × {matrix.shape[1]:,} items, {matrix.nnz:,} pairs; {split.train.shape[0]:,} users "
        f"to train on, {len(split.validation_users)} and {len(split.test_users)} held out; "
        f"{torch.cuda.get_device_name() if options.device != 'cpu' else f'{torch.get_num_threads()} threads'}"
    )
    module = load(options.official)
    config = RecVAEConfig(gamma=options.gamma, epochs=options.epochs, device=options.device)
    if options.rounds:
        speed(options.official, split.train, config, options.rounds)
    if options.seeds:
        quality(module, split, config, options.seeds, options.most)


if __name__ == "__main__":
    main()
