"""Tests of GraphQL in the stand-in, with GitHub's costs and limits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graphql import GraphQLSchema, build_schema, parse, validate

from gh_assets.collector.repositories import nodes_query, repositories_query
from gh_assets.collector.seed_users import forks_query
from gh_assets.collector.star_sources.graphql import stargazers_query
from gh_assets.collector.star_sources.starred_lists import starred_query
from gh_assets.embedded.standin.graphql import SDL, node_id
from gh_assets.embedded.standin.limits import Limits
from gh_assets_tests.support.standin import StandinClient, StandinOf
from gh_assets_tests.support.worlds import troubled_world, world_of

STARS = """
query($id: ID!, $after: String) {
  node(id: $id) { ... on Repository { databaseId stargazers(first: 100, after: $after, orderBy: {field: STARRED_AT, direction: %s}) {
    totalCount pageInfo { hasNextPage endCursor } edges { starredAt node { databaseId login } } } } }
  rateLimit { cost remaining limit resetAt nodeCount }
}
"""  # noqa: E501

KEY = node_id("Repository", 1)

QUERIES = {
    "stargazers": stargazers_query,
    "starred": starred_query,
    "repositories": repositories_query,
    "nodes": nodes_query,
    "forks": forks_query,
}


def all_stars(session: StandinClient, direction: str) -> list[tuple[str, int]]:
    found, after = [], None
    while True:
        page = session.ask(STARS % direction, id=KEY, after=after)["data"]["node"]["stargazers"]
        found += [(edge["starredAt"], edge["node"]["databaseId"]) for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            assert page["totalCount"] == len(found)
            return found


@pytest.mark.parametrize("seconds", [60, 0], ids=["times a minute apart", "equal times"])
def test_stars_by_pages_in_both_orders(standin_of: StandinOf, seconds: int) -> None:
    world = world_of({"a/b": list(range(250))})
    world.repositories[0].starred_at = 1_500_000_000 + seconds * np.arange(250)
    session = standin_of(world)
    assert session.ask('{ repository(owner: "A", name: "B") { id } }')["data"]["repository"]["id"] == KEY
    oldest = all_stars(session, "ASC")
    assert [user for _, user in oldest] == [5000 + user for user in range(250)]
    assert all_stars(session, "DESC") == oldest[::-1]


def test_star_added_during_paging_does_not_shift_pages(standin_of: StandinOf) -> None:
    world = world_of({"a/b": list(range(150))}, users=300)
    session = standin_of(world)
    first = session.ask(STARS % "DESC", id=KEY)["data"]["node"]["stargazers"]
    grown = world_of({"a/b": list(range(160))}, users=300).repositories[0]
    world.repositories[0].stargazers, world.repositories[0].starred_at = grown.stargazers, grown.starred_at
    second = session.ask(STARS % "DESC", id=KEY, after=first["pageInfo"]["endCursor"])["data"]["node"]["stargazers"]
    users = [edge["node"]["databaseId"] for edge in first["edges"] + second["edges"]]
    assert users == [5000 + user for user in range(149, -1, -1)]


def test_metadata_aliases_and_partial_data_with_errors(standin_of: StandinOf) -> None:
    session = standin_of(troubled_world())
    fields = "databaseId nameWithOwner stargazerCount isArchived primaryLanguage { name } " \
        "repositoryTopics(first: 20) { nodes { topic { name } } }"  # fmt: skip
    answer = session.ask(
        f'{{ a: repository(owner: "good", name: "one") {{ {fields} }} '
        f'b: repository(owner: "old", name: "name") {{ {fields} }} '
        f'c: repository(owner: "not", name: "there") {{ {fields} }} '
        'd: repository(owner: "closed", name: "list") { stargazerCount stargazers(first: 1) { totalCount } } '
        'e: repository(owner: "old", name: "name", followRenames: false) { id } }'
    )
    data = answer["data"]
    assert (data["a"]["databaseId"], data["a"]["stargazerCount"], data["a"]["primaryLanguage"]) == (1, 250, None)
    assert data["b"]["nameWithOwner"] == "fresh/name", "renames are followed"
    assert (data["c"], data["d"], data["e"]) == (None, None, None)
    assert [(error["type"], error["path"]) for error in answer["errors"]] == [
        ("NOT_FOUND", ["c"]), ("FORBIDDEN", ["d", "stargazers"]), ("NOT_FOUND", ["e"]),
    ]  # fmt: skip


def test_restricted_world_lists_only_starred_repositories_of_users(standin_of: StandinOf) -> None:
    session = standin_of(world_of({"a/b": [0, 1, 2]}), restricted=True)
    answer = session.ask('{ repository(owner: "a", name: "b") { stargazers(first: 1) { totalCount } } }')
    assert (answer["data"]["repository"], answer["errors"][0]["type"]) == (None, "FORBIDDEN")
    starred = session.ask(
        '{ user(login: "user-1") { starredRepositories(first: 10) { totalCount nodes { databaseId } } } }'
    )
    assert starred["data"]["user"]["starredRepositories"] == {"totalCount": 1, "nodes": [{"databaseId": 1}]}
    assert session.get("/repositories/1/stargazers").status_code == 403
    forks = session.get("/repositories/1/forks").json()
    assert {fork["owner"]["login"] for fork in forks} <= {"user-0", "user-1", "user-2"}


@pytest.mark.parametrize(("aliases", "points"), [(1, 1), (100, 1), (149, 1), (151, 2), (400, 4)])
def test_query_costs_a_point_per_hundred_connections(standin_of: StandinOf, aliases: int, points: int) -> None:
    session = standin_of()
    one = 'repository(owner: "a", name: "b") { stargazers(first: 100) { totalCount } }'
    query = "{" + " ".join(f"r{n}: {one}" for n in range(aliases)) + " rateLimit { cost remaining limit nodeCount } }"
    response = session.post("/graphql", {"query": query})
    usage = response.json()["data"]["rateLimit"]
    assert (usage["cost"], usage["nodeCount"]) == (points, aliases * 100)
    assert usage["remaining"] == usage["limit"] - points == int(response.headers["x-ratelimit-remaining"])
    assert response.headers["x-ratelimit-resource"] == "graphql"


def test_connections_in_connections_are_counted_for_each_node(standin_of: StandinOf) -> None:
    session = standin_of(world_of({"a/b": [0, 1, 2]}))
    query = (
        '{ repository(owner: "a", name: "b") { stargazers(first: 100) { nodes { starredRepositories(first: 50) '
        "{ nodes { databaseId } } } } } rateLimit { cost nodeCount } }"
    )
    assert session.ask(query)["data"]["rateLimit"] == {"cost": 1, "nodeCount": 5100}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("{ nonsense }", "Cannot query field 'nonsense'"),
        ("{ repository(owner: ", "Syntax Error"),
        ('{ repository(owner: "a", name: "b") { stargazers { totalCount } } }', "You must provide a `first` or `last`"),
        ('{ repository(owner: "a", name: "b") { stargazers(first: 101) { totalCount } } }', "exceeds the limit of 100"),
        ("mutation { x }", "Exactly one query is supported"),
    ],
)
def test_invalid_query_has_errors_and_no_data(standin_of: StandinOf, query: str, message: str) -> None:
    answer = standin_of().ask(query)
    assert "data" not in answer
    assert message in answer["errors"][0]["message"]


def test_query_with_too_many_nodes_is_rejected(standin_of: StandinOf) -> None:
    inner = "nodes { starredRepositories(first: 100) { totalCount } }"
    one = f'repository(owner: "a", name: "b") {{ stargazers(first: 100) {{ {inner} }} }}'
    query = "{" + " ".join(f"r{n}: {one}" for n in range(50)) + "}"
    assert standin_of().ask(query)["errors"][0]["type"] == "MAX_NODE_LIMIT_EXCEEDED"


def test_query_beyond_the_resource_limit_has_partial_data(standin_of: StandinOf) -> None:
    session = standin_of(limits=Limits(query_budget=250))
    one = 'repository(owner: "a", name: "b") { stargazers(first: 100) { totalCount } }'
    answer = session.ask("{" + " ".join(f"r{n}: {one}" for n in range(4)) + "}")
    assert [alias is not None for alias in answer["data"].values()] == [True, True, False, False]
    assert {error["type"] for error in answer["errors"]} == {"RESOURCE_LIMITS_EXCEEDED"}


def test_points_and_requests_have_separate_limits(standin_of: StandinOf) -> None:
    session = standin_of(limits=Limits(requests=1, graphql_points=2))
    query = '{ repository(owner: "a", name: "b") { id } }'
    assert [session.post("/graphql", {"query": query}).status_code for _ in range(3)] == [200, 200, 403]
    assert session.get("/repositories/1").status_code == 200
    usage = session.get("/rate_limit").json()["resources"]
    assert (usage["core"]["remaining"], usage["graphql"]["remaining"]) == (0, 0)
    assert session.standin.quota.violations == {"primary": 1}


@pytest.mark.slow
@pytest.mark.parametrize("query", QUERIES.values(), ids=list(QUERIES))
def test_queries_of_the_product_are_valid_in_githubs_schema(graph: GraphQLSchema, query: Callable[[int], str]) -> None:
    for size in (1, 3, 100):
        assert validate(graph, parse(query(size))) == []


@pytest.mark.slow
def test_schema_of_the_stand_in_is_a_part_of_githubs(graph: GraphQLSchema) -> None:
    for name, kind in build_schema(SDL).type_map.items():
        if name.startswith("__"):
            continue
        expected: Any = graph.type_map[name]
        for field_name, field in getattr(kind, "fields", {}).items():
            expected_field = expected.fields[field_name]
            assert str(field.type) == str(expected_field.type), f"{name}.{field_name}"
            for argument, definition in getattr(field, "args", {}).items():
                expected_type = expected_field.args[argument].type
                assert str(definition.type) == str(expected_type), f"{name}.{field_name}({argument})"
        for value in getattr(kind, "values", {}):
            assert value in expected.values, f"{name}.{value}"
        for interface in getattr(kind, "interfaces", ()):
            assert interface.name in {other.name for other in expected.interfaces}, name
