"""Dagster's own storage under the project's home, with batched event writes.

As shipped, Dagster writes each event of a partition in transactions of its own: 27 ms a partition on SQLite, more than
collecting its stars costs. Here the events of a batch go into one transaction of the run's database and one of the
index, as dagster-postgres does, and a run's plan is one event an asset. See benchmarks/dagster_events.py.

``dagster.yaml`` in the working directory names these classes; the CLI builds the same instance by `open_instance`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dagster import DagsterError, DagsterInstance
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.schedules.sqlite import sqlite_schedule_storage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import insert
from yaml import YAMLError

from gh_assets.errors import ConfigurationError
from gh_assets.local.home import keep_private, make_private, open_home
from gh_assets.local.network import prepare_network
from gh_assets.settings import Settings, load_settings

# Dagster reads this in every process that executes steps, and has no other way to set it. This module is loaded by
# each process that opens the instance, so it is the one place that reaches them all; a value of the user's wins.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")
# One planned event an asset and run, not one a partition: our SQLite storage says so by itself, Postgres by this.
os.environ.setdefault("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", "1")
# And what it writes under the home is for nobody else on this machine.
keep_private()
prepare_network()


class BatchedSqliteEventLogStorage(SqliteEventLogStorage):
    """Event log in SQLite that writes a batch of events in one transaction a database."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> BatchedSqliteEventLogStorage:
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_partition_subset_in_asset_materialization_planned_events(self) -> bool:
        """One planned event an asset and run, not one a partition."""
        return True

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events in order: all in their run's database, those of assets mirrored in the index.

        A batch is of one run; events that the index has to look at one by one are stored one by one.
        """
        if len({event.run_id for event in events}) != 1 or any(_needs_its_own_transaction(event) for event in events):
            for event in events:
                self.store_event(event)
            return
        rows = [self._event_to_row(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(SqlEventLogStorageTable.insert(), rows)
        assets = [
            (event, row)
            for event, row in zip(events, rows, strict=True)
            if event.is_dagster_event and event.dagster_event_type in ASSET_EVENTS
        ]
        if not assets:
            return
        last_of_asset: dict[str, tuple[EventLogEntry, int]] = {}
        with self.index_transaction() as connection:
            statement = insert(SqlEventLogStorageTable).returning(
                SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
            )
            ids = [int(row[0]) for row in connection.execute(statement, [row for _, row in assets])]
            entries = [event for event, _ in assets]
            self._store_asset_event_tags(connection, entries, ids)
            for event, event_id in zip(entries, ids, strict=True):
                key = event.get_dagster_event().asset_key
                if key is not None:
                    last_of_asset[key.to_string()] = (event, event_id)
            for event, event_id in last_of_asset.values():
                self._store_asset_event(connection, event, event_id)


def _needs_its_own_transaction(event: EventLogEntry) -> bool:
    return event.is_dagster_event and (
        event.dagster_event_type in ASSET_CHECK_EVENTS or event.dagster_event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS
    )


class HomeStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite under the project's home (``GH_ASSETS_HOME``, else ``.gh_assets``)."""

    def __init__(self, base_dir: str | None = None, inst_data: ConfigurableClassData | None = None) -> None:
        folder = Path(base_dir) if base_dir is not None else load_settings().dagster_home
        make_private(open_home(folder.parent) / folder.name)
        super().__init__(str(folder), inst_data=inst_data)
        self._event_log_storage = BatchedSqliteEventLogStorage(str(folder / "history" / "runs"))

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> HomeStorage:
        return cls(inst_data=inst_data)


