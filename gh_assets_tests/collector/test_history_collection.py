"""Star histories of many repositories: what is stored, what is read first, and what a crash costs."""

import datetime as dt
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from gh_assets.collector.history_collection import DUE_AFTER, HistoryReport, due_histories, read_histories, trends_of
from gh_assets.collector.history_reader import NO_HISTORIES
from gh_assets.collector.history_state import HistoryStates
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.times import star_day
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf, ServeWorld
from gh_assets_tests.support.collecting import Connected, ref, refs
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.waiting import until
from gh_assets_tests.support.worlds import world_of

NOW = dt.datetime.now(dt.UTC)


def world_with(*stars: int, age: int = 400) -> World:
    """Return a world of repositories with these numbers of stars, spread over the time since their creation."""
    world = world_of({f"a/r{number}": list(range(count)) for number, count in enumerate(stars)}, users=500)
    for repository in world.repositories:
        count = len(repository.stargazers)
        repository.created_at = (NOW - dt.timedelta(days=age)).isoformat()
        repository.starred_at = np.linspace(NOW.timestamp() - age * 86_400, NOW.timestamp() - 60, count).astype(
            np.int64
        )
    return world


class Histories(Connected):
    """Reads histories several times into one store and database."""

    def __init__(self, database: MongoDatabase, store: AssetStore, github_of: GitHubOf) -> None:
        super().__init__(github_of)
        self.database, self.store = database, store

    def read(
        self,
        world: World,
        *,
        client: GitHubClient | None = None,
        only: list[RepositoryRef] | None = None,
        pages: int = 20,
        reserve: float = 0.0,
    ) -> HistoryReport:
        wanted = refs(world) if only is None else only
        client = client or self.client_of(world)
        return read_histories(wanted, client, self.database, self.store, max_pages=pages, reserve=reserve, workers=4)

    def is_true_of(self, world: World) -> None:
        """Assert that exactly the days of the world are stored, and that states describe the tables."""
        for repository in world.repositories[:-1]:
            table = self.store.read_table("star_history", repository.full_name)
            days = pl.Series([star_day(float(time)) for time in repository.starred_at], dtype=pl.Date)
            expected = (
                pl.DataFrame({"day": days}).group_by("day").agg(pl.len().cast(pl.Int64).alias("stars")).sort("day")
            )
            assert_frame_equal(table.filter(pl.col("stars") > 0).select("day", "stars"), expected)
            assert table["day"].diff().drop_nulls().unique().to_list() == [dt.timedelta(days=1)]
            assert table["repo_id"].unique().to_list() == [repository.repo_id]
            state = HistoryStates(self.database).load()[repository.repo_id]
            assert state.checksum == self.store.read_table_with_checksum("star_history", repository.full_name)[1]
            assert (state.sum, state.complete, state.proven) == (len(days), True, True)


@pytest.fixture
def histories(database: MongoDatabase, asset_store: AssetStore, github_of: GitHubOf) -> Histories:
    return Histories(database, asset_store, github_of)


def test_days_and_states_of_all_repositories_are_stored(histories: Histories) -> None:
    world = world_with(0, 1, 50, 300)
    report = histories.read(world)
    assert (report.total, report.asked, report.stars, report.stopped) == (4, 4, 351, None)
    assert report.outcomes == {"ok": 4}
    histories.is_true_of(world)
    state = HistoryStates(histories.database).load()[3]
    assert state.read_until is not None
    assert state.read_until.date() == star_day(NOW.timestamp())
    assert state.first_week is not None
    assert state.first_week.isoweekday() == 7
    assert sum(state.recent) == pytest.approx(50 * 210 / 400, abs=2)
    assert state.trend is not None
    assert state.gained_since(star_day(NOW.timestamp()) - dt.timedelta(days=30)) == pytest.approx(50 * 30 / 400, abs=1)
    assert report.summary_lines() == []


def test_a_second_run_costs_no_quota_and_writes_nothing(histories: Histories) -> None:
    world = world_with(0, 1, 50)
    histories.read(world)
    used = histories.standin.used("token")
    written = {stored.name: stored.generation for stored in histories.store.objects.list("assets/")}
    report = histories.read(world)
    assert (report.asked, report.not_modified, report.pages) == (3, 3, 3)
    assert histories.standin.used("token") == used
    assert {stored.name: stored.generation for stored in histories.store.objects.list("assets/")} == written


