"""The former name of `gh_assets.instance.storage`."""

import warnings

from gh_assets.instance.storage import HomeComputeLogManager, HomeStorage

__all__ = ["HomeComputeLogManager", "HomeStorage"]

warnings.warn(
    "gh_assets.dagster_home is now gh_assets.instance.storage; the former name goes with 2.0.",
    DeprecationWarning,
    stacklevel=2,
)
