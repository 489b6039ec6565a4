"""Users' own lists: what is asked, what is kept, who is asked at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import SecretStr

from gh_assets.collector.pipeline import CollectionState
from gh_assets.collector.seed_users import SeedUsers, read_seeds_file, seeds_of_events
from gh_assets.collector.star_sources import starred as starred_module
from gh_assets.collector.star_sources.base import CollectionTask, RepositoryRef, StarCollection
from gh_assets.collector.star_sources.gharchive import ArchivedStars
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.starred import StarredLists, StarredReport
from gh_assets.collector.star_sources.starred_lists import GraphQLStarred, RestStarred, StarredWithFallback
from gh_assets.collector.star_sources.starred_state import SeedUser, StarredState
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.world import World
from gh_assets.errors import InputError
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore, Segments
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.commands import stored_file
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import world_of

READERS = [RestStarred, GraphQLStarred]


class Lists:
    """Users' lists over one store, to be read several times."""

    def __init__(self, database, store: AssetStore) -> None:
        self.database = database
        self.state = StarredState(database)
        self.segments = Segments(store, "starred")
        self.last = StarredReport()

    def source(self, client: GitHubClient, seeds: Iterable[SeedUser], reader=GraphQLStarred, **options) -> StarredLists:
        pages = options.get("max_pages", 10)
        chosen = list(seeds)
        with_fallback = StarredWithFallback(reader(client, pages), RestStarred(client, pages))
        return StarredLists(with_fallback, self.state, self.segments, lambda _: chosen, **options)

    def run(self, world: World, client: GitHubClient, seeds=None, reader=GraphQLStarred, **options):
        source = self.source(client, everybody(world) if seeds is None else seeds, reader, **options)
        found = {c.repository.full_name: c for c in source.collect([CollectionTask(ref) for ref in refs(world)], 2)}
        self.last = source.report
        return found

    def make_stale(self) -> None:
        """As if a week had passed."""
        self.database["starred_state"].update_many(
            {}, {"$set": {"state.asked_at": dt.datetime.now(dt.UTC) - dt.timedelta(days=8)}}
        )


@pytest.fixture
def lists(database, asset_store) -> Lists:
    return Lists(database, asset_store)


def everybody(world: World) -> list[SeedUser]:
    return [SeedUser(login, user_id) for login, user_id in zip(world.logins, world.user_ids, strict=True)]


def users_of(collected: StarCollection) -> set[int]:
    assert collected.table is not None
    return set(collected.table["user_id"])


@pytest.mark.parametrize("reader", READERS)
def test_fresh_lists_are_not_asked_again_and_stale_ones_only_for_what_is_new(reader, github_of, lists: Lists) -> None:
    world = world_of({f"a/{n}": [user for user in range(12) if user != n] for n in range(250)}, users=12)
    standin, client = github_of(world)
    lists.run(world, client, reader=reader)
    assert lists.last.asked == 12
    asked = standin.quota.spent.total()
    found = lists.run(world, client, reader=reader)
    assert lists.last.asked == 0
    assert standin.quota.spent.total() == asked
    assert users_of(found["a/3"]) == {5000 + user for user in range(12) if user != 3}
    lists.make_stale()
    segments = set(lists.segments.names())
    before = standin.quota.spent.copy()
    found = lists.run(world, client, reader=reader)
    assert (lists.last.asked, lists.last.unchanged) == (12, 12)
    assert set(lists.segments.names()) == segments, "written for nothing"
    if reader is RestStarred:
        assert standin.quota.spent == before, "a first page that did not change answers 304"
    grown = world_of({f"a/{n}": [user for user in range(12) if user != n or n == 3] for n in range(250)}, users=12)
    standin, client = github_of(grown)
    lists.make_stale()
    found = lists.run(grown, client, reader=reader)
    assert users_of(found["a/3"]) == {5000 + user for user in range(12)}
    pages = standin.served["starred"] if reader is RestStarred else standin.served["graphql"]
    assert pages <= 12 * 3


