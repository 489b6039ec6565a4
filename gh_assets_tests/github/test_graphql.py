"""Lists read by GraphQL from responses that fail in part."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from pydantic import SecretStr
from starlette.responses import Response

from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, StarCollection, stars_table
from gh_assets.collector.star_sources.file import LoginLookup, _User, users_query
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, StarredListTask
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.embedded.standin.graphql import read_node_id
from gh_assets.errors import OutageError
from gh_assets.github.client import GitHubClient
from gh_assets.github.graphql import GraphQLLists, QuerySize
from gh_assets.github.outcomes import Outcome
from gh_assets.github.transport import Request
from gh_assets_tests.support.collecting import ref, table_of
from gh_assets_tests.support.github import FakeClock, Json, graphql, load_case, rest_case, stargazers_page, stars_page

STARS = {1: 4, 2: 6}
"""Numbers of stars of the cases' repositories, by id."""


Script = Callable[[list[int]], Json | None]
"""Returns the response to a query for the given repositories; None for a valid one."""


def edges_of(*users: int | None) -> list[Any]:
    return [
        None
        if n is None
        else {"starredAt": f"2024-03-{n % 28 + 1:02d}T00:00:00Z", "node": {"databaseId": 100 + n, "login": f"user{n}"}}
        for n in users
    ]


def valid(repo_id: int) -> Json:
    return {"stargazers": stars_page(edges_of(*range(STARS[repo_id])), STARS[repo_id])}


@contextmanager
def github(script: Script, queries: list[list[int]] | None = None) -> Iterator[GitHubClient]:
    """Yield a client of a server with scripted responses to queries for lists."""

    def answer(variables: Json) -> Json:
        ids = [read_node_id(variables[f"i{n}"])[1] for n in range(sum(name.startswith("i") for name in variables))]
        if queries is not None:
            queries.append(ids)
        return script(ids) or {"data": {f"r{n}": valid(repo_id) for n, repo_id in enumerate(ids)}}

    with graphql(answer) as client:
        yield client


def first(*responses: Json) -> Script:
    """Return these responses, then valid ones."""
    left = list(responses)
    return lambda _: left.pop(0) if left else None


def always(response: Json) -> Script:
    """Return this response for the first repository in every query; the others are valid."""

    def script(ids: list[int]) -> Json | None:
        if 1 not in ids:
            return None
        place = ids.index(1)
        own: Json = json.loads(json.dumps(response).replace('"r0"', f'"r{place}"'))
        others = {f"r{n}": valid(repo_id) for n, repo_id in enumerate(ids) if n != place}
        return {**own, "data": own["data"] | others}

    return script


def collect(client: GitHubClient, *ids: int, before: PreviousStars | None = None) -> dict[int, StarCollection]:
    wanted = [ref(n, f"a/{n}", STARS[n]) for n in ids or STARS]
    tasks = [CollectionTask(repository, lambda: before, full=before is not None) for repository in wanted]
    return {c.repository.repo_id: c for c in GraphQLStargazers(client, 10).collect(tasks, 1)}


def collect_one(
    script: Script, queries: list[list[int]] | None = None, before: PreviousStars | None = None
) -> StarCollection:
    with github(script, queries) as client:
        (collected,) = collect(client, 1, before=before).values()
    return collected


def users_of(collected: StarCollection) -> list[int]:
    return sorted(user - 100 for user in table_of(collected)["user_id"])


def known(*users: int) -> PreviousStars:
    """Return proven stars."""
    table = stars_table(1, [(100 + n, f"user{n}") for n in users], ["2024-03-01T00:00:00Z"] * len(users), "graphql")
    return PreviousStars(table, [], complete=True, max_pages=10, source="graphql", proven=True)


@pytest.mark.parametrize("name", ["edges-null-in-part", "edges-null-as-a-whole", "connection-null-error-without-path"])
def test_list_that_failed_in_part_is_requested_again(name: str) -> None:
    queries: list[list[int]] = []
    with github(first(load_case(name)), queries) as client:
        found = collect(client)
    # In one case the second list is complete, with four stars.
    assert users_of(found[1]) == list(range(4))
    assert users_of(found[2]) in (list(range(4)), list(range(6)))
    assert all(collected.complete and collected.proven for collected in found.values())
    assert len(queries) == 2


