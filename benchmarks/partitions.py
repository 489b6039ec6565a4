"""Thousands of partitions to and from the embedded bucket: seconds and memory, beside Google's client used plainly.

Run: python benchmarks/partitions.py [--partitions 4761] [--stars 311000] [--rounds 3] [--threads 8]

Writes so many generated tables of stars as the IO manager does, reads all of them, and does the same with
`Blob.upload_from_string` and `Blob.download_as_bytes` in as many threads, each table parsed alone. Prints the median
of the rounds, both ways, and the peak of memory beside the size of the data.
"""

from __future__ import annotations

import argparse
import resource
import secrets
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import polars as pl

from gh_assets.asset_store import AssetStore
from gh_assets.objects import ObjectStore
from gh_assets.schemas import STARGAZERS
from gh_assets.services import connect_gcs
from gh_assets.settings import load_settings


def tables(partitions: int, stars: int) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 1.2, partitions)
    sizes = np.maximum(1, sizes / sizes.sum() * stars).astype(int)
    found = {}
    for number, size in enumerate(sizes.tolist()):
        users = rng.integers(1, 10_000_000, size)
        found[f"owner-{number % 700}/repo-{number}"] = pl.DataFrame(
            {
                "repo_id": [number] * size,
                "user_id": users,
                "login": [f"user-{user}" for user in users],
                "starred_at": rng.integers(1_400_000_000, 1_700_000_000, size) * 1_000_000,
                "source": ["stargazers"] * size,
            },
            schema_overrides=STARGAZERS.dtypes,
        )
    return found


def timed(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


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
    for _ in range(options.rounds):
        store = AssetStore(ObjectStore(client, f"bench-{secrets.token_hex(4)}", create=True), options.threads)
        bucket = client.bucket(store.objects.name)

        def write(store: AssetStore = store) -> object:
            return list(store.write_tables("stargazers", data.items()))

        def read(store: AssetStore = store) -> object:
            return store.read_whole("stargazers", keys)

        seconds["write"].append(timed(write))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds["read"].append(timed(read))
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

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
    for ours, theirs in (("write", "client writes"), ("read", "client reads")):
        mine, other = statistics.median(seconds[ours]), statistics.median(seconds[theirs])
        print(f"{ours}: {mine:.1f} s; with Google's client plainly {other:.1f} s: {other / mine:.2f} × as fast")
    print(f"reading took {peak:.0f} MiB at its peak beside what was there")


if __name__ == "__main__":
    main()
