"""The source of stars in a file: ids of its rows, lookups of logins, and stars that it must not overwrite."""

import datetime as dt
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gh_assets.collector.collection import CollectionResult
from gh_assets.collector.gharchive import id_of_name
from gh_assets.collector.repositories import KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.base import CollectionTask, PreviousStars, stars_table
from gh_assets.collector.star_sources.file import LoginLookup, StarsFile, UserLookup
from gh_assets.collector.worlds import identity_of_file
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.world import World, read_world
from gh_assets.errors import WorldMismatchError
from gh_assets.github.outcomes import Outcome
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Run, ref, refs, table_of
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.worlds import world_of

CASES = CHECKOUT / "gh_assets_tests" / "cases" / "stars"


def write(content: str) -> Path:
    path = Path("stars.csv").resolve()
    path.write_text(content)
    return path


def read(run: Run, path: Path, world: World, **more: Any) -> CollectionResult:
    return run(world, "file", stars_file=path, **more)


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


def test_logins_are_looked_up_once_a_hundred_per_point(run: Run) -> None:
    world = many()
    path = write(stars_of(world))
    collected = read(run, path, world)
    assert ids_in(run, world) == right_ids(world)
    assert collected.report.outcomes == {"ok": 8}
    assert all(state.proven and not state.complete for state in collected.report.states.values())
    assert run.standin.quota.spent["graphql"] == 1 + 2, "one query for the token, and two for 200 users"
    known = {document["_id"]: document["login"] for document in run.database["users"].find()}
    assert known == dict(zip(world.user_ids[:200], world.logins[:200], strict=True))
    assert read(run, path, world).report.unstarred == 0
    assert run.standin.quota.spent["graphql"] == 1 + 2


def test_logins_are_looked_up_by_rest_without_graphql_and_organizations_ignored(github_of: GitHubOf, run: Run) -> None:
    world = world_of({"a/b": [0, 1]})
    standin, client = github_of(world, graphql=False)
    path = write(stars_of(world) + "a/b,A\na/b,not-there\n")
    collected = read(run, path, world, client=client)
    assert ids_in(run, world) == right_ids(world)
    assert collected.summary_lines()[0] == (
        "2 stars of stars.csv were left out: GitHub has none of the 2 users 'a', 'not-there'."
    )
    requests = standin.served["user"]
    assert read(run, path, world, client=client).summary_lines() == collected.summary_lines()
    assert standin.served["user"] == requests


def test_unknown_logins_are_left_out_reported_and_looked_up_again_later(run: Run) -> None:
    world = world_of({"a/b": [0, 1], "c/d": [2]})
    path = write(stars_of(world) + "a/b,gone-1\nA/b,Gone-2\nc/d,gone-1\n-/-,x\n")
    collected = read(run, path, world)
    assert ids_in(run, world) == right_ids(world)
    assert collected.summary_lines() == [
        "1 of 7 rows of stars.csv was skipped: 1 row has a repo that is not owner/name "
        "(row 8: '-/-' is not owner/name).",
        "3 stars of stars.csv were left out: GitHub has none of the 2 users 'gone-1', 'gone-2'.",
    ]
    spent = run.standin.quota.spent["graphql"]
    assert read(run, path, world).summary_lines() == collected.summary_lines()
    assert run.standin.quota.spent["graphql"] == spent
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=40)
    run.database["starred_state"].update_many({}, {"$set": {"state.asked_at": long_ago}})
    read(run, path, world)
    assert run.standin.quota.spent["graphql"] == spent + 1


def test_a_repository_with_only_unknown_logins_is_unknown(run: Run) -> None:
    report = read(run, write("repo,login\na/b,gone\n"), world_of({"a/b": [0]})).report
    assert report.outcomes == {"unknown": 1}
    assert "GitHub has none of the users who starred it" in str(report.states["a/b"].reason)