@pytest.mark.parametrize("name", ["edges-null-in-part", "edges-null-as-a-whole"])
def test_list_that_keeps_failing_in_part_is_unknown_and_loses_no_star(name: str) -> None:
    response = json.loads(json.dumps(load_case(name)).replace('"r0"', '"other"').replace('"r1"', '"r0"'))
    response["data"].pop("other")
    with github(always(response)) as client:
        found = collect(client, before=known(0, 5))
    assert (found[1].outcome, found[1].table, found[1].unstarred) == (Outcome.UNKNOWN, None, None)
    assert "Resource limits" in str(found[1].reason)
    assert found[2].complete, "other lists of the query are complete"


def test_deleted_account_is_no_failure() -> None:
    queries: list[list[int]] = []
    collected = collect_one(always(load_case("one-deleted-person")), queries)
    assert (users_of(collected), collected.complete, collected.proven) == ([0, 1, 3], True, True)
    assert (collected.null_entries, collected.failed_entries, len(queries)) == (1, 0, 1)


def test_entry_that_keeps_failing_is_counted_and_the_list_is_complete_without_it() -> None:
    queries: list[list[int]] = []
    collected = collect_one(always(load_case("one-failed-node")), queries)
    assert len(queries) >= 3
    assert (users_of(collected), collected.complete, collected.failed_entries) == ([0, 1, 3], True, 1)
    assert "GitHub failed on 1 entries each time" in str(collected.reason)


def test_user_who_may_be_the_failed_entry_is_not_unstarred() -> None:
    collected = collect_one(always(load_case("one-failed-node")), before=known(0, 2))
    assert (users_of(collected), collected.unstarred) == ([0, 1, 2, 3], None)


def test_page_without_most_of_its_entries_is_not_accepted() -> None:
    response = load_case("one-failed-node")
    edges, error = response["data"]["r0"]["stargazers"]["edges"], response["errors"][0]
    edges[0] = edges[1] = None
    response["errors"] += [error | {"path": [*error["path"][:3], place, "node"]} for place in (0, 1)]
    assert collect_one(always(response)).outcome is Outcome.UNKNOWN


def test_closed_list_is_restricted() -> None:
    collected = collect_one(always(load_case("closed-list")))
    assert (collected.outcome, collected.table) == (Outcome.RESTRICTED, None)


def test_untyped_error_means_that_the_query_was_too_heavy() -> None:
    queries: list[list[int]] = []
    with github(first(*[load_case("untyped-under-200")] * 2), queries) as client:
        client.pool.clock = clock = FakeClock()
        found = collect(client)
    assert all(collected.complete for collected in found.values())
    assert queries == [[1, 2], [1, 2], [1], [2]], "once together, then in halves"
    assert len(clock.waits) >= 2, "with a wait"


def test_list_shorter_than_its_count_is_kept_but_not_proven() -> None:
    collected = collect_one(always(stargazers_page(edges_of(0, 1, 2), 4)), before=known(0, 3))
    found = users_of(collected), collected.complete, collected.proven, collected.unstarred, collected.reason
    assert found == ([0, 1, 2, 3], False, False, None, "3 entries were read, and GitHub counts 4")


def test_page_without_edges_is_requested_again_even_without_an_error() -> None:
    assert users_of(collect_one(first(stargazers_page(None, 4)))) == list(range(4))


@pytest.mark.parametrize("depth", [["r0", "starredRepositories", "edges", 1, "node"], ["r0", "starredRepositories"]])
def test_users_list_is_complete_only_if_no_part_failed(depth: list[Any]) -> None:
    edges: list[Any] = [
        {"starredAt": f"2024-01-{n + 1:02d}T00:00:00Z", "node": {"databaseId": n, "nameWithOwner": f"a/{n}"}}
        for n in range(1, 5)
    ]
    whole, broken = stars_page(edges, 4), stars_page([edges[0], None, *edges[2:]], 4) if len(depth) > 2 else None
    responses = [
        {"data": {"r0": {"databaseId": 5, "login": "octo", "starredRepositories": stars}}, "errors": errors}
        for stars, errors in ((broken, [{"message": "Something went wrong", "path": depth}]), (whole, []))
    ]
    with graphql(lambda _: responses.pop(0)) as client:
        (found,) = GraphQLStarred(client, 10).read([StarredListTask(SeedUser("octo", 5))], 1)
    assert found.rows is not None
    assert (found.rows["repo_id"].to_list(), found.complete, found.proven) == ([1, 2, 3, 4], True, True)


def test_former_text_of_a_secondary_limit_does_not_disable_graphql(monkeypatch: pytest.MonkeyPatch) -> None:
    with github(first(), None) as client:
        abuse = rest_case("abuse-403")
        pending = [abuse]
        send = client.transport.send

        def limited_once(sent: Request, secret: SecretStr | str) -> requests.Response:
            response = send(sent, secret)
            if pending and sent.method == "POST" and b"viewer" not in (sent.body or b""):
                pending.pop()
                response.status_code, response._content = 403, bytes(abuse.body)
            return response

        monkeypatch.setattr(client.transport, "send", limited_once)
        assert all(collected.complete for collected in collect(client).values())


