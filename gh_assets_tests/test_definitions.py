"""The graph as people see it, and what automation asks for."""

import datetime as dt

import dagster as dg
import pytest

from gh_assets.assets import ALL_ASSETS, repos, star_events
from gh_assets.automation.jobs import range_tags
from gh_assets.automation.schedules import ALL_SCHEDULES, weekly_chain
from gh_assets.automation.sensors import ALL_SENSORS
from gh_assets.checks import ALL_CHECKS
from gh_assets.definitions import defs


def test_the_graph() -> None:
    """A change of the graph is a change of this test."""
    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
    }
    assert graph.unexecutable_asset_keys == {star_events.key}, "what materializing all must not mean"
    assert found == {
        "star_events": [],
        "repos": [],
        "stargazers": ["repos", "star_events"],
        "collection_plan": ["repos", "stargazers"],
        "users": ["stargazers"],
        "user_item_matrix": ["repos", "stargazers", "users"],
        "recvae_model": ["user_item_matrix"],
        "hybrid_model": ["recvae_model", "user_item_matrix"],
        "leaderboard": ["hybrid_model", "user_item_matrix"],
        "champion": ["hybrid_model", "leaderboard", "recvae_model", "user_item_matrix"],
        "recommendations": ["champion", "repos", "user_item_matrix"],
    }


@pytest.mark.parametrize("asset", ALL_ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_every_asset_says_what_a_row_means(asset: dg.AssetsDefinition | dg.AssetSpec) -> None:
    spec = asset if isinstance(asset, dg.AssetSpec) else next(iter(asset.specs))
    assert spec.description
    assert spec.group_name in ("collection", "recommender")
    assert spec.kinds
    assert spec.owners
    if spec.key.to_user_string() in (
        "repos",
        "collection_plan",
        "star_events",
        "stargazers",
        "users",
        "recommendations",
        "leaderboard",
    ):
        schema = spec.metadata["dagster/column_schema"]
        assert all(column.description for column in schema.columns)


def test_checks_jobs_sensors_and_schedules_are_there_and_off() -> None:
    checks = {key.to_user_string() for group in ALL_CHECKS for key in group.check_keys}
    assert checks == {
        "repos:listed_repositories_are_there",
        "stargazers:stargazers_could_be_listed",
        "stargazers:stars_match_githubs_count",
        "users:no_star_twice",
        "users:every_star_has_its_user",
        "user_item_matrix:matrix_is_like_the_last",
        "champion:champion_is_not_left_behind",
        "recommendations:nothing_known_is_recommended",
        "user_item_matrix:every_user_has_a_star",
        "user_item_matrix:matrix_has_exactly_the_collected_pairs",
        "recvae_model:recvae_beats_popularity",
        "leaderboard:recvae_is_the_best",
    }
    repository = defs.get_repository_def()
    assert {job.name for job in repository.get_all_jobs()} >= {
        "read_lists",
        "collect_and_recommend",
        "whole_chain",
        "read_archive",
        "collect_due_repositories",
        "rebuild_from_stars",
        "judge_models",
        "recommend",
    }
    on = {sensor.name for sensor in ALL_SENSORS if sensor.default_status is dg.DefaultSensorStatus.RUNNING}
    assert on == {"run_alerts"}, "whatever spends quota or much time is off until somebody turns it on"
    assert all(schedule.default_status is dg.DefaultScheduleStatus.STOPPED for schedule in ALL_SCHEDULES)
    for one in (*ALL_SENSORS, *ALL_SCHEDULES):
        assert len(one.description or "") > 60, one.name
    assert {sensor.name for sensor in ALL_SENSORS} == {
        "keep_current",
        "lists_changed",
        "new_repositories",
        "stale_stars",
        "enough_new_stars",
        "models_to_judge",
        "champion_changed",
        "run_alerts",
    }


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:
        yield instance


def names(count: int) -> list[str]:
    return [f"owner/{number:04d}" for number in range(count)]


def test_the_schedule_runs_the_chain_over_all_partitions(instance: dg.DagsterInstance) -> None:
    when = dt.datetime(2026, 11, 23, 3, tzinfo=dt.UTC)

    def request() -> dg.RunRequest:
        context = dg.build_schedule_context(instance=instance, scheduled_execution_time=when)
        return weekly_chain(context)  # type: ignore[return-value]

    assert list(request().asset_selection or []) == [repos.key]
    instance.add_dynamic_partitions("repo", names(5))
    assert request().tags == range_tags("owner/0000", "owner/0004")
    assert request().asset_selection is None
    assert weekly_chain.cron_schedule == "0 3 * * 1"
