"""The source that chooses between repositories' own lists and users' lists."""

import datetime as dt
import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from starlette.responses import Response

from gh_assets.collector.pipeline import CollectionReport
from gh_assets.collector.star_sources.auto import CLOSED_FOR, AutoSource
from gh_assets.collector.star_sources.base import CollectionTask
from gh_assets.collector.star_sources.events import EventFeeds, LookAllowance
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred_state import SeedUser, StarredState
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import REST, Limits
from gh_assets.embedded.standin.world import World
from gh_assets.github.outcomes import Outcome
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Collecting, ref, refs, table_of
from gh_assets_tests.support.github import served
from gh_assets_tests.support.starred import Lists
from gh_assets_tests.support.worlds import world_of

RunAuto = Callable[..., CollectionReport]


@pytest.fixture
def run(lists: Lists, collecting: Collecting) -> RunAuto:
    """Collect a world, with what is known of its closed lists, and the lists of some or all users."""

    def run(
        world: World, wait: dt.timedelta = dt.timedelta(0), seeds: list[SeedUser] | None = None
    ) -> CollectionReport:
        client = collecting.client_of(world)
        states = collecting.state.load().values()
        closed = {state.repo_id: state.closed_at for state in states if state.closed_at is not None}
        own = GraphQLStargazers(client, 10, by_rest=RestStargazers(client, 10))
        others = partial(lists.source, client, world if seeds is None else seeds)
        source = AutoSource(own, others, closed, len(refs(world)), dt.datetime.now(dt.UTC) + wait)
        return collecting.run(refs(world), source)

    return run


def close(world: World, names: set[str]) -> World:
    for repository in world.repositories:
        repository.restricted = repository.full_name in names
    return world


def test_open_and_closed_lists_are_collected_together(run: RunAuto, collecting: Collecting) -> None:
    world = close(world_of({"a/open": [0, 1, 2], "b/closed": [1, 2], "c/closed": [0]}), {"b/closed", "c/closed"})
    report = run(world)
    assert report.outcomes == {"ok": 3}
    assert {key: (state.source, state.complete) for key, state in report.states.items()} == {
        "a/open": ("graphql", True), "b/closed": ("starred", False), "c/closed": ("starred", False),
    }  # fmt: skip
    assert (report.closed, collecting.users("b/closed")) == (2, [5001, 5002])


def test_a_closed_list_is_requested_again_after_a_week(run: RunAuto, collecting: Collecting) -> None:
    world = close(world_of({"a/b": [0, 1], "c/d": [1]}), {"a/b", "c/d"})
    run(world)
    collecting.standin.quota.spent.clear()
    report = run(world)
    assert (report.outcomes, report.closed, collecting.standin.quota.spent.total()) == ({"ok": 2}, 2, 0)
    close(world, set())
    report = run(world, wait=CLOSED_FOR + dt.timedelta(hours=1))
    assert ({state.source for state in report.states.values()}, report.closed) == ({"graphql"}, 0)


def test_users_lists_are_not_read_for_a_few_closed_repositories(run: RunAuto, collecting: Collecting) -> None:
    world = close(world_of({f"a/{n}": [0, 1] for n in range(20)}), {"a/3"})
    for _ in range(2):
        report = run(world)
        assert report.outcomes == {"ok": 19, "restricted": 1}
        assert StarredState(collecting.state.collection.database).load() == {}
    assert collecting.standin.quota.spent["graphql"] == 2, "one query for the token, and one for the lists"
    assert "closed lately" in str(report.states["a/3"].reason)


def test_a_repository_that_closes_keeps_its_stars_and_gains_new_ones(run: RunAuto, collecting: Collecting) -> None:
    old = world_of({"a/b": [0, 1, 2]}, users=9)
    run(old)
    new = close(world_of({"a/b": [0, 1, 2, 5]}, users=9), {"a/b"})
    new.logins[2] = "renamed"
    report = run(new)
    assert collecting.users("a/b") == [5000, 5001, 5002, 5005]
    assert report.states["a/b"].outcome is Outcome.OK


def test_a_closed_repository_without_known_users_stays_restricted(run: RunAuto, collecting: Collecting) -> None:
    world = close(world_of({"a/b": [0]}), {"a/b"})
    state = run(world, seeds=[]).states["a/b"]
    assert state.outcome is Outcome.RESTRICTED
    assert "none of the 0 users" in str(state.reason)
    assert "a/b" not in collecting.tables.partitions()


def test_the_checkpoint_of_graphql_is_not_used_by_rest(github_of: GitHubOf, collecting: Collecting) -> None:
    """GraphQL's newest pages are not REST's oldest ones, though both are kept for the same source."""
    world = world_of({"a/b": list(range(1800))})
    _, client = github_of(world, max_requests=2 + 12)
    assert collecting.run(refs(world), AutoSource(GraphQLStargazers(client, 30), None), max_pages=30).stopped
    assert collecting.state.interrupted().keys() == {1}
    _, client = github_of(world, graphql=False)
    source = AutoSource(GraphQLStargazers(client, 30, by_rest=RestStargazers(client, 30)), None)
    report = collecting.run(refs(world), source, max_pages=30)
    assert (report.stars, report.states["a/b"].complete, report.outcomes) == (1800, True, {"ok": 1})
    assert collecting.users("a/b") == [5000 + user for user in range(1800)]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 422, 501])
