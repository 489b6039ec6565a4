"""Schedules: what they request, and that they are off."""

import datetime as dt

import dagster as dg

from gh_assets.assets import repos
from gh_assets.automation.jobs import range_tags
from gh_assets.automation.schedules import ALL_SCHEDULES, weekly_chain


def test_all_schedules_are_off_and_described() -> None:
    assert all(schedule.default_status is dg.DefaultScheduleStatus.STOPPED for schedule in ALL_SCHEDULES)
    for schedule in ALL_SCHEDULES:
        assert len(schedule.description or "") > 60, schedule.name


def test_the_weekly_schedule_runs_the_chain_over_all_partitions() -> None:
    scheduled = dt.datetime(2026, 11, 23, 3, tzinfo=dt.UTC)
    with dg.instance_for_test() as instance:

        def request() -> dg.RunRequest:
            context = dg.build_schedule_context(instance=instance, scheduled_execution_time=scheduled)
            return weekly_chain(context)  # type: ignore[return-value]

        assert list(request().asset_selection or []) == [repos.key]
        instance.add_dynamic_partitions("repo", [f"owner/{number:04d}" for number in range(5)])
        assert request().tags == range_tags("owner/0000", "owner/0004")
        assert request().asset_selection is None
    assert weekly_chain.cron_schedule == "0 3 * * 1"
