"""Former name of `gh_assets.instance.launcher`."""

from gh_assets.former_names import warn_of_former_name
from gh_assets.instance.launcher import HomeRunLauncher

__all__ = ["HomeRunLauncher"]

warn_of_former_name("gh_assets.dagster_runs", "gh_assets.instance.launcher")