def test_repositories_that_are_not_reachable_are_not_requested(histories: Histories) -> None:
    world = world_with(1)
    gone = replace(refs(world)[0], outcome=Outcome.GONE)
    report = histories.read(world, only=[gone])
    assert (report.total, report.asked) == (0, 0)
    assert not report.unavailable


def test_what_cannot_be_read_keeps_what_is_stored(histories: Histories) -> None:
    world = world_with(10, 20)
    histories.read(world)
    histories.standin.faults = Faults({"502": 1.0})
    world.repositories[0].starred_at = world.repositories[0].starred_at[:-1]
    report = histories.read(world)
    assert report.outcomes == {"unknown": 2}
    assert report.summary_lines() == [
        "The star histories of 2 repositories could not be read: the next run tries again."
    ]
    state = HistoryStates(histories.database).load()[1]
    assert (state.outcome, state.sum, state.complete) == (Outcome.UNKNOWN, 10, True)
    histories.standin.faults = Faults()
    assert histories.read(world).outcomes == {"ok": 2}


def test_enterprise_is_one_sentence_and_no_failure(histories: Histories, github_of: GitHubOf) -> None:
    world = world_with(*[1] * 20)
    standin, client = github_of(world, enterprise=True)
    report = histories.read(world, client=client)
    assert report.outcomes == {"unavailable": 20}
    assert report.unavailable
    assert report.summary_lines() == [NO_HISTORIES]
    assert standin.requests < 40
    assert histories.store.partitions("star_history") == set()
    assert histories.store.describe("star_trends", "parquet") is None


def test_the_cap_on_requests_stops_a_run_and_the_next_one_continues(histories: Histories, github_of: GitHubOf) -> None:
    world = world_with(*[3] * 12, age=100)
    _, client = github_of(world, max_requests=7)
    report = histories.read(world, client=client)
    assert report.stopped is not None
    assert 0 < report.asked < 12
    assert report.summary_lines()[0].endswith(f"{report.asked} of 12 star histories were read.")
    states = HistoryStates(histories.database)
    due = due_histories(refs(world), states.asked_at(), NOW + dt.timedelta(hours=1))
    assert {one.repo_id for one in due} == {one.repo_id for one in refs(world)} - states.load().keys()
    histories.read(world, only=due)
    histories.is_true_of(world)
    assert due_histories(refs(world), states.asked_at(), NOW + dt.timedelta(hours=1)) == []


def test_one_run_reads_whole_histories_newest_pages_first(histories: Histories, github_of: GitHubOf) -> None:
    world = world_with(200, 300, age=200 * 7)
    _, client = github_of(world)
    report = histories.read(world, client=client, pages=100)
    histories.is_true_of(world)
    assert all(state.complete and state.proven for state in report.states.values())
    assert (report.asked, report.outcomes, report.pages) == (2, {"ok": 2}, 14), "each page once"
    assert histories.read(world, client=client, pages=100).pages == 2


def test_a_run_continues_where_the_cap_ended_the_last_one(histories: Histories, github_of: GitHubOf) -> None:
    world = world_with(200, age=200 * 7)
    _, client = github_of(world, max_requests=4)
    report = histories.read(world, client=client, pages=100)
    assert report.stopped is not None
    (state,) = report.states.values()
    assert (state.outcome, state.complete) == (Outcome.OK, False)
    assert state.entries > 30, "older pages are kept, too"
    _, client = github_of(world)
    again = histories.read(world, client=client, pages=100)
    assert again.pages <= 1 + 7 - state.entries // 30
    histories.is_true_of(world)


def test_older_pages_leave_the_reserve_of_the_quota(histories: Histories, github_of: GitHubOf) -> None:
    world = world_with(*[20] * 8, age=200 * 7)
    standin, client = github_of(world, limits=Limits(requests=100))
    report = histories.read(world, client=client, pages=100, reserve=0.7)
    assert (report.asked, report.stopped) == (8, None)
    assert 20 <= standin.quota.spent["core"] <= 30
    assert not all(state.complete for state in report.states.values())


