"""Run the whole chain against a GitHub with faulty responses: stars lost or falsely removed, and the extra requests.

    python benchmarks/answers.py [--stars FILE] [--share 0.2] [--json FILE]

`gh-assets run` collects from a stand-in that gives a fifth of its responses a fault, one kind of fault at a time: first
into an empty home, then again without faults, then reading all lists to their ends (`--full`) with faults again. The
stored stars are compared, row by row, with those of a home that was filled without faults. Waits for secondary limits
are shortened to hundredths of a second; everything else is unchanged.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.synthetic import synthetic_world
from gh_assets.embedded.standin.world import read_world
from gh_assets.services.connections import connect_gcs, connect_mongo, data_store
from gh_assets.settings import load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets_tests.support.serving import serving

KINDS = {
    "partial answers": ("failed entries", "null edges", "null connection"),
    "untyped errors": ("untyped error",),
    "single 401s": ("401",),
    "abuse 403s": ("403 abuse",),
    "limit figures": ("no limits", "absurd limits"),
    "4xx by GraphQL": ("graphql 400",),
}

QUERY_BUDGET = 2500
"""Nodes per query, which is 25 pages: small enough for many responses, of which a share can be faulty."""

CHILD = """
import sys
from functools import partial
from gh_assets.services import connections
connections.RetryPolicy = partial(
    connections.RetryPolicy, first_wait=0.01, longest_wait=0.1, secondary_wait=0.02, confirmation_wait=0.02,
    points_a_minute={}
)
from gh_assets.cli import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Row:
    """One run of the command.

    Attributes
    ----------
    step : str
    exit_code : int
    requests, faults : int
        Requests to the stand-in, and responses with a fault.
    ratio : float
        Requests divided by those of the run without faults.
    stored, lost, invented : int
        Stars, compared with the home without faults.
    taken_back : int
        Stars that are recorded as removed, although all of them still exist.
    equal : bool
        Whether all tables equal those of the home without faults.
    """

    step: str
    exit_code: int
    requests: int
    faults: int
    ratio: float
    stored: int
    lost: int
    invented: int
    taken_back: int
    equal: bool


class Home:
    """A home, and the command in it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("GH_ASSETS", "GITHUB"))
        } | {"GH_ASSETS_HOME": str(folder), "GITHUB_API_URL": url, "GITHUB_TOKENS": "one,two"}

    def run(self, lists: list[str], *options: str) -> int:
        named = [argument for name in lists for argument in ("--awesome", name)]
        command = [sys.executable, "-c", CHILD, "run", "--epochs", "1", *named, *options]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=self.folder.parent)
        if done.returncode:
            print(done.stderr[-2000:], file=sys.stderr)
        return done.returncode

    def contents(self) -> tuple[dict[str, pl.DataFrame], int]:
        """Return all tables of stars, and the number of stars recorded as removed."""
        os.environ["GH_ASSETS_HOME"] = str(self.folder)
        settings = load_settings()
        store = AssetStore(data_store(settings, connect_gcs(settings)))
        database = connect_mongo(settings)
        try:
            tables = store.read_tables("stargazers", sorted(store.partitions("stargazers")))
            return tables, database["unstars"].count_documents({})
        finally:
            database.client.close()


def measured(
    step: str, home: Home, standin: Standin, good: dict[str, pl.DataFrame] | None, base: int | None, *options: str
) -> Row:
    """Run the command once and compare the result."""
    standin.requests = 0
    standin.faults.injected.clear()
    code = home.run(standin.world.lists, *options)
    tables, taken_back = home.contents()
    keys = ["repo_id", "user_id"]
    stars = pl.concat([table.select(keys) for table in tables.values()])
    truth = stars if good is None else pl.concat([table.select(keys) for table in good.values()])
    return Row(
        step,
        code,
        standin.requests,
        standin.faults.injected.total(),
        standin.requests / (base or standin.requests or 1),
        stars.height,
        truth.join(stars, on=keys, how="anti").height,
        stars.join(truth, on=keys, how="anti").height,
        taken_back,
        good is None
        or (tables.keys() == good.keys() and all(table.equals(good[key]) for key, table in tables.items())),
    )


def show(row: Row) -> None:
    print(
        f"  {row.step:28} exit {row.exit_code}, {row.requests:5,} requests ({row.ratio:.2f} x), {row.faults:4,} bad; "
        f"{row.stored:,} stars stored, {row.lost:,} lost, {row.invented:,} invented, "
        f"{row.taken_back:,} falsely removed; tables {'equal' if row.equal else 'differ'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stars", type=Path, help="stars file that is served; by default a synthetic world")
    parser.add_argument("--share", type=float, default=0.2, help="share of faulty responses")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = read_world(options.stars) if options.stars is not None else synthetic_world(0)
    standin = Standin(world, ("one", "two"), Limits(query_budget=QUERY_BUDGET))
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder, serving(standin.app()) as url:
        faultless = Home(Path(folder) / "good", url)
        rows = [measured("empty home", faultless, standin, None, None)]
        good, _ = faultless.contents()
        rows.append(measured("again", faultless, standin, good, None))
        rows.append(measured("all lists to their ends", faultless, standin, good, None, "--full"))
        base = [row.requests for row in rows]
        print(f"{world.description}, no fault")
        for row in rows:
            show(row)
        for number, kind in enumerate(options.kinds):
            bad = dict.fromkeys(KINDS[kind], options.share / len(KINDS[kind]))
            home = Home(Path(folder) / f"bad-{number}", url)
            print(f"{options.share:.0%} of the responses: {kind}")
            rows = []
            for step, faults, before, more in (
                ("bad, empty home", bad, base[0], ()),
                ("well", {}, base[1], ()),
                ("bad, all lists to their ends", bad, base[2], ("--full",)),
                ("well", {}, base[1], ()),
            ):
                standin.faults = Faults(faults, seed=number)
                rows.append(measured(step, home, standin, good, before, *more))
                show(rows[-1])
            results[kind] = [asdict(row) for row in rows]
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
