"""The source of stars in a file: ids of its rows, lookups of logins, and stars that it must not overwrite."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from gh_assets.collector.collection import CollectionResult, collect
from gh_assets.collector.gharchive import id_of_name
from gh_assets.collector.repositories import KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.base import (
    CollectionOptions,
    CollectionTask,
    PreviousStars,
    RepositoryRef,
    stars_table,
)
from gh_assets.collector.star_sources.file import LoginLookup, StarsFile, UserLookup
from gh_assets.collector.worlds import identity_of_file
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.world import World, read_world
from gh_assets.errors import WorldMismatchError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.worlds import world_of

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


class Run:
    """Collects from a file into a database and a store."""

    def __init__(self, database, store) -> None:
        self.database, self.store = database, store

    def __call__(
        self, path: Path, repositories: list[RepositoryRef], client: GitHubClient | None, source: str = "file"
    ) -> CollectionResult:
        return collect(
            CollectionOptions(source, 10, stars_file=path),
            repositories,
            client,
            self.database,
            self.store,
        )

    def stars(self, partition: str) -> pl.DataFrame:
        return self.store.read_table("stargazers", partition)


@pytest.fixture
def run(database, asset_store) -> Run:
    return Run(database, asset_store)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(content: str) -> Path:
        path = tmp_path / "stars.csv"
        path.write_text(content)
        return path

    return write


def stars_of(world: World) -> str:
    """All stars of a world, by names alone."""
    rows = [f"{r.full_name.upper()},{world.logins[user]}" for r in world.repositories for user in r.stargazers]
    return "repo,login\n" + "\n".join(rows) + "\n"


def ids_in(run: Run, world: World) -> dict[str, set[int]]:
    return {r.full_name: set(run.stars(r.full_name)["user_id"]) for r in world.repositories[:-1]}


def right_ids(world: World) -> dict[str, set[int]]:
    return {r.full_name: {world.user_ids[user] for user in r.stargazers} for r in world.repositories[:-1]}


def many() -> World:
    return world_of({f"a/{n}": list(range(n * 20, n * 20 + 60)) for n in range(8)}, users=220)


def test_logins_are_looked_up_once_a_hundred_per_point(github_of, run: Run, file) -> None:
    world = many()
    standin, client = github_of(world)
    path = file(stars_of(world))
    collected = run(path, refs(world), client)
    assert ids_in(run, world) == right_ids(world)
    assert collected.report.outcomes == {"ok": 8}
    assert all(state.proven and not state.complete for state in collected.report.states.values())
    assert standin.quota.spent["graphql"] == 1 + 2, "one query for the token, and two for 200 users"
    known = {document["_id"]: document["login"] for document in run.database["users"].find()}
    assert known == dict(zip(world.user_ids[:200], world.logins[:200], strict=True))
    again = run(path, refs(world), client)
    assert standin.quota.spent["graphql"] == 1 + 2
    assert again.report.unstarred == 0


def test_logins_are_looked_up_by_rest_without_graphql_and_organizations_ignored(serve_world, run: Run, file) -> None:
    world = world_of({"a/b": [0, 1]})
    standin, url = serve_world(world, graphql=False)
    path = file(stars_of(world) + "a/b,A\na/b,not-there\n")
    with client_of(url, "token") as client:
        collected = run(path, refs(world), client)
        assert ids_in(run, world) == right_ids(world)
        assert collected.summary_lines()[0] == (
            "2 stars of stars.csv were left out: GitHub has none of the 2 users 'a', 'not-there'."
        )
        requests = standin.served["user"]
        assert run(path, refs(world), client).summary_lines() == collected.summary_lines()
    assert standin.served["user"] == requests


def test_unknown_logins_are_left_out_reported_and_looked_up_again_later(github_of, run: Run, file) -> None:
    world = world_of({"a/b": [0, 1], "c/d": [2]})
    standin, client = github_of(world)
    path = file(stars_of(world) + "a/b,gone-1\nA/b,Gone-2\nc/d,gone-1\n-/-,x\n")
    collected = run(path, refs(world), client)
    assert ids_in(run, world) == right_ids(world)
    assert collected.summary_lines() == [
        "1 of 7 rows of stars.csv was skipped: 1 row has a repo that is not owner/name "
        "(row 8: '-/-' is not owner/name).",
        "3 stars of stars.csv were left out: GitHub has none of the 2 users 'gone-1', 'gone-2'.",
    ]
    spent = standin.quota.spent["graphql"]
    assert run(path, refs(world), client).summary_lines() == collected.summary_lines()
    assert standin.quota.spent["graphql"] == spent
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
    run.database["starred_state"].update_many({}, {"$set": {"state.asked_at": long_ago}})
    run(path, refs(world), client)
    assert standin.quota.spent["graphql"] == spent + 1


def test_a_repository_with_only_unknown_logins_is_unknown(github_of, run: Run, file) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    report = run(file("repo,login\na/b,gone\n"), [RepositoryRef(1, "a/b", "a/b", 1, Outcome.OK)], client).report
    assert report.outcomes == {"unknown": 1}
    assert "GitHub has none of the users who starred it" in str(report.states["a/b"].reason)


def test_repositories_are_unproven_when_the_request_limit_is_reached(serve_world, run: Run, file) -> None:
    world = many()
    _, url = serve_world(world)
    path = file(stars_of(world))
    with GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=2 + 1) as client:
        first = run(path, refs(world), client)
    assert first.report.stopped
    assert any("reached" in sentence for sentence in first.summary_lines())
    partial = [state for state in first.report.states.values() if not state.proven]
    assert partial
    assert all("could not be looked up (the run had ended)" in str(state.reason) for state in partial)
    stored = run.store.partitions("stargazers")
    assert all(set(run.stars(key)["user_id"]) <= right_ids(world)[key] for key in stored)
    with client_of(url, "token") as client:
        second = run(path, refs(world), client)
    assert second.report.stopped is None
    assert ids_in(run, world) == right_ids(world)
    assert all(state.proven and state.reason is None for state in second.report.states.values())


def test_failed_lookups_are_tried_again(serve_world, run: Run, file) -> None:
    world = world_of({"a/b": [0, 1, 2]})
    standin, url = serve_world(world, graphql=False)
    path = file(stars_of(world))
    run.database["users"].insert_one({"_id": 5000, "login": "User-0"})
    standin.faults = Faults(probabilities={"500": 1.0}, seed=1)
    with client_of(url, "token") as client:
        state = run(path, refs(world), client).report.states["a/b"]
        assert (state.outcome, state.stars, state.proven) == (Outcome.OK, 1, False)
        assert "2 of the 3 logins in stars.csv could not be looked up" in str(state.reason)
        standin.faults = Faults()
        state = run(path, refs(world), client).report.states["a/b"]
    assert (state.stars, state.proven, state.reason) == (3, True, None)


def test_known_users_are_not_looked_up(github_of, run: Run, file) -> None:
    world = world_of({"a/b": [0, 1]})
    standin, client = github_of(world)
    run.database["users"].insert_many(
        [
            {"_id": 9, "login": "user-0", "seen": "2020-01-01T00:00:00.000000Z user-0"},
            {"_id": 5000, "login": "USER-0", "seen": "2024-01-01T00:00:00.000000Z USER-0"},
            {"_id": 5001, "login": "user-1", "seen": "2024-01-01T00:00:00.000000Z user-1"},
        ]
    )
    run(file(stars_of(world)), refs(world), client)
    assert run.stars("a/b")["user_id"].to_list() == [5000, 5001], "the user who was last seen with the login"
    assert standin.quota.spent["graphql"] == 0


def test_ids_of_the_file_are_ids_of_github_and_distinguish_repositories(github_of, run: Run, file) -> None:
    standin, client = github_of(world_of({"a/b": [0]}))
    path = file(
        "repo,login,repo_id,user_id\na/b,ann,10,1\nformer/name,bob,11,2\na/b,cid,11,3\n"  # 10 was a/b before
    )
    repositories = [
        RepositoryRef(11, "p11", "a/b", 2, Outcome.OK),
        RepositoryRef(12, "p12", "former/name", 1, Outcome.OK),
    ]
    report = run(path, repositories, client).report
    assert run.stars("p11")["user_id"].to_list() == [2, 3]
    assert report.states["p11"].proven
    assert report.states["p12"].outcome is Outcome.UNKNOWN
    assert standin.served["user"] == standin.quota.spent["graphql"] == 0


# -- the home's world -----------------------------------------------------------------------------------------------


def claim(run: Run, identity: str) -> None:
    run.database["meta"].insert_one({"_id": "world", "identity": identity, "title": "the synthetic world (seed 0)"})


def test_the_file_of_the_homes_world_is_used_without_lookups(github_of, run: Run) -> None:
    path = CASES / "one-id-two-names.csv"
    world = read_world(path)
    _, client = github_of(world)
    claim(run, identity_of_file(path))
    repositories = [ref for ref in refs(world) if ref.full_name != "standin/awesome-all"]
    counts = {}
    for source in ("graphql", "file"):
        report = run(path, repositories, client, source).report
        counts[source] = {state.repo_id: (state.full_name, state.stars) for state in report.states.values()}
        assert all(state.complete for state in report.states.values())
        run.database["stargazer_state"].delete_many({})
    assert counts["graphql"] == counts["file"]
    assert counts["file"] == {10: ("new/name", 2), 11: ("other/one-11", 1), 12: ("other/one", 1)}


def test_the_list_of_the_stand_in_has_all_repositories_and_former_names_redirect(github_of, file) -> None:
    # github.com/new is a page of GitHub, so the owner gets another name.
    path = file((CASES / "one-id-two-names.csv").read_text().replace("new/", "fresh/"))
    _, client = github_of(read_world(path))
    table = collect_repositories(client, ["standin/awesome-all"], KnownRepositories()).table.sort("repo_id")
    assert table.select("repo_id", "full_name", "stargazer_count").rows() == [
        (10, "fresh/name", 2), (11, "other/one-11", 1), (12, "other/one", 1),
    ]  # fmt: skip
    awesome = path.with_suffix(".md")
    awesome.write_text("https://github.com/old/name")
    (document,) = collect_repositories(client, [str(awesome)], KnownRepositories()).documents
    assert (document["repo_id"], document["outcome"]) == (10, "moved")


def test_numbers_of_the_homes_file_are_ids_of_its_world(github_of, run: Run, file) -> None:
    path = file("repo,login\nb/x,zoe\nA/y,ann\na/y,zoe\n")
    world = read_world(path)
    standin, client = github_of(world)
    claim(run, identity_of_file(path))
    run(path, refs(world)[:2], client)
    assert run.stars("A/y").select("repo_id", "user_id", "login").rows() == [(2, 2, "ann"), (2, 1, "zoe")]
    assert standin.quota.spent["graphql"] == 0


@pytest.mark.parametrize("identity", ["synthetic 0", "file 0123"])
def test_a_file_beside_another_world_of_made_up_ids_is_refused(github_of, run: Run, file, identity: str) -> None:
    world = world_of({"a/b": [0]})
    claim(run, identity)
    with pytest.raises(WorldMismatchError, match=r"the stars of stars\.csv cannot be added .* Set GH_ASSETS_HOME"):
        run(file(stars_of(world)), refs(world), github_of(world)[1])
    assert run.database["stargazer_state"].count_documents({}) == 0
    assert run.database["users"].count_documents({}) == 0


def test_users_have_negative_ids_without_github_until_they_are_known(run: Run, file, github_of) -> None:
    world = world_of({"a/b": [0, 1]})
    path = file("repo,login\na/b,User-0\na/b,user-1\n")
    run.database["users"].insert_one({"_id": 5001, "login": "user-1"})
    run(path, refs(world), None)
    assert set(run.stars("a/b")["user_id"]) == {id_of_name("user-0"), 5001}
    nameless = RepositoryRef(id_of_name("a/b"), "a/b", "A/b", None, Outcome.OK)
    assert run(path, [nameless], None).report.stars == 2
    run(path, refs(world), github_of(world)[1])
    assert set(run.stars("a/b")["user_id"]) == {5000, 5001}


# -- stars from other sources ------------------------------------------------------------------------------------


def test_a_file_removes_no_star_and_changes_no_time_from_github(github_of, run: Run, file) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=5)
    _, client = github_of(world)
    run(file("repo,login\n"), refs(world), client, "graphql")
    before = run.stars("a/b")
    report = run(file("repo,login\na/b,user-1\na/b,user-4\n"), refs(world), client).report
    assert report.unstarred == 0
    stars = run.stars("a/b")
    assert set(stars["user_id"]) == {5000, 5001, 5002, 5004}
    assert stars.filter(pl.col("user_id") != 5004).sort("user_id").equals(before.sort("user_id"))
    assert not report.states["a/b"].complete, "GitHub counts three"


KNOWN, EARLIER, LATER = (dt.datetime(year, 1, 1, tzinfo=dt.UTC) for year in (2020, 2019, 2021))


@pytest.mark.parametrize("source", ["graphql", "starred", "file"])
@pytest.mark.parametrize("in_file", [EARLIER, LATER, None])
@pytest.mark.parametrize("known", [KNOWN, None])
def test_a_file_overwrites_only_its_own_stars(
    tmp_path: Path, database, source: str, in_file: dt.datetime | None, known: dt.datetime | None
) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f"repo,login,repo_id,user_id,starred_at\na/b,file-login,1,5,{in_file or ''}\n")
    table = stars_table(1, [(5, "known-login")], [f"{known:%Y-%m-%dT%H:%M:%SZ}" if known else None], source)
    for _ in range(2):  # the second reading starts from the table of the first one
        before = PreviousStars(table, [], source=source)
        task = CollectionTask(RepositoryRef(1, "a/b", "a/b", 1, Outcome.OK), lambda before=before: before)
        (collection,) = StarsFile(path, logins=UserLookup(database, None)).collect([task], 1)
        assert collection.table is not None
        table = collection.table
        (row,) = table.select("user_id", "login", "starred_at", "source").rows()
        if source == "file":
            login = "file-login" if in_file else "known-login"  # a row without a time changes nothing
            assert row == (5, login, in_file or known, "file")
        else:
            assert row == (5, "known-login", known or in_file, source)
    assert collection.unchanged


class SingleUserLookup(UserLookup):
    """Finds the same user for all logins."""

    def look_up(self, logins: Iterable[str], workers: int) -> tuple[dict[str, LoginLookup], Exception | None]:
        return {login: LoginLookup(login, 5, "ann") for login in logins}, None


def test_two_logins_of_a_user_are_one_star_with_a_time(tmp_path: Path, database) -> None:
    path = tmp_path / "s.csv"
    path.write_text("repo,login,starred_at\na/b,ann,\na/b,former-ann,2020-01-01\n")
    task = CollectionTask(RepositoryRef(1, "a/b", "a/b", 1, Outcome.OK), lambda: None)
    (collection,) = StarsFile(path, logins=SingleUserLookup(database, None)).collect([task], 1)
    assert collection.table is not None
    assert collection.table.select("user_id", "starred_at").rows() == [(5, KNOWN)]


@pytest.mark.parametrize("source", ["file", "graphql"])
def test_only_the_file_of_the_homes_world_removes_its_earlier_stars(tmp_path: Path, source: str, database) -> None:
    path = tmp_path / "s.csv"
    path.write_text("repo,login,user_id\na/b,ann,1\n")
    repository = RepositoryRef(1, "a/b", "a/b", 1, Outcome.OK)
    table = stars_table(1, [(1, "ann"), (2, "bob")], [None, None], source)
    task = CollectionTask(repository, lambda: PreviousStars(table, [], source=source))
    (own,) = StarsFile(path, own_world=True).collect([task], 1)
    assert (own.unstarred is not None) == (source == "file")
    (beside,) = StarsFile(path, logins=UserLookup(database, None)).collect([task], 1)
    assert beside.unstarred is None
    assert beside.table is not None
    assert set(beside.table["user_id"]) == {1, 2}
