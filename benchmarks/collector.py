"""What collecting costs and how fast it is, by the stand-in's own accounting.

    python benchmarks/collector.py economy      # requests and points against what is needed at least
    python benchmarks/collector.py quota        # in virtual time: hours against the quota's own bound
    python benchmarks/collector.py throughput   # pages a second without limits, Parquet and Mongo included
    python benchmarks/collector.py memory       # peak memory from 1,000 to 50,000 repositories

The stand-in runs in a process of its own, as GitHub does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import requests
from pydantic import SecretStr

from gh_assets.collector.pipeline import CollectionReport, CollectionState, collect_stargazers
from gh_assets.collector.repositories import KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.base import RepositoryRef, StarSource
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.embedded.standin.clock import RemoteClock, VirtualClock
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import Repository, World
from gh_assets.github.client import GitHubClient
from gh_assets.github.ledger import Ledger, MongoLedger
from gh_assets.github.outcomes import Outcome
from gh_assets.github.retries import Clock, RetryPolicy
from gh_assets.services.connections import connect_gcs, open_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.objects import ObjectStore

USERS = 50_000


@dataclass(frozen=True)
class Shape:
    """A world: each repository's stars are the first of a shuffled list of users, at times a minute apart."""

    sizes: tuple[int, ...]
    grown: tuple[tuple[int, int], ...] = ()
    """Repositories (by place) that have so many more stars than `sizes` says."""

    def world(self) -> World:
        rng = np.random.default_rng(0)
        users = rng.permutation(USERS).astype(np.int64)
        more = dict(self.grown)
        repositories = []
        for place, size in enumerate(self.sizes):
            start = int(rng.integers(0, USERS // 2))
            who = np.take(users, np.arange(start, start + size + more.get(place, 0)), mode="wrap")
            when = 1_500_000_000 + 60 * np.arange(len(who), dtype=np.int64)
            repositories.append(
                Repository(place + 1, f"owner-{place % 97}/repo-{place}", stargazers=who, starred_at=when)
            )
        return World(repositories, [f"user-{n}" for n in range(USERS)], range(1, USERS + 1), [], "a benchmark")

    def refs(self) -> list[RepositoryRef]:
        more = dict(self.grown)
        names = [f"owner-{place % 97}/repo-{place}" for place in range(len(self.sizes))]
        return [
            RepositoryRef(place + 1, names[place], names[place], size + more.get(place, 0), Outcome.OK)
            for place, size in enumerate(self.sizes)
        ]

    def listed(self) -> str:
        """A Markdown file that links to all repositories; gives its path."""
        path = Path(tempfile.mkdtemp()) / "list.md"
        path.write_text("\n".join(f"[x](https://github.com/{ref.full_name})" for ref in self.refs()))
        return str(path)

    def pages(self, max_pages: int) -> int:
        """Pages of 100 that have to be read at least; an empty list is a page, too."""
        return sum(min(max_pages, max(1, -(-size // 100))) for size in self.sizes)


def of_real_sizes(count: int = 4761) -> Shape:
    """Repositories as unequal as real ones: half have less than a page, a few tens of thousands of stars."""
    rng = np.random.default_rng(1)
    return Shape(tuple(int(size) for size in rng.lognormal(4.8, 1.7, count).clip(1, 40_000)))


def _serve(shape: Shape, limits: Limits, tokens: list[str], virtual: bool, port: Any) -> None:
    import uvicorn

    from gh_assets.embedded.standin.app import Standin
    from gh_assets.embedded.standin.clock import MachineClock
    from gh_assets.embedded.standin.faults import FaultyProtocol

    clock = VirtualClock() if virtual else MachineClock()
    app = Standin(shape.world(), tokens, limits, clock=clock).app()
    config = uvicorn.Config(app, port=0, log_level="error", access_log=False, http=FaultyProtocol, date_header=False)
    server = uvicorn.Server(config)
    started = server.startup

    async def startup(sockets: Any = None) -> None:
        await started(sockets)
        port.value = server.servers[0].sockets[0].getsockname()[1]

    server.startup = startup  # type: ignore[method-assign]
    server.run()


@contextmanager
def standin(shape: Shape, limits: Limits, tokens: list[str], *, virtual: bool = False) -> Iterator[str]:
    """A stand-in of its own; gives its address."""
    context = multiprocessing.get_context("spawn")
    port = context.Value("i", 0)
    process = context.Process(target=_serve, args=(shape, limits, tokens, virtual, port), daemon=True)
    process.start()
    while not port.value:
        if not process.is_alive():
            raise SystemExit("the stand-in did not start")
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port.value}"
    finally:
        process.terminate()
        process.join()


class Place:
    """A bucket and a database of the benchmark's own."""

    def __init__(self, workers: int) -> None:
        settings = load_settings()
        self.settings = settings.model_copy(update={"mongo_database": f"benchmark_{secrets.token_hex(4)}"})
        bucket = f"benchmark-{secrets.token_hex(4)}"
        self.tables = PartitionTables(AssetStore(ObjectStore(connect_gcs(settings), bucket, create=True)), "stargazers")
        self.workers = workers

    def collect(self, shape: Shape, source: StarSource, max_pages: int, *, ask_all: bool = False) -> CollectionReport:
        with open_mongo(self.settings) as database:
            return collect_stargazers(
                shape.refs(),
                source,
                self.tables,
                CollectionState(database),
                max_pages=max_pages,
                workers=self.workers,
                ask_all=ask_all,
            )


class InMemory:
    """A place without Parquet, for figures that are about requests alone."""

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
    answer: dict[str, Any] = requests.get(f"{url}/__standin__", headers=own, timeout=60).json()
    return answer


def client_of(
    url: str, tokens: list[str], *, clock: Clock | None = None, paced: bool = False, ledger: Ledger | None = None
) -> GitHubClient:
    policy = RetryPolicy() if paced else replace(RetryPolicy(), points_a_minute={})
    return GitHubClient(url, [SecretStr(token) for token in tokens], policy=policy, clock=clock, ledger=ledger)


def economy(options: argparse.Namespace) -> None:
    """First collection, unchanged refresh, and a refresh where every twentieth repository has new stars.

    Metadata of the repositories are included: they tell which of them may have news.
    """
    shape = of_real_sizes(options.repositories)
    places = range(0, len(shape.sizes), 20)
    grown = replace(shape, grown=tuple((place, 7) for place in places))
    pages = shape.pages(10)
    print(f"{len(shape.sizes):,} repositories, {pages:,} pages of 100 (at most 10 each) needed")
    for name in ("stargazers", "graphql"):
        place = Place(workers=8)
        place.tables = InMemory()  # type: ignore[assignment]
        known: dict[Any, Any] = {}
        first = Counter[str]()
        for step, world in (("first", shape), ("unchanged", shape), ("5 % grown", grown)):
            with standin(world, Limits(), ["token"]) as url, open_mongo(place.settings) as database:
                ledger = MongoLedger(database["github_budgets"])
                with client_of(url, ["token"], ledger=ledger) as client:
                    found = collect_repositories(client, [shape.listed()], KnownRepositories(known))
                    metadata = Counter(accounting(url, "token")["spent"])
                    known = {document["_id"]: document for document in found.documents}
                    source = RestStargazers(client, 10) if name == "stargazers" else GraphQLStargazers(client, 10)
                    report = place.collect(world, source, 10)
                spent = Counter(accounting(url, "token")["spent"])
            first = first or spent
            share = f"; {spent.total() / first.total():.2%} of the first" if spent is not first else ""
            print(
                f"  {name}, {step}: {spent['core']:,} requests and {spent['graphql']:,} points, of these for metadata "
                f"{metadata['core']:,} and {metadata['graphql']:,}{share}; {report.stars:,} stars"
            )
            if step == "first":
                stars = spent - metadata
                unit, floor = ("core", pages) if name == "stargazers" else ("graphql", pages / 100)
                print(f"    the stars alone: {stars[unit] / floor:.3f} x what is needed at least")
    print("GraphQL where GitHub's resource limit lets 37 connections through")
    with standin(shape, Limits(query_budget=3700), ["token"]) as url, client_of(url, ["token"]) as client:
        place = Place(workers=8)
        place.tables = InMemory()  # type: ignore[assignment]
        place.collect(shape, GraphQLStargazers(client, 10), 10)
        points = accounting(url, "token")["spent"]["graphql"]
    print(f"  {points:,} points, {points / (pages / 37):.2f} x those of the best fixed size")


def quota(options: argparse.Namespace) -> None:
    """10,000 repositories x 10 pages with GitHub's own limits, in virtual time."""
    shape = Shape((1000,) * options.repositories)
    pages = shape.pages(10)
    for count in (1, 4, 16):
        tokens = [f"token-{number}" for number in range(count)]
        # Windows of an hour, and within the last one GitHub's 900 requests a minute and user.
        windows = -(-pages // (5000 * count)) - 1
        last = pages - windows * 5000 * count
        bound = windows * 3600 + last / (900 * count) * 60
        with standin(shape, Limits.of_github(), tokens, virtual=True) as url:
            clock = RemoteClock(url, tokens[0])
            started, wall = clock.now(), time.perf_counter()
            with client_of(url, tokens, clock=clock, paced=True) as client:
                clock.busy = lambda client=client: client.pool.in_flight > 0  # type: ignore[misc]
                place = Place(workers=16)
                place.tables = InMemory()  # type: ignore[assignment]
                report = place.collect(shape, RestStargazers(client, 10), 10)
            took = clock.now() - started
            told = accounting(url, tokens[0])
        print(
            f"{count:2} tokens: {took / 3600:.2f} h, {took / bound:.3f} x the quota's bound of {bound / 3600:.2f} h; "
            f"{told['spent']['core']:,} requests for {pages:,} pages, {report.stars:,} stars, violations "
            f"{told['violations'] or 0}; {time.perf_counter() - wall:.0f} s by the clock"
        )


def throughput(options: argparse.Namespace) -> None:
    """Pages a second with no limits and no latency, on this machine's cores, the stand-in's work included."""
    shape = Shape((1000,) * options.repositories)
    with standin(shape, Limits(), ["token"]) as url:
        for workers in (4, 8):
            place = Place(workers)
            with client_of(url, ["token"]) as client:
                started = time.perf_counter()
                report = place.collect(shape, RestStargazers(client, 10), 10)
                seconds = time.perf_counter() - started
            print(
                f"{workers} workers: {report.pages / seconds:,.0f} pages/s, {report.stars / seconds:,.0f} stars/s "
                f"({report.pages:,} pages in {seconds:.1f} s)"
            )


def _collect_alone(url: str, count: int, name: str, peak: Any) -> None:
    """In a process of its own: its peak is the collector's."""
    import resource

    shape = Shape((150,) * count)
    refs_alone = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with client_of(url, ["token"]) as client:
        source = RestStargazers(client, 10) if name == "stargazers" else GraphQLStargazers(client, 10)
        report = Place(workers=8).collect(shape, source, 10)
    if report.outcomes["ok"] != count:
        raise SystemExit(f"only {report.outcomes} of {count} repositories were collected")
    peak[0], peak[1] = refs_alone / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(options: argparse.Namespace) -> None:
    """Peak resident memory of the collecting process, tables in the bucket and states in Mongo included."""
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
                f"{name}: {count:,} repositories, peak {peak[1]:.0f} MiB (imports and their list: {peak[0]:.0f} MiB), "
                f"{time.perf_counter() - started:.0f} s"
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
