"""The one `defs` that workspace.yaml loads. Only gathers."""

import inspect
import warnings

import dagster as dg

from gh_assets.assets import ALL_ASSETS
from gh_assets.automation.collect_ops import SHARES_IO, SharesIOManager
from gh_assets.automation.jobs import ALL_JOBS
from gh_assets.automation.schedules import ALL_SCHEDULES
from gh_assets.automation.sensors import ALL_SENSORS
from gh_assets.checks import ALL_CHECKS
from gh_assets.instance.executors import executor_of

# Importing it also sets how events are written, in each process that executes steps.
from gh_assets.instance.storage import other_instance_warning
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.settings import load_settings

_gcs = GcsResource()
_warning = other_instance_warning()
if _warning is not None:
    dg.get_dagster_logger().warning(_warning)


def _with_place(asset: dg.AssetsDefinition | dg.AssetSpec) -> dg.AssetsDefinition | dg.AssetSpec:
    """Let the UI show where an asset is written. Dagster's own way would show what wraps its function."""
    if isinstance(asset, dg.AssetSpec):
        return asset
    function = inspect.unwrap(asset.op.compute_fn.decorated_fn)  # type: ignore[union-attr]
    line = inspect.getsourcelines(function)[1]
    place = dg.LocalFileCodeReference(file_path=inspect.getfile(function), line_number=line)
    references = {"dagster/code_references": dg.CodeReferencesMetadataValue(code_references=[place])}
    return asset.map_asset_specs(lambda spec: spec.merge_attributes(metadata=references))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.BetaWarning)
    _assets = [_with_place(asset) for asset in ALL_ASSETS]

defs = dg.Definitions(
    assets=_assets,
    asset_checks=ALL_CHECKS,
    executor=executor_of(load_settings()),
    jobs=ALL_JOBS,
    schedules=ALL_SCHEDULES,
    sensors=ALL_SENSORS,
    resources={
        "io_manager": GcsTypedIOManager(gcs=_gcs),
        SHARES_IO: SharesIOManager(gcs=_gcs),
        "gcs": _gcs,
        "github": GitHubResource(),
        "mongo": MongoResource(),
    },
)
