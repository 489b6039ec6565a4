"""The REST list of stargazers."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import gh_assets.embedded.standin.app as standin_module
from gh_assets.collector.star_sources import stargazers
from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, RepositoryRef, stars_table
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.state import CollectionState
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STARGAZERS
from gh_assets_tests.conftest import QUICK, serving
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import world_of


def test_all_pages_are_read_in_order_with_times(github_of, collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(250)), "c/d": [7]})
    _, client = github_of(world)
    report = collecting.rest(world, client)
    assert (report.pages, report.stars, report.outcomes) == (4, 251, {"ok": 2})
    table = collecting.tables.read("a/b")[0]
    assert STARGAZERS.problem(table) is None
    assert table["user_id"].to_list() == [5000 + user for user in range(250)]
    assert table["login"][249] == "user-249"
    assert str(table["starred_at"][1]) == "2017-07-14 02:41:00+00:00"
    assert table["source"].unique().to_list() == ["stargazers"]


def test_a_list_that_was_cut_is_continued_with_more_pages(github_of, collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(350))})
    standin, client = github_of(world)
    assert collecting.rest(world, client, max_pages=2).stars == 200
    standin.served.clear()
    report = collecting.rest(world, client, max_pages=10)
    assert (report.stars, report.pages) == (350, 4)
    assert standin.served["304"] == 1, "the first page is known"
    assert collecting.rest(world, client, max_pages=10).pages == 0


def test_unchanged_pages_of_a_full_run_have_the_status_304(github_of, collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(120)), "c/d": [1]})
    standin, client = github_of(world)
    collecting.rest(world, client)
    before = collecting.tables.store.objects.describe("assets/stargazers/a/b.parquet")
    standin.served.clear()
    report = collecting.rest(world, client, full=True)
    assert (report.pages, report.pages_not_modified) == (3, 3)
    assert collecting.tables.store.objects.describe("assets/stargazers/a/b.parquet") == before, "no table is written"


def test_new_stars_are_read_without_sending_old_pages_again(github_of, collecting: Collecting) -> None:
    _, client = github_of(world_of({"a/b": list(range(150))}))
    collecting.rest(world_of({"a/b": list(range(150))}), client)
    grown = world_of({"a/b": list(range(230))})
    _, client = github_of(grown)
    report = collecting.rest(grown, client)
    assert (report.pages, report.pages_not_modified, report.stars) == (3, 1, 230)
    assert collecting.tables.read("a/b")[0]["user_id"].to_list() == [5000 + user for user in range(230)]


@hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 320),
    unstarred=st.lists(st.integers(0, 319), max_size=5),
    more=st.sampled_from([0, 1, 80, 100, 180]),
    pages=st.sampled_from([1, 2, 10]),
)
def test_a_refresh_collects_the_same_stars_as_a_first_run(
    github_of, asset_store, database, before: int, unstarred: list[int], more: int, pages: int
) -> None:
    old = world_of({"a/b": list(range(before))}, users=600)
    new = world_of({"a/b": [user for user in range(before + more) if user not in unstarred]}, users=600)
    database["stargazer_state"].delete_many({})
    refreshed = Collecting(asset_store, CollectionState(database))
    refreshed.rest(old, github_of(old)[1], pages)
    refreshed.rest(new, github_of(new)[1], pages, full=True)
    stored = refreshed.tables.read("a/b")[0]["user_id"].to_list()
    expected = [5000 + user for user in range(before + more) if user not in unstarred]
    if len(expected) <= 100 * pages:
        assert stored == expected
    else:  # known stars beyond the last page are kept
        assert set(expected[: 100 * pages]) <= set(stored) <= set(range(5000, 5000 + before + more))


@pytest.mark.parametrize(
    ("response", "metadata_status", "outcome"),
    [
        (Response(b'{"message": "Not Found"}', 404), 200, Outcome.RESTRICTED),
        (Response(b'{"message": "Not Found"}', 404), 404, Outcome.GONE),
        (Response(b'{"message": "Resource not accessible by personal access token"}', 403), 200, Outcome.RESTRICTED),
        (Response(b"[]", 200), 200, Outcome.RESTRICTED),
        (Response(b'{"message": "blocked"}', 451), 451, Outcome.BLOCKED),
        (Response(b'{"message": "x", "block": {"reason": "tos"}}', 403), 403, Outcome.BLOCKED),
        (Response(b"", 502), 200, Outcome.UNKNOWN),
        (Response(b'{"message": "odd"}', 422), 200, Outcome.UNKNOWN),
    ],
    ids=["hidden 404", "gone", "403", "empty though counted", "451", "block reason", "failing", "422"],
)
def test_refusals_are_classified(
    collecting: Collecting, response: Response, metadata_status: int, outcome: Outcome
) -> None:
    async def stargazers(_: Request) -> Response:
        return response

    async def metadata(_: Request) -> Response:
        return Response(b'{"id": 1}', metadata_status)

    app = Starlette(routes=[Route("/repositories/1/stargazers", stargazers), Route("/repositories/1", metadata)])
    with serving(app) as url, client_of(url) as client:
        repository = RepositoryRef(1, "a/b", "a/b", 12, Outcome.OK)
        report = collecting.run([repository], RestStargazers(client, 10))
    assert report.states["a/b"].outcome is outcome
    assert collecting.tables.partitions() == set()


def test_deleted_accounts_and_repeated_stars_are_left_out(collecting: Collecting) -> None:
    def page(entries: list[str], more: bool) -> Response:
        headers = {"link": '<http://x/?page=2>; rel="next"'} if more else {}
        return Response(b"[" + ",".join(entries).encode() + b"]", 200, headers)

    def entry(user: int) -> str:
        return f'{{"starred_at": "2020-01-01T00:00:00Z", "user": {{"login": "u{user}", "id": {user}}}}}'

    async def stargazers(request: Request) -> Response:
        # A star was taken back between the two pages, so that star 99 is repeated on page 2.
        if request.query_params["page"] == "1":
            return page(
                [entry(user) for user in range(1, 100)] + ['{"starred_at": "2020-01-01T00:00:00Z", "user": null}'], True
            )
        return page([entry(99), entry(200)], False)

    with serving(Starlette(routes=[Route("/repositories/1/stargazers", stargazers)])) as url, client_of(url) as client:
        report = collecting.run([RepositoryRef(1, "a/b", "a/b", 101, Outcome.OK)], RestStargazers(client, 10))
    table = collecting.tables.read("a/b")[0]
    assert table["user_id"].to_list() == [*range(1, 100), 200]
    assert report.stars == 100


def test_a_missing_link_header_does_not_end_the_list_early(collecting: Collecting) -> None:
    async def stargazers(request: Request) -> Response:
        page = int(request.query_params["page"])
        users = range((page - 1) * 100 + 1, min(page * 100, 250) + 1)
        entries = ",".join(f'{{"starred_at": null, "user": {{"login": "u{user}", "id": {user}}}}}' for user in users)
        return Response(f"[{entries}]", 200)

    with serving(Starlette(routes=[Route("/repositories/1/stargazers", stargazers)])) as url, client_of(url) as client:
        report = collecting.run([RepositoryRef(1, "a/b", "a/b", 250, Outcome.OK)], RestStargazers(client, 10))
    assert report.stars == 250


@pytest.fixture
def short_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make REST lists end after three pages, since tests with 40,000 stars would be slow."""
    monkeypatch.setattr(stargazers, "REST_PAGES", 3)
    monkeypatch.setattr(standin_module, "MAX_PAGE", 3)


