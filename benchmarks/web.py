"""Load test of the server: lists per second with reasons, their latency, and the effect of promotions on it.

Run: python benchmarks/web.py [--repositories 10000] [--rate 300] [--requests 100000] [--rounds 3] [--home FOLDER]

Generates stars (benchmarks/interactions.py), trains two hybrids for one epoch each, registers them in a new home and
starts `gh-assets serve` there, as a user does. This process sends the load over 32 kept-alive connections: first at a
fixed rate, each request at its own time, whatever happens to earlier ones (so that a slow response is not hidden by
fewer requests), then as fast as responses arrive. Meanwhile the champion is promoted and rolled back 20 times. The two
models use different names for the repositories, so that a response mixed from both would be detected. Then --requests
more are sent, with the server's resident memory at every tenth.

With --home, an existing home is served as it is, to the users of its matrix: seconds until the server is ready, its
memory, and the same load without promotions.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import polars as pl
import torch
from interactions import generated

from gh_assets.recommender import EASE, Hybrid, RecVAE, RecVAEConfig
from gh_assets.recommender.data.interactions import Csr, UserItemMatrix
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.schemas import REPOS
from gh_assets.services.connections import asset_store, connect_gcs, model_store, open_mongo
from gh_assets.settings import Settings, load_settings

CONNECTIONS = 32
FIRST, SECOND = "one", "two"


def furnish(settings: Settings, stars: Csr, folder: Path) -> None:
    """Store data and two models."""
    users, items = stars.shape
    ids = np.arange(items)
    names = {prefix: np.array([f"{prefix}/repository-{item}" for item in ids]) for prefix in (FIRST, SECOND)}
    logins = np.array([f"person-{user}" for user in range(users)])
    blank = dict.fromkeys(REPOS.columns) | {"lists": ["bench/awesome"], "outcome": "ok", "archived": False}
    rows = [
        blank
        | {
            "repo_id": item,
            "full_name": f"repository/number-{item}",
            "description": f"A generated repository about subject {item % 97} and {item % 41}",
            "language": ("Python", "Go", "Rust", "C")[item % 4],
            "topics": [f"topic-{item % 50}", f"topic-{item % 7}"],
            "stargazer_count": int(count),
        }
        for item, count in enumerate(np.bincount(stars.indices, minlength=items))
    ]
    gcs = connect_gcs(settings)
    store = asset_store(settings, gcs)
    store.write_table("repos", pl.DataFrame(rows, schema=REPOS.dtypes))
    store.write_matrix("user_item_matrix", UserItemMatrix(stars, np.arange(users), logins, ids, names[FIRST]))
    linear = EASE((500.0,)).fit(stars)
    with open_mongo(settings) as database:
        registry = ModelRegistry(model_store(settings, gcs), database["models"])
        for seed, prefix in enumerate((FIRST, SECOND)):
            model = Hybrid(RecVAE(RecVAEConfig(epochs=1, seed=seed)).fit(stars[:20_000]), linear)
            model.items = items
            counts = np.bincount(stars.indices, minlength=items).tolist()
            trained = TrainedModel(model, ids, names[prefix], data={"stars_of": counts})
            path = trained.save(folder / prefix)
            card = ModelCard("hybrid", 0.3 + seed / 100, metric="ndcg@100", tags=(prefix,))
            registry.save(path, card, archive="gzip")
        registry.promote(Promotion("hybrid", 1, why="first"))


@contextmanager
def served(settings: Settings, refresh: str = "5s", rate: int = 0) -> Iterator[tuple[int, int]]:
    """Start `gh-assets serve` as a process; yield its port and process id."""
    environment = os.environ | {
        "GH_ASSETS_HOME": str(settings.home_path),
        "GH_ASSETS_SERVE_RATE": str(rate),
        "GH_ASSETS_SERVE_REFRESH": refresh,
        "GH_ASSETS_LIVE_REQUESTS": "0",
    }
    command = [str(Path(sys.executable).parent / "gh-assets"), "serve", "--port", "0"]
    log = settings.home_path / "serve.log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stderr=sink)
    try:
        while "Serving on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        line = next(line for line in log.read_text().splitlines() if line.startswith("Serving on"))
        yield int(line.rsplit(":", 1)[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@dataclass
class Tally:
    """Results of the requests; in a home of `furnish`, the names say which version answered."""

    furnished: bool = True
    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    mixed: int = 0
    versions: set[int] = field(default_factory=set)

    def record(self, status: int, body: bytes, seconds: float, whole: bool) -> None:
        self.seconds.append(seconds)
        if status != 200:
            self.failed += 1
            return
        if not whole:
            return
        response = orjson.loads(body)
        version = response["model"]["version"]
        self.versions.add(version)
        entries = response["recommendations"]
        names = [entry["full_name"] for entry in entries]
        names += [reason["full_name"] for entry in entries for reason in entry["because"]]
        if len(entries) != 20 or not all(entry["because"] for entry in entries):
            self.failed += 1
        elif self.furnished and not all(name.startswith(f"{(FIRST, SECOND)[version - 1]}/") for name in names):
            self.mixed += 1


class Connection:
    """A kept-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def open(self) -> Connection:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        return self

    async def get(self, path: str) -> tuple[int, bytes]:
        self.writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        return int(head[9:12]), await self.reader.readexactly(length)


