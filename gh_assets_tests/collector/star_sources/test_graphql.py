"""The GraphQL list of stargazers: filled queries, refreshes, faults and incomplete pages."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gh_assets.collector.star_sources.base import CollectionTask, StarCollection
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.github.graphql import QuerySize
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STARGAZERS
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Collecting, ref, refs, table_of
from gh_assets_tests.support.github import Json, client_of, graphql, stargazers_page
from gh_assets_tests.support.worlds import troubled_world, world_of


def many(count: int = 150, most: int = 320) -> World:
    rng = np.random.default_rng(1)
    sizes = rng.integers(0, most, count)
    return world_of({f"a/{n}": rng.permutation(400)[:size].tolist() for n, size in enumerate(sizes)}, users=400)


def test_queries_are_filled_with_pages_of_several_repositories(collecting: Collecting) -> None:
    world = many()
    report = collecting.of_world(GraphQLStargazers, world)
    assert report.stars == world.star_count
    connections = sum(max(1, -(-len(r.stargazers) // 100)) for r in world.repositories[:-1])
    assert report.pages == connections, "no page is read twice"
    assert collecting.standin.quota.spent["graphql"] <= 1.15 * connections / 100 + 2


def test_a_refresh_reads_up_to_the_first_known_star(collecting: Collecting) -> None:
    old = world_of({f"a/{n}": list(range(330)) for n in range(20)}, users=600)
    collecting.of_world(GraphQLStargazers, old)
    new = world_of({f"a/{n}": list(range(330 + 20 * (n < 2))) for n in range(20)}, users=600)
    report = collecting.of_world(GraphQLStargazers, new)
    assert (report.asked, report.pages, collecting.standin.quota.spent["graphql"]) == (2, 2, 1 + 1)
    assert collecting.users("a/1") == [5000 + user for user in range(350)]
    assert report.states["a/1"].complete


def test_a_user_who_starred_again_has_the_newer_time(collecting: Collecting) -> None:
    old = world_of({"a/b": [1, 2, 3]}, users=9)
    collecting.of_world(GraphQLStargazers, old)
    new = world_of({"a/b": [2, 3, 4, 1]}, users=9)
    new.repositories[0].starred_at[:2] += 60  # 2 and 3 as before
    new.repositories[0].starred_at[2:] += 600
    collecting.of_world(GraphQLStargazers, new, full=True)
    assert collecting.users("a/b") == [5002, 5003, 5004, 5001]


def test_a_list_that_was_cut_is_completed_with_more_pages(collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(450))})
    first = collecting.of_world(GraphQLStargazers, world, max_pages=2)
    assert (first.stars, first.states["a/b"].complete) == (200, False)
    assert collecting.users("a/b") == [5000 + user for user in range(250, 450)]
    second = collecting.of_world(GraphQLStargazers, world, max_pages=10)
    assert (second.stars, second.states["a/b"].complete) == (450, True)


def test_outcomes_by_graphql(github_of: GitHubOf, collecting: Collecting) -> None:
    world = troubled_world()
    _, client = github_of(world)
    gone = ref(404, "not/there", 7)
    report = collecting.run([*refs(world), gone], GraphQLStargazers(client, 10))
    assert {key: state.outcome.value for key, state in report.states.items()} == {
        "good/one": "ok", "good/starless": "ok", "fresh/name": "ok", "taken/down": "blocked",
        "closed/list": "restricted", "not/there": "gone",
    }  # fmt: skip


@pytest.mark.parametrize(("budget", "count"), [(100, 60), (700, 200), pytest.param(3700, 800, marks=pytest.mark.slow)])
def test_size_of_queries_that_fits_is_found(
    github_of: GitHubOf, collecting: Collecting, budget: int, count: int
) -> None:
    """The cost is compared with that of the best fixed size."""
    world = world_of({f"a/{n}": list(range(201)) for n in range(count)})  # three pages each
    standin, client = github_of(world, limits=Limits(query_budget=budget))
    report = collecting.of_world(GraphQLStargazers, world, client)
    assert report.stars == world.star_count
    best = 3 * count / (budget // 100)
    assert standin.quota.spent["graphql"] <= 1.5 * best + 2


def test_gateway_errors_lose_no_page(github_of: GitHubOf, collecting: Collecting) -> None:
    world = many(60)
    faults = Faults(probabilities={"502": 0.1, "504": 0.1, "truncated": 0.1, "reset": 0.1, "403": 0.05}, seed=3)
    _, client = github_of(world, faults=faults)
    report = collecting.of_world(GraphQLStargazers, world, client)
    assert (report.stars, report.outcomes) == (world.star_count, {"ok": 60})


def test_pages_are_kept_when_the_request_limit_is_reached(github_of: GitHubOf, collecting: Collecting) -> None:
    world = world_of({f"a/{n}": list(range(950)) for n in range(30)})
    standin, client = github_of(world, max_requests=2 + 6)
    assert collecting.of_world(GraphQLStargazers, world, client).stopped
    assert len(collecting.state.interrupted()) == 30
    before = standin.quota.spent["graphql"]
    report = collecting.of_world(GraphQLStargazers, world, client_of(client.api_url, "token"))
    assert report.stars == world.star_count
    # Ten pages of each, six of which had been read, and one for stars that were given since.
    assert standin.quota.spent["graphql"] - before <= 6


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(limit=st.integers(1, 130), start=st.integers(1, 100))
def test_bisection_ends_near_the_limit(limit: int, start: int) -> None:
    batch = QuerySize(start)
    failures = 0
    for _ in range(60):
        size = batch.size
        assert 1 <= size <= 100
        if size > limit:
            failures += 1
            batch.failed(size)
        else:
            batch.fitted(size)
    assert batch.size >= min(100, limit) * 0.85 - 1
    assert failures <= 12


def collected_by(*responses: Json) -> StarCollection:
    """Collect a repository with five stars from a server that sends these responses, in order."""
    remaining = list(responses)
    with graphql(lambda _: remaining.pop(0)) as client:
        (collected,) = GraphQLStargazers(client, 10).collect([CollectionTask(ref(9, stars=5))], 1)
    return collected


def test_null_edges_deleted_accounts_and_shifting_pages_are_handled() -> None:
    def edge(user: int, hour: int) -> Json:
        return {"starredAt": f"2020-01-01T{hour:02d}:00:00Z", "node": {"databaseId": user, "login": f"u{user}"}}

    no_user = {"starredAt": "2020-01-01T08:00:00Z", "node": None}
    first = stargazers_page([edge(3, 9), None, no_user, edge(2, 7)], 5, "c")
    # A user starred between the two pages, so that 2 is repeated; a deleted account has no id.
    ghost = {"starredAt": "x", "node": {"databaseId": None, "login": "ghost"}}
    table = table_of(collected_by(first, stargazers_page([edge(2, 7), ghost, edge(1, 5)], 5)))
    assert table["user_id"].to_list() == [1, 2, 3]
    assert STARGAZERS.problem(table) is None


@pytest.mark.parametrize("node", [None, {"stargazers": None}])
def test_a_closed_list_is_restricted_with_either_form_of_the_response(node: object) -> None:
    error = {"type": "FORBIDDEN", "path": ["r0", "stargazers"], "message": "Resource not accessible"}
    collected = collected_by({"data": {"r0": node}, "errors": [error]})
    assert (collected.outcome, collected.reason) == (Outcome.RESTRICTED, "Resource not accessible")
