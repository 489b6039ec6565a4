"""Sensors, by driving their ticks and executing what they ask for, on real servers and a world that changes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance

from gh_assets.assets import collection_plan, recommendations, stargazers, users
from gh_assets.assets.collection_plan import STARS_COLLECTED
from gh_assets.automation.collection_sensors import lists_changed, new_repositories, stale_stars
from gh_assets.automation.model_sensors import champion_changed, enough_new_stars, models_to_judge
from gh_assets.definitions import defs
from gh_assets.embedded.standin.app import Standin
from gh_assets.instance.storage import open_instance
from gh_assets.registry import Decision, ModelCard, ModelRegistry, Promotion
from gh_assets.resources import GcsResource, GitHubResource, MongoResource
from gh_assets.services.connections import asset_store, connect_mongo, model_store
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import clock_behind
from gh_assets_tests.support.worlds import LIST, world_of

RESOURCES = {"gcs": GcsResource(), "mongo": MongoResource(), "github": GitHubResource()}


@dataclass
class Place:
    """A home whose GitHub changes, and its Dagster instance."""

    standin: Standin
    instance: DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self, sensor: dg.SensorDefinition, *, crash: bool = False) -> dg.RunRequest | str:
        """Look once: the run that is asked for, or why there is none. After a crash the cursor is not kept."""
        context = dg.build_sensor_context(
            instance=self.instance,
            definitions=defs,
            cursor=self.cursors.get(sensor.name),
            sensor_name=sensor.name,
            resources={name: RESOURCES[name] for name in sensor.required_resource_keys},
        )
        told = sensor.evaluate_tick(context)
        if not crash:
            self.cursors[sensor.name] = told.cursor
        if not told.run_requests:
            return str(told.skip_message)
        (request,) = told.run_requests
        return request

    def execute(self, sensor: dg.SensorDefinition, request: dg.RunRequest | str) -> dg.ExecuteInProcessResult:
        """The run that was asked for."""
        assert isinstance(request, dg.RunRequest), request
        job = defs.resolve_job_def(request.job_name or sensor.job_name)
        return job.execute_in_process(
            run_config=request.run_config,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            instance=self.instance,
            raise_on_error=False,
        )

    def run(self, sensor: dg.SensorDefinition) -> dg.ExecuteInProcessResult:
        result = self.execute(sensor, self.tick(sensor))
        assert result.success
        return result

    def materialized(self, result: dg.ExecuteInProcessResult) -> set[str]:
        """Partitions that a run reported."""
        records = self.instance.get_records_for_run(
            result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1000
        ).records
        return {
            record.partition_key
            for record in records
            if record.asset_key == stargazers.key and record.partition_key is not None
        }

    def change(self, stars: dict[str, list[int]], listed: list[str] | None = None) -> None:
        """Another state of GitHub: the same ids, other stars, another list."""
        world = world_of(stars, users=400, listed=listed)
        self.standin.world.__dict__.update(world.__dict__)
        self.standin._users.clear()


STARS = {f"o/r{number}": list(range(10 + number)) for number in range(8)}


@pytest.fixture
def place(
    fresh_home: Path, serve_world: Callable[..., tuple[Standin, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    standin, url = serve_world(world_of(STARS, users=400))
    monkeypatch.setenv("GITHUB_API_URL", url)
    monkeypatch.setenv("GITHUB_TOKENS", "token")
    monkeypatch.setenv("GH_ASSETS_AWESOME", LIST)
    with open_instance() as instance:
        yield Place(standin, instance)


def test_lists_are_read_when_they_change_and_only_then(place: Place) -> None:
    first = place.tick(lists_changed, crash=True)
    again = place.tick(lists_changed)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(again, dg.RunRequest)
    assert first.run_key == again.run_key, "a tick that is repeated after a crash asks for the same run"
    assert place.execute(lists_changed, again).success
    before = place.standin.served.copy()
    assert place.tick(lists_changed) == "The 1 lists are as they were read."
    looked = {name: count - before.get(name, 0) for name, count in place.standin.served.items()}
    assert {name for name, count in looked.items() if count and "readme" in name} == {"readme 304"}, looked
    place.change(STARS | {"n/new": [1, 2, 3]})
    changed = place.tick(lists_changed)
    assert isinstance(changed, dg.RunRequest)
    assert changed.run_key != again.run_key
    assert place.execute(lists_changed, changed).success
    assert "n/new" in place.instance.get_dynamic_partitions("repo")


def test_a_list_that_lies_in_other_files_says_so_in_the_run(place: Place) -> None:
    place.standin.world.by_name[LIST].readme = "[more](lists/more.org) https://github.com/o/r1"
    tick = place.tick(lists_changed)
    assert isinstance(tick, dg.RunRequest)
    result = place.execute(lists_changed, tick)
    notes = result.asset_materializations_for_node("repos")[0].metadata["notes"].value
    assert [f"{LIST}/lists/more.org" in words for words in notes] == [True]


def test_new_repositories_are_one_run_however_scattered(place: Place) -> None:
    assert place.tick(new_repositories) == (
        "There is no plan yet: materialize repos and collection_plan (the job read_lists)."
    )
    place.run(lists_changed)
    result = place.run(new_repositories)
    assert place.materialized(result) == set(STARS)
    assert result.dagster_run.tags["gh_assets/why"].startswith("8 new: 8 pages")
    tags = place.instance.get_run_by_id(result.run_id).tags  # type: ignore[union-attr]
    assert tags["gh_assets/repositories_asked"] == "8"
    assert tags["gh_assets/source"] == "auto"
    assert place.tick(new_repositories) == "Nothing is due of 8 repositories."
    event = place.instance.get_latest_materialization_event(stargazers.key)
    assert event is not None
    assert event.asset_materialization.metadata["outcome"].value == "ok"  # type: ignore[union-attr]


def test_only_what_moved_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(lists_changed)
    place.run(new_repositories)
    moved = {name: [*who, *range(100, 130)] if name in ("o/r1", "o/r5") else who for name, who in STARS.items()}
    place.change(moved, listed=[*STARS, "o/gone"])
    place.run(lists_changed)
    assert place.tick(stale_stars) == "Nothing is due of 8 repositories.", "they were asked a moment ago"
    monkeypatch.setenv("GH_ASSETS_MOVED_AFTER", "0s")
    result = place.run(stale_stars)
    assert place.materialized(result) == {"o/r1", "o/r5"}
    store = asset_store(load_settings())
    assert store.read_table("stargazers", "o/r5").height == 15 + 30
    assert place.tick(stale_stars) == "Nothing is due of 8 repositories."
    monkeypatch.setenv("GH_ASSETS_REFRESH_AFTER", "0s")
    assert place.materialized(place.run(stale_stars)) == set(STARS), "old ones are asked, whatever their count says"


def test_without_quota_the_tick_says_when_there_is_some(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(lists_changed)
    with connect_mongo(load_settings()).client as client:
        budgets = client["gh_assets"]["github_budgets"]
        reset = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=30)
        budgets.update_many({"limit": {"$ne": None}}, {"$set": {"limit": 5000, "remaining": 900}})
        budgets.update_many({"limit": {"$ne": None}}, {"$set": {"reset": reset.timestamp()}})
        told = place.tick(new_repositories)
        assert told == (
            f"Due: 8 new: 8 pages. The quota does not allow it: 900 of 5,000 GraphQL points left until {reset:%H:%M} "
            "UTC, 1,000 of them reserved for people."
        )
        budgets.update_many({"limit": {"$ne": None}}, {"$set": {"remaining": 2000}})
        assert isinstance(place.tick(new_repositories), dg.RunRequest)


def test_a_run_that_fails_is_tried_again_later_and_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(lists_changed)
    monkeypatch.setenv("GITHUB_TOKENS", "refused")
    first = place.tick(new_repositories)
    assert not place.execute(new_repositories, first).success
    told = place.tick(new_repositories)
    assert isinstance(told, str)
    assert "After a run that did not change it, the next is at" in told
    monkeypatch.setattr("gh_assets.automation.collection_sensors.PAUSE", dt.timedelta(0))
    second = place.tick(new_repositories)
    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert second.run_key != first.run_key, "a run key that was used starts no second run"
    monkeypatch.setenv("GITHUB_TOKENS", "token")
    assert place.execute(new_repositories, second).success
    assert place.tick(new_repositories) == "Nothing is due of 8 repositories."


def test_while_a_run_is_under_way_nothing_is_asked(place: Place) -> None:
    place.run(lists_changed)
    job = defs.resolve_job_def("collect_due_repositories")
    place.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    told = place.tick(new_repositories)
    assert isinstance(told, str)
    assert "A run of collect_due_repositories is under way" in told


def test_partitions_of_repositories_that_left_all_lists_go_if_that_is_wanted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run(lists_changed)
    place.run(new_repositories)
    left = [name for name in STARS if name != "o/r3"]
    place.change(STARS, listed=left)
    place.run(lists_changed)
    assert set(place.instance.get_dynamic_partitions("repo")) == set(STARS), "kept unless somebody wants it otherwise"
    monkeypatch.setenv("GH_ASSETS_RETIRE", "true")
    place.change(STARS, listed=[*left[1:], left[0]])
    place.run(lists_changed)
    assert set(place.instance.get_dynamic_partitions("repo")) == set(left)
    store = asset_store(load_settings())
    assert store.read_table("stargazers", "o/r3").height == 13, "what was collected is kept"
    place.change(STARS)
    place.run(lists_changed)
    assert set(place.instance.get_dynamic_partitions("repo")) == set(STARS)
    assert place.tick(new_repositories) == "Nothing is due of 8 repositories.", "and counts again"


def test_retraining_waits_for_enough_new_stars(place: Place) -> None:
    def said(asset: dg.AssetsDefinition, **metadata: int) -> None:
        place.instance.report_runless_asset_event(dg.AssetMaterialization(asset.key, metadata=metadata))

    assert "There is no plan yet" in str(place.tick(enough_new_stars))
    said(collection_plan, **{STARS_COLLECTED: 1000})
    first = place.tick(enough_new_stars)
    assert isinstance(first, dg.RunRequest)
    said(users, **{STARS_COLLECTED: 1000})
    assert place.tick(enough_new_stars) == "0 stars changed since the last matrix; 50 are enough."
    said(collection_plan, **{STARS_COLLECTED: 1049})
    assert place.tick(enough_new_stars) == "49 stars changed since the last matrix; 50 are enough."
    said(collection_plan, **{STARS_COLLECTED: 1050})
    second, third = place.tick(enough_new_stars), place.tick(enough_new_stars)
    assert isinstance(second, dg.RunRequest)
    assert isinstance(third, dg.RunRequest)
    assert second.run_key == third.run_key != first.run_key
    said(collection_plan, **{STARS_COLLECTED: 950})
    assert isinstance(place.tick(enough_new_stars), dg.RunRequest), "stars that went count like stars that came"


def test_judging_and_recommending_follow_the_registry(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.tick(models_to_judge) == "No model is registered yet."
    assert place.tick(champion_changed) == "There is no champion yet."
    settings = load_settings()
    database = connect_mongo(settings)
    registry = ModelRegistry(model_store(settings), database["models"])
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"1")
    registry.save(weights, ModelCard("recvae", 0.4))
    request = place.tick(models_to_judge)
    assert isinstance(request, dg.RunRequest)
    judged = Decision(outcome="not better", summary="It is not better.", newest={"recvae": 1}, by="a test")
    registry.decisions.record(judged)
    assert place.tick(models_to_judge) == "recvae 1, the newest model, has been judged."
    with clock_behind(monkeypatch):
        registry.save(weights, ModelCard("recvae", 0.5))
    behind = place.tick(models_to_judge)
    assert isinstance(behind, dg.RunRequest), "no clock decides what is new"
    assert behind.tags["gh_assets/why"] == "recvae 2 is new."
    undecided = {"outcome": "refused", "words": "It is too slow.", "newest": {"recvae": 2}}
    registry.decisions.record(judged.model_copy(update=undecided))
    again = place.tick(models_to_judge)
    assert isinstance(again, dg.RunRequest), "who was refused is judged again"
    assert again.tags["gh_assets/why"] == "Nothing was decided the last time: It is too slow."
    registry.decisions.record(judged.model_copy(update={"newest": {"recvae": 2}}))
    assert place.tick(models_to_judge) == "recvae 2, the newest model, has been judged."
    registry.promote(Promotion("recvae", 1, why="a test"))
    request = place.tick(champion_changed)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["gh_assets/why"] == "recvae 1 is the champion (promote)."
    place.instance.report_runless_asset_event(
        dg.AssetMaterialization(recommendations.key, metadata={"champion_revision": 1})
    )
    assert place.tick(champion_changed) == "The recommendations are those of recvae 1."
    registry.promote(Promotion("recvae", 1, why="again"))
    later = place.tick(champion_changed)
    assert isinstance(later, dg.RunRequest)
    assert later.run_key != request.run_key
    database.client.close()


def test_one_click_asks_what_failed_was_closed_or_is_named_in_one_run(place: Place) -> None:
    place.standin.world.by_name["o/r2"].restricted = True
    place.run(lists_changed)
    place.run(new_repositories)
    job = defs.resolve_job_def("collect_due_repositories")
    place.standin.world.by_name["o/r2"].restricted = False
    result = job.execute_in_process(instance=place.instance)
    assert place.materialized(result) == {"o/r2"}, "launched as it is, it does not wait a week"
    assert asset_store(load_settings()).read_table("stargazers", "o/r2").height == 12
    config = {"ops": {"choose_due": {"config": {"repositories": ["o/r0", "o/r7"]}}}}
    assert place.materialized(job.execute_in_process(run_config=config, instance=place.instance)) == {"o/r0", "o/r7"}
    wrong = {"ops": {"choose_due": {"config": {"repositories": ["not/there"]}}}}
    failed = job.execute_in_process(run_config=wrong, instance=place.instance, raise_on_error=False)
    assert not failed.success
    data = failed.failure_data_for_node("choose_due")
    assert data is not None
    assert "'not/there' is no partition" in str(data.error)


def test_work_is_shared_out_with_the_same_result(place: Place) -> None:
    many = {f"m/r{number}": list(range(5 + number % 9)) for number in range(110)}
    place.change(many)
    place.run(lists_changed)
    job = defs.resolve_job_def("collect_due_repositories")
    config = {"ops": {"choose_due": {"config": {"shares": 8}}}}
    result = job.execute_in_process(run_config=config, instance=place.instance)
    steps = {event.step_key for event in result.get_step_success_events()}
    assert len([step for step in steps if step and step.startswith("collect_share[")]) == 4, "none of a few"
    assert place.materialized(result) == set(many)
    store = asset_store(load_settings())
    assert {name: store.read_table("stargazers", name).height for name in many} == {
        name: len(who) for name, who in many.items()
    }
    assert list(store.objects.names("runs/")) == [], "what went between the steps is gone"
    assert place.tick(new_repositories) == "Nothing is due of 110 repositories."


def test_conditions_follow_the_users_once(place: Place) -> None:
    """What is made from the users is asked for when they are newer, in one run, and not for news of the lists."""
    with dg.instance_for_test() as instance:
        chain = ("user_item_matrix", "recvae_model", "hybrid_model", "leaderboard", "champion", "recommendations")
        keys = [dg.AssetKey(name) for name in chain]
        first = dg.evaluate_automation_conditions(defs=defs, instance=instance, asset_selection=chain_of(keys))
        assert first.total_requested == 0

        def say(*assets: str) -> None:
            for name in assets:
                instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(name)))

        say("repos", "users", *chain)
        second = dg.evaluate_automation_conditions(
            defs=defs, instance=instance, asset_selection=chain_of(keys), cursor=first.cursor
        )
        assert second.total_requested == 0, "all are as new as the users"
        say("repos")
        third = dg.evaluate_automation_conditions(
            defs=defs, instance=instance, asset_selection=chain_of(keys), cursor=second.cursor
        )
        assert third.total_requested == 0, "news of the lists alone are no reason"


def chain_of(keys: list[dg.AssetKey]) -> dg.AssetSelection:
    return dg.AssetSelection.assets(*keys)
