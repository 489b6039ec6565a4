"""Measure how long one tick of each sensor takes with many repositories.

Run: python benchmarks/ticks.py [--repositories 50000] [--rounds 5]

Fills a home with repositories (plan in the bucket, partitions and materializations in Dagster), a tenth of which is
due, and evaluates a tick of each sensor as the daemon does. Prints the median and the longest duration.
"""

import argparse
import datetime as dt
import os
import statistics
import tempfile
import time
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from dagster import DagsterInstance

from gh_assets.assets import CHAIN_ASSETS, stargazers
from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.definitions import build_definitions
from gh_assets.instance.configuration import open_instance
from gh_assets.schemas import COLLECTION_PLAN, REPOS
from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings


def fill(instance: DagsterInstance, count: int) -> None:
    rng = np.random.default_rng(0)
    now = dt.datetime.now(dt.UTC)
    names = [f"owner-{number % 700}/repo-{number}" for number in range(count)]
    counted = rng.integers(1, 5000, count)
    moved = counted + np.where(rng.random(count) < 0.1, 50, 0)
    collected_at = [now - dt.timedelta(days=float(days)) for days in rng.uniform(1.5, 29, count)]
    common = {"repo_id": np.arange(count), "full_name": names, "partition": names}
    known = pl.DataFrame(
        {
            **common,
            "stargazer_count": moved,
            "counted_then": counted,
            "stars": np.minimum(counted, 1000),
            "outcome": ["ok"] * count,
            "asked_at": collected_at,
            "collected_at": collected_at,
            "closed_at": [now if number % 2 else None for number in range(count)],
            "proven": [True] * count,
            "looked_at": [now - dt.timedelta(hours=8)] * count,
            "next_look_at": [now + dt.timedelta(hours=hours) for hours in rng.uniform(-1, 9, count)],
            "events_a_day": rng.lognormal(2, 2, count),
            "stars_a_day": rng.lognormal(1, 2, count),
        },
        schema_overrides={name: kind for name, kind in COLLECTION_PLAN.dtypes.items() if name != "gained"},
    )
    plan = COLLECTION_PLAN.completed(known).select(list(COLLECTION_PLAN.dtypes))
    store = asset_store(load_settings())
    store.write_table("collection_plan", plan)
    filler = {name: [None] * count for name in REPOS.dtypes if name not in common}
    repos = pl.DataFrame({**common, **filler, "outcome": ["ok"] * count}, schema_overrides=REPOS.dtypes).with_columns(
        topics=pl.lit([], pl.List(pl.String)), lists=pl.lit(["a/b"])
    )
    store.write_table("repos", repos.select(list(REPOS.dtypes)))
    instance.add_dynamic_partitions("repo", names)
    for asset in CHAIN_ASSETS:
        if asset is not stargazers:
            metadata = {STARS_COLLECTED: int(plan["stars"].sum()), "stars": 1}
            instance.report_runless_asset_event(dg.AssetMaterialization(asset.key, metadata=metadata))
    events = [dg.AssetMaterialization(stargazers.key, partition=name) for name in names]
    _report(instance, events)


def _report(instance: DagsterInstance, events: list[dg.AssetMaterialization]) -> None:
    """Report the events in one run, as the collector does."""
    from gh_assets.instance.internals import report_materializations

    @dg.op
    def report(context: dg.OpExecutionContext) -> None:
        report_materializations(context, stargazers.key, {str(event.partition): {"outcome": "ok"} for event in events})

    graph = dg.GraphDefinition(name="fill", node_defs=[report])
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    dg.JobDefinition(name="fill", graph_def=graph).execute_in_process(instance=instance, run_config=quiet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        os.environ["GH_ASSETS_HOME"] = str(Path(home))
        with open_instance(load_settings()) as instance:
            began = time.perf_counter()
            fill(instance, options.repositories)
            print(f"{options.repositories:,} repositories, filled in {time.perf_counter() - began:.0f} s")
            defs = build_definitions(load_settings())
            repository = defs.get_repository_def()
            for sensor in repository.sensor_defs:
                durations, result_text, cursor = [], "", None
                for _ in range(options.rounds):
                    began = time.perf_counter()
                    if isinstance(sensor, dg.AutomationConditionSensorDefinition):
                        keys = [asset.key for asset in CHAIN_ASSETS]
                        result = dg.evaluate_automation_conditions(
                            defs=defs, instance=instance, asset_selection=dg.AssetSelection.assets(*keys)
                        )
                        result_text = f"{result.total_requested} requested"
                    else:
                        context = dg.build_sensor_context(
                            instance=instance,
                            repository_def=repository,
                            sensor_name=sensor.name,
                            cursor=cursor,
                            resources={name: (defs.resources or {})[name] for name in sensor.required_resource_keys},
                        )
                        with context:
                            tick = sensor.evaluate_tick(context)
                        result_text = str(tick.skip_message or f"{len(tick.run_requests or [])} run")[:90]
                        cursor = tick.cursor
                    durations.append(time.perf_counter() - began)
                print(
                    f"{sensor.name}: {statistics.median(durations):.2f} s, at most {max(durations):.2f} s "
                    f"({result_text})"
                )


if __name__ == "__main__":
    main()
