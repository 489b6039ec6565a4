"""When assets are materialized by themselves, once the sensor `keep_current` is turned on."""

import datetime as dt
import warnings

import dagster as dg

LISTS_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=7), warn_window=dt.timedelta(days=2))
"""All that is planned rests on GitHub's counts."""

CHAIN_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=45), warn_window=dt.timedelta(days=30))
"""Without enough new stars nothing is trained, for long; what nobody has touched for a month is forgotten."""


def when_upstream_updated(*ignored: str) -> dg.AutomationCondition:  # type: ignore[type-arg]
    """When what it is made from is newer, whole, and has passed its blocking checks.

    Parameters
    ----------
    ignored : str
        Assets that it also reads, but whose news alone are no reason.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        condition = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
        if ignored:
            condition = condition.ignore(dg.AssetSelection.assets(*ignored))
    return condition.with_label("follows what it is made from")
