"""The private parts of Dagster that the project uses. No other module imports from `dagster._core` and the like.

Each is here because Dagster 1.13 has no public name for it. `gh_assets_tests/instance/test_internals.py` checks them:
when an upgrade breaks one, this is the only product module to change. Names imported `as` themselves are for others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from alembic.config import Config
from alembic.script import ScriptDirectory
from dagster._core import events as dagster_events
from dagster._core.definitions.assets.job.asset_job import IMPLICIT_ASSET_JOB_NAME as IMPLICIT_ASSET_JOB_NAME
from dagster._core.definitions.job_base import InMemoryJob as InMemoryJob
from dagster._core.definitions.metadata import RawMetadataValue as RawMetadataValue
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME as SINGLETON_REPOSITORY_NAME
from dagster._core.definitions.unresolved_asset_job_definition import (
    UnresolvedAssetJobDefinition as UnresolvedAssetJobDefinition,
)
from dagster._core.errors import DagsterAssetCheckFailedError as DagsterAssetCheckFailedError
from dagster._core.events import EngineEventData as EngineEventData
from dagster._core.execution.api import execute_run as execute_run
from dagster._core.execution.context.metadata_logging import AssetMetadataHandle, OutputMetadataAccumulator
from dagster._core.instance.ref import InstanceRef as InstanceRef
from dagster._core.launcher import CheckRunHealthResult as CheckRunHealthResult
from dagster._core.launcher import WorkerStatus as WorkerStatus
from dagster._core.remote_origin import RegisteredCodeLocationOrigin as RegisteredCodeLocationOrigin
from dagster._core.remote_origin import RemoteRepositoryOrigin as RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import TickStatus as TickStatus
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager as LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager as NoOpComputeLogManager
from dagster._core.storage.runs.sqlite import SqliteRunStorage as SqliteRunStorage
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage as DagsterSqliteStorage
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG as ASSET_PARTITION_RANGE_END_TAG
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_START_TAG as ASSET_PARTITION_RANGE_START_TAG
from dagster._core.storage.tags import MAX_RETRIES_TAG as MAX_RETRIES_TAG
from dagster._serdes import ConfigurableClassData as ConfigurableClassData
from dagster_shared.error import SerializableErrorInfo as SerializableErrorInfo
from sqlalchemy import insert

CONNECTION_STRING = "create_db_conn_string"
METADATA_ACCUMULATOR = "_metadata_accumulator"

_PROCESSED_ALONE = {*dagster_events.ASSET_CHECK_EVENTS, *dagster_events.EVENT_TYPE_TO_PIPELINE_RUN_STATUS}


class SqliteEventLog(SqliteEventLogStorage):
    """Dagster's event log in SQLite, with one more operation."""

    def insert_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Insert events of one run: all into its database, those about assets also into the index.

        Each database gets one transaction. No event may be one that `needs_own_transaction`.
        """
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        of_assets = [
            (event, row)
            for event, row in zip(events, rows, strict=True)
            if event.is_dagster_event and event.dagster_event_type in dagster_events.ASSET_EVENTS
        ]
        if not of_assets:
            return
        columns = SqlEventLogStorageTable.c
        statement = insert(SqlEventLogStorageTable).returning(columns.id, sort_by_parameter_order=True)
        with self.index_transaction() as connection:
            ids = [int(row[0]) for row in connection.execute(statement, [row for _, row in of_assets])]
            entries = [event for event, _ in of_assets]
            self._store_asset_event_tags(connection, entries, ids)
            keys = [event.get_dagster_event().asset_key for event in entries]
            last_of_asset = {key: place for place, key in enumerate(keys) if key is not None}
            for place in last_of_asset.values():
                self._store_asset_event(connection, entries[place], ids[place])


def needs_own_transaction(event: dg.EventLogEntry) -> bool:
    """Whether the index has to process an event by itself: a check's, or one that changes the status of its run."""
    return event.is_dagster_event and event.dagster_event_type in _PROCESSED_ALONE


def set_sqlite_address(address: Callable[[str, str], str]) -> None:
    """Let Dagster's SQLite storages make the address of a database (folder, name) by a function."""
    for module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
        vars(module)[CONNECTION_STRING] = address


def read_migrations_once() -> None:
    """Let Dagster read the list of its migrations once a process, instead of at each opening of an SQLite database.

    The list is 80 Python files, which took 0.1 s at the opening of a home and 0.2 s for a new one.
    """
    read, known = ScriptDirectory.from_config, dict[str | None, ScriptDirectory]()

    def from_config(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        if place not in known:
            known[place] = read(config)
        return known[place]

    ScriptDirectory.from_config = from_config  # type: ignore[method-assign]


def add_partition_metadata(context: dg.AssetExecutionContext, metadata: Mapping[str, Mapping[str, str | int]]) -> None:
    """Give each partition of a run its own metadata.

    `context.add_asset_metadata(..., partition_key=...)` does the same for one partition, but reads all partitions from
    the database and copies all metadata at each call: 88 s for 4,761 partitions, against milliseconds here.
    """
    step = context.get_step_execution_context()
    accumulated: OutputMetadataAccumulator = getattr(step, METADATA_ACCUMULATOR)
    merged = dict(accumulated.per_output_metadata)
    for key, entries in metadata.items():
        merged[AssetMetadataHandle(asset_key=context.asset_key, partition_key=key)] = dict(entries)
    setattr(step, METADATA_ACCUMULATOR, OutputMetadataAccumulator(per_output_metadata=merged))


def report_materializations(
    context: dg.OpExecutionContext, asset_key: dg.AssetKey, metadata: Mapping[str, Mapping[str, Any]]
) -> None:
    """Report from an op that partitions of an asset were materialized, however many and scattered they are.

    `context.log_event` does the same for one partition in transactions of its own (9 ms each); the events of a batch
    are written together.
    """
    step = context.get_step_execution_context()
    batch: str = dagster_events.generate_event_batch_id()  # type: ignore[no-untyped-call]
    for number, (partition, entries) in enumerate(metadata.items(), start=1):
        place = dagster_events.DagsterEventBatchMetadata(batch, is_end=number == len(metadata))
        materialization = dg.AssetMaterialization(asset_key, partition=partition, metadata=dict(entries))
        dg.DagsterEvent.asset_materialization(step, materialization, place)
