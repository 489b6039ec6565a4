"""Dagster's storage: batched writes store what Dagster as shipped stores."""

import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest
from dagster import DagsterEventType, DagsterInstance

from gh_assets.instance.configuration import open_instance
from gh_assets.instance.internals import InstanceRef, add_partition_metadata
from gh_assets.instance.storage import BatchedSqliteEventLogStorage, HomeComputeLogManager, HomeStorage
from gh_assets.settings import load_settings
from gh_assets_tests.support.chain_runs import latest_materialization
from gh_assets_tests.support.paths import CHECKOUT

PARTS = dg.DynamicPartitionsDefinition(name="part")


def asset_of(partitions: int) -> dg.AssetsDefinition:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.asset(partitions_def=PARTS, backfill_policy=dg.BackfillPolicy.single_run())
        def things(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
            add_partition_metadata(context, {key: {"place": int(key)} for key in context.partition_keys})
            return dg.MaterializeResult(metadata={"count": partitions})

    return things


def run_over_all(instance: DagsterInstance, partitions: int) -> dg.ExecuteInProcessResult:
    keys = [str(number) for number in range(partitions)]
    instance.add_dynamic_partitions("part", keys)
    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    return dg.materialize([asset_of(partitions)], instance=instance, tags=tags)


def stored_events(instance: DagsterInstance, run_id: str) -> dict[str, Any]:
    key, kind = dg.AssetKey("things"), DagsterEventType.ASSET_MATERIALIZATION
    storage = instance.event_log_storage
    records = instance.fetch_materializations(key, limit=1000).records
    events = [event for record in records if (event := record.asset_materialization) is not None]
    in_run = storage.get_records_for_run(run_id, of_type=kind, limit=1000).records
    latest_ids = storage.get_latest_storage_id_by_partition(key, kind)
    ids = [record.storage_id for record in records]
    return {
        "partitions": [record.partition_key for record in records],
        "metadata": [{name: value.value for name, value in event.metadata.items()} for event in events],
        "in run": [record.partition_key for record in in_run],
        "materialized": sorted(instance.get_materialized_partitions(key)),
        "last": latest_materialization(instance, "things").partition,
        "is the last run": storage.get_asset_records([key])[0].asset_entry.last_run_id == run_id,
        "latest": {partition: records[ids.index(latest)].partition_key for partition, latest in latest_ids.items()},
        "ascending": ids == sorted(ids, reverse=True),
        "tags": [(event.tags or {}).get("dagster/partition/part") for event in events],
    }


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """An instance as Dagster ships it."""
    monkeypatch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
    (tmp_path / "shipped").mkdir()
    overrides = {"telemetry": {"enabled": False}}
    with DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path / "shipped"), overrides=overrides)) as instance:
        yield instance


def test_batches_store_what_single_events_store(
    shipped: DagsterInstance, instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stored_events(shipped, run_over_all(shipped, 25).run_id)
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "10")  # so that there are several batches
    assert stored_events(instance, run_over_all(instance, 25).run_id) == expected
    assert sorted(expected["materialized"]) == sorted(str(number) for number in range(25))
    assert expected["last"] == expected["partitions"][0]
    assert expected["metadata"][0] == {"place": int(expected["last"]), "count": 25}


def test_a_batch_is_one_transaction(instance: DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
    storage = instance.event_log_storage
    batch, single = Mock(wraps=storage.store_event_batch), Mock(wraps=storage.store_event)
    monkeypatch.setattr(storage, "store_event_batch", batch)
    monkeypatch.setattr(storage, "store_event", single)
    run_over_all(instance, 200)
    assert [len(call.args[0]) for call in batch.call_args_list] == [200]
    events = [call.args[0].dagster_event for call in single.call_args_list]
    singles = [event.event_type_value for event in events if event is not None]
    assert "ASSET_MATERIALIZATION" not in singles
    assert singles.count("ASSET_MATERIALIZATION_PLANNED") == 1, "one planned event for all partitions"


def test_importing_the_storage_turns_batching_on() -> None:
    assert int(os.environ["DAGSTER_EVENT_BATCH_SIZE"]) >= 100


def test_dagster_dev_and_the_cli_share_one_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dagster dev` makes a temporary home beside the checkout's dagster.yaml: what it stores must not go there."""
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path / "home"))
    with open_instance(load_settings()) as instance:
        run_id = run_over_all(instance, 3).run_id
    (tmp_path / "temporary").mkdir()
    reference = InstanceRef.from_dir(str(tmp_path / "temporary"), config_dir=str(CHECKOUT))
    with DagsterInstance.from_ref(reference) as instance:
        assert isinstance(instance.event_log_storage, BatchedSqliteEventLogStorage)
        assert isinstance(instance.compute_log_manager, HomeComputeLogManager)
        assert instance.get_run_by_id(run_id) is not None
        assert instance.get_materialized_partitions(dg.AssetKey("things")) == {"0", "1", "2"}


def test_history_of_a_new_home_that_is_opened_several_times_at_once_is_created_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(3)

    def open_history(_: int) -> HomeStorage:
        barrier.wait()
        return HomeStorage(str(tmp_path / "dagster"))

    with ThreadPoolExecutor(3) as executor:
        assert len(list(executor.map(open_history, range(3)))) == 3
