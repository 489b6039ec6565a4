"""When the sensor `keep_current` materializes assets, and when assets count as out of date."""

import datetime as dt
import warnings

import dagster as dg

LISTS_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=7), warn_window=dt.timedelta(days=2))
"""For assets that the collection plan depends on."""

CHAIN_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=45), warn_window=dt.timedelta(days=30))
"""For what follows from the stars: without enough new stars, nothing is trained for a long time."""


def when_upstream_updated(*ignored: str) -> dg.AutomationCondition:  # type: ignore[type-arg]
    """Return the condition that upstream assets are newer, complete, and have passed their blocking checks.

    Parameters
    ----------
    *ignored : str
        Upstream assets whose updates alone are no reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        condition = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
        if ignored:
            condition = condition.ignore(dg.AssetSelection.assets(*ignored))
    return condition.with_label("follows its upstream assets")
