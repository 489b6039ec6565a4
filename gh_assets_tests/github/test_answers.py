"""What GitHub answers on real days: the kinds in ``cases/answers``, and what each must lead to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.collector.star_sources.auto import OwnLists
from gh_assets.collector.star_sources.base import (
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    RestStargazers,
    StarCollection,
    stars_table,
)
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.starred import GraphQLStarred, SeedUser, StarredListTask, UserList
from gh_assets.embedded.standin.graphql import read_node_id
from gh_assets.errors import AuthenticationError, OutageError, RateLimitedError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.rate_limits import RetryPolicy
from gh_assets_tests.conftest import serving
from gh_assets_tests.github.test_client import FakeClock, client_of, fine, scripted
from gh_assets_tests.support.paths import CHECKOUT

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "answers"

STARS = {1: 4, 2: 6}
"""Repositories of the cases, by id, and how many people starred them."""

GitHubResponse = dict[str, Any]
Script = Callable[[list[int]], GitHubResponse | None]
"""Given the repositories that a query is about: the answer; None for a good one."""


def case(name: str) -> GitHubResponse:
    return json.loads((CASES / f"{name}.json").read_text())


def page(count: int, entries: str = "edges") -> GitHubResponse:
    edges = [
        {"starredAt": f"2024-03-{n + 1:02d}T00:00:00Z", "node": {"databaseId": 100 + n, "login": f"user{n}"}}
        for n in range(count)
    ]
    return {"totalCount": count, "pageInfo": {"hasNextPage": False, "endCursor": "c"}, entries: edges}


@contextmanager
def github(script: Script, asked: list[list[int]] | None = None) -> Iterator[GitHubClient]:
    """A client of a GitHub whose answers to queries for lists are scripted."""

    async def graphql(request: Request) -> Response:
        variables = (await request.json()).get("variables") or {}
        numbers = range(sum(name.startswith("i") for name in variables))
        if not numbers:  # whose the token is
            return Response(b'{"data": {"viewer": {"databaseId": 7}}}')
        ids = [read_node_id(variables[f"i{n}"])[1] for n in numbers]
        if asked is not None:
            asked.append(ids)
        scripted_answer = script(ids)
        if scripted_answer is None:
            scripted_answer = {"data": {f"r{n}": {"stargazers": page(STARS[ids[n]])} for n in numbers}}
        return Response(json.dumps(scripted_answer))

    async def other(request: Request) -> Response:
        return Response(b"{}", 200 if request.url.path == "/rate_limit" else 404)

    app = Starlette(routes=[Route("/graphql", graphql, methods=["POST"]), Route("/{path:path}", other)])
    with serving(app) as url, client_of(url, "token") as client:
        yield client


def first(*answers: GitHubResponse) -> Script:
    """These answers, then good ones."""
    left = list(answers)
    return lambda _: left.pop(0) if left else None


def always(answer: GitHubResponse) -> Script:
    """This answer whenever the first repository is asked for alone or first; the others are well."""

    def script(ids: list[int]) -> GitHubResponse | None:
        if 1 not in ids:
            return None
        place = ids.index(1)
        told = json.loads(json.dumps(answer).replace('"r0"', f'"r{place}"'))
        others = {f"r{n}": {"stargazers": page(STARS[i])} for n, i in enumerate(ids) if n != place}
        return told | {"data": told["data"] | others}

    return script


def collect(client: GitHubClient, *ids: int, before: PreviousStars | None = None) -> dict[int, StarCollection]:
    refs = [RepositoryRef(n, f"a/{n}", f"a/{n}", STARS[n], Outcome.OK) for n in ids or STARS]
    tasks = [CollectionTask(ref, lambda: before, full=before is not None) for ref in refs]
    return {c.repository.repo_id: c for c in GraphQLStargazers(client, 10).collect(tasks, 1)}


def people(collected: StarCollection) -> list[int]:
    assert collected.table is not None
    return sorted(user - 100 for user in collected.table["user_id"])


def known(*users: int) -> PreviousStars:
    """Stars that were proven to be all."""
    table = stars_table(1, [(100 + n, f"user{n}") for n in users], ["2024-03-01T00:00:00Z"] * len(users), "graphql")
    return PreviousStars(table, [], complete=True, max_pages=10, source="graphql", proven=True)


@pytest.mark.parametrize("name", ["edges-null-in-part", "edges-null-as-a-whole", "connection-null-error-without-path"])
def test_a_list_of_which_a_part_failed_is_asked_for_again(name: str) -> None:
    asked: list[list[int]] = []
    with github(first(case(name)), asked) as client:
        found = collect(client)
    # In one of the cases the second list is whole, with four.
    assert people(found[1]) == list(range(4))
    assert people(found[2]) in (list(range(4)), list(range(6)))
    assert all(collected.complete and collected.proven for collected in found.values())
    assert len(asked) == 2


@pytest.mark.parametrize("name", ["edges-null-in-part", "edges-null-as-a-whole"])
def test_a_list_of_which_a_part_fails_each_time_is_never_whole_and_takes_no_star_back(name: str) -> None:
    answer = json.loads(json.dumps(case(name)).replace('"r0"', '"other"').replace('"r1"', '"r0"'))
    answer["data"].pop("other")
    with github(always(answer)) as client:
        found = collect(client, before=known(0, 5))
    assert (found[1].outcome, found[1].table, found[1].unstarred) == (Outcome.UNKNOWN, None, None)
    assert "Resource limits" in str(found[1].reason)
    assert found[2].complete, "the others of its query do not suffer"


def test_a_deleted_person_is_no_failure() -> None:
    asked: list[list[int]] = []
    with github(always(case("one-deleted-person")), asked) as client:
        (collected,) = collect(client, 1).values()
    assert (people(collected), collected.complete, collected.proven) == ([0, 1, 3], True, True)
    assert (collected.null_entries, collected.failed_entries, len(asked)) == (1, 0, 1)


def test_an_entry_that_fails_each_time_is_counted_and_the_list_is_whole_without_it() -> None:
    asked: list[list[int]] = []
    with github(always(case("one-failed-node")), asked) as client:
        (collected,) = collect(client, 1).values()
    assert len(asked) >= 3
    assert (people(collected), collected.complete, collected.failed_entries) == ([0, 1, 3], True, 1)
    assert "GitHub failed on 1 entries each time" in str(collected.reason)


def test_who_may_be_the_failed_entry_has_taken_nothing_back() -> None:
    with github(always(case("one-failed-node"))) as client:
        (collected,) = collect(client, 1, before=known(0, 2)).values()
    assert (people(collected), collected.unstarred) == ([0, 1, 2, 3], None)


def test_a_page_that_lost_most_of_its_entries_is_not_taken_without_them() -> None:
    answer = case("one-failed-node")
    edges, error = answer["data"]["r0"]["stargazers"]["edges"], answer["errors"][0]
    edges[0] = edges[1] = None
    answer["errors"] += [error | {"path": [*error["path"][:3], place, "node"]} for place in (0, 1)]
    with github(always(answer)) as client:
        (collected,) = collect(client, 1).values()
    assert collected.outcome is Outcome.UNKNOWN


def test_a_closed_list_is_restricted() -> None:
    with github(always(case("closed-list"))) as client:
        (collected,) = collect(client, 1).values()
    assert (collected.outcome, collected.table) == (Outcome.RESTRICTED, None)


def test_an_untyped_error_is_a_query_that_was_too_heavy() -> None:
    asked: list[list[int]] = []
    clock = FakeClock()
    with github(first(*[case("untyped-under-200")] * 2), asked) as client:
        client.pool.clock = clock
        found = collect(client)
    assert all(collected.complete for collected in found.values())
    assert asked == [[1, 2], [1, 2], [1], [2]], "once together, then in halves"
    assert len(clock.waits) >= 2, "and not in the same second"


def test_a_list_that_is_shorter_than_its_count_is_kept_but_not_whole() -> None:
    short = {"data": {"r0": {"stargazers": page(3) | {"totalCount": 4}}}}
    with github(always(short)) as client:
        (collected,) = collect(client, 1, before=known(0, 3)).values()
    assert (people(collected), collected.complete, collected.proven) == ([0, 1, 2, 3], False, False)
    assert collected.unstarred is None
    assert collected.reason == "3 entries were read, and GitHub counts 4"


def test_a_page_without_its_edges_is_asked_for_again_though_nobody_speaks_of_an_error() -> None:
    silent = {"data": {"r0": {"stargazers": page(4) | {"edges": None}}}}
    with github(first(silent)) as client:
        (collected,) = collect(client, 1).values()
    assert people(collected) == list(range(4))


@pytest.mark.parametrize("depth", [["r0", "starredRepositories", "edges", 1, "node"], ["r0", "starredRepositories"]])
def test_a_users_list_is_whole_only_if_nothing_in_it_failed(depth: list[Any]) -> None:
    def user(broken: bool) -> GitHubResponse:
        edges: list[Any] = [
            {"starredAt": f"2024-01-{n + 1:02d}T00:00:00Z", "node": {"databaseId": n, "nameWithOwner": f"a/{n}"}}
            for n in range(1, 5)
        ]
        if broken and len(depth) > 2:
            edges[1] = None
        stars = {"totalCount": 4, "pageInfo": {"hasNextPage": False, "endCursor": None}, "edges": edges}
        node = {"databaseId": 5, "login": "octo", "starredRepositories": None if broken and len(depth) == 2 else stars}
        errors = [{"message": "Something went wrong", "path": depth}]
        return {"data": {"r0": node}} | ({"errors": errors} if broken else {})

    answers = [user(True), user(False)]

    async def graphql(request: Request) -> Response:
        if b"viewer" in await request.body():
            return Response(b'{"data": {"viewer": {"databaseId": 7}}}')
        return Response(json.dumps(answers.pop(0)))

    async def other(_: Request) -> Response:
        return Response(b"{}")

    app = Starlette(routes=[Route("/graphql", graphql, methods=["POST"]), Route("/{path:path}", other)])
    with serving(app) as url, client_of(url, "token") as client:
        found: UserList
        (found,) = GraphQLStarred(client, 10).read([(StarredListTask(SeedUser("octo", 5)), False)], 1)
    assert found.rows is not None
    assert (found.rows["repo_id"].to_list(), found.complete, found.proven) == ([1, 2, 3, 4], True, True)


# -- tokens and limits ---------------------------------------------------------------------------------------------


def rest(name: str) -> Response:
    answer = case(name)
    return Response(json.dumps(answer["body"]), answer["status"], answer["headers"])


def test_one_refusal_of_a_good_token_ends_nothing() -> None:
    with serving(scripted([rest("bad-credentials-once"), fine()])) as url, client_of(url) as client:
        assert client.get("/x").payload == {"fine": True}
        assert client.pool.retired == []


def test_a_token_is_given_up_only_when_what_costs_nothing_is_refused_twice() -> None:
    """Asked twice, then what is left of the quota, and once more after a pause."""
    seen: list[str] = []

    async def refuse(request: Request) -> Response:
        seen.append(request.url.path)
        known = len(seen) < 3  # whose it is was asked while it was good
        return Response(b'{"id": 1}', 200 if known else 401)

    clock = FakeClock()
    app = Starlette(routes=[Route("/{path:path}", refuse, methods=["GET", "POST"])])
    with (
        serving(app) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
        pytest.raises(AuthenticationError, match="401 Bad credentials"),
    ):
        client.get("/x")
    assert seen[2:] == ["/x", "/x", "/rate_limit", "/rate_limit"]
    assert RetryPolicy().confirmation_wait in clock.waits


def test_old_words_for_a_secondary_limit_are_waited_for_and_no_refusal() -> None:
    clock, said = FakeClock(), list[str]()
    policy = RetryPolicy()
    with serving(scripted([rest("abuse-403"), fine()])) as url, client_of(url, policy=policy, clock=clock) as client:
        client.pool.notify = said.append
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 59.99
    assert len(said) == 1
    assert "secondary rate limit" in said[0]


def test_old_words_for_a_secondary_limit_are_no_reason_to_do_without_graphql() -> None:
    with github(first(), None) as client:
        abuse = rest("abuse-403")
        answers = [abuse]

        real = client._send

        def send(method: str, url: str, *arguments: Any, **named: Any) -> Any:
            response = real(method, url, *arguments, **named)
            if answers and method == "POST" and b"viewer" not in (named.get("body") or b""):
                answers.pop()
                response.status_code, response._content = 403, bytes(abuse.body)
            return response

        client._send = send  # type: ignore[method-assign]
        assert all(collected.complete for collected in collect(client).values())


@pytest.mark.parametrize("reset", ["1672531200", "0", "99999999999", "soon", "nan", "inf", None])
@pytest.mark.parametrize("status", [200, 403])
def test_figures_that_cannot_be_true_are_waited_for_no_longer_than_a_secondary_limit(
    status: int, reset: str | None
) -> None:
    clock = FakeClock()
    clock.time = 1_795_000_000.0
    told = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0"} | ({"x-ratelimit-reset": reset} if reset else {})
    odd = Response(b'{"fine": true}' if status == 200 else b'{"message": "API rate limit exceeded"}', status, told)
    with (
        serving(scripted([odd, odd, fine()])) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
    ):
        for _ in range(3):
            assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) <= (1 if status == 200 else 200)


def test_a_limit_without_end_is_one_clear_error() -> None:
    clock = FakeClock()
    with (
        serving(scripted([rest("abuse-403")])) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
        pytest.raises(RateLimitedError, match="nothing but its secondary rate limit for"),
    ):
        client.get("/x")
    assert 3600 <= sum(clock.waits) <= 3 * 3600


@pytest.mark.parametrize("status", [400, 403, 404, 405, 406, 422, 501])
def test_lists_are_read_by_rest_where_there_is_no_graphql(status: int) -> None:
    entries = [{"starred_at": "2024-03-01T00:00:00Z", "user": {"id": 100 + n, "login": f"user{n}"}} for n in range(4)]

    async def graphql(_: Request) -> Response:
        return Response(b'{"message": "Not here"}', status)

    async def stargazers(_: Request) -> Response:
        return Response(json.dumps(entries))

    async def other(_: Request) -> Response:
        return Response(b'{"id": 7}')

    routes = [Route("/graphql", graphql, methods=["POST"]), Route("/repositories/1/stargazers", stargazers)]
    with (
        serving(Starlette(routes=[*routes, Route("/{path:path}", other)])) as url,
        client_of(url, "token") as client,
    ):
        source = OwnLists(GraphQLStargazers(client, 10), RestStargazers(client, 10))
        (collected,) = source.collect([CollectionTask(RepositoryRef(1, "a/1", "a/1", 4, Outcome.OK))], 1)
    assert (people(collected), collected.complete, collected.source) == ([0, 1, 2, 3], True, "stargazers")


# -- lists that move, and answers that are of no kind at all -----------------------------------------------------------


def edges_of(*users: int | None) -> list[Any]:
    return [
        None
        if n is None
        else {"starredAt": f"2024-03-{n % 28 + 1:02d}T00:00:00Z", "node": {"databaseId": 100 + n, "login": f"user{n}"}}
        for n in users
    ]


def list_of(edges: list[Any], total: int, after: str | None = None) -> GitHubResponse:
    info = {"hasNextPage": after is not None, "endCursor": after}
    return {"data": {"r0": {"stargazers": {"totalCount": total, "pageInfo": info, "edges": edges}}}}


GARBAGE: dict[str, Any] = {
    "node is a text": [{"starredAt": None, "node": "user0"}],
    "edge is a number": [7],
    "id is a text": [{"starredAt": None, "node": {"databaseId": "100", "login": "user0"}}],
    "id is a bool": [{"starredAt": None, "node": {"databaseId": True, "login": "user0"}}],
    "id is negative": [{"starredAt": None, "node": {"databaseId": -1, "login": "user0"}}],
    "id is too large": [{"starredAt": None, "node": {"databaseId": 2**63, "login": "user0"}}],
    "time is a number": [{"starredAt": 7, "node": {"databaseId": 100, "login": "user0"}}],
}


@pytest.mark.parametrize("edges", GARBAGE.values(), ids=list(GARBAGE))
def test_entries_that_are_no_stars_are_asked_for_again(edges: list[Any]) -> None:
    with github(first(list_of(edges, 1))) as client:
        (collected,) = collect(client, 1).values()
    assert (people(collected), collected.complete) == ([0, 1, 2, 3], True)


@pytest.mark.parametrize(
    "errors",
    [["boom"], {"message": "boom"}, [{"path": ["repo", "x"]}], [{"path": [None, 3]}], [{"path": "r0"}], [7]],
    ids=["texts", "no list", "another alias", "no alias", "a text as path", "a number"],
)
def test_errors_of_no_known_form_are_errors(errors: Any) -> None:
    broken = list_of(edges_of(0, None, 2, 3), 4) | {"errors": errors}
    with github(first(broken)) as client:
        (collected,) = collect(client, 1).values()
    assert (people(collected), collected.null_entries) == ([0, 1, 2, 3], 0)


def test_entries_without_users_are_believed_of_a_few_only() -> None:
    with github(first(list_of([None] * 4, 4))) as client:
        (collected,) = collect(client, 1, before=known(0, 1, 2, 3)).values()
    assert (people(collected), collected.proven, collected.unstarred) == ([0, 1, 2, 3], False, None)
    assert collected.reason == "4 of its 4 entries came without a user"


def test_cursors_that_lead_in_a_circle_end() -> None:
    pages = {
        None: list_of(edges_of(0, 1), 9, "a"),
        "a": list_of(edges_of(2, 3), 9, "b"),
        "b": list_of(edges_of(4), 9, "a"),
    }
    asked: list[Any] = []

    async def graphql(request: Request) -> Response:
        variables = (await request.json()).get("variables") or {}
        if not variables:
            return Response(b'{"data": {"viewer": {"databaseId": 7}}}')
        asked.append(variables["c0"])
        return Response(json.dumps(pages[variables["c0"]]))

    async def other(_: Request) -> Response:
        return Response(b"{}")

    app = Starlette(routes=[Route("/graphql", graphql, methods=["POST"]), Route("/{path:path}", other)])
    with serving(app) as url, client_of(url, "token") as client:
        (collected,) = collect(client, 1).values()
    assert (people(collected), collected.complete, collected.proven) == ([0, 1, 2, 3], False, False)
    assert len(asked) < 10
    assert "could not be read to its end" in str(collected.reason)


def test_an_outage_under_200_ends_the_run() -> None:
    nothing: Script = lambda _: {"data": None, "errors": [{"message": "Something went wrong"}]}  # noqa: E731
    tasks = [CollectionTask(RepositoryRef(n, f"a/{n}", f"a/{n}", 4, Outcome.OK)) for n in range(1, 200)]
    asked: list[list[int]] = []
    with github(nothing, asked) as client, pytest.raises(OutageError, match="failed on 60 GraphQL queries in a row"):
        list(GraphQLStargazers(client, 10).collect(tasks, 1))
    assert len(asked) <= 70


def test_a_warning_beside_whole_lists_is_none() -> None:
    asked: list[list[int]] = []
    warned = list_of(edges_of(0, 1, 2, 3), 4) | {"errors": [{"message": "a deprecation"}]}
    with github(lambda _: warned, asked) as client:
        found = [collect(client, 1) for _ in range(3)]
    assert all(collected.complete for one in found for collected in one.values())
    assert len(asked) == 3


class Offset:
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
def test_a_star_that_moves_to_a_page_that_was_read_is_not_lost_by_rest(more: list[int]) -> None:
    server = Offset(*range(1, 202))

    def change() -> None:
        server.users.remove(50)
        server.users += more

    server.after[1] = change
    table = stars_table(1, [(n, f"u{n}") for n in range(1, 202)], ["2024-01-01T00:00:00Z"] * 201, "stargazers")
    before = PreviousStars(table, [], complete=True, max_pages=10, source="stargazers", proven=True, entries=201)
    with serving(server.app()) as url, client_of(url) as client:
        repository = RepositoryRef(1, "a/b", "a/b", 201, Outcome.OK)
        work = CollectionTask(repository, lambda: before, full=True)
        (collected,) = RestStargazers(client, 10).collect([work], 1)
        assert (collected.proven, collected.unstarred) == (False, None)
        assert collected.table is not None
        assert set(server.users) <= set(collected.table["user_id"])
        (again,) = RestStargazers(client, 10).collect([work], 1)
    assert again.table is not None
    assert again.unstarred is not None
    assert set(again.table["user_id"]) == set(server.users)
    assert again.unstarred["user_id"].to_list() == [50]


def test_a_retry_after_of_years_is_not_believed_and_one_of_nothing_grows() -> None:
    clock = FakeClock()
    for_ever = Response(b"{}", 429, {"retry-after": "9" * 40})
    with (
        serving(scripted([for_ever])) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
        pytest.raises(RateLimitedError, match="another 120 minutes"),
    ):
        client.get("/x")
    now = Response(b"{}", 429, {"retry-after": "0"})
    with serving(scripted([*[now] * 12, fine()])) as url, client_of(url, policy=RetryPolicy(), clock=clock) as client:
        clock.waits.clear()
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 30


def test_a_budget_of_nothing_is_no_budget() -> None:
    told = {"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "2000000000"}
    clock = FakeClock()
    with serving(scripted([Response(b'{"fine": true}', 200, told)])) as url, client_of(url, clock=clock) as client:
        for _ in range(3):
            assert client.get("/x").payload == {"fine": True}
    assert len(clock.waits) < 5
