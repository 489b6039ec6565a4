"""The private parts of Dagster that the project uses are still there and still mean the same.

If a test here fails after an upgrade, Dagster has changed one of them: find its replacement in Dagster's source, change
`gh_assets/instance/internals.py`, and nothing else.
"""

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import dagster as dg
import pytest
from alembic.script import ScriptDirectory

import gh_assets
from gh_assets.instance import internals
from gh_assets.instance.configuration import open_instance
from gh_assets.settings import load_settings

UPGRADE = "Dagster has changed a private part: see gh_assets/instance/internals.py"


def test_only_one_module_imports_private_parts() -> None:
    package = Path(gh_assets.__file__).parent
    offenders = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("dagster._", "dagster_shared"))
    }
    assert offenders == {"instance/internals.py"}


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (internals.SqliteEventLog._event_to_row, ["self", "event"]),
        (internals.SqliteEventLog._store_asset_event_tags, ["self", "conn", "events", "event_ids"]),
        (internals.SqliteEventLog._store_asset_event, ["self", "conn", "event", "event_id"]),
        (internals.SqliteEventLog.run_connection, ["self", "run_id"]),
        (internals.SqliteEventLog.index_transaction, ["self"]),
        (internals.InstanceRef.from_dir, ["base_dir", "config_dir", "config_filename", "overrides"]),
        (dg.DagsterEvent.asset_materialization, ["step_context", "materialization", "batch_metadata"]),
    ],
)
def test_private_functions_have_the_same_parameters(function: Callable[..., object], parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters, UPGRADE


def test_names_that_are_stored_are_the_same() -> None:
    assert internals.IMPLICIT_ASSET_JOB_NAME == "__ASSET_JOB", UPGRADE
    assert internals.SINGLETON_REPOSITORY_NAME == "__repository__", UPGRADE
    assert internals.MAX_RETRIES_TAG == "dagster/max_retries", UPGRADE
    range_tags = (internals.ASSET_PARTITION_RANGE_START_TAG, internals.ASSET_PARTITION_RANGE_END_TAG)
    assert range_tags == ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), UPGRADE


def test_migrations_are_read_once(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_instance(load_settings()):
        pass
    load = Mock(side_effect=ScriptDirectory._load_revisions)
    monkeypatch.setattr(ScriptDirectory, "_load_revisions", load)
    monkeypatch.setenv("GH_ASSETS_HOME", str(fresh_home / "another"))
    with open_instance(load_settings()) as instance:
        instance.add_dynamic_partitions("repo", ["a/b"])
        assert list(instance.get_dynamic_partitions("repo")) == ["a/b"]
    load.assert_not_called()


def test_all_storages_have_a_function_for_the_address_of_a_database() -> None:
    for name in ("sqlite_event_log", "sqlite_run_storage", "sqlite_schedule_storage"):
        module = getattr(internals, name)
        assert list(inspect.signature(vars(module)[internals.CONNECTION_STRING]).parameters)[:1], UPGRADE
        assert internals.CONNECTION_STRING in inspect.getsource(module), UPGRADE


def test_a_step_accumulates_metadata_where_they_are_added() -> None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a"]))
    def one(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        internals.add_partition_metadata(context, {"a": {"row": 1}})
        return dg.MaterializeResult()

    result = dg.materialize([one], partition_key="a")
    (materialization,) = result.asset_materializations_for_node("one")
    assert materialization.metadata["row"].value == 1, UPGRADE


def test_an_op_reports_materializations_of_many_partitions() -> None:
    key = dg.AssetKey("things")

    @dg.op
    def report(context: dg.OpExecutionContext) -> None:
        internals.report_materializations(context, key, {"a": {"row": 1}, "b": {"row": 2}})

    @dg.job
    def reporting() -> None:
        report()

    with dg.instance_for_test() as instance:
        reporting.execute_in_process(instance=instance)
        assert instance.get_materialized_partitions(key) == {"a", "b"}, UPGRADE