@pytest.mark.parametrize("reader", READERS)
def test_a_list_of_more_pages_than_wanted_is_cut_and_later_continued(reader, github_of, lists: Lists) -> None:
    world = world_of({f"a/{n}": [0] for n in range(250)}, users=1)
    for number, repository in enumerate(world.repositories[:-1]):
        repository.starred_at = repository.starred_at + number
    _, client = github_of(world)
    found = lists.run(world, client, reader=reader, max_pages=1)
    assert sum(collected.outcome is Outcome.OK for collected in found.values()) == 100
    assert found["a/249"].outcome is Outcome.OK, "the newest come first"
    assert found["a/0"].outcome is Outcome.UNKNOWN
    found = lists.run(world, client, reader=reader, max_pages=10)
    assert all(collected.outcome is Outcome.OK for collected in found.values())


@pytest.mark.parametrize("reader", READERS)
def test_users_who_are_gone_or_were_renamed(reader, github_of, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    _, client = github_of(world)
    seeds = [
        SeedUser("user-0", 5000),
        SeedUser("former-name", 5001),
        SeedUser("USER-2"),
        SeedUser("nobody"),
        SeedUser("gone", 4711),
    ]
    found = lists.run(world, client, seeds, reader)
    assert users_of(found["a/b"]) == {5000, 5001, 5002}
    assert found["a/b"].table is not None
    if reader is GraphQLStarred:
        assert set(found["a/b"].table["login"]) == {"user-0", "user-1", "user-2"}
    outcomes = {state.login: state.outcome for state in lists.state.load().values()}
    assert outcomes["nobody"] is Outcome.GONE
    assert outcomes["gone"] is Outcome.GONE
    lists.run(world, client, seeds, reader)
    assert lists.last.asked == 0, "also who is not there is remembered"


def test_a_login_that_somebody_else_has_now_brings_no_foreign_stars(github_of, lists: Lists) -> None:
    world = world_of({"a/b": [0], "c/d": [1]}, users=2)
    _, client = github_of(world)
    # 5001 once was user-0; the present user-0 is somebody else.
    found = lists.run(world, client, [SeedUser("user-0", 5001)])
    assert users_of(found["c/d"]) == {5001}
    assert found["a/b"].outcome is Outcome.UNKNOWN


def test_lists_that_github_cannot_give_a_hundred_at_once(serve_world, lists: Lists) -> None:
    world = world_of({f"a/{n}": list(range(60)) for n in range(130)}, users=60)
    heavy = {"user-7", "user-31"}
    standin, url = serve_world(world, heavy_users=heavy)
    with client_of(url, "token") as client:
        found = lists.run(world, client)
    assert all(users_of(collected) == {5000 + user for user in range(60)} for collected in found.values())
    assert standin.served["graphql 502"] <= 40
    assert lists.last.outcomes == {"ok": 60}


@pytest.mark.parametrize("heavy", [frozenset(), frozenset({"user-0"})], ids=["100 a page", "25 a page"])
def test_the_limit_counts_stars_however_few_come_at_once(serve_world, lists: Lists, heavy: frozenset[str]) -> None:
    world = world_of({f"a/{n}": [0] for n in range(450)}, users=1)
    _, url = serve_world(world, heavy_users=heavy)
    with client_of(url, "token") as client:
        found = lists.run(world, client, max_pages=4)
    assert sum(collected.outcome is Outcome.OK for collected in found.values()) == 400


def test_who_is_renamed_in_the_middle_of_a_list_is_read_from_its_beginning(
    github_of, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0] for n in range(290)}, users=1)
    _, client = github_of(world)
    client.refresh_budgets()
    ask = client.graphql

    def renamed_after_a_page(*arguments, **named):
        answer = ask(*arguments, **named)
        world.logins[0] = "renamed"
        world.user_by_login.clear()
        world.user_by_login["renamed"] = 0
        return answer

    monkeypatch.setattr(client, "graphql", renamed_after_a_page)
    found = lists.run(world, client, max_pages=3)
    assert all(collected.outcome is Outcome.OK for collected in found.values()), "none counts twice against the limit"
    (state,) = lists.state.load().values()
    assert (state.login, state.stars, state.complete, state.proven) == ("renamed", 290, True, True)


