"""Readers of users' lists, by REST and by GraphQL."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred, StarredListTask
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.embedded.standin.world import World
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.responses import GitHubResponse, GraphQLResponse
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import table_of
from gh_assets_tests.support.github import graphql, stars_page
from gh_assets_tests.support.starred import READERS, Lists, Reader, users_of
from gh_assets_tests.support.worlds import world_of


def test_null_entries_are_skipped() -> None:
    edges: list[Any] = [None, {"starredAt": "2020-01-01T00:00:00Z", "node": None}, {"node": {"databaseId": 7}},
             {"starredAt": None, "node": {"databaseId": 8, "nameWithOwner": "a/b"}}]  # fmt: skip
    response = {"data": {"r0": {"databaseId": 5, "login": "octo", "starredRepositories": stars_page(edges, 4)}}}
    with graphql(lambda _: response) as client:
        (read,) = GraphQLStarred(client, 10).read([StarredListTask(SeedUser("octo", 5))], 1)
    assert read.rows is not None
    assert read.rows.select("repo_id", "full_name", "starred_at").rows() == [(8, "a/b", None)]


@pytest.mark.parametrize("reader", READERS)
def test_deleted_and_renamed_users_are_recognized(reader: Reader, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    named = [("user-0", 5000), ("former-name", 5001), ("USER-2", None), ("unknown", None), ("gone", 4711)]
    seeds = [SeedUser(login, user_id) for login, user_id in named]
    collections = lists.run(world, seeds, reader)
    assert users_of(collections["a/b"]) == {5000, 5001, 5002}
    if reader is GraphQLStarred:
        assert set(table_of(collections["a/b"])["login"]) == {"user-0", "user-1", "user-2"}
    gone = {state.login for state in lists.state.load().values() if state.outcome is Outcome.GONE}
    assert {"unknown", "gone"} <= gone
    lists.run(world, seeds, reader)
    assert lists.last.collected == 0, "missing users are stored, too"


def test_the_list_of_a_login_that_moved_to_another_user_is_not_mixed_up(lists: Lists) -> None:
    world = world_of({"a/b": [0], "c/d": [1]}, users=2)
    # 5001 once was user-0; the present user-0 is another user.
    collections = lists.run(world, [SeedUser("user-0", 5001)])
    assert users_of(collections["c/d"]) == {5001}
    assert collections["a/b"].outcome is Outcome.UNKNOWN


def test_lists_that_are_too_heavy_for_github_are_read_in_smaller_pages(github_of: GitHubOf, lists: Lists) -> None:
    world = world_of({f"a/{n}": list(range(60)) for n in range(130)}, users=60)
    heavy = {"user-7", "user-31"}
    standin, client = github_of(world, heavy_users=heavy)
    collections = lists.run(world, client=client)
    assert all(users_of(collected) == {5000 + user for user in range(60)} for collected in collections.values())
    assert standin.served["graphql 502"] <= 40
    assert lists.last.outcomes == {"ok": 60}


@pytest.mark.parametrize("heavy", [frozenset(), frozenset({"user-0"})], ids=["100 a page", "25 a page"])
def test_limit_counts_stars_with_any_size_of_pages(github_of: GitHubOf, lists: Lists, heavy: frozenset[str]) -> None:
    world = world_of({f"a/{n}": [0] for n in range(450)}, users=1)
    _, client = github_of(world, heavy_users=heavy)
    collections = lists.run(world, client=client, max_pages=4)
    assert sum(collected.outcome is Outcome.OK for collected in collections.values()) == 400


def rename_after_a_page(monkeypatch: pytest.MonkeyPatch, client: GitHubClient, world: World, logins: list[str]) -> None:
    """Give the users of a world other logins once the first page was read."""
    client.refresh_budgets()
    send = client.graphql

    def renaming(query: str, variables: Mapping[str, Any]) -> GraphQLResponse:
        response = send(query, variables)
        world.logins[:] = logins
        world.user_by_login.clear()
        world.user_by_login |= {login: user for user, login in enumerate(logins)}
        return response

    monkeypatch.setattr(client, "graphql", renaming)


def test_the_list_of_a_user_renamed_between_pages_is_read_from_its_beginning(
    github_of: GitHubOf, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0] for n in range(290)}, users=1)
    _, client = github_of(world)
    rename_after_a_page(monkeypatch, client, world, ["renamed"])
    collections = lists.run(world, client=client, max_pages=3)
    assert all(collected.outcome is Outcome.OK for collected in collections.values()), (
        "no star counts twice against the limit"
    )
    (state,) = lists.state.load().values()
    assert (state.login, state.stars, state.complete, state.proven) == ("renamed", 290, True, True)


def test_lists_are_read_by_rest_without_graphql(github_of: GitHubOf, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    standin, client = github_of(world, graphql=False)
    collections = lists.run(world, client=client)
    assert users_of(collections["a/b"]) == {5000, 5001, 5002}
    assert standin.served["starred"] == 3


def test_a_login_that_moves_between_two_pages_mixes_no_stars_of_two_users(
    github_of: GitHubOf, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0 if n < 150 else 1] for n in range(300)}, users=2)
    _, client = github_of(world)
    rename_after_a_page(monkeypatch, client, world, ["former", "user-0"])
    collections = lists.run(world, client=client, seeds=[SeedUser("user-0")])
    assert all(users_of(collections[f"a/{n}"]) == {5001} for n in range(150, 300))
    assert all(collections[f"a/{n}"].outcome is Outcome.UNKNOWN for n in range(150))


def test_a_list_by_rest_that_changes_while_it_is_read_is_read_again(
    github_of: GitHubOf, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0] for n in range(250)}, users=1)
    _, client = github_of(world)
    get, pages = client.get, list[GitHubResponse]()

    def shifting(path: str, **named: Any) -> GitHubResponse:
        response = get(path, **named)
        if "starred" in path and not pages:
            pages.append(response)
            world.repositories[249].stargazers = world.repositories[249].starred_at = np.empty(0, np.int64)
            vars(world).pop("_starred", None)  # computed once
        return response

    monkeypatch.setattr(client, "get", shifting)
    collections = lists.run(world, client=client, reader=RestStarred)
    assert lists.last.unread == 0
    known = {name for name, collected in collections.items() if collected.outcome is Outcome.OK}
    assert {f"a/{n}" for n in range(249)} <= known