def test_histories_are_due_after_a_day_those_never_read_first(histories: Histories) -> None:
    world = world_with(1, 1, 1)
    everything = refs(world)
    histories.read(world, only=everything[2:])
    histories.read(world, only=everything[:1])
    states = HistoryStates(histories.database).asked_at()
    later = dt.datetime.now(dt.UTC) + DUE_AFTER
    assert [one.repo_id for one in due_histories(everything, states, later)] == [2, 3, 1]
    gone = [replace(one, outcome=Outcome.GONE) for one in everything]
    assert due_histories(gone, states, later) == []


def test_a_table_that_differs_from_its_state_is_read_anew(histories: Histories) -> None:
    """This happens after a crash between both writes."""
    world = world_with(50)
    histories.read(world)
    table = histories.store.read_table("star_history", "a/r0")
    histories.store.write_table("star_history", table.with_columns(stars=pl.lit(7, pl.Int64)), "a/r0")
    report = histories.read(world)
    assert report.not_modified == 0
    histories.is_true_of(world)


def test_a_damaged_table_is_read_anew(histories: Histories) -> None:
    world = world_with(50)
    histories.read(world)
    histories.store.objects.write("assets/star_history/a/r0.parquet", b"PAR1 damaged", content_type="text/plain")
    histories.read(world)
    histories.is_true_of(world)


def test_a_crash_before_the_state_loses_one_repository(histories: Histories, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_with(40, 50)
    save = HistoryStates.save

    def crash(states: HistoryStates, changed: list) -> None:  # type: ignore[type-arg]
        if changed[0].repo_id == 2:
            raise OSError("killed")
        save(states, changed)

    with monkeypatch.context() as patch:
        patch.setattr(HistoryStates, "save", crash)
        with pytest.raises(OSError, match="killed"):
            histories.read(world)
    assert HistoryStates(histories.database).load().keys() == {1}
    histories.read(world)
    histories.is_true_of(world)


def test_killed_runs_are_continued_and_end_with_the_same_days(histories: Histories, serve_world: ServeWorld) -> None:
    world = world_with(*range(40), age=900)
    standin, url = serve_world(world, faults=Faults({"slow": 0.2, "502": 0.05}))
    arguments = {
        "url": url,
        "database": histories.database.name,
        "bucket": histories.store.objects.name,
        "repositories": [(one.repo_id, one.full_name, one.stargazer_count) for one in refs(world)],
    }
    command = [sys.executable, "-m", "gh_assets_tests.support.history_child", json.dumps(arguments)]
    for requests in (10, 40, 70):  # all pages are 200
        process = subprocess.Popen(command, cwd=CHECKOUT)
        until(partial(_has_sent, standin, standin.requests + requests), 60)
        process.kill()
        process.wait()
    _check_stored(histories, world)
    histories.read(world, client=histories.client_of(world))
    histories.is_true_of(world)


def _has_sent(standin: Standin, requests: int) -> bool:
    return standin.requests >= requests


def _check_stored(histories: Histories, world: World) -> None:
    """Whatever is stored after a kill is true: states describe their histories, or their tables are read anew."""
    by_id = {repository.repo_id: repository for repository in world.repositories}
    for repo_id, state in HistoryStates(histories.database).load().items():
        if state.outcome is Outcome.OK:
            stars = len(by_id[repo_id].stargazers)
            assert state.sum == stars if state.complete else state.sum < stars


def test_a_state_of_another_kind_is_left_out(histories: Histories) -> None:
    histories.database["star_history_state"].insert_one({"_id": 9, "other": 1})
    assert HistoryStates(histories.database).load() == {}
    histories.read(world_with(1), only=[ref(1, "a/r0", 1)])
    assert HistoryStates(histories.database).load().keys() == {1}


def test_trends_are_those_of_histories_that_were_read_lately(histories: Histories) -> None:
    world = world_with(40, 400)
    histories.read(world)
    trends = histories.store.read_table("star_trends")
    assert trends["repo_id"].to_list() == [1, 2]
    assert trends["recent"].to_list() == [pytest.approx(3, abs=1), pytest.approx(30, abs=1)]
    assert trends["usual"].to_list() == [pytest.approx(3, abs=1), pytest.approx(30, abs=1)]
    states = [state for _, state in sorted(HistoryStates(histories.database).load().items())]
    old = states[0].model_copy(update={"read_until": NOW - dt.timedelta(days=20)})
    assert trends_of([old, states[1]])["repo_id"].to_list() == [2]
    assert trends_of([old])["repo_id"].to_list() == [1]
    assert trends_of([]).height == 0
