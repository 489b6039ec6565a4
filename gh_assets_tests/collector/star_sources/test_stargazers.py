"""The REST list of stargazers."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, RepositoryRef, stars_table
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.github.outcomes import Outcome
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import world_of


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
