"""Sensors that spend quota: their ticks, and the runs that they request."""

import datetime as dt
import time
from typing import Any

import dagster as dg
import numpy as np
import pytest

from gh_assets.assets import stargazers
from gh_assets.automation.collection_sensors import event_feeds, lists_changed, new_repositories, stale_stars
from gh_assets.services.connections import asset_store, connect_mongo
from gh_assets_tests.automation.conftest import STARS, AutomationHome
from gh_assets_tests.support.worlds import LIST


def test_lists_are_read_when_they_change_and_only_then(automation: AutomationHome) -> None:
    first = automation.requested(lists_changed, crash=True)
    again = automation.requested(lists_changed)
    assert first.run_key == again.run_key, "a tick that is repeated after a crash requests the same run"
    assert automation.execute(lists_changed, again).success
    before = automation.standin.served.copy()
    assert automation.tick(lists_changed) == "The 1 lists have not changed since they were read."
    requests = {name: count - before.get(name, 0) for name, count in automation.standin.served.items()}
    assert {name for name, count in requests.items() if count and "readme" in name} == {"readme 304"}, requests
    automation.change(STARS | {"n/new": [1, 2, 3]})
    changed = automation.requested(lists_changed)
    assert changed.run_key != again.run_key
    assert automation.execute(lists_changed, changed).success
    assert "n/new" in automation.instance.get_dynamic_partitions("repo")


def test_other_files_of_a_list_are_noted_in_the_run(automation: AutomationHome) -> None:
    automation.standin.world.by_name[LIST].readme = "[more](lists/more.org) https://github.com/o/r1"
    result = automation.run(lists_changed)
    notes: Any = result.asset_materializations_for_node("repos")[0].metadata["notes"].value
    assert [f"{LIST}/lists/more.org" in note for note in notes] == [True]


def test_scattered_new_repositories_are_collected_in_one_run(automation: AutomationHome) -> None:
    assert automation.tick(new_repositories) == (
        "There is no plan yet: materialize repos and collection_plan (the job read_lists)."
    )
    automation.run(lists_changed)
    result = automation.run(new_repositories)
    assert automation.materialized(result) == set(STARS)
    assert result.dagster_run.tags["gh_assets/why"].startswith("8 new: 8 pages")
    tags = automation.instance.get_run_by_id(result.run_id).tags  # type: ignore[union-attr]
    assert tags["gh_assets/repositories_asked"] == "8"
    assert tags["gh_assets/source"] == "auto"
    assert automation.tick(new_repositories) == "None of 8 repositories is due."
    event = automation.instance.get_latest_materialization_event(stargazers.key)
    assert event is not None
    assert event.asset_materialization.metadata["outcome"].value == "ok"  # type: ignore[union-attr]


