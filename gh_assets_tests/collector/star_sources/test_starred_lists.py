"""Readers of users' lists, by REST and by GraphQL."""

from __future__ import annotations

import numpy as np
import pytest

from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred, StarredListTask
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.github.outcomes import Outcome
from gh_assets_tests.collector.star_sources.test_graphql import scripted_graphql
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.starred import READERS, Lists, users_of
from gh_assets_tests.support.worlds import world_of


def test_null_entries_are_skipped() -> None:
    edges = [None, {"starredAt": "2020-01-01T00:00:00Z", "node": None}, {"node": {"databaseId": 7}},
             {"starredAt": None, "node": {"databaseId": 8, "nameWithOwner": "a/b"}}]  # fmt: skip
    info = {"hasNextPage": False, "endCursor": None}
    stars = {"totalCount": 4, "pageInfo": info, "edges": edges}
    response: dict[str, object] = {"r0": {"databaseId": 5, "login": "octo", "starredRepositories": stars}}
    with serving(scripted_graphql(response)) as url, client_of(url, "token") as client:
        (read,) = GraphQLStarred(client, 10).read([StarredListTask(SeedUser("octo", 5))], 1)
    assert read.rows is not None
    assert read.rows.select("repo_id", "full_name", "starred_at").rows() == [(8, "a/b", None)]


@pytest.mark.parametrize("reader", READERS)
def test_deleted_and_renamed_users_are_recognized(reader, github_of, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    _, client = github_of(world)
    seeds = [
        SeedUser("user-0", 5000),
        SeedUser("former-name", 5001),
        SeedUser("USER-2"),
        SeedUser("unknown"),
        SeedUser("gone", 4711),
    ]
    collections = lists.run(world, client, seeds, reader)
    assert users_of(collections["a/b"]) == {5000, 5001, 5002}
    assert collections["a/b"].table is not None
    if reader is GraphQLStarred:
        assert set(collections["a/b"].table["login"]) == {"user-0", "user-1", "user-2"}
    outcomes = {state.login: state.outcome for state in lists.state.load().values()}
    assert outcomes["unknown"] is Outcome.GONE
    assert outcomes["gone"] is Outcome.GONE
    lists.run(world, client, seeds, reader)
    assert lists.last.collected == 0, "missing users are stored, too"


def test_the_list_of_a_login_that_moved_to_another_user_is_not_mixed_up(github_of, lists: Lists) -> None:
    world = world_of({"a/b": [0], "c/d": [1]}, users=2)
    _, client = github_of(world)
    # 5001 once was user-0; the present user-0 is another user.
    collections = lists.run(world, client, [SeedUser("user-0", 5001)])
    assert users_of(collections["c/d"]) == {5001}
    assert collections["a/b"].outcome is Outcome.UNKNOWN


def test_lists_that_are_too_heavy_for_github_are_read_in_smaller_pages(serve_world, lists: Lists) -> None:
    world = world_of({f"a/{n}": list(range(60)) for n in range(130)}, users=60)
    heavy = {"user-7", "user-31"}
    standin, url = serve_world(world, heavy_users=heavy)
    with client_of(url, "token") as client:
        collections = lists.run(world, client)
    assert all(users_of(collected) == {5000 + user for user in range(60)} for collected in collections.values())
    assert standin.served["graphql 502"] <= 40
    assert lists.last.outcomes == {"ok": 60}


@pytest.mark.parametrize("heavy", [frozenset(), frozenset({"user-0"})], ids=["100 a page", "25 a page"])
def test_the_limit_counts_stars_with_any_size_of_pages(serve_world, lists: Lists, heavy: frozenset[str]) -> None:
    world = world_of({f"a/{n}": [0] for n in range(450)}, users=1)
    _, url = serve_world(world, heavy_users=heavy)
    with client_of(url, "token") as client:
        collections = lists.run(world, client, max_pages=4)
    assert sum(collected.outcome is Outcome.OK for collected in collections.values()) == 400


def test_the_list_of_a_user_renamed_between_pages_is_read_from_its_beginning(
    github_of, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0] for n in range(290)}, users=1)
    _, client = github_of(world)
    client.refresh_budgets()
    send = client.graphql

    def renamed_after_a_page(*arguments, **named):
        response = send(*arguments, **named)
        world.logins[0] = "renamed"
        world.user_by_login.clear()
        world.user_by_login["renamed"] = 0
        return response

    monkeypatch.setattr(client, "graphql", renamed_after_a_page)
    collections = lists.run(world, client, max_pages=3)
    assert all(collected.outcome is Outcome.OK for collected in collections.values()), (
        "no star counts twice against the limit"
    )
    (state,) = lists.state.load().values()
    assert (state.login, state.stars, state.complete, state.proven) == ("renamed", 290, True, True)


def test_lists_are_read_by_rest_without_graphql(serve_world, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    standin, url = serve_world(world, graphql=False)
    with client_of(url, "token") as client:
        collections = lists.run(world, client)
    assert users_of(collections["a/b"]) == {5000, 5001, 5002}
    assert standin.served["starred"] == 3


def test_a_login_that_moves_between_two_pages_mixes_no_stars_of_two_users(
    github_of, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0 if n < 150 else 1] for n in range(300)}, users=2)
    _, client = github_of(world)
    client.refresh_budgets()
    send = client.graphql

    def moving_login(*arguments, **named):
        response = send(*arguments, **named)
        world.logins[:] = ["former", "user-0"]
        world.user_by_login.clear()
        world.user_by_login |= {"former": 0, "user-0": 1}
        return response

    monkeypatch.setattr(client, "graphql", moving_login)
    collections = lists.run(world, client, [SeedUser("user-0")])
    assert all(users_of(collections[f"a/{n}"]) == {5001} for n in range(150, 300))
    assert all(collections[f"a/{n}"].outcome is Outcome.UNKNOWN for n in range(150))


def test_a_list_by_rest_that_changes_while_it_is_read_is_read_again(serve_world, lists: Lists) -> None:
    world = world_of({f"a/{n}": [0] for n in range(250)}, users=1)
    _, url = serve_world(world)
    with client_of(url, "token") as client:
        get, pages = client.get, []

        def shifting(path, **named):
            response = get(path, **named)
            if "starred" in path and not pages:
                pages.append(response)
                world.repositories[249].stargazers = np.empty(0, np.int64)
                world.repositories[249].starred_at = np.empty(0, np.int64)
                world._starred = None
            return response

        client.get = shifting
        collections = lists.run(world, client, reader=RestStarred)
        assert lists.last.unread == 0
    known = {name for name, collected in collections.items() if collected.outcome is Outcome.OK}
    assert {f"a/{n}" for n in range(249)} <= known