def test_lists_are_read_by_rest_whatever_status_graphql_has(status: int) -> None:
    entries = [{"starred_at": "2024-03-01T00:00:00Z", "user": {"id": 100 + n, "login": f"user{n}"}} for n in range(4)]
    graphql, stargazers = Response(b'{"message": "Not here"}', status), Response(json.dumps(entries))
    with served({"/graphql": graphql, "/repositories/1/stargazers": stargazers}) as client:
        source = GraphQLStargazers(client, 10, by_rest=RestStargazers(client, 10))
        (collected,) = source.collect([CollectionTask(ref(stars=4))], 1)
    assert (collected.complete, collected.source) == (True, "stargazers")
    assert table_of(collected)["user_id"].to_list() == [100, 101, 102, 103]


@pytest.fixture
def run_with_feeds(lists: Lists, collecting: Collecting) -> RunAuto:
    """Collect a world at a time soon after its stars, with event feeds beside users' lists."""

    def run(world: World, *, seeds: list[SeedUser] | None = None, reserve: float = 0.0) -> CollectionReport:
        client = collecting.client_of(world)
        standin, clock = collecting.standin, VirtualClock(1_500_100_000)
        standin.clock = client.pool.clock = clock
        standin.feeds.delay = (0.0, 0.0)
        states = collecting.state.load().values()
        closed = {state.repo_id: state.closed_at for state in states if state.closed_at is not None}
        feeds = EventFeeds(client, {state.repo_id: state.feed for state in states if state.feed is not None}, closed)
        others = partial(lists.source, client, world if seeds is None else seeds)
        own = GraphQLStargazers(client, 10, by_rest=RestStargazers(client, 10))
        source = AutoSource(
            own, others, closed, len(refs(world)), feeds=feeds, allowance=LookAllowance(client.pool, reserve)
        )
        return collecting.run(refs(world), source)

    return run


def test_feeds_are_looked_at_for_a_few_closed_repositories(run_with_feeds: RunAuto, collecting: Collecting) -> None:
    world = close(world_of({f"a/{n}": [0, 1] for n in range(20)}), {"a/3"})
    report = run_with_feeds(world)
    assert report.outcomes == {"ok": 20}
    state = report.states["a/3"]
    assert (state.source, state.complete, collecting.users("a/3")) == ("events", False, [5000, 5001])
    assert state.closed_at is not None
    assert state.feed is not None
    assert {key for key, other in report.states.items() if other.feed is not None} == {"a/3"}
    requests = collecting.standin.served["events"]
    assert run_with_feeds(world).outcomes == {"ok": 20}, "its feed was looked at less than a minute ago"
    assert collecting.standin.served["events"] == requests


def test_feeds_add_to_users_lists(run_with_feeds: RunAuto, collecting: Collecting) -> None:
    """Users who are not known are found in the feed, and users whose stars the feed has lost in their lists."""
    world = close(world_of({"a/b": [0, 1, 2], "c/d": [3]}), {"a/b", "c/d"})
    world.repositories[0].starred_at = np.array([1_400_000_000, 1_500_000_000, 1_500_000_060])
    report = run_with_feeds(world, seeds=[SeedUser("user-0", 5000)])
    assert collecting.users("a/b") == [5000, 5001, 5002]
    assert collecting.tables.read("a/b")[0]["source"].to_list() == ["starred", "events", "events"]
    assert collecting.users("c/d") == [5003]
    assert report.outcomes == {"ok": 2}
    for state in report.states.values():
        assert state.feed is not None
        assert (state.feed.stars, state.complete) == (state.stars, False)
    again = run_with_feeds(world, seeds=[SeedUser("user-0", 5000)])
    assert (again.outcomes, again.changed) == ({"ok": 2}, set())


def test_without_quota_for_feeds_closed_repositories_are_as_without_them(
    run_with_feeds: RunAuto, collecting: Collecting
) -> None:
    world = close(world_of({f"a/{n}": [0, 1] for n in range(20)}), {"a/3"})
    report = run_with_feeds(world, reserve=1.0)
    assert report.outcomes == {"ok": 19, "restricted": 1}
    assert collecting.standin.served["events"] == 0


def test_workers_together_leave_the_reserve_of_the_quota(github_of: GitHubOf) -> None:
    world = world_of({f"a/{n}": [0, 1] for n in range(40)})
    for repository in world.repositories:
        repository.restricted, repository.other_events_a_day = True, 10_000.0  # a feed of three pages
    slow = Faults({"slow": 1.0}, slow_seconds=0.05)
    standin, client = github_of(world, limits=Limits(requests=1000), faults=slow)
    now = dt.datetime.now(dt.UTC)
    closed = {one.repo_id: now for one in refs(world)}
    allowance = LookAllowance(client.pool, reserve=0.95)
    source = AutoSource(RestStargazers(client, 10), None, closed, 40, feeds=EventFeeds(client), allowance=allowance)
    collected = list(source.collect([CollectionTask(one) for one in refs(world)], workers=12))
    looked = sum(one.feed is not None for one in collected)
    assert (len(collected), source.looked, standin.served["events"]) == (40, looked, 3 * looked)
    assert looked >= 12
    assert standin.quota.spent[REST] <= 50


def test_a_list_that_opens_again_needs_no_feed(run_with_feeds: RunAuto, collecting: Collecting) -> None:
    world = close(world_of({"a/b": [0, 1], "c/d": [1]}), {"a/b"})
    assert run_with_feeds(world).states["a/b"].feed is not None
    close(world, set())
    collecting.state.collection.update_one({"_id": 1}, {"$set": {"state.closed_at": None, "state.proven": False}})
    state = run_with_feeds(world).states["a/b"]
    assert (state.source, state.complete, state.feed) == ("graphql", True, None)
