"""Measure Dagster's bookkeeping per partition: with this project's storage, and with Dagster's as shipped.

An asset that does nothing is materialized over many dynamic partitions in one run, on a new SQLite instance each time,
alternating between both storages. The cost of a run over one partition is subtracted as the baseline.

Run: python benchmarks/dagster_events.py [--partitions 1000] [--repeat 3]
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from gh_assets.instance.configuration import INSTANCE_CONFIGURATION
from gh_assets.instance.internals import InstanceRef

PARTITIONS = dg.DynamicPartitionsDefinition(name="thing")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)

    @dg.asset(partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run())
    def nothing() -> None:
        """Does nothing."""


@contextmanager
def instance_of(side: str) -> Iterator[dg.DagsterInstance]:
    """Open a new instance of the side 'project' or 'shipped'."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GH_ASSETS_HOME"] = folder
        if side == "project":
            os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "1000"
            overrides = INSTANCE_CONFIGURATION
        else:
            os.environ.pop("DAGSTER_EVENT_BATCH_SIZE", None)
            overrides = {"telemetry": {"enabled": False}}
        home = Path(folder) / "dagster"
        home.mkdir()
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides)) as instance:
            yield instance


def seconds(side: str, partitions: int) -> float:
    """Return the seconds of one run over a number of partitions, including its creation."""
    with instance_of(side) as instance:
        keys = [f"owner/name-{number}" for number in range(partitions)]
        instance.add_dynamic_partitions("thing", keys)
        tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
        job = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("job", [nothing])]).resolve_job_def("job")
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        started = time.perf_counter()
        result = job.execute_in_process(instance=instance, tags=tags, run_config=quiet)
        elapsed = time.perf_counter() - started
        assert result.success
        assert len(instance.get_materialized_partitions(dg.AssetKey("nothing"))) == partitions
        return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--ours-only", action="store_true", help="for counts that would take hours with the storage as shipped"
    )
    options = parser.parse_args()
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    sides = ["project"] if options.ours_only else ["project", "shipped"]
    costs: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.repeat):
        for side in sides:
            base, whole = seconds(side, 1), seconds(side, options.partitions)
            costs[side].append(1000 * (whole - base) / (options.partitions - 1))
            print(
                f"round {number + 1}: {side:<8} {costs[side][-1]:7.2f} ms per partition ({whole:.1f} s in all)",
                flush=True,
            )
    for side in sides:
        print(f"median {side:<8} {statistics.median(costs[side]):7.2f} ms per partition")
    if len(sides) == 2:
        ratios = [shipped / project for project, shipped in zip(costs["project"], costs["shipped"], strict=True)]
        print(f"shipped / project: {statistics.median(ratios):.0f} × (rounds: {', '.join(f'{r:.0f}' for r in ratios)})")


if __name__ == "__main__":
    main()