def rest_and_more(client: GitHubClient, max_pages: int) -> RestStargazers:
    return RestStargazers(client, max_pages, lambda pages: GraphQLStargazers(client, pages))


@pytest.mark.usefixtures("short_rest")
def test_stars_beyond_the_last_page_of_rest_are_read_by_graphql(github_of, collecting: Collecting) -> None:
    world = world_of({"a/many": list(range(750)), "b/few": [1, 2], "c/edge": list(range(300))}, users=900)
    standin, client = github_of(world)
    report = collecting.run(refs(world), rest_and_more(client, 100), max_pages=100)
    assert report.stars == world.star_count
    table = collecting.tables.read("a/many")[0]
    assert table["user_id"].to_list() == [5000 + user for user in range(750)]
    assert table["source"].unique().to_list() == ["stargazers"]
    assert {key: state.complete for key, state in report.states.items()} == dict.fromkeys(report.states, True)
    assert "stargazers 422" not in standin.served
    standin.served.clear()
    assert collecting.run(refs(world), rest_and_more(client, 100), max_pages=100).asked == 0
    grown = world_of({"a/many": list(range(780)), "b/few": [1, 2], "c/edge": list(range(300))}, users=900)
    standin, client = github_of(grown)
    report = collecting.run(refs(grown), rest_and_more(client, 100), max_pages=100)
    assert collecting.tables.read("a/many")[0]["user_id"].to_list() == [5000 + user for user in range(780)]
    assert (standin.served["304"], standin.quota.spent["graphql"]) == (3, 1 + 1)
    assert report.states["a/many"].complete


