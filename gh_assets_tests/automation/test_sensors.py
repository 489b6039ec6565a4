"""All sensors: which are on, how often they tick, and what the assets' conditions request."""

import datetime as dt

import dagster as dg
import pytest

from gh_assets.automation.sensors import build_sensors
from gh_assets.definitions import build_definitions
from gh_assets.settings import load_settings

CHAIN = ("user_item_matrix", "recvae_model", "hybrid_model", "leaderboard", "champion", "recommendations")


def test_only_alerts_are_on() -> None:
    sensors = build_sensors(None)
    on = {sensor.name for sensor in sensors if sensor.default_status is dg.DefaultSensorStatus.RUNNING}
    assert on == {"run_alerts"}, "sensors that spend quota or processor time are off until the user turns them on"
    for sensor in sensors:
        assert len(sensor.description or "") > 60, sensor.name


@pytest.mark.parametrize(("chosen", "expected"), [("7s", 7), ("0s", 1)])
def test_the_settings_may_choose_the_interval_of_all_sensors(chosen: str, expected: int) -> None:
    interval = dt.timedelta(seconds=float(chosen.removesuffix("s")))
    assert {sensor.minimum_interval_seconds for sensor in build_sensors(interval)} == {expected}
    own = {sensor.name: sensor.minimum_interval_seconds for sensor in build_sensors(None)}
    assert (own["run_alerts"], own["new_repositories"], own["lists_changed"]) == (30, 30, 900)


def test_conditions_follow_the_users_once() -> None:
    """Assets that are made from the users are requested in one run when users are newer, not when lists are."""
    defs = build_definitions(load_settings())
    with dg.instance_for_test() as instance:
        selection = dg.AssetSelection.assets(*CHAIN)

        def evaluate(cursor: object = None) -> dg.EvaluateAutomationConditionsResult:
            return dg.evaluate_automation_conditions(
                defs=defs,
                instance=instance,
                asset_selection=selection,
                cursor=cursor,  # type: ignore[arg-type]
            )

        def materialize(*assets: str) -> None:
            for name in assets:
                instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(name)))

        first = evaluate()
        assert first.total_requested == 0
        materialize("repos", "users", *CHAIN)
        second = evaluate(first.cursor)
        assert second.total_requested == 0, "all are as new as the users"
        materialize("repos")
        third = evaluate(second.cursor)
        assert third.total_requested == 0, "updates of the lists alone are no reason"
