"""Metadata of listed repositories."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gh_assets.collector import repositories
from gh_assets.collector.repositories import CollectedRepositories, KnownRepositories, collect_repositories
from gh_assets.embedded.standin.app import Standin
from gh_assets.errors import InputError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import REPOS
from gh_assets.storage.documents import sync_documents
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf, ServeWorld
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import LIST, troubled_world, world_of


@pytest.fixture
def troubled(github_of: GitHubOf) -> tuple[Standin, GitHubClient]:
    return github_of(troubled_world())


def collect(
    client: GitHubClient, before: CollectedRepositories | None = None, *lists: str, **options: Any
) -> CollectedRepositories:
    """Collect the repositories of `LIST`, after an earlier run, and of further lists."""
    documents = before.documents if before is not None else []
    known = KnownRepositories({document["_id"]: document for document in documents})
    return collect_repositories(client, [LIST, *lists], known, **options)


def test_each_repository_has_its_outcome_and_partition_if_reachable(troubled: tuple[Standin, GitHubClient]) -> None:
    collected = collect(troubled[1])
    table = collected.table
    assert REPOS.problem(table) is None
    assert dict(table.select("full_name", "outcome").rows()) == {
        "good/one": Outcome.OK,
        "good/starless": Outcome.OK,
        "fresh/name": Outcome.MOVED,
        "taken/down": Outcome.BLOCKED,
        "closed/list": Outcome.OK,  # its metadata are open, only its stars are not
        "not/there": Outcome.GONE,
    }
    reasons = dict(table.select("full_name", "reason").rows())
    assert reasons["not/there"] == "404 Not Found"
    assert reasons["taken/down"].startswith("451")
    assert sorted(collected.new_partitions) == ["closed/list", "fresh/name", "good/one", "good/starless"]


def test_links_to_the_same_id_are_one_row(troubled: tuple[Standin, GitHubClient], tmp_path: Path) -> None:
    more = tmp_path / "more.md"
    more.write_text("[a](https://github.com/FRESH/Name) [b](https://github.com/old/name)")
    table = collect(troubled[1], None, str(more)).table
    row = table.row(by_predicate=pl.col("full_name") == "fresh/name", named=True)
    assert row["outcome"] == Outcome.OK, "a link with the present name takes precedence"
    assert row["lists"] == sorted([LIST, str(more)])
    assert table["repo_id"].drop_nulls().is_unique().all()


def test_unchanged_metadata_are_not_sent_again_by_rest(troubled: tuple[Standin, GitHubClient]) -> None:
    standin, client = troubled
    first = collect(client, by_rest=True)
    standin.served.clear()
    second = collect(client, first, by_rest=True)
    assert second.table.equals(first.table)
    assert (second.new_partitions, standin.served["repository"], standin.served["304"]) == ([], 0, 4)


def test_rest_gives_the_same_metadata_as_graphql_and_is_used_without_it(
    troubled: tuple[Standin, GitHubClient], serve_world: ServeWorld
) -> None:
    by_graphql = collect(troubled[1]).table
    assert collect(troubled[1], by_rest=True).table.equals(by_graphql)
    standin, url = serve_world(troubled_world(), graphql=False)
    with client_of(url, "token") as client:
        assert collect(client).table.equals(by_graphql)
    assert standin.served["repository"] == 4


def test_forks_name_their_origin(github_of: GitHubOf) -> None:
    world = world_of({"origin/al": [0, 1], "some/fork": [2]})
    world.by_name["some/fork"].fork_of = world.by_name["origin/al"].repo_id
    table = collect(github_of(world)[1]).table
    assert dict(table.select("full_name", "fork_of").rows()) == {"origin/al": None, "some/fork": 1}


def test_many_repositories_cost_few_points_and_their_refresh_one(github_of: GitHubOf) -> None:
    world = world_of({f"a/{number}": [number] for number in range(950)})
    standin, client = github_of(world)
    first = collect(client)
    assert standin.quota.spent["graphql"] == 1 + 10, "the account of the token, and ten queries"
    assert standin.quota.spent["core"] == 1, "the list"
    world.repositories[7].stargazers = np.arange(40)
    world.repositories[8].description = "another"
    second = collect(client, first)
    assert standin.quota.spent["graphql"] == 1 + 10 + 1
    changed = second.table.join(first.table, on=first.table.columns, how="anti", nulls_equal=True).sort("repo_id")
    assert changed["repo_id"].to_list() == [8, 9]
    assert (changed["stargazer_count"][0], changed["description"][1]) == (40, "another")


def test_cap_on_requests_leaves_the_rest_unknown_and_the_next_run_continues(serve_world: ServeWorld) -> None:
    _, url = serve_world(world_of({f"a/{number}": [number] for number in range(250)}))
    with client_of(url, "token", max_requests=2 + 1 + 1) as client:
        first = collect(client)
    assert first.table["outcome"].value_counts().sort("outcome").rows() == [("ok", 100), ("unknown", 150)]
    assert "cap" in first.table.filter(pl.col("outcome") == "unknown")["reason"][0]
    with client_of(url, "token") as client:
        second = collect(client, first)
    assert second.table["outcome"].to_list() == ["ok"] * 250


def test_partition_survives_a_rename(github_of: GitHubOf) -> None:
    first = collect(github_of(world_of({"old/name": [0]}, listed=["old/name"]))[1])
    renamed = world_of({"fresh/name": [0]}, listed=["old/name"])
    renamed.repositories[0].former_names = ("old/name",)
    renamed.moved["old/name"] = renamed.repositories[0]
    second = collect(github_of(renamed)[1], first)
    row = second.table.select("repo_id", "full_name", "partition", "outcome").row(0)
    assert row == (1, "fresh/name", "old/name", "moved")
    assert second.new_partitions == []


def test_reused_name_does_not_inherit_the_partition(github_of: GitHubOf) -> None:
    first = collect(github_of(world_of({"a/b": [0]}))[1])
    other = world_of({"x/y": [1], "a/b": [2]}, listed=["a/b"])  # a/b is now the repository with id 2
    second = collect(github_of(other)[1], first)
    assert second.table.select("repo_id", "partition").row(0) == (2, "a/b#2")


def test_earlier_metadata_are_kept_when_a_repository_is_gone(github_of: GitHubOf) -> None:
    first = collect(github_of(world_of({"a/b": [0], "c/d": [0]}))[1])
    second = collect(github_of(world_of({"z/z": [0], "c/d": [0]}, listed=["a/b", "c/d"]))[1], first)
    gone = second.table.row(by_predicate=pl.col("full_name") == "a/b", named=True)
    assert (gone["outcome"], gone["repo_id"], gone["partition"]) == (Outcome.GONE, 1, "a/b")


def test_rest_is_asked_once_a_week_why_a_repository_is_not_found(
    troubled: tuple[Standin, GitHubClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    standin, client = troubled

    def asked() -> int:
        """Return how many repositories were asked for by REST since the last call."""
        served = sum(count for name, count in standin.served.items() if name.startswith("repository"))
        standin.served.clear()
        return served

    first = collect(client)
    assert asked() == 2, "one is gone, and one is blocked"
    second = collect(client, first)
    assert asked() == 0
    assert second.table.equals(first.table)
    monkeypatch.setattr(repositories, "REFUSALS_TTL", dt.timedelta(0))
    assert collect(client, second).table.equals(first.table)
    assert asked() == 2


def test_documents_survive_mongo_and_are_written_only_once(
    troubled: tuple[Standin, GitHubClient], database: MongoDatabase
) -> None:
    first = collect(troubled[1])
    assert sync_documents(database["repos"], first.documents).inserted == 6
    stored = {document["_id"]: document for document in database["repos"].find()}
    second = collect_repositories(troubled[1], [LIST], KnownRepositories(stored))
    counts = sync_documents(database["repos"], second.documents, stored)
    assert (counts.inserted, counts.replaced, counts.unchanged) == (0, 0, 6)
    assert second.table.equals(first.table)


@pytest.mark.parametrize(
    ("lists", "text", "message"),
    [
        ([LIST, "some.md"], "# Nothing here\n[site](https://example.com)", r"some\.md links to no repository"),
        (["some.md"], "[x](https://github.com/not/there)", "None of the 1 repositories"),
        ([], "", "No awesome list is given"),
    ],
)
def test_lists_without_a_reachable_repository_are_an_error(
    github_of: GitHubOf, tmp_path: Path, lists: list[str], text: str, message: str
) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    (tmp_path / "some.md").write_text(text)
    with pytest.raises(InputError, match=message):
        collect_repositories(client, lists, KnownRepositories())
