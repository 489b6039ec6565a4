"""What every source of stars has to do, and what each does on its own."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.collector.gharchive import archive_hours, read_hour
from gh_assets.collector.pipeline import CollectionState
from gh_assets.collector.star_sources import base
from gh_assets.collector.star_sources.auto import AutoSource
from gh_assets.collector.star_sources.base import (
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    StarCollection,
    StarSource,
)
from gh_assets.collector.star_sources.file import StarsFile
from gh_assets.collector.star_sources.gharchive import ArchivedStars
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred import StarredLists
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred, StarredListTask
from gh_assets.collector.star_sources.starred_state import SeedUser, StarredState
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import QuerySize
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STARGAZERS
from gh_assets.storage.asset_store import AssetStore, Segments
from gh_assets_tests.conftest import QUICK, serving
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import troubled_world, world_of


def contract_world() -> World:
    return world_of({"a/b": [3, 1, 2], "C/d": [2], "e/long": list(range(4, 254))})


def source_over_rest(world: World, github_of, _, database, asset_store) -> StarSource:
    return RestStargazers(github_of(world)[1], 10)


def source_over_graphql(world: World, github_of, _, database, asset_store) -> StarSource:
    return GraphQLStargazers(github_of(world)[1], 10)


def source_over_file(world: World, _, tmp_path, database, asset_store) -> StarSource:
    rows = [
        (
            r.full_name.upper(),
            world.logins[user],
            r.repo_id,
            world.user_ids[user],
            dt.datetime.fromtimestamp(when, dt.UTC),
        )
        for r in world.repositories
        for user, when in zip(r.stargazers.tolist(), r.starred_at.tolist(), strict=True)
    ]
    path = tmp_path / "stars.parquet"
    pl.DataFrame(rows, schema=["repo", "login", "repo_id", "user_id", "starred_at"], orient="row").write_parquet(path)
    return StarsFile(path, own_world=True)


def starred(
    world: World,
    client: GitHubClient,
    database,
    asset_store: AssetStore,
    reader: type[RestStarred] | type[GraphQLStarred],
) -> StarredLists:
    """Users' lists, of all users of the world."""
    seeds = [SeedUser(login, user_id) for login, user_id in zip(world.logins, world.user_ids, strict=True)]
    return StarredLists(
        reader(client, 10), StarredState(database), Segments(asset_store, "starred"), lambda _: seeds, max_users=10_000
    )


def source_over_starred_rest(world: World, github_of, _, database, asset_store) -> StarSource:
    return starred(world, github_of(world)[1], database, asset_store, RestStarred)


def source_over_starred_graphql(world: World, github_of, _, database, asset_store) -> StarSource:
    return starred(world, github_of(world)[1], database, asset_store, GraphQLStarred)


def source_over_archive(world: World, _, tmp_path, database, asset_store) -> StarSource:
    path = tmp_path / "2017-07-14-2.json.gz"
    write_hour(path, world)
    (hour,) = archive_hours([str(path)])
    return ArchivedStars(read_hour(hour)[0])


def source_auto_open(world: World, github_of, _, database, asset_store) -> StarSource:
    return AutoSource(GraphQLStargazers(github_of(world)[1], 10), None)


def source_auto_closed(world: World, github_of, _, database, asset_store) -> StarSource:
    standin, client = github_of(world)
    standin.restricted = True
    others = starred(world, client, database, asset_store, GraphQLStarred)
    return AutoSource(GraphQLStargazers(client, 10), lambda: others)