async def ready(port: int) -> None:
    """Wait until the server has loaded a model."""
    while True:
        connection = await Connection(port).open()
        status, _ = await connection.get("/readyz")
        connection.writer.close()
        if status == 200:
            return
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Users:
    """The users for whom lists are requested, by their logins."""

    logins: Sequence[str]
    furnished: bool = True

    def paths(self, seed: int) -> Iterator[str]:
        rng = np.random.default_rng(seed)
        while True:
            for user in rng.integers(0, len(self.logins), 1000).tolist():
                yield f"/api/v1/users/{self.logins[user]}/recommendations?n=20"


async def at_fixed_rate(port: int, users: Users, rate: float, seconds: float, seed: int) -> Tally:
    """Send requests at fixed times; the latency includes the wait for a free connection."""
    tally, free = Tally(users.furnished), asyncio.Queue[Connection]()
    for _ in range(CONNECTIONS):
        free.put_nowait(await Connection(port).open())
    requested = users.paths(seed)
    begun = time.perf_counter() + 0.1

    async def one(number: int) -> None:
        due = begun + number / rate
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        connection = await free.get()
        status, body = await connection.get(next(requested))
        tally.record(status, body, time.perf_counter() - due, True)
        free.put_nowait(connection)

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    while not free.empty():
        free.get_nowait().writer.close()
    return tally


async def at_full_speed(port: int, users: Users, requests: int, seed: int, whole: bool = True) -> Tally:
    """Send the next request on each connection as soon as the response has arrived."""
    tally, requested, left = Tally(users.furnished), users.paths(seed), iter(range(requests))

    async def one() -> None:
        connection = await Connection(port).open()
        for _ in left:
            started = time.perf_counter()
            status, body = await connection.get(next(requested))
            tally.record(status, body, time.perf_counter() - started, whole)
        connection.writer.close()

    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return tally


def report(what: str, tally: Tally, elapsed: float) -> None:
    milliseconds = 1000 * np.array(tally.seconds)
    print(
        f"{what}: {len(milliseconds) / elapsed:.0f} lists per second; median {np.median(milliseconds):.1f} ms, "
        f"99th percentile {np.percentile(milliseconds, 99):.1f} ms, longest {milliseconds.max():.0f} ms; "
        f"{tally.failed} failed, {tally.mixed} mixed, versions seen {sorted(tally.versions)}",
        flush=True,
    )


