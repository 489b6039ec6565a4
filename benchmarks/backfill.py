"""Measure Dagster's cost per partition in a backfill from the UI: with this project's instance, and as shipped.

Run: python benchmarks/backfill.py [--partitions 2000] [--rounds 1] [--ours 10000 50000] [--pages]
     python benchmarks/backfill.py --url http://127.0.0.1:3000 [--asset stargazers]

Starts `dagster dev` on an asset that does nothing, once with this project's dagster.yaml and once without, adds dynamic
partitions, launches a backfill over all of them by the same call as the UI, and waits for its end. The cost is the
duration of planning and running, less that for one partition, divided by the number of partitions. `--ours` are further
counts for this project's instance alone. `--pages` then opens the UI's pages in headless Chromium (CHROMIUM, or on the
path; needs the extra `screenshots`) and prints how long each takes to show its content; `--url` does that alone, with a
UI that runs already.
"""

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from dagster import AssetKey, DagsterEventType, DagsterInstance

from gh_assets.embedded.guardian import free_port
from gh_assets_tests.support.waiting import until

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
    """`dagster dev` with this project's configuration or the default one."""

    def __init__(self, own_configuration: bool, folder: Path) -> None:
        self.own_configuration, self.folder = own_configuration, folder
        home = folder / "home"
        home.mkdir()
        (folder / "definitions.py").write_text(DEFINITIONS)
        if own_configuration:
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
        port = free_port()
        command = [str(Path(sys.executable).parent / "dagster"), "dev", "-f", "definitions.py", "-p", str(port)]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, (self.folder / "log").read_text()[-2000:]
            with contextlib.suppress(OSError):
                return requests.get(f"{url}/server_info", timeout=2).ok
            return False

        try:
            until(answers)
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


def query_graphql(url: str, query: str, **variables: Any) -> Any:
    body = {"query": query, "variables": variables}
    result = requests.post(f"{url}/graphql", json=body, timeout=600).json()
    assert "errors" not in result, result
    return result["data"]


def planning(instance: DagsterInstance, run_id: str) -> float:
    """Return the seconds in which the daemon planned the materializations, before the run started."""
    kind = DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    ends = [
        instance.get_records_for_run(run_id, of_type=kind, limit=1, ascending=ascending).records[0].timestamp
        for ascending in (True, False)
    ]
    return float(ends[1] - ends[0])


def backfill(url: str, instance: DagsterInstance, partitions: list[str]) -> float:
    """Launch a backfill as the UI does and wait for it; return the seconds of planning and running."""
    launched = query_graphql(
        url,
        "mutation($p:LaunchBackfillParams!){launchPartitionBackfill(backfillParams:$p)"
        "{__typename ... on LaunchBackfillSuccess{backfillId} ... on PythonError{message}}}",
        p={"assetSelection": [{"path": ["nothing"]}], "partitionNames": partitions, "fromFailure": False, "tags": []},
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    while True:
        state = query_graphql(
            url,
            "query($b:String!){partitionBackfillOrError(backfillId:$b){... on PartitionBackfill"
            "{status runs(limit:10){runId startTime endTime status}}}}",
            b=launched["backfillId"],
        )["partitionBackfillOrError"]
        if state["status"].startswith(("COMPLETED", "FAILED")):
            assert state["status"] == "COMPLETED_SUCCESS", state
            assert len(state["runs"]) == 1, "one run for all partitions"
            run = state["runs"][0]
            return float(run["endTime"] - run["startTime"]) + planning(instance, run["runId"])
        time.sleep(0.5)


def cost(own_configuration: bool, counts: list[int], pages: bool = False) -> dict[int, float]:
    """Return the milliseconds per partition for each count, measured on one growing instance."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        side = Side(own_configuration, Path(scratch))
        with side.running() as url:
            results = {}
            with side.instance() as instance:
                instance.add_dynamic_partitions("thing", ["one"])
                base = backfill(url, instance, ["one"])
                for count in counts:
                    keys = [f"of-{count}/{number}" for number in range(count)]
                    instance.add_dynamic_partitions("thing", keys)
                    results[count] = 1000 * (backfill(url, instance, keys) - base) / (count - 1)
                    materialized = instance.get_materialized_partitions(AssetKey("nothing"))
                    assert set(keys) <= materialized, "all are materialized"
                    print(f"{count:,} partitions: {results[count]:.2f} ms each", flush=True)
            if pages:
                measure_pages(url)
        return results


def measure_pages(url: str, asset: str = "nothing") -> None:
    """Measure how long the main pages of the UI take, those of a partitioned asset among them."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium, or set CHROMIUM.")
    runs = query_graphql(url, "{runsOrError(limit:1){... on Runs{results{runId}}}}")["runsOrError"]
    run = runs["results"][0]["runId"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.goto(url)
        page.wait_for_load_state("networkidle")
        with contextlib.suppress(PlaywrightTimeoutError):  # a new home shows an invitation
            page.get_by_role("button", name="Skip").click(timeout=8000)
        visits = {
            "asset page": (f"{url}/assets/{asset}?view=overview", asset),
            "partitions": (f"{url}/assets/{asset}?view=partitions", "Partitions"),
            "events": (f"{url}/assets/{asset}?view=events", "Events"),
            "run page": (f"{url}/runs/{run}", run[:8]),
        }
        for name, (address, shows) in visits.items():
            began = time.perf_counter()
            page.goto(address)
            page.get_by_text(shows).first.wait_for(timeout=120_000)
            page.wait_for_load_state("networkidle", timeout=120_000)
            print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        page.goto(f"{url}/assets/{asset}?view=overview")
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
    parser.add_argument("--url", help="measure the pages of a UI that runs there, and nothing else")
    parser.add_argument("--asset", default="stargazers", help="the partitioned asset of that UI")
    options = parser.parse_args()
    if options.url is not None:
        measure_pages(options.url, options.asset)
        return
    ratios = []
    for number in range(options.rounds if options.partitions else 0):
        project = cost(True, [options.partitions])[options.partitions]
        shipped = cost(False, [options.partitions])[options.partitions]
        ratios.append(shipped / project)
        print(
            f"round {number + 1}, {options.partitions:,} partitions: {project:.2f} ms each, as shipped {shipped:.2f} ms"
        )
    if ratios:
        print(
            f"as shipped / this project: {statistics.median(ratios):.0f} × "
            f"({', '.join(f'{ratio:.0f}' for ratio in ratios)})"
        )
    for count in options.ours:
        cost(True, [count], options.pages)


if __name__ == "__main__":
    main()
