"""Metadata of listed repositories."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from pydantic import SecretStr

from gh_assets.collector.repositories import CollectedRepositories, KnownRepositories, collect_repositories
from gh_assets.errors import InputError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import REPOS
from gh_assets.storage.documents import sync_documents
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import LIST, troubled_world, world_of


def known_after(collected: CollectedRepositories) -> KnownRepositories:
    return KnownRepositories({document["_id"]: document for document in collected.documents})


def test_each_repository_has_its_outcome(github_of) -> None:
    _, client = github_of(troubled_world())
    table = collect_repositories(client, [LIST], KnownRepositories()).table
    assert REPOS.problem(table) is None
    outcomes = dict(zip(table["full_name"], table["outcome"], strict=True))
    assert outcomes == {
        "good/one": Outcome.OK,
        "good/starless": Outcome.OK,
        "fresh/name": Outcome.MOVED,
        "taken/down": Outcome.BLOCKED,
        "closed/list": Outcome.OK,  # its metadata are open, only its stars are not
        "not/there": Outcome.GONE,
    }
    reasons = dict(zip(table["full_name"], table["reason"], strict=True))
    assert reasons["not/there"] == "404 Not Found"
    assert reasons["taken/down"].startswith("451")


def test_only_reachable_repositories_become_partitions(github_of) -> None:
    _, client = github_of(troubled_world())
    collected = collect_repositories(client, [LIST], KnownRepositories())
    assert sorted(collected.new_partitions) == ["closed/list", "fresh/name", "good/one", "good/starless"]


def test_links_to_the_same_id_are_one_row(github_of, tmp_path) -> None:
    _, client = github_of(troubled_world())
    more = tmp_path / "more.md"
    more.write_text("[a](https://github.com/FRESH/Name) [b](https://github.com/old/name)")
    table = collect_repositories(client, [LIST, str(more)], KnownRepositories()).table
    row = table.row(by_predicate=pl.col("full_name") == "fresh/name", named=True)
    assert row["outcome"] == Outcome.OK, "a link with the present name takes precedence"
    assert row["lists"] == sorted([LIST, str(more)])
    assert table["repo_id"].drop_nulls().is_unique().all()


def test_unchanged_metadata_are_not_sent_again_by_rest(github_of) -> None:
    standin, client = github_of(troubled_world())
    first = collect_repositories(client, [LIST], KnownRepositories(), by_rest=True)
    standin.served.clear()
    second = collect_repositories(client, [LIST], known_after(first), by_rest=True)
    assert second.table.equals(first.table)
    assert second.new_partitions == []
    assert standin.served["repository"] == 0
    assert standin.served["304"] == 4


def test_rest_and_graphql_give_the_same_metadata(github_of) -> None:
    _, client = github_of(troubled_world())
    by_rest = collect_repositories(client, [LIST], KnownRepositories(), by_rest=True).table
    assert collect_repositories(client, [LIST], KnownRepositories()).table.equals(by_rest)


def test_forks_name_their_origin(github_of) -> None:
    world = world_of({"origin/al": [0, 1], "some/fork": [2]})
    world.by_name["some/fork"].fork_of = world.by_name["origin/al"].repo_id
    _, client = github_of(world)
    table = collect_repositories(client, [LIST], KnownRepositories()).table
    assert dict(zip(table["full_name"], table["fork_of"], strict=True)) == {"origin/al": None, "some/fork": 1}


def test_many_repositories_cost_few_points_and_their_refresh_one(github_of) -> None:
    world = world_of({f"a/{number}": [number] for number in range(950)})
    standin, client = github_of(world)
    first = collect_repositories(client, [LIST], KnownRepositories())
    assert standin.quota.spent["graphql"] == 1 + 10, "the account of the token, and ten queries"
    assert standin.quota.spent["core"] == 1, "the list"
    world.repositories[7].stargazers = np.arange(40)
    world.repositories[8].description = "another"
    second = collect_repositories(client, [LIST], known_after(first))
    assert standin.quota.spent["graphql"] == 1 + 10 + 1
    changed = second.table.join(first.table, on=first.table.columns, how="anti", nulls_equal=True).sort("repo_id")
    assert changed["repo_id"].to_list() == [8, 9]
    assert (changed["stargazer_count"][0], changed["description"][1]) == (40, "another")


def test_rest_is_used_without_graphql(serve_world) -> None:
    standin, url = serve_world(troubled_world(), graphql=False)
    with client_of(url, "token") as client:
        table = collect_repositories(client, [LIST], KnownRepositories()).table
    assert table["outcome"].value_counts().sort("outcome").rows() == [
        ("blocked", 1),
        ("gone", 1),
        ("moved", 1),
        ("ok", 3),
    ]
    assert standin.served["repository"] == 4


def test_cap_on_requests_leaves_the_rest_unknown_and_the_next_run_continues(serve_world) -> None:
    world = world_of({f"a/{number}": [number] for number in range(250)})
    _, url = serve_world(world)
    with GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=2 + 1 + 1) as client:
        first = collect_repositories(client, [LIST], KnownRepositories())
    assert first.table["outcome"].value_counts().sort("outcome").rows() == [("ok", 100), ("unknown", 150)]
    assert "cap" in first.table.filter(pl.col("outcome") == "unknown")["reason"][0]
    with client_of(url, "token") as client:
        second = collect_repositories(client, [LIST], known_after(first))
    assert (second.table["outcome"] == "ok").all()
    assert second.table.height == 250


def test_partition_survives_a_rename(github_of) -> None:
    world = world_of({"old/name": [0]}, listed=["old/name"])
    _, client = github_of(world)
    first = collect_repositories(client, [LIST], KnownRepositories())
    renamed = world_of({"fresh/name": [0]}, listed=["old/name"])
    renamed.repositories[0].former_names = ("old/name",)
    renamed.moved["old/name"] = renamed.repositories[0]
    _, client = github_of(renamed)
    second = collect_repositories(client, [LIST], known_after(first))
    assert second.table.select("repo_id", "full_name", "partition", "outcome").row(0) == (
        1,
        "fresh/name",
        "old/name",
        "moved",
    )
    assert second.new_partitions == []


def test_reused_name_does_not_inherit_the_partition(github_of) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    first = collect_repositories(client, [LIST], KnownRepositories())
    other = world_of({"x/y": [1], "a/b": [2]}, listed=["a/b"])  # a/b is now the repository with id 2
    _, client = github_of(other)
    second = collect_repositories(client, [LIST], known_after(first))
    assert second.table.select("repo_id", "partition").row(0) == (2, "a/b#2")


def test_earlier_metadata_are_kept_when_a_repository_is_gone(github_of) -> None:
    _, client = github_of(world_of({"a/b": [0], "c/d": [0]}))
    first = collect_repositories(client, [LIST], KnownRepositories())
    _, client = github_of(world_of({"z/z": [0], "c/d": [0]}, listed=["a/b", "c/d"]))
    second = collect_repositories(client, [LIST], known_after(first))
    gone = second.table.row(by_predicate=pl.col("full_name") == "a/b", named=True)
    assert (gone["outcome"], gone["repo_id"], gone["partition"]) == (Outcome.GONE, 1, "a/b")


def test_documents_survive_mongo_and_are_written_only_once(github_of, database) -> None:
    _, client = github_of(troubled_world())
    first = collect_repositories(client, [LIST], KnownRepositories())
    assert sync_documents(database["repos"], first.documents).inserted == 6
    stored = {document["_id"]: document for document in database["repos"].find()}
    second = collect_repositories(client, [LIST], KnownRepositories(stored))
    counts = sync_documents(database["repos"], second.documents, stored)
    assert (counts.inserted, counts.replaced, counts.unchanged) == (0, 0, 6)
    assert second.table.equals(first.table)


def test_error_names_an_empty_list(github_of, tmp_path) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    empty = tmp_path / "empty.md"
    empty.write_text("# Nothing here\n[site](https://example.com)")
    with pytest.raises(InputError, match=r"empty\.md links to no repository"):
        collect_repositories(client, [LIST, str(empty)], KnownRepositories())
    with pytest.raises(InputError, match="No awesome list is given"):
        collect_repositories(client, [], KnownRepositories())


def test_list_without_reachable_repositories_is_an_error(github_of, tmp_path) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    gone = tmp_path / "gone.md"
    gone.write_text("[x](https://github.com/not/there)")
    with pytest.raises(InputError, match="None of the 1 repositories"):
        collect_repositories(client, [str(gone)], KnownRepositories())
