"""The definitions as text: ``python -m gh_assets_tests.support.definitions_snapshot`` writes the snapshot again."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from gh_assets.definitions import build_definitions
from gh_assets.settings import Settings
from gh_assets_tests.support.paths import CHECKOUT

SNAPSHOT = CHECKOUT / "gh_assets_tests" / "definitions.txt"


def definitions_text(defs: dg.Definitions) -> str:
    """Return assets, checks, jobs, schedules, sensors and resources with what they depend on and their config."""
    return "\n".join(_lines(defs)) + "\n"


def _lines(defs: dg.Definitions) -> Iterator[str]:
    graph = defs.resolve_asset_graph()
    repository = defs.get_repository_def()
    yield "ASSETS"
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        parents = ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys))
        yield f"{key.to_user_string()} <- {parents or 'nothing'}"
        yield f"  group {node.group_name}; kinds {', '.join(sorted(node.kinds))}; partitions {_partitions(node)}"
        if not node.is_executable:
            yield "  not executable"
        elif node.assets_def.op.pool is not None:
            yield f"  pool {node.assets_def.op.pool}"
        if node.is_executable:
            yield from _config(node.assets_def.op)
            yield f"  resources {', '.join(sorted(node.assets_def.required_resource_keys))}"
    yield "\nCHECKS"
    for check in sorted(graph.asset_check_keys):
        blocking = graph.get(check).blocking
        yield f"{check.to_user_string()}{' (blocking)' if blocking else ''}"
    checks = {f"{check.asset_key.to_python_identifier()}_{check.name}" for check in graph.asset_check_keys}
    yield "\nJOBS"
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        if job.name != "__ASSET_JOB":
            yield f"{job.name}: {', '.join(sorted({node.name for node in job.nodes} - checks))}"
    for op in sorted({node.name: node for job in defs.jobs or () for node in _ops(job)}.values(), key=lambda o: o.name):
        yield f"op {op.name}"
        yield from _config(op)
    yield "\nSCHEDULES"
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        yield f"{schedule.name}: {schedule.job_name} at {schedule.cron_schedule}; {schedule.default_status.value}"
    yield "\nSENSORS"
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        jobs = ", ".join(target.job_name for target in sensor.targets if target.has_job_def) or "no job"
        every = f"every {sensor.minimum_interval_seconds} s"
        resources = ", ".join(sorted(sensor.required_resource_keys)) or "no resources"
        yield f"{sensor.name}: {jobs}; {every}; {sensor.default_status.value}; {resources}"
    yield "\nRESOURCES"
    for name, resource in sorted((defs.resources or {}).items()):
        yield f"{name}: {type(resource).__name__}({', '.join(type(resource).model_fields)})"


def _ops(job: Any) -> list[Any]:
    return [node.definition for node in job.nodes] if isinstance(job, dg.JobDefinition) else []


def _partitions(node: Any) -> str:
    definition = node.partitions_def
    return "none" if definition is None else getattr(definition, "name", None) or type(definition).__name__


def _config(op: Any) -> Iterator[str]:
    schema = op.config_schema.config_type if op.config_schema else None
    fields: Mapping[str, Any] = getattr(schema, "fields", {})
    if fields:
        yield f"  config {', '.join(sorted(fields))}"


def main() -> None:
    """Write the snapshot."""
    SNAPSHOT.write_text(definitions_text(build_definitions(Settings(_env_file=None))), encoding="utf-8")


if __name__ == "__main__":
    main()