@pytest.mark.usefixtures("short_rest")
def test_a_gap_between_the_oldest_and_the_newest_pages_is_not_complete(github_of, collecting: Collecting) -> None:
    world = world_of({"a/many": list(range(950))})
    _, client = github_of(world)
    report = collecting.run(refs(world), rest_and_more(client, 5), max_pages=5)
    table = collecting.tables.read("a/many")[0]
    assert table["user_id"].to_list() == [5000 + user for user in (*range(300), *range(750, 950))]
    assert not report.states["a/many"].complete
    report = collecting.run(refs(world), rest_and_more(client, 20), max_pages=20)
    assert (report.stars, report.states["a/many"].complete) == (950, True)


@pytest.mark.usefixtures("short_rest")
def test_pages_beyond_rest_are_kept_when_the_request_limit_is_reached(serve_world, collecting: Collecting) -> None:
    world = world_of({"a/many": list(range(1500))})
    standin, url = serve_world(world)
    with GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=2 + 3 + 9) as client:
        stopped = collecting.run(refs(world), rest_and_more(client, 100), max_pages=100)
    assert stopped.stopped
    standin.served.clear()
    with client_of(url, "token") as client:
        report = collecting.run(refs(world), rest_and_more(client, 100), max_pages=100)
    assert report.stars == 1500
    assert standin.served["graphql"] == 1 + 4, "twelve pages and one with a known star, nine of which had been read"
    assert collecting.state.interrupted() == set()


def test_rest_and_graphql_collect_the_same_stars(github_of, collecting: Collecting, database) -> None:
    sizes = np.random.default_rng(1).integers(0, 320, 40)
    world = world_of({f"a/{n}": list(range(size)) for n, size in enumerate(sizes)})
    _, client = github_of(world)
    collecting.run(refs(world), GraphQLStargazers(client, 10))
    by_graphql = {key: collecting.tables.read(key)[0].drop("source") for key in collecting.tables.partitions()}
    database["stargazer_state"].delete_many({})
    collecting.rest(world, client)
    for key, table in by_graphql.items():
        assert collecting.tables.read(key)[0].drop("source").equals(table)


class MovingList:
    """A list by REST that changes between two pages: the users listed now, oldest first."""

    def __init__(self, *users: int) -> None:
        self.users = list(users)
        self.after: dict[int, Callable[[], None]] = {}

    def app(self) -> Starlette:
        async def stargazers(request: Request) -> Response:
            number = int(request.query_params["page"])
            users = self.users[(number - 1) * 100 : number * 100]
            entries = [{"starred_at": "2024-01-01T00:00:00Z", "user": {"id": n, "login": f"u{n}"}} for n in users]
            content, tag = json.dumps(entries), f'W/"{hash(tuple(users))}"'
            if request.headers.get("if-none-match") == tag:
                return Response(status_code=304, headers={"etag": tag})
            more = {"link": '<http://x/?page=9>; rel="next"'} if number * 100 < len(self.users) else {}
            self.after.pop(number, lambda: None)()
            return Response(content, 200, {"etag": tag} | more)

        async def metadata(_: Request) -> Response:
            return Response(json.dumps({"id": 1, "stargazers_count": len(self.users)}))

        return Starlette(routes=[Route("/repositories/1/stargazers", stargazers), Route("/{path:path}", metadata)])


@pytest.mark.parametrize("more", [[], [999]], ids=["one star less", "one less, one more"])
def test_star_that_moves_to_a_page_already_read_is_not_lost(more: list[int]) -> None:
    server = MovingList(*range(1, 202))

    def change() -> None:
        server.users.remove(50)
        server.users += more

    server.after[1] = change
    table = stars_table(1, [(n, f"u{n}") for n in range(1, 202)], ["2024-01-01T00:00:00Z"] * 201, "stargazers")
    before = PreviousStars(table, [], complete=True, max_pages=10, source="stargazers", proven=True, entries=201)
    with serving(server.app()) as url, client_of(url) as client:
        repository = RepositoryRef(1, "a/b", "a/b", 201, Outcome.OK)
        task = CollectionTask(repository, lambda: before, full=True)
        (collected,) = RestStargazers(client, 10).collect([task], 1)
        assert (collected.proven, collected.unstarred) == (False, None)
        assert collected.table is not None
        assert set(server.users) <= set(collected.table["user_id"])
        (again,) = RestStargazers(client, 10).collect([task], 1)
    assert again.table is not None
    assert again.unstarred is not None
    assert set(again.table["user_id"]) == set(server.users)
    assert again.unstarred["user_id"].to_list() == [50]