def test_repositories_are_unproven_when_the_request_limit_is_reached(github_of: GitHubOf, run: Run) -> None:
    world = many()
    path = write(stars_of(world))
    first = read(run, path, world, client=github_of(world, max_requests=2 + 1)[1])
    assert first.report.stopped
    assert any("reached" in sentence for sentence in first.summary_lines())
    partial = [state for state in first.report.states.values() if not state.proven]
    assert partial
    assert all("could not be looked up (the run had ended)" in str(state.reason) for state in partial)
    stored = run.store.partitions("stargazers")
    assert all(set(run.stars(key)["user_id"]) <= right_ids(world)[key] for key in stored)
    second = read(run, path, world)
    assert second.report.stopped is None
    assert ids_in(run, world) == right_ids(world)
    assert all(state.proven and state.reason is None for state in second.report.states.values())


def test_failed_lookups_are_tried_again(github_of: GitHubOf, run: Run) -> None:
    world = world_of({"a/b": [0, 1, 2]})
    standin, client = github_of(world, graphql=False)
    path = write(stars_of(world))
    run.database["users"].insert_one({"_id": 5000, "login": "User-0"})
    standin.faults = Faults(probabilities={"500": 1.0}, seed=1)
    state = read(run, path, world, client=client).report.states["a/b"]
    assert (state.outcome, state.stars, state.proven) == (Outcome.OK, 1, False)
    assert "2 of the 3 logins in stars.csv could not be looked up" in str(state.reason)
    standin.faults = Faults()
    state = read(run, path, world, client=client).report.states["a/b"]
    assert (state.stars, state.proven, state.reason) == (3, True, None)


def test_known_users_are_not_looked_up(run: Run) -> None:
    world = world_of({"a/b": [0, 1]})
    run.database["users"].insert_many(
        [
            {"_id": 9, "login": "user-0", "seen": "2020-01-01T00:00:00.000000Z user-0"},
            {"_id": 5000, "login": "USER-0", "seen": "2024-01-01T00:00:00.000000Z USER-0"},
            {"_id": 5001, "login": "user-1", "seen": "2024-01-01T00:00:00.000000Z user-1"},
        ]
    )
    read(run, write(stars_of(world)), world)
    assert run.stars("a/b")["user_id"].to_list() == [5000, 5001], "the user who was last seen with the login"
    assert run.standin.quota.spent["graphql"] == 0


def test_ids_of_the_file_are_ids_of_github_and_distinguish_repositories(run: Run) -> None:
    # 10 was a/b before.
    path = write("repo,login,repo_id,user_id\na/b,ann,10,1\nformer/name,bob,11,2\na/b,cid,11,3\n")
    report = read(run, path, world_of({"a/b": [0]}), only=[ref(11, "a/b", 2), ref(12, "former/name", 1)]).report
    assert (run.stars("a/b")["user_id"].to_list(), report.states["a/b"].proven) == ([2, 3], True)
    assert report.states["former/name"].outcome is Outcome.UNKNOWN
    assert run.standin.served["user"] == run.standin.quota.spent["graphql"] == 0


# -- the home's world -----------------------------------------------------------------------------------------------


def claim(run: Run, identity: str) -> None:
    run.database["meta"].insert_one({"_id": "world", "identity": identity, "title": "the synthetic world (seed 0)"})


def test_the_file_of_the_homes_world_is_used_without_lookups(run: Run) -> None:
    path = CASES / "one-id-two-names.csv"
    world = read_world(path)
    claim(run, identity_of_file(path))
    repositories = [ref for ref in refs(world) if ref.full_name != "standin/awesome-all"]
    counts = {}
    for source in ("graphql", "file"):
        report = run(world, source, only=repositories, stars_file=path).report
        counts[source] = {state.repo_id: (state.full_name, state.stars) for state in report.states.values()}
        assert all(state.complete for state in report.states.values())
        run.database["stargazer_state"].delete_many({})
    assert counts["graphql"] == counts["file"] == {10: ("new/name", 2), 11: ("other/one-11", 1), 12: ("other/one", 1)}


def test_the_list_of_the_stand_in_has_all_repositories_and_former_names_redirect(github_of: GitHubOf) -> None:
    # github.com/new is a page of GitHub, so the owner gets another name.
    path = write((CASES / "one-id-two-names.csv").read_text().replace("new/", "fresh/"))
    _, client = github_of(read_world(path))
    table = collect_repositories(client, ["standin/awesome-all"], KnownRepositories()).table.sort("repo_id")
    assert table.select("repo_id", "full_name", "stargazer_count").rows() == [
        (10, "fresh/name", 2), (11, "other/one-11", 1), (12, "other/one", 1),
    ]  # fmt: skip
    awesome = path.with_suffix(".md")
    awesome.write_text("https://github.com/old/name")
    (document,) = collect_repositories(client, [str(awesome)], KnownRepositories()).documents
    assert (document["repo_id"], document["outcome"]) == (10, "moved")


