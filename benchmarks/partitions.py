"""Write and read thousands of partitions in the embedded bucket, compared with Google's plain client.

Run: python benchmarks/partitions.py [--partitions 4761] [--stars 311000] [--rounds 3] [--threads 8]

Writes generated tables of stars as the IO manager does, reads all of them, and does the same with
`Blob.upload_from_string` and `Blob.download_as_bytes` in the same number of threads, each table parsed alone. Prints
the median of the rounds for both, and the peak memory of reading, measured in a separate process, with the size of the
data.
"""

import argparse
import multiprocessing
import secrets
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl

from gh_assets.schemas import STARGAZERS
from gh_assets.services.connections import connect_gcs
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.objects import ObjectStore


def tables(partitions: int, stars: int) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 1.2, partitions)
    sizes = np.maximum(1, sizes / sizes.sum() * stars).astype(int)
    frames = {}
    for number, size in enumerate(sizes.tolist()):
        users = rng.integers(1, 10_000_000, size)
        frames[f"owner-{number % 700}/repo-{number}"] = pl.DataFrame(
            {
                "repo_id": [number] * size,
                "user_id": users,
                "login": [f"user-{user}" for user in users],
                "starred_at": rng.integers(1_400_000_000, 1_700_000_000, size) * 1_000_000,
                "source": ["stargazers"] * size,
            },
            schema_overrides=STARGAZERS.dtypes,
        )
    return frames


def timed(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def peak_of_reading(bucket: str, threads: int) -> float:
    """Return the largest growth in MiB while reading all partitions, without what the first read loads."""
    store = AssetStore(ObjectStore(connect_gcs(load_settings()), bucket), threads)
    keys = sorted(store.partitions("stargazers"))
    store.read_whole("stargazers", keys[:64])
    before = status("VmRSS")
    table = store.read_whole("stargazers", keys)
    assert table is not None
    return status("VmHWM") - before


def status(name: str) -> float:
    """Return a figure of this process's memory in MiB; ``ru_maxrss`` may be that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def alone(function: Callable[..., float], *arguments: object) -> float:
    """Run a function in a separate process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=4761)
    parser.add_argument("--stars", type=int, default=311_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    data = tables(options.partitions, options.stars)
    keys = sorted(data)
    client = connect_gcs(load_settings())
    seconds: dict[str, list[float]] = {name: [] for name in ("write", "read", "client writes", "client reads")}
    peaks: list[float] = []
    for _ in range(options.rounds):
        store = AssetStore(ObjectStore(client, f"bench-{secrets.token_hex(4)}", create=True), options.threads)
        bucket = client.bucket(store.objects.name)

        def write(store: AssetStore = store) -> object:
            return list(store.write_tables("stargazers", data.items()))

        def read(store: AssetStore = store) -> object:
            return store.read_whole("stargazers", keys)

        seconds["write"].append(timed(write))
        seconds["read"].append(timed(read))
        peaks.append(alone(peak_of_reading, store.objects.name, options.threads))

        def upload(key: str, bucket: object = bucket) -> None:
            buffer = BytesIO()
            data[key].write_parquet(buffer, compression="zstd", statistics=False)
            bucket.blob(f"plain/{key}").upload_from_string(buffer.getvalue())  # type: ignore[attr-defined]

        def download(key: str, bucket: object = bucket) -> pl.DataFrame:
            return pl.read_parquet(BytesIO(bucket.blob(f"plain/{key}").download_as_bytes()))  # type: ignore[attr-defined]

        with ThreadPoolExecutor(options.threads) as executor:
            seconds["client writes"].append(timed(lambda e=executor: list(e.map(upload, keys))))  # type: ignore[misc]
            seconds["client reads"].append(timed(lambda e=executor: pl.concat(e.map(download, keys))))  # type: ignore[misc]
    size = sum(table.estimated_size() for table in data.values()) / 2**20
    print(f"{options.partitions:,} partitions, {size:.0f} MiB in memory, {options.threads} threads")
    for name, client_name in (("write", "client writes"), ("read", "client reads")):
        store_seconds, client_seconds = statistics.median(seconds[name]), statistics.median(seconds[client_name])
        ratio = client_seconds / store_seconds
        print(f"{name}: {store_seconds:.1f} s; Google's plain client {client_seconds:.1f} s: {ratio:.2f} × as fast")
    peak = statistics.median(peaks)
    print(f"reading takes {peak:.0f} MiB at its peak: {peak / size:.1f} × the frame")


if __name__ == "__main__":
    main()
