"""Train one RecVAE in several processes: ``torchrun --nproc-per-node 2 -m gh_assets.cli.train_together``.

Each process reads the stored user-item matrix and trains on its share of every batch; the first one registers the
model. The asset `recvae_model` then takes that model instead of training the same data again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist

from gh_assets.errors import GhAssetsError
from gh_assets.local.threads import use_threads
from gh_assets.recommender.models.recvae import RecVAEConfig
from gh_assets.recommender.training.training import train_recvae, training_fingerprint
from gh_assets.registry import RECVAE, ModelRegistry
from gh_assets.registry.training import matrix_lineage, register, tuned_hyperparameters
from gh_assets.services.connections import asset_store, connect_gcs, model_store, open_mongo
from gh_assets.serving.current_model import model_cache
from gh_assets.serving.promotion import next_test_start
from gh_assets.settings import load_settings
from gh_assets.storage.mongo import Collections


def train(epochs: int | None, seed: int, tag: str) -> str | None:
    """Train with the other processes of the group; return the model's title in the first process."""
    settings = load_settings()
    use_threads(settings.threads)
    first = dist.get_rank() == 0
    client = connect_gcs(settings)
    store = asset_store(settings, client)
    matrix = store.read_matrix("user_item_matrix")
    with open_mongo(settings) as database:
        registry = ModelRegistry(model_store(settings, client), database[Collections.MODELS])
        config = replace(RecVAEConfig(epochs=epochs, seed=seed), **tuned_hyperparameters(registry))
        test_start = next_test_start(registry, model_cache(settings), matrix)
        fingerprint = training_fingerprint(matrix, config, seed, test_start)
        before = registry.find(RECVAE, fingerprint)
        if before is not None:
            return f"{before.title}, trained before" if first else None

        def print_epoch(row: dict[str, float]) -> None:
            if first:
                sys.stderr.write(f"epoch {row['epoch']:.0f}: loss {row['loss']:.1f}\n")

        result = train_recvae(matrix, config, split_seed=seed, test_start=test_start, on_epoch=print_epoch)
        if not first:
            return None
        return register(registry, result, tag=tag, fingerprint=fingerprint, lineage=matrix_lineage(store)).title


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torchrun … -m gh_assets.cli.train_together", description=__doc__)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tag", default="")
    options = parser.parse_args(arguments)
    if not dist.is_torchelastic_launched():
        parser.error("start it with torchrun, which sets the number of processes")
    if torch.cuda.is_available():
        device, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if device >= count:
            parser.error(f"start no more processes on this machine than it has GPUs: {count}")
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        title = train(options.epochs, options.seed, options.tag)
        dist.barrier()  # a process that left early would interrupt the last reduction of the others
    except GhAssetsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        dist.destroy_process_group()
    if title is not None:
        sys.stdout.write(f"{title}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