def test_numbers_of_the_homes_file_are_ids_of_its_world(run: Run) -> None:
    path = write("repo,login\nb/x,zoe\nA/y,ann\na/y,zoe\n")
    world = read_world(path)
    claim(run, identity_of_file(path))
    read(run, path, world, only=refs(world)[:2])
    assert run.stars("A/y").select("repo_id", "user_id", "login").rows() == [(2, 2, "ann"), (2, 1, "zoe")]
    assert run.standin.quota.spent["graphql"] == 0


@pytest.mark.parametrize("identity", ["synthetic 0", "file 0123"])
def test_a_file_beside_another_world_of_made_up_ids_is_refused(run: Run, identity: str) -> None:
    world = world_of({"a/b": [0]})
    claim(run, identity)
    with pytest.raises(WorldMismatchError, match=r"the stars of stars\.csv cannot be added .* Set GH_ASSETS_HOME"):
        read(run, write(stars_of(world)), world)
    assert [run.database[name].count_documents({}) for name in ("stargazer_state", "users")] == [0, 0]


def test_users_have_negative_ids_without_github_until_they_are_known(run: Run) -> None:
    world = world_of({"a/b": [0, 1]})
    path = write("repo,login\na/b,User-0\na/b,user-1\n")
    run.database["users"].insert_one({"_id": 5001, "login": "user-1"})
    read(run, path, world, offline=True)
    assert set(run.stars("a/b")["user_id"]) == {id_of_name("user-0"), 5001}
    assert read(run, path, world, only=[ref(id_of_name("a/b"), "A/b")], offline=True).report.stars == 2
    read(run, path, world)
    assert set(run.stars("a/b")["user_id"]) == {5000, 5001}


# -- stars from other sources ------------------------------------------------------------------------------------


def test_a_file_removes_no_star_and_changes_no_time_from_github(run: Run) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=5)
    run(world, "graphql")
    before = run.stars("a/b")
    report = read(run, write("repo,login\na/b,user-1\na/b,user-4\n"), world).report
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
    database: MongoDatabase, source: str, in_file: dt.datetime | None, known: dt.datetime | None
) -> None:
    path = write(f"repo,login,repo_id,user_id,starred_at\na/b,file-login,1,5,{in_file or ''}\n")
    table = stars_table(1, [(5, "known-login")], [f"{known:%Y-%m-%dT%H:%M:%SZ}" if known else None], source)
    for _ in range(2):  # the second reading starts from the table of the first one
        task = CollectionTask(ref(stars=1), partial(PreviousStars, table, [], source=source))
        (collection,) = StarsFile(path, logins=UserLookup(database, None)).collect([task], 1)
        table = table_of(collection)
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


def test_two_logins_of_a_user_are_one_star_with_a_time(database: MongoDatabase) -> None:
    path = write("repo,login,starred_at\na/b,ann,\na/b,former-ann,2020-01-01\n")
    (collection,) = StarsFile(path, logins=SingleUserLookup(database, None)).collect([CollectionTask(ref(stars=1))], 1)
    assert table_of(collection).select("user_id", "starred_at").rows() == [(5, KNOWN)]


@pytest.mark.parametrize("source", ["file", "graphql"])
def test_only_the_file_of_the_homes_world_removes_its_earlier_stars(source: str, database: MongoDatabase) -> None:
    path = write("repo,login,user_id\na/b,ann,1\n")
    table = stars_table(1, [(1, "ann"), (2, "bob")], [None, None], source)
    task = CollectionTask(ref(stars=1), lambda: PreviousStars(table, [], source=source))
    (own,) = StarsFile(path, own_world=True).collect([task], 1)
    assert (own.unstarred is not None) == (source == "file")
    (beside,) = StarsFile(path, logins=UserLookup(database, None)).collect([task], 1)
    assert beside.unstarred is None
    assert set(table_of(beside)["user_id"]) == {1, 2}
