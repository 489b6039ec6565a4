"""The former name of `gh_assets.instance.launcher`."""

import warnings

from gh_assets.instance.launcher import HomeRunLauncher

__all__ = ["HomeRunLauncher"]

warnings.warn(
    "gh_assets.dagster_runs is now gh_assets.instance.launcher; the former name goes with 2.0.",
    DeprecationWarning,
    stacklevel=2,
)
