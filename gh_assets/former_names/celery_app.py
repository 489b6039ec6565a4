"""Former name of `gh_assets.instance.celery_app`."""

from gh_assets.former_names import warn_of_former_name
from gh_assets.instance.celery_app import app

__all__ = ["app"]

warn_of_former_name("gh_assets.celery_app", "gh_assets.instance.celery_app")