class HomeComputeLogManager(LocalComputeLogManager):
    """What runs print, under the project's home."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir=str(load_settings().dagster_home / "storage"), inst_data=inst_data)

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> HomeComputeLogManager:
        return cls(inst_data=inst_data)


INSTANCE_CONFIGURATION: dict[str, Any] = {
    "storage": {"custom": {"module": "gh_assets.instance.storage", "class": "HomeStorage", "config": {}}},
    "compute_logs": {"module": "gh_assets.instance.storage", "class": "HomeComputeLogManager", "config": {}},
    "run_launcher": {"module": "gh_assets.instance.launcher", "class": "HomeRunLauncher"},
    "run_monitoring": {"enabled": True, "poll_interval_seconds": 10, "cancel_timeout_seconds": 60},
    "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
    "concurrency": {"pools": {"default_limit": 1, "granularity": "run"}},
    "freshness": {"enabled": True},
    "telemetry": {"enabled": False},
}
"""What the checkout's ``dagster.yaml`` says, for processes that don't run in the checkout."""


def _connection_string(folder: str, name: str) -> str:
    """Address of an SQLite database. Dagster's own takes ``?`` and ``%`` in a path for parts of an address."""
    path = Path(folder).absolute() / f"{name}.db"
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


for _module in (sqlite_event_log, sqlite_run_storage, sqlite_schedule_storage):
    vars(_module)["create_db_conn_string"] = _connection_string


NOT_CAPTURED = {"module": NoOpComputeLogManager.__module__, "class": NoOpComputeLogManager.__name__}


def history_folder(settings: Settings) -> Path:
    """Folder of Dagster's history: that of ``DAGSTER_HOME`` if it is set, else the home's own."""
    return Path(os.environ.get("DAGSTER_HOME") or settings.dagster_home)


def other_instance_warning() -> str | None:
    """Say that this process was started by a `dagster dev` whose instance is not the one that the command uses.

    Without ``DAGSTER_HOME``, `dagster dev` uses the ``dagster.yaml`` of the folder it was started in, and a temporary
    instance where there is none; `gh-assets` uses the home's.
    """
    if not os.environ.get("DAGSTER_IS_DEV_CLI") or os.environ.get("DAGSTER_HOME"):
        return None
    with suppress(OSError, UnicodeDecodeError):
        if "gh_assets." in Path("dagster.yaml").read_text(encoding="utf-8"):
            return None
    return (
        f"dagster dev was started in {Path.cwd()}, which has no dagster.yaml of gh_assets: its runs, partitions and "
        f"sensors are not those of the home {load_settings().home_path}. Start it in the checkout, or copy the "
        "checkout's dagster.yaml into this folder."
    )


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """The instance that `dagster dev` in the checkout uses: that of ``DAGSTER_HOME`` if set, else the home's own."""
    chosen = os.environ.get("DAGSTER_HOME")
    if chosen:
        with _opened(chosen) as instance:
            yield instance
        return
    folder = load_settings().dagster_home
    make_private(open_home(folder.parent) / folder.name)
    # What a command prints stands on its terminal; capturing it takes two processes a step, which Ctrl-C would reach.
    configuration = {**INSTANCE_CONFIGURATION, "compute_logs": NOT_CAPTURED}
    reference = InstanceRef.from_dir(str(folder), overrides=configuration)
    with DagsterInstance.from_ref(reference) as instance:
        yield instance


def _opened(dagster_home: str) -> DagsterInstance:
    """The instance of ``DAGSTER_HOME``; says in one sentence why there is none."""
    problem = ""
    if not Path(dagster_home).is_absolute():
        problem = "it is not an absolute path"
    elif not Path(dagster_home).is_dir():
        problem = "there is no such folder"
    if problem:
        raise ConfigurationError(
            f"DAGSTER_HOME ({dagster_home}) cannot be used: {problem}. Set it to an existing folder, or unset it "
            "to use the home's own instance."
        )
    try:
        return DagsterInstance.get()
    except (DagsterError, YAMLError, TypeError) as error:
        raise ConfigurationError(
            f"DAGSTER_HOME ({dagster_home}) cannot be used: its dagster.yaml is not what Dagster expects "
            f"({type(error).__name__}). `dagster instance info` says more."
        ) from error