def write_hour(path: Path, world: World) -> None:
    """All stars of a world as an hour of GH Archive."""
    with gzip.open(path, "wb") as file:
        for r in world.repositories:
            for user, when in zip(r.stargazers.tolist(), r.starred_at.tolist(), strict=True):
                event = {
                    "type": "WatchEvent",
                    "actor": {"id": world.user_ids[user], "login": world.logins[user]},
                    "repo": {"id": r.repo_id, "name": r.full_name},
                    "payload": {"action": "started"},
                    "created_at": dt.datetime.fromtimestamp(when, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                file.write(json.dumps(event).encode() + b"\n")


SOURCES = {
    "stargazers": source_over_rest,
    "graphql": source_over_graphql,
    "file": source_over_file,
    "starred by REST": source_over_starred_rest,
    "starred by GraphQL": source_over_starred_graphql,
    "gharchive": source_over_archive,
    "auto, lists open": source_auto_open,
    "auto, lists closed": source_auto_closed,
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=list(SOURCES))
def test_every_source_gives_the_same_stars(make, github_of, tmp_path, database, asset_store) -> None:
    """The contract of `StarSource`."""
    world = contract_world()
    source: StarSource = make(world, github_of, tmp_path, database, asset_store)
    kind = base.SOURCES[source.name]
    tasks = [CollectionTask(repository) for repository in refs(world)]
    found = list(source.collect(iter(tasks), 2))
    assert sorted(c.repository.repo_id for c in found) == [w.repository.repo_id for w in tasks]
    for collected in found:
        repository = collected.repository
        assert collected.outcome is Outcome.OK
        assert collected.complete or not (kind.reads_own_lists or isinstance(source, StarsFile))
        assert collected.table is not None
        assert STARGAZERS.problem(collected.table) is None
        wanted = world.by_id[repository.repo_id].stargazers
        assert collected.table["user_id"].to_list() == [world.user_ids[user] for user in np.asarray(wanted)]
        assert collected.table["login"].to_list() == [world.logins[user] for user in np.asarray(wanted)]
        seconds = collected.table["starred_at"].dt.epoch("s").to_list()
        assert seconds == world.by_id[repository.repo_id].starred_at.tolist()
        assert collected.table["source"].unique().to_list() == [collected.source or source.name]
    (unknown,) = source.collect([CollectionTask(RepositoryRef(77, "x/y", "x/y", 5, Outcome.OK))], 1)
    assert unknown.outcome is not Outcome.OK
    assert unknown.table is None
    assert unknown.reason
    again = list(source.collect([_known(collected) for collected in found], 2))
    assert all(collected.unchanged and collected.unstarred is None for collected in again)


def _known(collected: StarCollection) -> CollectionTask:
    table, pages = collected.table, collected.pages
    assert table is not None
    previous = PreviousStars(table, pages, collected.complete, 10, table["source"][0] if table.height else None)
    return CollectionTask(collected.repository, lambda: previous)


# -- GraphQL -------------------------------------------------------------------------------------------------------


@pytest.fixture
def collecting(asset_store, database) -> Collecting:
    return Collecting(asset_store, CollectionState(database))


def graphql(collecting: Collecting, world: World, client: GitHubClient, max_pages: int = 10, **options: bool):
    return collecting.run(refs(world), GraphQLStargazers(client, max_pages), max_pages=max_pages, **options)


def many(count: int = 150, most: int = 320) -> World:
    rng = np.random.default_rng(1)
    sizes = rng.integers(0, most, count)
    return world_of({f"a/{n}": rng.permutation(400)[:size].tolist() for n, size in enumerate(sizes)}, users=400)


def test_queries_are_filled_up(github_of, collecting: Collecting) -> None:
    world = many()
    standin, client = github_of(world)
    report = graphql(collecting, world, client)
    assert report.stars == world.star_count
    connections = sum(max(1, -(-len(r.stargazers) // 100)) for r in world.repositories[:-1])
    assert report.pages == connections, "no page twice"
    assert standin.quota.spent["graphql"] <= 1.15 * connections / 100 + 2


def test_a_refresh_reads_until_it_meets_what_is_known(github_of, collecting: Collecting) -> None:
    old = world_of({f"a/{n}": list(range(330)) for n in range(20)}, users=600)
    graphql(collecting, old, github_of(old)[1])
    new = world_of({f"a/{n}": list(range(330 + 20 * (n < 2))) for n in range(20)}, users=600)
    standin, client = github_of(new)
    report = graphql(collecting, new, client)
    assert (report.asked, report.pages, standin.quota.spent["graphql"]) == (2, 2, 1 + 1)
    table, _ = collecting.tables.read("a/1")
    assert table["user_id"].to_list() == [5000 + user for user in range(350)]
    assert report.states["a/1"].complete


def test_who_starred_again_has_the_newer_time(github_of, collecting: Collecting) -> None:
    old = world_of({"a/b": [1, 2, 3]}, users=9)
    graphql(collecting, old, github_of(old)[1])
    new = world_of({"a/b": [2, 3, 4, 1]}, users=9)
    new.repositories[0].starred_at[:2] += 60  # 2 and 3 as before
    new.repositories[0].starred_at[2:] += 600
    graphql(collecting, new, github_of(new)[1], ask_all=True)
    table, _ = collecting.tables.read("a/b")
    assert table["user_id"].to_list() == [5002, 5003, 5004, 5001]


def test_more_pages_than_before_are_read_to_their_end(github_of, collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(450))})
    _, client = github_of(world)
    first = graphql(collecting, world, client, max_pages=2)
    assert (first.stars, first.states["a/b"].complete) == (200, False)
    assert collecting.tables.read("a/b")[0]["user_id"].to_list() == [5000 + user for user in range(250, 450)]
    second = graphql(collecting, world, client, max_pages=10)
    assert (second.stars, second.states["a/b"].complete) == (450, True)


def test_outcomes_by_graphql(github_of, collecting: Collecting) -> None:
    world = troubled_world()
    _, client = github_of(world)
    gone = RepositoryRef(404, "not/there", "not/there", 7, Outcome.OK)
    report = collecting.run([*refs(world), gone], GraphQLStargazers(client, 10))
    assert {key: state.outcome.value for key, state in report.states.items()} == {
        "good/one": "ok", "good/starless": "ok", "fresh/name": "ok", "taken/down": "blocked",
        "closed/list": "restricted", "not/there": "gone",
    }  # fmt: skip


@pytest.mark.parametrize(("budget", "count"), [(100, 120), (700, 400), pytest.param(3700, 800, marks=pytest.mark.slow)])
def test_the_size_that_fits_is_found(serve_world, collecting: Collecting, budget: int, count: int) -> None:
    """Against the best fixed size, which nobody knows before."""
    world = world_of({f"a/{n}": list(range(250)) for n in range(count)})
    standin, url = serve_world(world, limits=Limits(query_budget=budget))
    with client_of(url, "token") as client:
        report = graphql(collecting, world, client)
    assert report.stars == world.star_count
    best = 3 * count / (budget // 100)
    assert standin.quota.spent["graphql"] <= 1.5 * best + 2


def test_gateway_errors_do_not_lose_a_page(serve_world, collecting: Collecting) -> None:
    world = many(60)
    faults = Faults(probabilities={"502": 0.1, "504": 0.1, "truncated": 0.1, "reset": 0.1, "403": 0.05}, seed=3)
    _, url = serve_world(world, faults=faults)
    with client_of(url, "token") as client:
        report = graphql(collecting, world, client)
    assert report.stars == world.star_count
    assert report.outcomes == {"ok": 60}


def test_a_cap_keeps_the_pages_that_were_read(serve_world, collecting: Collecting) -> None:
    world = world_of({f"a/{n}": list(range(950)) for n in range(30)})
    standin, url = serve_world(world)
    with GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=2 + 6) as client:
        assert graphql(collecting, world, client).stopped
    assert len(collecting.state.interrupted()) == 30
    before = standin.quota.spent["graphql"]
    with client_of(url, "token") as client:
        report = graphql(collecting, world, client)
    assert report.stars == world.star_count
    # Ten pages of each, of which six had been read; and one, to see what has come since.
    assert standin.quota.spent["graphql"] - before <= 6


def test_two_ways_to_the_same_stars(github_of, collecting: Collecting, database) -> None:
    world = many(40)
    _, client = github_of(world)
    graphql(collecting, world, client)
    newest = {key: collecting.tables.read(key)[0].drop("source") for key in collecting.tables.partitions()}
    database["stargazer_state"].delete_many({})
    collecting.rest(world, client)
    for key, table in newest.items():
        assert collecting.tables.read(key)[0].drop("source").equals(table)


@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(limit=st.integers(1, 130), start=st.integers(1, 100))
def test_the_bisection_ends_near_the_limit(limit: int, start: int) -> None:
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


def scripted_graphql(*answers: dict[str, object]) -> Starlette:
    """A server that gives these data, one query after another."""
    left = list(answers)

    async def graphql(_: Request) -> Response:
        limit = {"cost": 1, "limit": 5000, "remaining": 4000, "resetAt": "2099-01-01T00:00:00Z"}
        return Response(json.dumps({"data": left.pop(0) | {"rateLimit": limit}}))

    async def other(_: Request) -> Response:
        return Response(b'{"id": 1}')

    return Starlette(routes=[Route("/graphql", graphql, methods=["POST"]), Route("/{path:path}", other)])


def test_null_edges_deleted_accounts_and_shifting_pages_by_graphql() -> None:
    def page(edges: list[object], more: bool) -> dict[str, object]:
        info = {"hasNextPage": more, "endCursor": "c" if more else None}
        return {"r0": {"stargazers": {"totalCount": 5, "pageInfo": info, "edges": edges}}}

    def edge(user: int, hour: int, login: str | None = None) -> dict[str, object]:
        return {
            "starredAt": f"2020-01-01T{hour:02d}:00:00Z",
            "node": {"databaseId": user, "login": login or f"u{user}"},
        }

    first = page([edge(3, 9), None, {"starredAt": "2020-01-01T08:00:00Z", "node": None}, edge(2, 7)], True)
    # While we paged, somebody starred: 2 is listed once more; one was renamed and is a ghost now.
    second = page([edge(2, 7), {"starredAt": "x", "node": {"databaseId": None, "login": "ghost"}}, edge(1, 5)], False)
    with serving(scripted_graphql(first, second)) as url, client_of(url, "token") as client:
        (collected,) = GraphQLStargazers(client, 10).collect(
            [CollectionTask(RepositoryRef(9, "a/b", "a/b", 5, Outcome.OK))], 1
        )
    assert collected.table is not None
    assert collected.table["user_id"].to_list() == [1, 2, 3]
    assert STARGAZERS.problem(collected.table) is None


@pytest.mark.parametrize("node", [None, {"stargazers": None}])
def test_a_closed_list_by_graphql_however_it_is_told(node: object) -> None:
    async def graphql(_: Request) -> Response:
        error = {"type": "FORBIDDEN", "path": ["r0", "stargazers"], "message": "Resource not accessible"}
        return Response(json.dumps({"data": {"r0": node}, "errors": [error]}))

    app = Starlette(routes=[Route("/graphql", graphql, methods=["POST"])])
    with serving(app) as url, client_of(url, "token") as client:
        (collected,) = GraphQLStargazers(client, 10).collect(
            [CollectionTask(RepositoryRef(9, "a/b", "a/b", 5, Outcome.OK))], 1
        )
    assert (collected.outcome, collected.reason) == (Outcome.RESTRICTED, "Resource not accessible")


def test_null_entries_of_users_lists() -> None:
    edges = [None, {"starredAt": "2020-01-01T00:00:00Z", "node": None}, {"node": {"databaseId": 7}},
             {"starredAt": None, "node": {"databaseId": 8, "nameWithOwner": "a/b"}}]  # fmt: skip
    info = {"hasNextPage": False, "endCursor": None}
    stars = {"totalCount": 4, "pageInfo": info, "edges": edges}
    answer: dict[str, object] = {"r0": {"databaseId": 5, "login": "octo", "starredRepositories": stars}}
    with serving(scripted_graphql(answer)) as url, client_of(url, "token") as client:
        (found,) = GraphQLStarred(client, 10).read([StarredListTask(SeedUser("octo", 5))], 1)
    assert found.rows is not None
    assert found.rows.select("repo_id", "full_name", "starred_at").rows() == [(8, "a/b", None)]
