"""All sensors. Those that spend quota or much processor time are off until the user turns them on."""

import datetime as dt
import warnings

import dagster as dg

from gh_assets.automation.alert_sensor import build_alert_sensor
from gh_assets.automation.collection_sensors import COLLECTION_SENSORS
from gh_assets.automation.model_sensors import MODEL_SENSORS
from gh_assets.automation.run_requests import interval_seconds

# Dagster copies `keep_current` with a parameter that is in beta and that nothing here uses.
warnings.filterwarnings(
    "ignore", message="Parameter `owners` of initializer `SensorDefinition", category=dg.BetaWarning
)


def build_sensors(interval: dt.timedelta | None) -> list[dg.SensorDefinition]:
    """Return all sensors, each with its own interval between ticks unless one is given."""
    keep_current = dg.AutomationConditionSensorDefinition(
        "keep_current",
        target=dg.AssetSelection.all(),
        minimum_interval_seconds=interval_seconds(dt.timedelta(seconds=30), interval),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=(
            "The assets' own conditions: what is made from the lists and the users is materialized after them, when "
            "they were materialized by hand. Spends no quota, but trains: off until you turn it on."
        ),
    )
    requesting = [sensor.build(interval) for sensor in (*COLLECTION_SENSORS, *MODEL_SENSORS)]
    return [keep_current, *requesting, build_alert_sensor(interval)]
