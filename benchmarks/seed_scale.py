"""The whole chain at any size, from a generated world: seconds, processor time and peak memory of each asset.

Run: python benchmarks/seed_scale.py [--repositories 300] [--users 5000] [--source graphql] [--closed] [--epochs N]
     [--until ASSET] [--max-pages 10000] [--max-users N] [--home FOLDER] [--profile FOLDER] [--plot FILE]

The stand-in serves the large world without limits in a process of its own, with ``--closed`` without stargazer lists,
for ``--source starred``. Each asset is materialized with its checks in a process of its own, by the code and in the
Dagster instance of `gh-assets run`. Its memory includes that of its children; beside it are those of the stand-in and
of the largest embedded server. After the chain, 1 % of the repositories get new stars, and what follows a daily
collection is materialized again: lists, stars, plan, users, matrix, and the recommendations that change. With
``--profile``, the time of each function is written there.
"""

import argparse
import cProfile
import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import dagster as dg
import requests

from gh_assets.assets import CHAIN_ASSETS
from gh_assets.assets.definition import REPO_PARTITIONS
from gh_assets.assets.retries import without_retries
from gh_assets.automation.jobs import range_tags
from gh_assets.definitions import build_definitions
from gh_assets.embedded.guardian import free_port
from gh_assets.embedded.standin.__main__ import serve
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.large import large_world
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import Repository
from gh_assets.github.retries import RetryPolicy
from gh_assets.instance.configuration import open_instance
from gh_assets.instance.launcher import OWN_PROCESS, execute_job
from gh_assets.services.connections import connect_github
from gh_assets.settings import load_settings

TOKEN = "token"

DAILY = ("repos", "stargazers", "collection_plan", "users", "user_item_matrix", "recommendations")
"""What follows a daily collection, without a new model."""

ASSETS = [asset.key.to_user_string() for asset in CHAIN_ASSETS]


