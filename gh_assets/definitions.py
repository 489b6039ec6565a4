"""The definitions of the code location: gathers assets, checks, jobs, schedules, sensors, resources and IO managers."""

import dagster as dg

# Importing it also sets how events are written, in each process that executes steps.
import gh_assets.instance.environment  # noqa: F401
from gh_assets.assets import ALL_ASSETS
from gh_assets.automation.jobs import ALL_JOBS
from gh_assets.automation.schedules import ALL_SCHEDULES
from gh_assets.automation.sensors import build_sensors
from gh_assets.checks import ALL_CHECKS
from gh_assets.instance.configuration import other_instance_warning
from gh_assets.instance.executors import executor_of
from gh_assets.io_managers import JSON_IO, GcsTypedIOManager, JsonIOManager
from gh_assets.resources import build_resources
from gh_assets.settings import Settings, load_settings


def build_definitions(settings: Settings) -> dg.Definitions:
    """Return the definitions with executor, resources and sensors configured from settings."""
    resources = build_resources(settings)
    managers = {"io_manager": GcsTypedIOManager(gcs=resources["gcs"]), JSON_IO: JsonIOManager(gcs=resources["gcs"])}
    return dg.Definitions(
        assets=ALL_ASSETS,
        asset_checks=ALL_CHECKS,
        executor=executor_of(settings),
        jobs=ALL_JOBS,
        schedules=ALL_SCHEDULES,
        sensors=build_sensors(settings.sensor_interval),
        resources={**resources, **managers},
    )


_settings = load_settings()
_warning = other_instance_warning(_settings)
if _warning is not None:
    dg.get_dagster_logger().warning(_warning)

defs = build_definitions(_settings)
