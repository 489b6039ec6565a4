"""Measure the cost and the speed of collecting, by the stand-in's own accounting.

    python benchmarks/collector.py economy      # requests and points, compared with the smallest possible number
    python benchmarks/collector.py quota        # in virtual time: hours, compared with the bound of the quota
    python benchmarks/collector.py throughput   # pages per second without limits, including Parquet and MongoDB
    python benchmarks/collector.py memory       # peak memory for 1,000 to 50,000 repositories

The stand-in runs in a separate process, as GitHub does.
"""

import argparse
import multiprocessing
import os
import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydantic import SecretStr

from gh_assets.collector.pipeline import CollectionReport, StarPipeline
from gh_assets.collector.repositories import KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.base import CollectionOptions, RepositoryRef, StarSource
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.clock import RemoteClock, VirtualClock
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import Repository, World
from gh_assets.github.client import GitHubClient
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.outcomes import Outcome
from gh_assets.github.retries import Clock, RetryPolicy
from gh_assets.services.connections import connect_gcs, open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.serving import serving

USERS = 50_000


@dataclass(frozen=True)
class Shape:
    """A world in which each repository is starred by a range of a shuffled list of users, a minute apart."""

    sizes: tuple[int, ...]
    grown: tuple[tuple[int, int], ...] = ()
    """Positions of repositories, and how many more stars they have than in `sizes`."""

    def world(self) -> World:
        rng = np.random.default_rng(0)
        users = rng.permutation(USERS).astype(np.int64)
        more = dict(self.grown)
        repositories = []
        for position, size in enumerate(self.sizes):
            start = int(rng.integers(0, USERS // 2))
            stargazers = np.take(users, np.arange(start, start + size + more.get(position, 0)), mode="wrap")
            when = 1_500_000_000 + 60 * np.arange(len(stargazers), dtype=np.int64)
            repositories.append(
                Repository(
                    position + 1, f"owner-{position % 97}/repo-{position}", stargazers=stargazers, starred_at=when
                )
            )
        return World(repositories, [f"user-{n}" for n in range(USERS)], range(1, USERS + 1), [], "a benchmark")

    def refs(self) -> list[RepositoryRef]:
        more = dict(self.grown)
        names = [f"owner-{position % 97}/repo-{position}" for position in range(len(self.sizes))]
        return [
            RepositoryRef(position + 1, names[position], names[position], size + more.get(position, 0), Outcome.OK)
            for position, size in enumerate(self.sizes)
        ]

    def listed(self) -> str:
        """Write a Markdown file that links to all repositories; return its path."""
        path = Path(tempfile.mkdtemp()) / "list.md"
        path.write_text("\n".join(f"[x](https://github.com/{ref.full_name})" for ref in self.refs()))
        return str(path)

    def pages(self, max_pages: int) -> int:
        """Return the smallest possible number of pages of 100; an empty list is one page."""
        return sum(min(max_pages, max(1, -(-size // 100))) for size in self.sizes)


def of_real_sizes(count: int = 4761) -> Shape:
    """Return sizes as unequal as real ones: half have less than a page, a few have tens of thousands of stars."""
    rng = np.random.default_rng(1)
    return Shape(tuple(int(size) for size in rng.lognormal(4.8, 1.7, count).clip(1, 40_000)))


def _serve(shape: Shape, limits: Limits, tokens: list[str], virtual: bool, address: Connection) -> None:
    clock = VirtualClock() if virtual else Clock()
    with serving(Standin(shape.world(), tokens, limits, clock=clock).app()) as url:
        address.send(url)
        threading.Event().wait()


@contextmanager
def standin(shape: Shape, limits: Limits, tokens: list[str], *, virtual: bool = False) -> Iterator[str]:
    """Run a stand-in in a separate process; yield its address."""
    context = multiprocessing.get_context("spawn")
    address, process_address = context.Pipe()
    process = context.Process(target=_serve, args=(shape, limits, tokens, virtual, process_address), daemon=True)
    process.start()
    process_address.close()
    try:
        yield address.recv()
    finally:
        process.terminate()
        process.join()


class BenchmarkStorage:
    """A new bucket and a new database."""

    def __init__(self, workers: int, tables: Any = None) -> None:
        settings = load_settings()
        self.settings = settings.model_copy(update={"mongo_database": f"benchmark_{secrets.token_hex(4)}"})
        self.workers, self.tables = workers, tables
        if tables is None:
            store = ObjectStore(connect_gcs(settings), f"benchmark-{secrets.token_hex(4)}", create=True)
            self.tables = PartitionTables(AssetStore(store), "stargazers")

    def collect(self, shape: Shape, source: StarSource, max_pages: int, *, ask_all: bool = False) -> CollectionReport:
        with open_mongo(self.settings) as database:
            options = CollectionOptions(source.name, max_pages, workers=self.workers, full=ask_all)
            return StarPipeline(source, self.tables, CollectionState(database), options).collect(shape.refs())


class InMemory:
    """Tables in memory, for figures that concern requests alone."""

    def __init__(self) -> None:
        self.tables: dict[str, tuple[Any, str]] = {}

    def checksums(self, partitions: Iterable[str]) -> dict[str, str | None]:
        return {partition: self.tables[partition][1] for partition in partitions if partition in self.tables}

    def repair(self, partition: str) -> None:
        del self.tables[partition]

    def read(self, partition: str) -> tuple[Any, str]:
        return self.tables[partition]

    def write(self, partition: str, table: Any) -> str:
        self.tables[partition] = (table, secrets.token_hex(4))
        return self.tables[partition][1]


def accounting(url: str, token: str) -> dict[str, Any]:
    own = {"authorization": f"Bearer {token}"}
    document: dict[str, Any] = requests.get(f"{url}/__standin__", headers=own, timeout=60).json()
    return document


def client_of(
    url: str, tokens: list[str], *, clock: Clock | None = None, paced: bool = False, ledger: MongoLedger | None = None
) -> GitHubClient:
    policy = RetryPolicy() if paced else replace(RetryPolicy(), points_a_minute={})
    return GitHubClient(url, [SecretStr(token) for token in tokens], policy=policy, clock=clock, ledger=ledger)


def economy(options: argparse.Namespace) -> None:
    """Measure the first collection, a refresh without changes, and one with new stars in 5 % of the repositories.

    The repositories' metadata are included, because they show which repositories may have new stars.
    """
    shape = of_real_sizes(options.repositories)
    positions = range(0, len(shape.sizes), 20)
    grown = replace(shape, grown=tuple((position, 7) for position in positions))
    pages = shape.pages(10)
    print(f"{len(shape.sizes):,} repositories, {pages:,} pages of 100 (at most 10 each) are needed")
    for name in ("stargazers", "graphql"):
        storage = BenchmarkStorage(8, InMemory())
        known: dict[Any, Any] = {}
        first = Counter[str]()
        for step, world in (("first", shape), ("unchanged", shape), ("5 % grown", grown)):
            with standin(world, Limits(), ["token"]) as url, open_mongo(storage.settings) as database:
                ledger = MongoLedger(database["github_budgets"])
                with client_of(url, ["token"], ledger=ledger) as client:
                    found = collect_repositories(client, [shape.listed()], KnownRepositories(known))
                    metadata = Counter(accounting(url, "token")["spent"])
                    known = {document["_id"]: document for document in found.documents}
                    source = RestStargazers(client, 10) if name == "stargazers" else GraphQLStargazers(client, 10)
                    report = storage.collect(world, source, 10)
                spent = Counter(accounting(url, "token")["spent"])
            first = first or spent
            share = f"; {spent.total() / first.total():.2%} of the first" if spent is not first else ""
            print(
                f"  {name}, {step}: {spent['core']:,} requests and {spent['graphql']:,} points, of which "
                f"{metadata['core']:,} and {metadata['graphql']:,} for metadata{share}; {report.stars:,} stars"
            )
            if step == "first":
                stars = spent - metadata
                unit, floor = ("core", pages) if name == "stargazers" else ("graphql", pages / 100)
                print(f"    the stars alone: {stars[unit] / floor:.3f} x the smallest possible number")
    print("GraphQL where GitHub's resource limit allows 37 connections")
    with standin(shape, Limits(query_budget=3700), ["token"]) as url, client_of(url, ["token"]) as client:
        storage = BenchmarkStorage(8, InMemory())
        storage.collect(shape, GraphQLStargazers(client, 10), 10)
        points = accounting(url, "token")["spent"]["graphql"]
    print(f"  {points:,} points, {points / (pages / 37):.2f} x those of the best fixed size")


def quota(options: argparse.Namespace) -> None:
    """Collect 10,000 repositories x 10 pages with GitHub's own limits, in virtual time."""
    shape = Shape((1000,) * options.repositories)
    pages = shape.pages(10)
    for count in (1, 4, 16):
        tokens = [f"token-{number}" for number in range(count)]
        # Windows of an hour; within the last one, GitHub's 900 requests per minute and user.
        windows = -(-pages // (5000 * count)) - 1
        last = pages - windows * 5000 * count
        bound = windows * 3600 + last / (900 * count) * 60
        with standin(shape, Limits.of_github(), tokens, virtual=True) as url:
            clock = RemoteClock(url, tokens[0])
            started, wall = clock.now(), time.perf_counter()
            with client_of(url, tokens, clock=clock, paced=True) as client:
                clock.busy = lambda client=client: client.pool.in_flight > 0  # type: ignore[misc]
                storage = BenchmarkStorage(16, InMemory())
                report = storage.collect(shape, RestStargazers(client, 10), 10)
            took = clock.now() - started
            accounted = accounting(url, tokens[0])
        print(
            f"{count:2} tokens: {took / 3600:.2f} h, {took / bound:.3f} x the quota's bound of {bound / 3600:.2f} h; "
            f"{accounted['spent']['core']:,} requests for {pages:,} pages, {report.stars:,} stars, violations "
            f"{accounted['violations'] or 0}; {time.perf_counter() - wall:.0f} s by the clock"
        )


def throughput(options: argparse.Namespace) -> None:
    """Measure pages per second without limits and latency, including the work of the stand-in on the same cores."""
    shape = Shape((1000,) * options.repositories)
    with standin(shape, Limits(), ["token"]) as url:
        for workers in (4, 8):
            storage = BenchmarkStorage(workers)
            with client_of(url, ["token"]) as client:
                started = time.perf_counter()
                report = storage.collect(shape, RestStargazers(client, 10), 10)
                seconds = time.perf_counter() - started
            print(
                f"{workers} workers: {report.pages / seconds:,.0f} pages/s, {report.stars / seconds:,.0f} stars/s "
                f"({report.pages:,} pages in {seconds:.1f} s)"
            )


def _collect_alone(url: str, count: int, name: str, peak: Any) -> None:
    """Collect in a separate process, whose peak memory is that of the collector."""
    import resource

    shape = Shape((150,) * count)
    refs_alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with client_of(url, ["token"]) as client:
        source = RestStargazers(client, 10) if name == "stargazers" else GraphQLStargazers(client, 10)
        report = BenchmarkStorage(workers=8).collect(shape, source, 10)
    if report.outcomes["ok"] != count:
        raise SystemExit(f"only {report.outcomes} of {count} repositories were collected")
    peak[0], peak[1] = refs_alone / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(options: argparse.Namespace) -> None:
    """Measure the peak memory of the collecting process, with tables in the bucket and states in MongoDB."""
    context = multiprocessing.get_context("spawn")
    for name in ("stargazers", "graphql"):
        for count in (1000, 10_000, options.repositories):
            started = time.perf_counter()
            with standin(Shape((150,) * count), Limits(), ["token"]) as url:
                peak = context.Array("d", 2)
                process = context.Process(target=_collect_alone, args=(url, count, name, peak))
                process.start()
                process.join()
            if process.exitcode:
                raise SystemExit(1)
            print(
                f"{name}: {count:,} repositories, peak {peak[1]:.0f} MiB (imports and list of repositories: "
                f"{peak[0]:.0f} MiB), {time.perf_counter() - started:.0f} s"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["economy", "quota", "throughput", "memory"])
    parser.add_argument("--repositories", type=int)
    options = parser.parse_args()
    defaults = {"economy": 4761, "quota": 10_000, "throughput": 600, "memory": 50_000}
    options.repositories = options.repositories or defaults[options.figure]
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("GH_ASSETS_HOME", str(Path(home) / "home"))
        {"economy": economy, "quota": quota, "throughput": throughput, "memory": memory}[options.figure](options)


if __name__ == "__main__":
    main()
