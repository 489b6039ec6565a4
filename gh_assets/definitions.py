"""The one `defs` that workspace.yaml loads. Only gathers."""

import dagster as dg

from gh_assets.assets import ALL_ASSETS
from gh_assets.automation.jobs import ALL_JOBS
from gh_assets.automation.schedules import ALL_SCHEDULES
from gh_assets.automation.sensors import ALL_SENSORS
from gh_assets.checks import ALL_CHECKS
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.resources import GcsResource, GitHubResource, MongoResource

_gcs = GcsResource()

defs = dg.Definitions(
    assets=dg.with_source_code_references(ALL_ASSETS),
    asset_checks=ALL_CHECKS,
    jobs=ALL_JOBS,
    schedules=ALL_SCHEDULES,
    sensors=ALL_SENSORS,
    resources={
        "io_manager": GcsTypedIOManager(gcs=_gcs),
        "gcs": _gcs,
        "github": GitHubResource(),
        "mongo": MongoResource(),
    },
)