def test_a_list_that_lost_stars_in_silence_is_read_again_though_it_is_fresh(github_of, lists: Lists, database) -> None:
    """As an earlier version left it: called complete, without a word of what it lacks."""
    world = world_of({f"a/{n}": [0, 1] for n in range(120)}, users=2)
    _, client = github_of(world)
    lists.run(world, client)
    state = lists.state.load()[5000]
    lists.segments.write(
        "20261126T000000-short", lists.segments.read(str(state.segment)).filter(pl.col("user_id") == 5000).head(1)
    )
    database["starred_state"].update_one(
        {"_id": 5000},
        {
            "$set": {"state.segment": "20261126T000000-short", "state.stars": 1},
            "$unset": {"state.proven": "", "state.null_entries": "", "state.failed_entries": ""},
        },
    )
    found = lists.run(world, client)
    assert lists.last.asked == 1
    assert all(users_of(collected) == {5000, 5001} for collected in found.values())
    assert all(collected.unstarred is None for collected in found.values())


def test_a_damaged_segment_costs_its_users_another_reading_and_no_run(
    github_of, lists: Lists, home: Path, asset_store: AssetStore, caplog: pytest.LogCaptureFixture
) -> None:
    world = world_of({"a/b": [0, 1, 2], "c/d": [1]}, users=3)
    _, client = github_of(world)
    collecting = Collecting(asset_store, CollectionState(lists.database))
    collecting.run(refs(world), lists.source(client, everybody(world)))
    (segment,) = lists.segments.names()
    stored_file(home, asset_store.objects.name, f"assets/starred/{segment}.parquet").write_bytes(b"garbage")
    report = collecting.run(refs(world), lists.source(client, everybody(world)))
    assert (report.stars, report.unstarred) == (4, 0), "what is stored of repositories stays"
    assert "read again by the next run" in caplog.text
    lists.run(world, client)
    assert (lists.last.asked, lists.last.unread) == (3, 0)
    assert set(lists.segments.names()) != {segment}


