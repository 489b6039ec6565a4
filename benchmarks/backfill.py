"""Dagster's own cost a partition in a backfill that is launched from the UI: this project's instance, and as shipped.

Run: python benchmarks/backfill.py [--partitions 2000] [--rounds 1] [--ours 10000 50000] [--pages]

Starts `dagster dev` on an asset that does nothing, once with this project's dagster.yaml and once with none, adds so
many dynamic partitions, launches a backfill over all by the call that the UI's button makes, and waits for its end. The
cost is that of the run and of planning it, less that for one partition, by the number of partitions. `--ours` are
further counts for this project's side alone. `--pages` then opens the UI's pages in headless Chromium (CHROMIUM, or on
the path; needs the extra `screenshots`) and tells how long each takes until it shows what it is for and nothing loads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster import DagsterEventType, DagsterInstance

ROOT = Path(__file__).parent.parent
DEFINITIONS = '''
import warnings
import dagster as dg

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)

    @dg.asset(
        partitions_def=dg.DynamicPartitionsDefinition(name="thing"), backfill_policy=dg.BackfillPolicy.single_run()
    )
    def nothing() -> None:
        """Does nothing."""

defs = dg.Definitions(assets=[nothing], executor=dg.in_process_executor)
'''


class Side:
    """`dagster dev` with one configuration."""

    def __init__(self, ours: bool, folder: Path) -> None:
        self.ours, self.folder = ours, folder
        home = folder / "home"
        home.mkdir()
        (folder / "definitions.py").write_text(DEFINITIONS)
        if ours:
            shutil.copy(ROOT / "dagster.yaml", home)
        else:
            (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("DAGSTER_EVENT_BATCH_SIZE", "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS")
        } | {"DAGSTER_HOME": str(home), "GH_ASSETS_HOME": str(folder / "gh_assets"), "PYTHONPATH": str(ROOT)}

    @contextmanager
    def running(self) -> Iterator[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(Path(sys.executable).parent / "dagster"), "dev", "-f", "definitions.py", "-p", str(port)]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        url = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"{url}/server_info", timeout=2).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit((self.folder / "log").read_text()[-2000:]) from None
                    time.sleep(0.2)
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    @contextmanager
    def instance(self) -> Iterator[DagsterInstance]:
        os.environ.update(self.environment)
        with DagsterInstance.get() as instance:
            yield instance


def ask(url: str, query: str, **variables: Any) -> Any:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        told = json.load(answer)
    assert "errors" not in told, told
    return told["data"]


def planning(instance: DagsterInstance, run_id: str) -> float:
    """Seconds in which the daemon wrote what the run is to materialize, before it began."""
    kind = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    ends = [
        instance.get_records_for_run(run_id, of_type=kind, limit=1, ascending=ascending).records[0].timestamp
        for ascending in (True, False)
    ]
    return float(ends[1] - ends[0])


def backfill(url: str, instance: DagsterInstance, partitions: list[str]) -> float:
    """Launch it as the UI does, wait for its end; seconds of its run and of planning it."""
    launched = ask(
        url,
        "mutation($p:LaunchBackfillParams!){launchPartitionBackfill(backfillParams:$p)"
        "{__typename ... on LaunchBackfillSuccess{backfillId} ... on PythonError{message}}}",
        p={"assetSelection": [{"path": ["nothing"]}], "partitionNames": partitions, "fromFailure": False, "tags": []},
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    while True:
        found = ask(
            url,
            "query($b:String!){partitionBackfillOrError(backfillId:$b){... on PartitionBackfill"
            "{status runs(limit:10){runId startTime endTime status}}}}",
            b=launched["backfillId"],
        )["partitionBackfillOrError"]
        if found["status"].startswith(("COMPLETED", "FAILED")):
            assert found["status"] == "COMPLETED_SUCCESS", found
            assert len(found["runs"]) == 1, "one run for all partitions"
            run = found["runs"][0]
            return float(run["endTime"] - run["startTime"]) + planning(instance, run["runId"])
        time.sleep(0.5)


def cost(ours: bool, counts: list[int], pages: bool = False) -> dict[int, float]:
    """Milliseconds a partition for each count, one after another on one instance of growing size."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        side = Side(ours, Path(scratch))
        with side.running() as url:
            found = {}
            with side.instance() as instance:
                instance.add_dynamic_partitions("thing", ["one"])
                base = backfill(url, instance, ["one"])
                for count in counts:
                    keys = [f"of-{count}/{number}" for number in range(count)]
                    instance.add_dynamic_partitions("thing", keys)
                    found[count] = 1000 * (backfill(url, instance, keys) - base) / (count - 1)
                    materialized = instance.get_materialized_partitions(_key())
                    assert set(keys) <= materialized, "all are materialized"
                    print(f"{count:,} partitions: {found[count]:.2f} ms each", flush=True)
            if pages:
                look(url)
        return found


def _key() -> Any:
    from dagster import AssetKey

    return AssetKey("nothing")


def look(url: str) -> None:
    """Open the pages that people open."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium, or set CHROMIUM.")
    run = ask(url, "{runsOrError(limit:1){... on Runs{results{runId}}}}")["runsOrError"]["results"][0]["runId"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.goto(url)
        page.wait_for_load_state("networkidle")
        with contextlib.suppress(PlaywrightTimeoutError):  # a fresh home invites to a community
            page.get_by_role("button", name="Skip").click(timeout=8000)
        visits = {
            "asset page": (f"{url}/assets/nothing?view=overview", "nothing"),
            "partitions": (f"{url}/assets/nothing?view=partitions", "Partitions"),
            "events": (f"{url}/assets/nothing?view=events", "Events"),
            "run page": (f"{url}/runs/{run}", run[:8]),
        }
        for name, (address, shows) in visits.items():
            began = time.perf_counter()
            page.goto(address)
            page.get_by_text(shows).first.wait_for(timeout=120_000)
            page.wait_for_load_state("networkidle", timeout=120_000)
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        page.goto(f"{url}/assets/nothing?view=overview")
        page.wait_for_load_state("networkidle")
        began = time.perf_counter()
        page.get_by_role("button", name="Materialize").first.click()
        page.get_by_text("Launch backfill").or_(page.get_by_text("Launch run")).first.wait_for(timeout=120_000)
        print(f"backfill dialogue: {time.perf_counter() - began:.1f} s", flush=True)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ours", type=int, nargs="*", default=[10_000, 50_000])
    parser.add_argument("--pages", action="store_true")
    options = parser.parse_args()
    ratios = []
    for number in range(options.rounds if options.partitions else 0):
        mine = cost(True, [options.partitions])[options.partitions]
        theirs = cost(False, [options.partitions])[options.partitions]
        ratios.append(theirs / mine)
        print(f"round {number + 1}, {options.partitions:,} partitions: {mine:.2f} ms each, as shipped {theirs:.2f} ms")
    if ratios:
        print(f"as shipped / ours: {statistics.median(ratios):.0f} × ({', '.join(f'{ratio:.0f}' for ratio in ratios)})")
    for count in options.ours:
        cost(True, [count], options.pages)


if __name__ == "__main__":
    main()
