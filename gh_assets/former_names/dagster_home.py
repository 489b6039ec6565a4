"""Former name of `gh_assets.instance.storage`."""

from gh_assets.former_names import warn_of_former_name
from gh_assets.instance.storage import HomeComputeLogManager, HomeStorage

__all__ = ["HomeComputeLogManager", "HomeStorage"]

warn_of_former_name("gh_assets.dagster_home", "gh_assets.instance.storage")
