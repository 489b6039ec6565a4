"""Asset checks: what must hold of the data. An error needs action; a warning should be looked at.

Blocking checks stop a bad matrix from training a model.
"""

import dagster as dg

from gh_assets.checks import collection, histories, matrix, models

ALL_CHECKS = dg.load_asset_checks_from_modules([collection, histories, matrix, models])
