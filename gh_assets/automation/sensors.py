"""All sensors: what starts when something has happened. Those that spend quota or much time are off until turned on."""

import warnings

import dagster as dg

from gh_assets.automation.alert_sensor import run_alerts
from gh_assets.automation.collection_sensors import lists_changed, new_repositories, stale_stars
from gh_assets.automation.model_sensors import champion_changed, enough_new_stars, models_to_judge
from gh_assets.automation.run_requests import interval

# Dagster copies the sensor below with a parameter that it calls beta; nothing here uses that.
warnings.filterwarnings(
    "ignore", message="Parameter `owners` of initializer `SensorDefinition", category=dg.BetaWarning
)

keep_current = dg.AutomationConditionSensorDefinition(
    "keep_current",
    target=dg.AssetSelection.all(),
    minimum_interval_seconds=interval(30),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "The assets' own conditions: what is made from the lists and the users follows them, when they were "
        "materialized by hand. Spends no quota, but trains: off until you turn it on."
    ),
)

ALL_SENSORS: list[dg.SensorDefinition] = [
    keep_current,
    lists_changed,
    new_repositories,
    stale_stars,
    enough_new_stars,
    models_to_judge,
    champion_changed,
    run_alerts,
]