def test_only_repositories_whose_count_moved_are_collected_again(
    automation: AutomationHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation.run(lists_changed)
    automation.run(new_repositories)
    moved = {name: [*who, *range(100, 130)] if name in ("o/r1", "o/r5") else who for name, who in STARS.items()}
    automation.change(moved, listed=[*STARS, "o/gone"])
    automation.run(lists_changed)
    assert automation.tick(stale_stars) == "None of 8 repositories is due.", "they were collected just now"
    monkeypatch.setenv("GH_ASSETS_MOVED_AFTER", "0s")
    result = automation.run(stale_stars)
    assert automation.materialized(result) == {"o/r1", "o/r5"}
    store = asset_store(automation.settings)
    assert store.read_table("stargazers", "o/r5").height == 15 + 30
    assert automation.tick(stale_stars) == "None of 8 repositories is due."
    monkeypatch.setenv("GH_ASSETS_REFRESH_AFTER", "0s")
    result = automation.run(stale_stars)
    assert automation.materialized(result) == set(STARS), "old ones are collected whatever their count"


def test_without_quota_the_tick_names_the_time_of_the_reset(
    automation: AutomationHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation.run(lists_changed)
    with connect_mongo(automation.settings).client as client:
        budgets = client["gh_assets"]["github_budgets"]
        reset = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)
        budget = {"limit": 5000, "remaining": 900, "reset": reset.timestamp()}
        budgets.update_many({"limit": {"$ne": None}}, {"$set": budget})
        reason = automation.tick(new_repositories)
        assert reason == (
            f"Due: 8 new: 8 pages. The quota does not allow it: 900 of 5,000 GraphQL points left until {reset:%H:%M} "
            "UTC, 1,000 of them reserved for people."
        )
        budgets.update_many({"limit": {"$ne": None}}, {"$set": {"remaining": 2000}})
        automation.requested(new_repositories)


def test_a_run_that_fails_is_requested_again_after_increasing_pauses(
    automation: AutomationHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation.run(lists_changed)
    monkeypatch.setenv("GITHUB_TOKENS", "refused")
    first = automation.requested(new_repositories)
    assert not automation.execute(new_repositories, first).success
    reason = automation.tick(new_repositories)
    assert "After a run that did not change it, the next is at" in str(reason)
    monkeypatch.setenv("GH_ASSETS_SENSOR_INTERVAL", "0s")
    second = automation.requested(new_repositories)
    assert second.run_key != first.run_key, "a run key that was used starts no second run"
    monkeypatch.setenv("GITHUB_TOKENS", "token")
    assert automation.execute(new_repositories, second).success
    assert automation.tick(new_repositories) == "None of 8 repositories is due."


def test_an_active_run_blocks_further_requests(automation: AutomationHome) -> None:
    automation.run(lists_changed)
    job = automation.definitions.resolve_job_def("collect_due_repositories")
    automation.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert "A run of collect_due_repositories is active" in str(automation.tick(new_repositories))


def test_partitions_of_unlisted_repositories_are_removed_if_configured(
    automation: AutomationHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    automation.run(lists_changed)
    automation.run(new_repositories)
    left = [name for name in STARS if name != "o/r3"]
    automation.change(STARS, listed=left)
    automation.run(lists_changed)
    assert set(automation.instance.get_dynamic_partitions("repo")) == set(STARS), "kept by default"
    monkeypatch.setenv("GH_ASSETS_RETIRE", "true")
    automation.change(STARS, listed=[*left[1:], left[0]])
    automation.run(lists_changed)
    assert set(automation.instance.get_dynamic_partitions("repo")) == set(left)
    store = asset_store(automation.settings)
    assert store.read_table("stargazers", "o/r3").height == 13, "the data are kept"
    automation.change(STARS)
    automation.run(lists_changed)
    assert set(automation.instance.get_dynamic_partitions("repo")) == set(STARS)
    assert automation.tick(new_repositories) == "None of 8 repositories is due.", "the data are used again"


def test_event_feeds_of_closed_lists_are_looked_at_when_they_are_due(automation: AutomationHome) -> None:
    now = int(time.time())
    standin = automation.standin
    standin.feeds.delay = (0.0, 0.0)
    for repository in standin.world.repositories:
        repository.restricted = repository.full_name in ("o/r1", "o/r2")
        repository.starred_at = np.arange(-len(repository.stargazers), 0) * 3600 + now
    assert "There is no plan yet" in str(automation.tick(event_feeds))
    automation.run(lists_changed)
    automation.run(new_repositories)
    assert automation.tick(event_feeds) == "No event feed is due."
    store = asset_store(automation.settings)
    assert store.read_table("stargazers", "o/r1").height == 11, "they are looked at where lists are closed"

    grown = standin.world.by_name["o/r1"]
    grown.stargazers, grown.starred_at = np.append(grown.stargazers, 300), np.append(grown.starred_at, now - 60)
    database = connect_mongo(automation.settings)
    with database.client as client:
        states = client["gh_assets"]["stargazer_state"]
        before = {document["_id"]: document["state"] for document in states.find()}
        past = dt.datetime.now(dt.UTC) - dt.timedelta(hours=9)
        earlier = {"$set": {"state.feed.looked_at": past, "state.feed.next_look_at": past}}
        states.update_many({"state.feed": {"$ne": None}}, earlier)
        automation.run_job("read_lists")
        budgets = client["gh_assets"]["github_budgets"]
        reset = (dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)).timestamp()
        rest = {"limit": 5000, "remaining": 1000, "reset": reset}
        assert budgets.update_many({"_id": {"$regex": "core"}}, {"$set": rest}).matched_count
        reason = automation.tick(event_feeds)
        assert "Due: 2 event feeds. The quota does not allow it: 1,000 of 5,000 requests left" in str(reason)
        budgets.update_many({"_id": {"$regex": "core"}}, {"$set": {"remaining": 5000}})
        result = automation.run(event_feeds)
        after = {document["_id"]: document["state"] for document in states.find()}
    assert result.dagster_run.tags["gh_assets/why"] == "2 of 2 event feeds that are due."
    assert automation.materialized(result) == {"o/r1"}, "a look that finds nothing is no materialization"
    assert store.read_table("stargazers", "o/r1").height == 12
    assert automation.tick(event_feeds) == "No event feed is due."
    for name in ("stargazer_count", "closed_at"):
        assert {key: state[name] for key, state in after.items()} == {key: state[name] for key, state in before.items()}
    assert after[2]["collected_otherwise_at"] == before[2]["collected_otherwise_at"]
    assert after[2]["asked_at"] > before[2]["asked_at"]


def test_feeds_are_no_reason_beside_others(automation: AutomationHome) -> None:
    automation.run(lists_changed)
    for config in ({"which": ["feed"]}, {"which": ["feed", "new"], "source": "events"}):
        failed = automation.run_job("look_at_event_feeds", success=False, choose_due=config)
        data = failed.failure_data_for_node("choose_due")
        assert "The reason 'feed' has to be alone" in str(data and data.error)
