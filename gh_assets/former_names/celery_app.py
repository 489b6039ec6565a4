"""The former name of `gh_assets.instance.celery_app`."""

import warnings

from gh_assets.instance.celery_app import app

__all__ = ["app"]

warnings.warn(
    "gh_assets.celery_app is now gh_assets.instance.celery_app; the former name goes with 2.0.",
    DeprecationWarning,
    stacklevel=2,
)