GARBAGE: dict[str, Any] = {
    "node is a text": {"node": "user0"},
    "edge is a number": 7,
    "id is a text": {"node": {"databaseId": "100", "login": "user0"}},
    "id is a bool": {"node": {"databaseId": True, "login": "user0"}},
    "id is negative": {"node": {"databaseId": -1, "login": "user0"}},
    "id is too large": {"node": {"databaseId": 2**63, "login": "user0"}},
    "time is a number": {"starredAt": 7, "node": {"databaseId": 100, "login": "user0"}},
}


@pytest.mark.parametrize("edge", GARBAGE.values(), ids=list(GARBAGE))
def test_malformed_entries_are_requested_again(edge: Any) -> None:
    collected = collect_one(first(stargazers_page([edge], 1)))
    assert (users_of(collected), collected.complete) == ([0, 1, 2, 3], True)


@pytest.mark.parametrize(
    "errors",
    [["boom"], {"message": "boom"}, [{"path": ["repo", "x"]}], [{"path": [None, 3]}], [{"path": "r0"}], [7]],
    ids=["texts", "no list", "another alias", "no alias", "a text as path", "a number"],
)
def test_errors_of_unknown_form_are_errors(errors: Any) -> None:
    collected = collect_one(first(stargazers_page(edges_of(0, None, 2, 3), 4) | {"errors": errors}))
    assert (users_of(collected), collected.null_entries) == ([0, 1, 2, 3], 0)


def test_only_few_entries_without_users_are_plausible() -> None:
    collected = collect_one(first(stargazers_page([None] * 4, 4)), before=known(0, 1, 2, 3))
    assert (users_of(collected), collected.proven, collected.unstarred) == ([0, 1, 2, 3], False, None)
    assert collected.reason == "4 of its 4 entries came without a user"


def test_cursors_that_form_a_circle_end_the_list() -> None:
    pages = {
        None: stargazers_page(edges_of(0, 1), 9, "a"),
        "a": stargazers_page(edges_of(2, 3), 9, "b"),
        "b": stargazers_page(edges_of(4), 9, "a"),
    }
    queries: list[Any] = []

    def answer(variables: Json) -> Json:
        queries.append(variables["c0"])
        return pages[variables["c0"]]

    with graphql(answer) as client:
        (collected,) = collect(client, 1).values()
    assert (users_of(collected), collected.complete, collected.proven) == ([0, 1, 2, 3], False, False)
    assert len(queries) < 10
    assert "could not be read to its end" in str(collected.reason)


@pytest.mark.parametrize("answered", [0, 1, 3, 5])
def test_every_list_is_read_once_whenever_graphql_becomes_unavailable(answered: int) -> None:
    logins: list[str] = []

    def answer(variables: Json) -> Json | Response:
        logins.append(variables["l0"])
        user = {"databaseId": 7, "login": variables["l0"]}
        return {"data": {"r0": user}} if len(logins) <= answered else Response(status_code=404)

    with graphql(answer) as client:
        lists = GraphQLLists(client, users_query, _User, QuerySize(1, 1))
        found = list(lists.read("abcde", 2, lambda left: (LoginLookup(login, None, login) for login in left)))
    assert sorted(lookup.key for lookup in found) == list("abcde")
    assert {lookup.key for lookup in found if lookup.user_id} == set(logins[:answered]), "the others by REST"


def test_outage_with_status_200_ends_the_run() -> None:
    nothing: Json = {"data": None, "errors": [{"message": "Something went wrong"}]}
    tasks = [CollectionTask(ref(n, f"a/{n}", 4)) for n in range(1, 200)]
    queries: list[list[int]] = []
    outage = pytest.raises(OutageError, match="failed on 60 GraphQL queries in a row")
    with github(lambda _: nothing, queries) as client, outage:
        list(GraphQLStargazers(client, 10, by_rest=RestStargazers(client, 10)).collect(tasks, 1))
    assert len(queries) <= 70


def test_warning_beside_complete_lists_is_ignored() -> None:
    queries: list[list[int]] = []
    warned = stargazers_page(edges_of(0, 1, 2, 3), 4) | {"errors": [{"message": "a deprecation"}]}
    with github(lambda _: warned, queries) as client:
        found = [collect(client, 1) for _ in range(3)]
    assert all(collected.complete for one in found for collected in one.values())
    assert len(queries) == 3