def materialize(name: str, options: argparse.Namespace) -> None:
    """Materialize one asset in this process; print its time and peak memory as JSON."""
    settings = load_settings()
    # The stand-in has no limits, so requests need no pace.
    unpaced = replace(RetryPolicy(in_flight=settings.workers), points_a_minute={})
    unlimited = patch("gh_assets.resources.github.connect_github", partial(connect_github, policy=unpaced))
    collect: dict[str, Any] = {"source": options.source, "max_pages": options.max_pages}
    if options.max_users is not None:
        collect["max_users"] = options.max_users
    ops: dict[str, Any] = {"stargazers": {"config": collect}}
    if options.epochs is not None:
        ops["recvae_model"] = {"config": {"epochs": options.epochs}}
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    with open_instance(settings) as instance, without_retries(), unlimited:
        tags = dict(OWN_PROCESS)
        if name == "stargazers":
            partitions = instance.get_dynamic_partitions(str(REPO_PARTITIONS.name))
            tags |= range_tags(partitions[0], partitions[-1])
        before, wall, processor = peak(), time.perf_counter(), time.process_time()
        profile = cProfile.Profile(time.process_time) if options.profile is not None else nullcontext()
        with profile:
            execute_job(
                job.get_subset(asset_selection={dg.AssetKey(name)}),
                instance,
                run_id=str(uuid.uuid4()),
                run_config={
                    "ops": {name: ops[name]} if name in ops else {},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
                tags=tags,
            )
        if isinstance(profile, cProfile.Profile):
            profile.dump_stats(options.profile / f"{name}.prof")
        figures = [time.perf_counter() - wall, time.process_time() - processor, before, peak()]
    print(json.dumps(figures))


def peak() -> float:
    """Return the peak memory of this process and of its largest child, in MiB."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


class Memory:
    """Peak memory of running processes whose command line has a text."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()

    def _processes(self) -> Iterator[Path]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self.text in (folder / "cmdline").read_bytes():
                    yield folder
            except OSError:  # it has ended
                continue

    def reset(self) -> None:
        for folder in self._processes():
            (folder / "clear_refs").write_text("5")

    def peak(self) -> float:
        peaks = [0.0]
        for folder in self._processes():
            lines = (folder / "status").read_text().splitlines()
            peaks += [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        return max(peaks)


def serve_world(options: argparse.Namespace) -> None:
    """Serve the world, without the newest stars of 1 % of the repositories until a signal comes."""
    world = large_world(options.seed, repositories=options.repositories, users=options.users)
    held_back: list[tuple[Repository, Any, Any]] = []
    for repository in world.repositories[: options.repositories : 100]:
        held_back.append((repository, repository.stargazers, repository.starred_at))
        known = len(repository.stargazers) - 1 - len(repository.stargazers) // 50
        repository.stargazers = repository.stargazers[:known]
        repository.starred_at = repository.starred_at[:known]

    def next_day(*_: object) -> None:
        for repository, users, times in held_back:
            repository.stargazers, repository.starred_at = users, times

    signal.signal(signal.SIGUSR1, next_day)
    print(f"{world.star_count:,} stars", file=sys.stderr, flush=True)
    serve(Standin(world, [TOKEN], Limits(requests=10**9), restricted=options.closed), port=options.port)


@contextmanager
def standin(options: argparse.Namespace) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Serve the world in a process of its own; yield its address and the process."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            print(process.stderr.readline(), end="", flush=True)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()


def requests_served(url: str) -> int:
    """Return how many requests the stand-in has answered."""
    answer = requests.get(f"{url}/__standin__", headers={"Authorization": f"token {TOKEN}"}, timeout=60)
    answer.raise_for_status()
    served: int = answer.json()["requests"]
    return served


HEAD = f"{'asset':<18} {'seconds':>8} {'processor':>10} {'MiB':>6} {'before':>7} {'server':>7} {'stand-in':>9}"


@dataclass
class Measured:
    """One asset: seconds of time and of processor, and MiB at the peak, of it, before it began, and of the servers."""

    name: str
    wall: float
    processor: float
    before: float
    peak: float
    servers: float
    standin: float

    def line(self) -> str:
        memory = f"{self.peak:6.0f} {self.before:7.0f} {self.servers:7.0f} {self.standin:9.0f}"
        return f"{self.name:<18} {self.wall:8.1f} {self.processor:10.1f} {memory}"


def draw(days: Sequence[Sequence[Measured]], path: Path) -> None:
    """Draw seconds and peak memory of each asset."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    names = [one.name for one in days[0]]
    for number, (day, label) in enumerate(zip(days, ("first day", "day after"), strict=False)):
        places = [names.index(one.name) + 0.2 * (2 * number - 1) for one in day]
        axes[0].barh(places, [one.wall for one in day], 0.4, label=label)
        axes[1].barh(places, [one.peak for one in day], 0.4, label=label)
    axes[0].set(xlabel="seconds", xscale="log", yticks=range(len(names)), yticklabels=names)
    axes[0].invert_yaxis()
    axes[1].set(xlabel="MiB at the peak")
    axes[1].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asset", choices=ASSETS, help=argparse.SUPPRESS)
    parser.add_argument("--repositories", type=int, default=300)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", choices=["stargazers", "graphql", "starred", "auto"], default="graphql")
    parser.add_argument("--closed", action="store_true", help="stargazer lists are closed")
    parser.add_argument("--max-pages", type=int, default=10_000)
    parser.add_argument("--max-users", type=int, help="maximum number of users whose starred lists are read")
    parser.add_argument("--epochs", type=int, help="maximum number of epochs; by default that of the asset")
    parser.add_argument("--until", choices=ASSETS, default=ASSETS[-1])
    parser.add_argument("--home", type=Path, help="folder that is kept; by default a temporary one")
    parser.add_argument("--profile", type=Path, help="folder for profiles of the processor time")
    parser.add_argument("--plot", type=Path, help="picture of seconds and memory")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.port is not None:
        serve_world(options)
        return
    if options.asset is not None:
        materialize(options.asset, options)
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch, standin(options) as (url, process):
        home = str((options.home or Path(scratch) / "home").resolve())
        environment = {"GH_ASSETS_HOME": home, "GITHUB_API_URL": url, "GITHUB_TOKENS": TOKEN}
        environment["GH_ASSETS_AWESOME"] = ",".join(f"synthetic-lists/awesome-{number}" for number in (1, 2, 3))
        servers, github_server = Memory(f"{home}/"), Memory(f"--port\0{url.rpartition(':')[2]}")

        def measure(name: str) -> Measured:
            servers.reset()
            github_server.reset()
            done = subprocess.run(
                [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--asset", name],
                env=os.environ | environment,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            wall, processor, before, after = json.loads(done.stdout.splitlines()[-1])
            measured = Measured(name, wall, processor, before, after, servers.peak(), github_server.peak())
            print(measured.line(), flush=True)
            return measured

        chain = ASSETS[: ASSETS.index(options.until) + 1]
        plan, days, sent = [chain, [name for name in chain if name in DAILY]], [], [0]
        for assets in plan:
            print(
                f"{'asset':<18} {'seconds':>8} {'processor':>10} {'MiB':>6} {'before':>7} {'server':>7} {'stand-in':>9}"
            )
            days.append([measure(name) for name in assets])
            sent.append(requests_served(url))
            print(f"{sum(one.wall for one in days[-1]):.0f} s, {sent[-1] - sent[-2]:,} requests", flush=True)
            process.send_signal(signal.SIGUSR1)
        share = sum(one.wall for one in days[1]) / sum(one.wall for one in days[0])
        print(f"the day after: {share:.1%} of the time, {(sent[2] - sent[1]) / sent[1]:.1%} of the requests")
        if options.plot is not None:
            draw(days, options.plot)


if __name__ == "__main__":
    main()
