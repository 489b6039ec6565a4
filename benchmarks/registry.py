"""Compare the registry with Google's plain client: megabytes per second up and down, and the effect of compression.

Run: python benchmarks/registry.py [--megabytes 64] [--rounds 5]

Registers a file of random numbers (which do not compress, so that the transfer is measured) and downloads it, including
checksums, document and commit; the client uploads and downloads the same file by `upload_from_filename` and
`download_to_filename`. Then packs a trained hybrid of the synthetic world with both compressions and as a plain tar.
"""

import argparse
import secrets
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gh_assets.recommender import EASE, Hybrid, RecVAE, RecVAEConfig
from gh_assets.registry import ModelCard, ModelRegistry, write_archive
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.objects import ObjectStore


def timed(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def transfer(megabytes: int, rounds: int, folder: Path) -> None:
    settings = load_settings()
    database = connect_mongo(settings.model_copy(update={"mongo_database": f"bench_{secrets.token_hex(4)}"}))
    client = connect_gcs(settings)
    store = ObjectStore(client, f"bench-{secrets.token_hex(4)}", create=True)
    registry = ModelRegistry(store, database["models"])
    store.write("first", b"makes the bucket")
    bucket = client.bucket(store.name)
    seconds: dict[str, list[float]] = {"up": [], "client up": [], "down": [], "client down": []}
    path = folder / "model.bin"
    for number in range(rounds):
        path.write_bytes(np.random.default_rng(number).bytes(megabytes << 20))
        blob = bucket.blob(f"plain/{number}")
        seconds["client up"].append(timed(lambda blob=blob: blob.upload_from_filename(str(path), checksum="crc32c")))  # type: ignore[misc]
        seconds["up"].append(timed(lambda: registry.save(path, ModelCard("bench", 0.5))))
        model = registry.latest("bench")
        seconds["client down"].append(timed(lambda blob=blob: blob.download_to_filename(str(folder / "plain"))))  # type: ignore[misc]
        seconds["down"].append(timed(lambda model=model: registry.download(model, folder / "out")))  # type: ignore[misc]
    for name, client_name in (("up", "client up"), ("down", "client down")):
        ratios = [alone / own for own, alone in zip(seconds[name], seconds[client_name], strict=True)]
        rates = (megabytes / statistics.median(seconds[key]) for key in (name, client_name))
        print(
            "{}: {:.0f} MiB/s, Google's client alone {:.0f} MiB/s: {:.0%} of it ({:.0%} to {:.0%})".format(
                name, *rates, statistics.median(ratios), min(ratios), max(ratios)
            )
        )
    database.client.drop_database(database.name)


def archives(folder: Path) -> None:
    from held_out import matrix_of

    from gh_assets.embedded.standin.synthetic import synthetic_world

    stars = matrix_of(synthetic_world())
    recvae = RecVAE(RecVAEConfig(epochs=2)).fit(stars)
    model = Hybrid(recvae, EASE((300.0,)).fit(stars)).fit(stars).save(folder / "hybrid")
    with tarfile.open(folder / "plain.tar", "w") as archive:
        archive.add(model, "hybrid")
    plain = (folder / "plain.tar").stat().st_size
    print(f"a hybrid of {stars.shape[1]:,} repositories: tar {plain / 1e6:.2f} MB", end="")
    for compression in ("gzip", "zstd"):
        target = folder / compression
        elapsed = timed(lambda c=compression, t=target: write_archive(model, t, c))  # type: ignore[misc]
        size = target.stat().st_size
        print(f"; {compression} {size / 1e6:.2f} MB ({size / plain:.0%}) in {elapsed:.1f} s", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        transfer(options.megabytes, options.rounds, Path(scratch))
        archives(Path(scratch))


if __name__ == "__main__":
    main()
