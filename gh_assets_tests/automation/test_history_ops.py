"""The op that reads the star histories that are due, and the sensor that requests it."""

import datetime as dt
from typing import Any

import dagster as dg
import pytest

from gh_assets.automation.collection_sensors import lists_changed, stale_histories
from gh_assets.collector import history_collection
from gh_assets.collector.history_collection import DUE_AFTER
from gh_assets.collector.history_state import HistoryStates
from gh_assets.services.connections import asset_store, open_mongo
from gh_assets_tests.automation.conftest import STARS, AutomationHome


def read(automation: AutomationHome, result: dg.ExecuteInProcessResult) -> set[str]:
    """Partitions of `star_history` whose materializations a run reported."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    records = automation.instance.get_records_for_run(result.run_id, of_type=kind, limit=1000).records
    return {str(one.partition_key) for one in records if one.asset_key == dg.AssetKey("star_history")}


def later(monkeypatch: pytest.MonkeyPatch, by: dt.timedelta) -> None:
    """Let histories seem older than they are."""
    monkeypatch.setattr(history_collection, "DUE_AFTER", DUE_AFTER - by)


def test_all_histories_are_read_once_a_day(automation: AutomationHome) -> None:
    automation.run(lists_changed)
    newest = automation.run_job("read_star_histories", read_due_histories={"max_pages": 1})
    assert read(automation, newest) == set(STARS)
    store = asset_store(automation.settings)
    assert {name: store.read_table("star_history", name)["stars"].sum() for name in STARS} == dict.fromkeys(STARS, 0)
    assert read(automation, automation.run_job("read_star_histories")) == set()
    named: dict[str, Any] = {"read_due_histories": {"repositories": ["o/r2"]}}
    assert read(automation, automation.run_job("read_star_histories", **named)) == {"o/r2"}
    assert store.read_table("star_history", "o/r2")["stars"].sum() == 12


def test_a_cap_ends_a_run_and_the_next_one_continues(automation: AutomationHome) -> None:
    automation.run(lists_changed)
    first = read(automation, automation.run_job("read_star_histories", read_due_histories={"max_requests": 3}))
    assert len(first) in (2, 3)
    assert read(automation, automation.run_job("read_star_histories")) == set(STARS) - first


def test_the_sensor_requests_a_run_while_histories_are_due(
    automation: AutomationHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "There is no plan yet" in str(automation.tick(stale_histories))
    automation.run(lists_changed)
    assert read(automation, automation.run(stale_histories)) == set(STARS)
    assert automation.tick(stale_histories) == "The star histories of all 8 repositories are of the last day."
    later(monkeypatch, DUE_AFTER)
    request = automation.requested(stale_histories)
    assert request.tags["gh_assets/why"] == "8 star histories are due."
    assert read(automation, automation.execute(stale_histories, request)) == set(STARS), "those that the sensor counted"


def test_the_reserve_of_the_quota_is_left_to_people(automation: AutomationHome) -> None:
    automation.run(lists_changed)
    automation.run_job("read_star_histories", read_due_histories={"repositories": ["o/r0"]})
    with open_mongo(automation.settings) as database:
        budget = {
            "limit": 5000,
            "remaining": 500,
            "reset": (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).timestamp(),
        }
        database["github_budgets"].update_many({"limit": {"$ne": None}}, {"$set": budget})
        before = HistoryStates(database).asked_at()
    message = str(automation.tick(stale_histories))
    assert message.startswith("7 star histories are due. The quota does not allow it: 500 of")
    result = automation.run_job("read_star_histories", read_due_histories={"patient": True})
    assert read(automation, result) == set()
    with open_mongo(automation.settings) as database:
        assert HistoryStates(database).asked_at() == before


def test_the_checks_run_as_a_job_of_their_own(automation: AutomationHome) -> None:
    automation.run(lists_changed)
    automation.standin.enterprise = True
    automation.run_job("read_star_histories")
    checks = automation.run_job("check_star_histories").get_asset_check_evaluations()
    assert {check.check_name: check.passed for check in checks} == {
        "histories_could_be_read": True,
        "collected_stars_match_githubs_days": True,
    }