def move(settings: Settings, moves: int, every: float) -> None:
    """Promote and roll back alternately."""
    with open_mongo(settings) as database:
        registry = ModelRegistry(model_store(settings), database["models"])
        for number in range(moves):
            time.sleep(every)
            if number % 2 == 0:
                registry.promote(Promotion("hybrid", 2, why="bench"))
            else:
                registry.rollback(why="bench")


def memory(pid: int, kind: str = "VmRSS") -> float:
    """Return the resident memory of a process in MiB, or with ``VmHWM`` its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) / 1024


def load(port: int, pid: int, users: Users, options: argparse.Namespace) -> None:
    """Send requests at a fixed rate, at full speed, and many for the memory."""
    asyncio.run(at_full_speed(port, users, 500, 99))
    slowest = []
    for number in range(options.rounds):
        started = time.perf_counter()
        tally = asyncio.run(at_fixed_rate(port, users, options.rate, options.seconds, number))
        report(f"{options.rate:.0f} requests per second", tally, time.perf_counter() - started)
        slowest.append(1000 * float(np.percentile(tally.seconds, 99)))
    print(f"99th percentile, median of {options.rounds} rounds: {statistics.median(slowest):.1f} ms")
    for number in range(options.rounds):
        started = time.perf_counter()
        tally = asyncio.run(at_full_speed(port, users, 5000, 10 + number))
        report(f"{CONNECTIONS} connections, at full speed", tally, time.perf_counter() - started)
    part = options.requests // 10
    for number in range(10):
        if part:
            tally = asyncio.run(at_full_speed(port, users, part, 100 + number, whole=False))
            print(f"{(number + 1) * part:,} requests: {memory(pid):.0f} MiB, {tally.failed} failed", flush=True)


def load_home(options: argparse.Namespace) -> None:
    """Load the server of an existing home."""
    os.environ["GH_ASSETS_HOME"] = str(options.home.resolve())
    settings = load_settings()
    logins = asset_store(settings).read_matrix("user_item_matrix").logins.tolist()
    started = time.perf_counter()
    with served(settings) as (port, pid):
        asyncio.run(ready(port))
        print(
            f"{len(logins):,} users: ready after {time.perf_counter() - started:.1f} s with {memory(pid):.0f} MiB, at "
            f"most {memory(pid, 'VmHWM'):.0f}",
            flush=True,
        )
        load(port, pid, Users(logins, furnished=False), options)
        print(f"at most {memory(pid, 'VmHWM'):.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=60_000)
    parser.add_argument("--stars", type=int, default=2_000_000)
    parser.add_argument("--rate", type=float, default=300.0, help="Requests per second.")
    parser.add_argument("--seconds", type=float, default=20.0, help="Duration of each round at that rate.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=100_000, help="Number of requests of the memory measurement.")
    parser.add_argument("--home", type=Path, help="existing home that is served")
    options = parser.parse_args()
    torch.set_num_threads(2)
    gc.disable()  # a collection would distort the measured latency
    if options.home is not None:
        load_home(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GH_ASSETS_HOME"] = str(Path(folder) / "home")
        settings = load_settings()
        stars = generated(options.users, options.repositories, options.stars)
        furnish(settings, stars, Path(folder))
        counts = np.diff(stars.indptr)
        print(
            f"{options.repositories:,} repositories, {options.users:,} users with {counts.mean():.0f} stars", flush=True
        )
        users = Users([f"person-{user}" for user in range(options.users)])
        with served(settings) as (port, pid):
            asyncio.run(ready(port))
            load(port, pid, users, options)
        with served(settings, "1s") as (port, _):
            asyncio.run(ready(port))
            asyncio.run(at_full_speed(port, users, 500, 98))
            mover = threading.Thread(target=move, args=(settings, 20, 2.5))
            mover.start()
            started = time.perf_counter()
            tally = asyncio.run(at_fixed_rate(port, users, options.rate, 55, 50))
            report("with 20 promotions and rollbacks", tally, time.perf_counter() - started)
            mover.join()


if __name__ == "__main__":
    main()
