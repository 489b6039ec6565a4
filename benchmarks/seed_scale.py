"""The whole chain at any size, from a generated world: seconds, processor time and peak memory of each asset.

Run: python benchmarks/seed_scale.py [--repositories 300] [--users 5000] [--source graphql] [--closed] [--epochs 2]
     [--until ASSET] [--max-pages 10000] [--max-users N] [--home FOLDER] [--profile FOLDER]

``gh-assets github-standin --world large`` serves the world without limits in a process of its own, with ``--closed``
without stargazer lists, for ``--source starred``. Each asset is materialized in a process of its own, by the code and
in the Dagster instance of `gh-assets run`. Its memory includes that of its children; beside it are those of the
stand-in and of the largest embedded server. With ``--profile``, the time of each function is written there.
"""

import argparse
import cProfile
import json
import os
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import dagster as dg

from gh_assets.assets import CHAIN_ASSETS
from gh_assets.assets.definition import REPO_PARTITIONS
from gh_assets.assets.retries import without_retries
from gh_assets.automation.jobs import range_tags
from gh_assets.definitions import build_definitions
from gh_assets.embedded.guardian import free_port
from gh_assets.github.retries import RetryPolicy
from gh_assets.instance.configuration import open_instance
from gh_assets.instance.launcher import OWN_PROCESS, execute_job
from gh_assets.services.connections import connect_github
from gh_assets.settings import load_settings

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
    ops = {"stargazers": {"config": collect}, "recvae_model": {"config": {"epochs": options.epochs}}}
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


@contextmanager
def standin(options: argparse.Namespace) -> Iterator[str]:
    """Serve the world in a process of its own; yield its address."""
    port = free_port()
    size = ["--repositories", str(options.repositories), "--users", str(options.users), "--seed", str(options.seed)]
    served = ["--port", str(port), "--token", "token", "--limit", "1000000000"]
    command = [sys.executable, "-m", "gh_assets", "github-standin", "--world", "large", *size, *served]
    command += ["--restricted"] if options.closed else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                print(line, end="", flush=True)
                if "To use it" in line:
                    break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


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
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--until", choices=ASSETS, default=ASSETS[-1])
    parser.add_argument("--home", type=Path, help="folder that is kept; by default a temporary one")
    parser.add_argument("--profile", type=Path, help="folder for profiles of the processor time")
    options = parser.parse_args()
    if options.asset is not None:
        materialize(options.asset, options)
        return
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch, standin(options) as url:
        home = str((options.home or Path(scratch) / "home").resolve())
        environment = {"GH_ASSETS_HOME": home, "GITHUB_API_URL": url, "GITHUB_TOKENS": "token"}
        environment["GH_ASSETS_AWESOME"] = ",".join(f"synthetic-lists/awesome-{number}" for number in (1, 2, 3))
        servers, github_server = Memory(f"{home}/"), Memory(f"--port\0{url.rpartition(':')[2]}")
        print(f"{'asset':<18} {'seconds':>8} {'processor':>10} {'MiB':>6} {'before':>7} {'server':>7} {'stand-in':>9}")
        for name in ASSETS[: ASSETS.index(options.until) + 1]:
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
            print(
                f"{name:<18} {wall:8.1f} {processor:10.1f} {after:6.0f} {before:7.0f} {servers.peak():7.0f} "
                f"{github_server.peak():9.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
