"""The graph as people see it, and what automation asks for."""

import datetime as dt

import dagster as dg
import pytest

from gh_assets.assets import ALL_ASSETS, repos, star_events, stargazers
from gh_assets.automation.jobs import contiguous_ranges, range_tags
from gh_assets.automation.schedules import weekly_chain
from gh_assets.automation.sensors import BRIDGE, new_repositories
from gh_assets.checks import ALL_CHECKS
from gh_assets.definitions import defs

START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


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
    if spec.key.to_user_string() in ("repos", "star_events", "stargazers", "users", "recommendations", "leaderboard"):
        schema = spec.metadata["dagster/column_schema"]
        assert all(column.description for column in schema.columns)


def test_checks_jobs_sensors_and_schedules_are_there_and_off() -> None:
    checks = {key.to_user_string() for group in ALL_CHECKS for key in group.check_keys}
    assert checks == {
        "stargazers:stargazers_could_be_listed",
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
    }
    assert new_repositories.default_status is dg.DefaultSensorStatus.STOPPED
    assert weekly_chain.default_status is dg.DefaultScheduleStatus.STOPPED
    assert new_repositories.description
    assert weekly_chain.description


@pytest.mark.parametrize(
    ("wanted", "bridge", "ranges"),
    [
        ("", 0, []),
        ("abcdef", 0, ["af"]),
        ("abef", 0, ["ab", "ef"]),
        ("abef", 1, ["ab", "ef"]),
        ("abef", 2, ["af"]),
        ("ace", 1, ["ae"]),
        ("d", 0, ["dd"]),
    ],
)
def test_ranges_are_the_fewest(wanted: str, bridge: int, ranges: list[str]) -> None:
    assert contiguous_ranges("abcdef", set(wanted), bridge=bridge) == [tuple(pair) for pair in ranges]


@pytest.fixture
def instance():
    with dg.instance_for_test() as instance:
        yield instance


def tick(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    context = dg.build_sensor_context(instance=instance, definitions=defs)
    return new_repositories(context)  # type: ignore[return-value]


def materialized(instance: dg.DagsterInstance, *partitions: str) -> None:
    for partition in partitions:
        instance.report_runless_asset_event(dg.AssetMaterialization(stargazers.key, partition=partition))


def names(count: int) -> list[str]:
    return [f"owner/{number:04d}" for number in range(count)]


def test_new_partitions_are_one_run(instance: dg.DagsterInstance) -> None:
    assert isinstance(tick(instance), dg.SkipReason)
    instance.add_dynamic_partitions("repo", names(100))
    result = tick(instance)
    assert [request.tags for request in result.run_requests] == [range_tags("owner/0000", "owner/0099")]
    materialized(instance, *names(100))
    assert isinstance(tick(instance), dg.SkipReason)
    instance.add_dynamic_partitions("repo", ["new/one", "new/two"])
    requests = tick(instance).run_requests
    assert [(request.tags[START], request.tags[END]) for request in requests] == [("new/one", "new/two")]
    assert [request.job_name for request in requests] == ["collect_and_recommend"]


def test_small_gaps_are_bridged_and_large_ones_are_not(instance: dg.DagsterInstance) -> None:
    keys = names(3 * BRIDGE)
    instance.add_dynamic_partitions("repo", keys)
    missing = {0, 2, BRIDGE, 2 * BRIDGE + 5, 3 * BRIDGE - 1}
    materialized(instance, *[key for place, key in enumerate(keys) if place not in missing])
    found = [(request.tags[START], request.tags[END]) for request in tick(instance).run_requests]
    assert found == [(keys[0], keys[BRIDGE]), (keys[2 * BRIDGE + 5], keys[3 * BRIDGE - 1])]


def test_a_tick_that_is_repeated_asks_for_the_same_run(instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions("repo", names(3))
    first, second = tick(instance), tick(instance)
    assert [r.run_key for r in first.run_requests] == [r.run_key for r in second.run_requests]


def test_while_a_run_is_under_way_nothing_is_asked_and_after_a_failure_it_is_asked_again(
    instance: dg.DagsterInstance,
) -> None:
    instance.add_dynamic_partitions("repo", names(3))
    request = tick(instance).run_requests[0]
    job = defs.resolve_job_def("collect_and_recommend")
    run = instance.create_run_for_job(job, tags=dict(request.tags), status=dg.DagsterRunStatus.STARTED)
    skipped = tick(instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "under way" in str(skipped.skip_message)
    instance.report_run_failed(run)
    again = tick(instance).run_requests[0]
    assert again.run_key != request.run_key, "a run key that was used starts no second run"


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
