"""Dagster's own storage under the project's home, with batched event writes.

As shipped, Dagster writes each event of a partition in transactions of its own: 27 ms a partition on SQLite, more than
collecting its stars costs. Here the events of a batch go into one transaction of the run's database and one of the
index, as dagster-postgres does, and a run plans one event an asset. See benchmarks/dagster_events.py.

``dagster.yaml`` names these classes, and Dagster constructs them: they read the settings by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import EventLogEntry, Field, StringSource

import gh_assets.instance.environment  # noqa: F401 - how events are written, in each process that opens the storage
from gh_assets.instance import internals
from gh_assets.instance.internals import ConfigurableClassData
from gh_assets.local.home import make_private, open_home
from gh_assets.local.locks import exclusive
from gh_assets.settings import load_settings


class BatchedSqliteEventLogStorage(internals.SqliteEventLog):
    """Event log in SQLite that writes a batch of events in one transaction a database."""

    @property
    def supports_partition_subset_in_asset_materialization_planned_events(self) -> bool:
        """Whether a run plans one event an asset instead of one a partition."""
        return True

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of one run in order; those that the index has to process by themselves are stored one by one."""
        if len({event.run_id for event in events}) != 1 or any(map(internals.needs_own_transaction, events)):
            for event in events:
                self.store_event(event)
            return
        self.insert_batch(events)


class HomeStorage(internals.DagsterSqliteStorage):
    """Runs, events and schedules in SQLite: in ``base_dir``, else under the project's home."""

    def __init__(self, base_dir: str | None = None, inst_data: ConfigurableClassData | None = None) -> None:
        folder = Path(base_dir) if base_dir is not None else load_settings().dagster_home
        make_private(open_home(folder.parent) / folder.name)
        with exclusive(folder / "history.lock"):  # two processes that create the databases at once both fail
            super().__init__(str(folder), inst_data=inst_data)
            self._event_log_storage = BatchedSqliteEventLogStorage(str(folder / "history" / "runs"))

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"base_dir": Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> HomeStorage:
        return cls(inst_data=inst_data, **config_value)


class HomeComputeLogManager(internals.LocalComputeLogManager):
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


def _address(folder: str, name: str) -> str:
    """Return the address of an SQLite database. Dagster's own function takes ``?`` and ``%`` for its syntax."""
    path = Path(folder).absolute() / f"{name}.db"
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


internals.set_sqlite_address(_address)
internals.read_migrations_once()