def test_users_whose_lists_could_not_be_read_are_asked_once_more_and_said(serve_world, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    standin, url = serve_world(world)
    with client_of(url, "token") as client:
        client.refresh_budgets()
        standin.faults = Faults(script=["untyped error"] * 50)
        lists.run(world, client)
        assert (lists.last.asked, lists.last.unread) == (6, 3)
        standin.faults = Faults()
        assert users_of(lists.run(world, client)["a/b"]) == {5000, 5001, 5002}
        assert lists.last.unread == 0


def test_a_server_without_graphql_is_asked_by_rest(serve_world, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    standin, url = serve_world(world, graphql=False)
    with client_of(url, "token") as client:
        found = lists.run(world, client)
    assert users_of(found["a/b"]) == {5000, 5001, 5002}
    assert standin.served["starred"] == 3


def test_the_most_promising_users_are_asked_and_no_more_than_wanted(github_of, lists: Lists) -> None:
    world = world_of({"a/b": list(range(10))}, users=10)
    _, client = github_of(world)
    seeds = [SeedUser(f"user-{user}", 5000 + user, weight=user) for user in range(10)]
    assert users_of(lists.run(world, client, seeds, max_users=3)["a/b"]) == {5007, 5008, 5009}
    assert users_of(lists.run(world, client, seeds, max_users=5)["a/b"]) == {5005, 5006, 5007, 5008, 5009}
    assert lists.last.asked == 2


def test_a_star_that_a_user_took_back_is_noticed_on_a_full_pass(github_of, lists: Lists, asset_store, database) -> None:
    collecting = Collecting(asset_store, CollectionState(database))
    old = world_of({"a/b": [0, 1, 2], "c/d": [0, 1]}, users=3)
    _, client = github_of(old)
    collecting.run(refs(old), lists.source(client, everybody(old)))
    new = world_of({"a/b": [0, 2], "c/d": [0, 1]}, users=3)
    new.repositories[0].starred_at = old.repositories[0].starred_at[[0, 2]]
    _, client = github_of(new)
    report = collecting.run(refs(new), lists.source(client, everybody(new), full=True))
    assert report.unstarred == 1
    assert set(collecting.tables.read("a/b")[0]["user_id"]) == {5000, 5002}
    (kept,) = database["unstars"].find()
    assert (kept["_id"], kept["unstar"]["login"]) == ("1/5001", "user-1")


def test_a_cap_tells_what_was_learned_and_the_next_run_goes_on(serve_world, lists: Lists, asset_store) -> None:
    world = world_of({"a/b": list(range(40))}, users=40)
    standin, url = serve_world(world)
    collecting = Collecting(asset_store, CollectionState(lists.database))
    with GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=2 + 15) as client:
        source = lists.source(client, everybody(world), RestStarred)
        report = collecting.run(refs(world), source)
    assert "reached: 17 were sent" in str(report.stopped)
    assert report.stars == 15
    with client_of(url, "token") as client:
        report = collecting.run(refs(world), lists.source(client, everybody(world), RestStarred))
    assert report.stars == 40
    assert standin.served["starred"] == 40, "nobody was asked twice"


def test_what_is_in_no_segment_yet_is_all_that_a_crash_costs(
    serve_world, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starred_module, "SEGMENT_USERS", 10)
    world = world_of({"a/b": list(range(35))}, users=35)
    _, url = serve_world(world)

    class Killed(BaseException):
        pass

    class Dying(RestStarred):
        def read(self, tasks, workers):
            for number, found in enumerate(super().read(tasks, workers)):
                if number == 25:
                    raise Killed
                yield found

    with client_of(url, "token") as client:
        source = lists.source(client, everybody(world), Dying)
        write = source._write

        def write_while_alive(entries, states) -> None:
            if len(entries) == 10:  # what remains at the end is lost with the process
                write(entries, states)

        monkeypatch.setattr(source, "_write", write_while_alive)
        with pytest.raises(Killed):
            list(source.collect([CollectionTask(ref) for ref in refs(world)], 1))
    assert len(lists.state.load()) == 20
    with client_of(url, "token") as client:
        found = lists.run(world, client, reader=RestStarred)
    assert users_of(found["a/b"]) == {5000 + user for user in range(35)}
    assert lists.last.asked == 15


def test_segments_that_nobody_names_are_swept_when_they_are_old(github_of, lists: Lists) -> None:
    world = world_of({"a/b": [0]}, users=1)
    _, client = github_of(world)
    lists.run(world, client)
    (named,) = lists.segments.names()
    table = lists.segments.read(named)
    lists.segments.write("20200101T000000-old", table)
    young = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-young"
    lists.segments.write(young, table)
    lists.run(world, client)
    assert set(lists.segments.names()) == {named, young}


# -- who is asked --------------------------------------------------------------------------------------------------


def test_forks_tell_whom_to_ask_and_are_asked_once(github_of, database) -> None:
    world = world_of({f"a/{n}": list(range(90)) for n in range(1, 4)}, users=90)
    standin, client = github_of(world)
    seeds = SeedUsers(client, database)(refs(world))
    forkers = {world.user_ids[user] for r in world.repositories[:-1] for user in world.forkers(r)}
    assert {seed.user_id for seed in seeds} == forkers
    assert len(forkers) > 20
    spent = standin.quota.spent["graphql"]
    again = SeedUsers(client, database)(refs(world))
    assert {seed.user_id for seed in again} == forkers
    assert standin.quota.spent["graphql"] == spent, "remembered"
    by_rest = {}
    for ref in refs(world):
        _, owners = SeedUsers(client, database)._forks_by_rest(ref)
        by_rest |= dict(owners or [])
    assert set(by_rest) == forkers


def test_named_users_come_before_known_ones_and_those_before_forks(github_of, database, tmp_path: Path) -> None:
    world = world_of({"a/b": list(range(90))}, users=90)
    _, client = github_of(world)
    database["users"].insert_one({"_id": 5003, "login": "user-3", "collected": {"stars": 7}})
    named = tmp_path / "users.txt"
    named.write_text("user-9\n# a comment\nuser-8  # another\n")
    seeds = SeedUsers(client, database, file=named, enough=3)(refs(world))
    ranked = [seed.login for seed in sorted(seeds, key=lambda seed: -seed.weight)]
    assert ranked[:3] == ["user-9", "user-8", "user-3"]
    assert len(ranked) == 3, "forks are not asked for when enough are known"
    assert len(SeedUsers(client, database, file=named, enough=50)(refs(world))) > 10


def test_events_of_the_archive_tell_whom_to_ask() -> None:
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    rows = [
        (1, "a/b", 5, "five", at),
        (2, "c/d", 5, "five", at),
        (None, "A/B", -9, "old", at),
        (3, "e/f", 6, "six", at),
    ]
    events = pl.DataFrame(rows, schema=STAR_EVENTS.dtypes, orient="row")
    wanted = [RepositoryRef(1, "a/b", "a/b", 5, Outcome.OK), RepositoryRef(2, "c/d", "c/d", 5, Outcome.OK)]
    assert seeds_of_events(events, wanted) == [SeedUser("old", -9, 1), SeedUser("five", 5, 2)]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("users.csv", "name\nx\n", "has no column 'login'"),
        ("users.csv", "login\n", "has no login"),
        ("users.txt", "not a login\n", "has no login. 1 of 1 row of .* 'not a login' is not a GitHub login"),
        (
            "users.csv",
            "login,user_id\nann,99999999999999999999\n",
            "Row 2 .* '99999999999999999999', which is no whole",
        ),
        ("users.txt", "", "has no login"),
        ("users.parquet", "no parquet", "cannot be read"),
        ("users.csv", "ann\nbob\n", "Its first line must name the column login."),
    ],
)
def test_a_wrong_file_of_users_is_one_clear_error(tmp_path: Path, name: str, content: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        read_seeds_file(path)


@pytest.mark.parametrize("name", ["users.txt", "users.csv"])
def test_a_file_of_users_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^The file of users .*{name} does not exist\.$"):
        read_seeds_file(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"^The file of users .*{name} is a folder: name the file in it\.$"):
        read_seeds_file(tmp_path / name)


def test_users_of_a_stars_file_weigh_by_their_stars(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("repo,login,user_id\na/b,x,1\nc/d,x,1\na/b,y,2\n")
    assert read_seeds_file(path).seeds == [SeedUser("x", 1, 2), SeedUser("y", 2, 1)]


def test_logins_are_read_however_they_are_written_and_what_names_nobody_is_said(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("ann # me\n\n@bob\nhttps://github.com/Cid/\n# all\n../..\nANN\n1000\n", encoding="utf-8-sig")
    found = read_seeds_file(path)
    assert found.seeds == [SeedUser("ANN", None, 2), SeedUser("bob"), SeedUser("Cid"), SeedUser("1000")]
    assert found.skipped.sentence() == (
        "1 of 6 rows of users.txt was skipped: 1 row has a login that is not a GitHub login "
        "(row 6: '../..' is not a GitHub login)."
    )
    path.write_text("ann\r\nbob", encoding="utf-16")
    assert [seed.login for seed in read_seeds_file(path).seeds] == ["ann", "bob"]
    path = tmp_path / "USERS.CSV"
    path.write_text("Login;User_id\nann;7\nbob;\nother;7\n", encoding="utf-8-sig")
    assert read_seeds_file(path).seeds == [SeedUser("other", 7, 2), SeedUser("bob")]


# -- what users' lists may say of stars -------------------------------------------------------------------------------


def test_a_star_that_is_younger_than_the_reading_of_a_list_is_not_taken_back_by_it(
    github_of, lists: Lists, asset_store: AssetStore
) -> None:
    world = world_of({"a/b": [0, 1]}, users=2)
    collecting = Collecting(asset_store, CollectionState(lists.database))
    _, client = github_of(world)
    collecting.run(refs(world), lists.source(client, everybody(world)))
    newer = world_of({"a/b": [0, 1], "c/d": [1]}, users=2)
    newer.repositories[1].starred_at = np.array([int(dt.datetime.now(dt.UTC).timestamp())])
    _, client = github_of(newer)
    collecting.run(refs(newer), GraphQLStargazers(client, 10))
    assert collecting.tables.read("c/d")[0].height == 1
    report = collecting.run(refs(newer), lists.source(client, everybody(newer)))
    assert (lists.last.asked, report.unstarred) == (0, 0), "the lists are fresh, and older than the star"
    assert collecting.tables.read("c/d")[0].height == 1


def test_a_user_of_the_archive_is_one_person_with_the_user_of_the_list(
    github_of, lists: Lists, asset_store: AssetStore
) -> None:
    world = world_of({"a/b": [0, 1]}, users=2)
    collecting = Collecting(asset_store, CollectionState(lists.database))
    _, client = github_of(world)
    at = dt.datetime(2014, 1, 1, tzinfo=dt.UTC)
    events = pl.DataFrame([(1, "a/b", -77, "User-0", at)], schema=STAR_EVENTS.dtypes, orient="row")
    collecting.run(refs(world), ArchivedStars(events))
    assert collecting.tables.read("a/b")[0]["user_id"].to_list() == [-77]
    collecting.run(refs(world), lists.source(client, everybody(world)))
    assert sorted(collecting.tables.read("a/b")[0]["user_id"]) == [5000, 5001]
    database = lists.database
    assert database["unstars"].count_documents({}) == 0


def test_a_login_that_changes_hands_between_two_pages_gives_nobody_the_others_stars(
    github_of, lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of({f"a/{n}": [0 if n < 150 else 1] for n in range(300)}, users=2)
    _, client = github_of(world)
    client.refresh_budgets()
    ask = client.graphql

    def changing_hands(*arguments, **named):
        answer = ask(*arguments, **named)
        world.logins[:] = ["former", "user-0"]
        world.user_by_login.clear()
        world.user_by_login |= {"former": 0, "user-0": 1}
        return answer

    monkeypatch.setattr(client, "graphql", changing_hands)
    found = lists.run(world, client, [SeedUser("user-0")])
    assert all(users_of(found[f"a/{n}"]) == {5001} for n in range(150, 300))
    assert all(found[f"a/{n}"].outcome is Outcome.UNKNOWN for n in range(150))


def test_a_list_by_rest_that_changes_while_it_is_read_is_read_again(serve_world, lists: Lists) -> None:
    world = world_of({f"a/{n}": [0] for n in range(250)}, users=1)
    _, url = serve_world(world)
    with client_of(url, "token") as client:
        get, pages = client.get, []

        def shifting(path, **named):
            answer = get(path, **named)
            if "starred" in path and not pages:
                pages.append(answer)
                world.repositories[249].stargazers = np.empty(0, np.int64)
                world.repositories[249].starred_at = np.empty(0, np.int64)
                world._starred = None
            return answer

        client.get = shifting
        found = lists.run(world, client, reader=RestStarred)
        assert lists.last.unread == 0
    known = {name for name, collected in found.items() if collected.outcome is Outcome.OK}
    assert {f"a/{n}" for n in range(249)} <= known
