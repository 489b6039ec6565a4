"""The source that reads users' lists: due lists, stored segments, and stars that were taken back."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gh_assets.collector.star_sources import starred as starred_module
from gh_assets.collector.star_sources.base import CollectionOptions, CollectionTask, PreviousStars, stars_table
from gh_assets.collector.star_sources.gharchive import ArchivedStars
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.starred import select_users, users_of_stored_stars
from gh_assets.collector.star_sources.starred_lists import RestStarred, StarredListTask, UserList
from gh_assets.collector.star_sources.starred_state import SeedUser, UserState
from gh_assets.embedded.standin.faults import Faults
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STAR_EVENTS, STARGAZERS
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.commands import stored_file
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.starred import READERS, Lists, Reader, all_users, users_of
from gh_assets_tests.support.worlds import world_of


@pytest.mark.parametrize("reader", READERS)
def test_fresh_lists_are_not_read_again_and_stale_ones_up_to_the_first_known_star(reader: Reader, lists: Lists) -> None:
    world = world_of({f"a/{n}": [user for user in range(12) if user != n] for n in range(250)}, users=12)
    lists.run(world, reader=reader)
    assert lists.last.collected == 12
    spent = lists.standin.quota.spent.total()
    collections = lists.run(world, reader=reader)
    assert (lists.last.collected, lists.standin.quota.spent.total()) == (0, spent)
    assert users_of(collections["a/3"]) == {5000 + user for user in range(12) if user != 3}
    lists.make_stale()
    segments = set(lists.segments.partitions())
    before = lists.standin.quota.spent.copy()
    collections = lists.run(world, reader=reader)
    assert (lists.last.collected, lists.last.unchanged) == (12, 12)
    assert set(lists.segments.partitions()) == segments, "no segment is written"
    if reader is RestStarred:
        assert lists.standin.quota.spent == before, "an unchanged first page has the status 304"
    grown = world_of({f"a/{n}": [user for user in range(12) if user != n or n == 3] for n in range(250)}, users=12)
    lists.make_stale()
    collections = lists.run(grown, reader=reader)
    assert users_of(collections["a/3"]) == {5000 + user for user in range(12)}
    pages = lists.standin.served["starred"] if reader is RestStarred else lists.standin.served["graphql"]
    assert pages <= 12 * 3


@pytest.mark.parametrize("reader", READERS)
def test_a_long_list_is_cut_and_later_continued(reader: Reader, lists: Lists) -> None:
    world = world_of({f"a/{n}": [0] for n in range(250)}, users=1)
    for number, repository in enumerate(world.repositories[:-1]):
        repository.starred_at = repository.starred_at + number
    collections = lists.run(world, reader=reader, max_pages=1)
    assert sum(collected.outcome is Outcome.OK for collected in collections.values()) == 100
    assert collections["a/249"].outcome is Outcome.OK, "the newest come first"
    assert collections["a/0"].outcome is Outcome.UNKNOWN
    collections = lists.run(world, reader=reader, max_pages=10)
    assert all(collected.outcome is Outcome.OK for collected in collections.values())


def test_a_list_of_an_earlier_version_is_read_again_although_it_is_fresh(lists: Lists, database: MongoDatabase) -> None:
    """An earlier version stored lists as complete without counting null and failed entries."""
    world = world_of({f"a/{n}": [0, 1] for n in range(120)}, users=2)
    lists.run(world)
    state = lists.state.load()[5000]
    shortened, short = "20261126T000000-short", lists.segments.read(str(state.segment))[0]
    lists.segments.write(shortened, short.filter(pl.col("user_id") == 5000).head(1))
    changes = {"$set": {"state.segment": shortened, "state.stars": 1}}
    changes["$unset"] = {"state.proven": "", "state.null_entries": "", "state.failed_entries": ""}
    database["starred_state"].update_one({"_id": 5000}, changes)
    collections = lists.run(world)
    assert lists.last.collected == 1
    assert all(users_of(collected) == {5000, 5001} for collected in collections.values())
    assert all(collected.unstarred is None for collected in collections.values())


def test_a_damaged_segment_is_read_again_by_the_next_run(
    lists: Lists, collecting: Collecting, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = world_of({"a/b": [0, 1, 2], "c/d": [1]}, users=3)
    collecting.run(refs(world), lists.source(lists.client_of(world), world))
    (segment,) = lists.segments.partitions()
    stored_file(home, collecting.tables.store.objects.name, f"assets/starred/{segment}.parquet").write_bytes(b"garbage")
    report = collecting.run(refs(world), lists.source(lists.client_of(world), world))
    assert (report.stars, report.unstarred) == (4, 0), "stored stars of repositories are kept"
    assert "read again by the next run" in caplog.text
    lists.run(world)
    assert (lists.last.collected, lists.last.unread) == (3, 0)
    assert set(lists.segments.partitions()) != {segment}


def test_lists_that_could_not_be_read_are_retried_once_and_reported(github_of: GitHubOf, lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2]}, users=3)
    standin, client = github_of(world)
    client.refresh_budgets()
    standin.faults = Faults(script=["untyped error"] * 50)
    lists.run(world, client=client)
    assert (lists.last.collected, lists.last.unread) == (6, 3)
    standin.faults = Faults()
    assert users_of(lists.run(world, client=client)["a/b"]) == {5000, 5001, 5002}
    assert lists.last.unread == 0


def test_users_with_the_highest_weights_are_collected_up_to_the_maximum(lists: Lists) -> None:
    world = world_of({"a/b": list(range(10))}, users=10)
    seeds = [SeedUser(f"user-{user}", 5000 + user, weight=user) for user in range(10)]
    assert users_of(lists.run(world, seeds, max_users=3)["a/b"]) == {5007, 5008, 5009}
    assert users_of(lists.run(world, seeds, max_users=5)["a/b"]) == {5005, 5006, 5007, 5008, 5009}
    assert lists.last.collected == 2


def test_full_run_detects_a_star_taken_back(lists: Lists, database: MongoDatabase, collecting: Collecting) -> None:
    old = world_of({"a/b": [0, 1, 2], "c/d": [0, 1]}, users=3)
    collecting.run(refs(old), lists.source(lists.client_of(old), old))
    new = world_of({"a/b": [0, 2], "c/d": [0, 1]}, users=3)
    new.repositories[0].starred_at = old.repositories[0].starred_at[[0, 2]]
    report = collecting.run(refs(new), lists.source(lists.client_of(new), new, full=True))
    assert (report.unstarred, set(collecting.users("a/b"))) == (1, {5000, 5002})
    (kept,) = database["unstars"].find()
    assert (kept["_id"], kept["unstar"]["login"]) == ("1/5001", "user-1")


def test_stars_are_kept_when_the_request_limit_is_reached_and_the_next_run_continues(
    github_of: GitHubOf, lists: Lists, collecting: Collecting
) -> None:
    world = world_of({"a/b": list(range(40))}, users=40)
    standin, client = github_of(world, max_requests=2 + 15)
    report = collecting.run(refs(world), lists.source(client, world, RestStarred))
    assert "reached: 17 were sent" in str(report.stopped)
    assert report.stars == 15
    client = client_of(client.api_url, "token")
    report = collecting.run(refs(world), lists.source(client, world, RestStarred))
    assert report.stars == 40
    assert standin.served["starred"] == 40, "no list is read twice"


def test_a_crash_loses_only_lists_that_are_in_no_segment(lists: Lists, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starred_module, "SEGMENT_USERS", 10)
    world = world_of({"a/b": list(range(35))}, users=35)

    class Killed(BaseException):
        pass

    class Dying(RestStarred):
        def read(self, tasks: Iterable[StarredListTask], workers: int) -> Iterator[UserList]:
            for number, collections in enumerate(super().read(tasks, workers)):
                if number == 25:
                    raise Killed
                yield collections

    source = lists.source(lists.client_of(world), world, Dying)
    write = source._write

    def write_while_alive(entries: Sequence[UserList], states: Mapping[int | str, UserState]) -> None:
        if len(entries) == 10:  # the remaining lists are lost with the process
            write(entries, states)

    monkeypatch.setattr(source, "_write", write_while_alive)
    with pytest.raises(Killed):
        list(source.collect([CollectionTask(ref) for ref in refs(world)], 1))
    assert len(lists.state.load()) == 20
    collections = lists.run(world, reader=RestStarred)
    assert users_of(collections["a/b"]) == {5000 + user for user in range(35)}
    assert lists.last.collected == 15


def test_old_segments_without_a_state_are_deleted(lists: Lists) -> None:
    world = world_of({"a/b": [0]}, users=1)
    lists.run(world)
    (named,) = lists.segments.partitions()
    table = lists.segments.read(named)[0]
    lists.segments.write("20200101T000000-old", table)
    young = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-young"
    lists.segments.write(young, table)
    lists.run(world)
    assert set(lists.segments.partitions()) == {named, young}


def test_a_star_younger_than_the_reading_of_a_list_is_not_taken_back(lists: Lists, collecting: Collecting) -> None:
    world = world_of({"a/b": [0, 1]}, users=2)
    collecting.run(refs(world), lists.source(lists.client_of(world), world))
    newer = world_of({"a/b": [0, 1], "c/d": [1]}, users=2)
    newer.repositories[1].starred_at = np.array([int(dt.datetime.now(dt.UTC).timestamp())])
    collecting.of_world(GraphQLStargazers, newer)
    assert collecting.tables.read("c/d")[0].height == 1
    report = collecting.run(refs(newer), lists.source(lists.client_of(newer), newer))
    assert (lists.last.collected, report.unstarred) == (0, 0), "the lists are fresh, and older than the star"
    assert collecting.tables.read("c/d")[0].height == 1


def test_a_user_of_the_archive_is_merged_with_the_user_of_the_list(lists: Lists, collecting: Collecting) -> None:
    world = world_of({"a/b": [0, 1]}, users=2)
    at = dt.datetime(2014, 1, 1, tzinfo=dt.UTC)
    events = pl.DataFrame([(1, "a/b", -77, "User-0", at)], schema=STAR_EVENTS.dtypes, orient="row")
    collecting.run(refs(world), ArchivedStars(events))
    assert collecting.users("a/b") == [-77]
    collecting.run(refs(world), lists.source(lists.client_of(world), world))
    assert sorted(collecting.users("a/b")) == [5000, 5001]
    assert lists.database["unstars"].count_documents({}) == 0


def state_of(user_id: int, *, days: float, hits_a_day: float | None, **changes: object) -> UserState:
    """Return the state of a list that was read whole some days ago."""
    at = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    state = UserState(
        user_id=user_id, login=f"user-{user_id}", outcome=Outcome.OK, complete=True, max_pages=10, proven=True,
        collected_at=at, asked_at=at, hits=9, hits_a_day=hits_a_day,
    )  # fmt: skip
    return state.model_copy(update=changes)


def test_lists_are_due_where_new_stars_are_expected() -> None:
    states = [
        state_of(1, days=8, hits_a_day=1 / 90),
        state_of(2, days=8, hits_a_day=0.2),
        state_of(3, days=8, hits_a_day=3.0),
        state_of(4, days=6, hits_a_day=9.0),
        state_of(5, days=31, hits_a_day=0.0),
        state_of(6, days=8, hits_a_day=None),
        state_of(7, days=1, hits_a_day=0.0, proven=False),
        state_of(8, days=1, hits_a_day=0.0, complete=False, max_pages=1),
    ]
    _, due = select_users([], {state.user_id: state for state in states}, CollectionOptions("starred"))
    assert [user.user_id for user in due][:2] == [3, 2], "those with the most expected stars come first"
    assert {user.user_id for user in due} == {2, 3, 5, 6, 7, 8}
    _, due = select_users([], {state.user_id: state for state in states}, CollectionOptions("starred", full=True))
    assert len(due) == len(states)


def test_a_list_keeps_its_rate_of_new_stars_on_wanted_repositories(lists: Lists) -> None:
    now = int(dt.datetime.now(dt.UTC).timestamp())
    world = world_of({f"a/{n}": [0] for n in range(6)}, users=1)
    for number, repository in enumerate(world.repositories[:-1]):
        repository.starred_at = np.array([now - number * 40 * 86_400])
    wanted = [CollectionTask(ref) for ref in refs(world)][1:]
    list(lists.source(lists.client_of(world), world).collect(wanted, 2))
    state = lists.state.load()[5000]
    assert (state.stars, state.hits) == (6, 5)
    assert state.hits_a_day == pytest.approx(2 / 90), "those of 40 and 80 days ago"


def test_no_further_users_are_sought_when_the_wanted_share_is_known(lists: Lists) -> None:
    world = world_of({f"a/{n}": list(range(200)) for n in range(4)}, users=200)
    lists.run(world, reader=RestStarred, target_share=0.5)
    hits = sum(state.hits or 0 for state in lists.state.load().values())
    assert 0.5 * 800 <= hits < 0.7 * 800
    lists.run(world, reader=RestStarred)
    assert sum(state.hits or 0 for state in lists.state.load().values()) == 800


def test_a_star_that_a_feed_and_a_list_name_counts_once_for_the_wanted_share(lists: Lists) -> None:
    world = world_of({f"a/{n}": list(range(200)) for n in range(4)}, users=200)
    fed = [(world.user_ids[user], world.logins[user]) for user in range(100)]
    tasks = [
        CollectionTask(ref, partial(PreviousStars, stars_table(ref.repo_id, fed, [None] * 100, "events"), []))
        for ref in refs(world)
        if ref.stargazer_count
    ]
    # Forks name the same users, and connect them with more repositories.
    seeds = [replace(user, weight=9, source="forks") for user in all_users(world)]
    source = lists.source(lists.client_of(world), seeds, RestStarred, target_share=0.9)
    assert len(list(source.collect(tasks, 2))) == 4
    read = [state.user_id for state in lists.state.load().values() if state.hits]
    assert 400 + 4 * sum(user_id not in dict(fed) for user_id in read) >= 0.9 * 800
    assert len(read) < 200


def test_a_run_over_a_part_of_the_repositories_seeks_users_and_judges_lists_by_all(lists: Lists) -> None:
    now = int(dt.datetime.now(dt.UTC).timestamp())
    world = world_of({f"a/{n}": list(range(40)) for n in range(5)} | {"b/new": list(range(60, 90))}, users=90)
    for repository in world.repositories[:-1]:
        repository.starred_at = np.full(len(repository.stargazers), now - 86_400)
    listed = frozenset(ref.repo_id for ref in refs(world))
    known = [user for user in all_users(world) if user.user_id is not None and user.user_id < 5040]
    lists.run(world, known, listed=listed)
    part = [CollectionTask(ref) for ref in refs(world) if ref.full_name == "b/new"]
    source = lists.source(lists.client_of(world), world, listed=listed, full=True)
    (collected,) = source.collect(part, 2)
    assert users_of(collected) == set(range(5060, 5090)), "people of the new repository are sought"
    states = lists.state.load()
    assert states[5000].hits == 5, "stars on all repositories count"
    assert states[5000].hits_a_day == pytest.approx(5 / 90)
    assert source.report.gained == 30, "those of known users are not new"


def test_the_state_of_a_login_whose_id_is_known_now_is_not_due() -> None:
    failed = state_of(7, days=1, hits_a_day=None, outcome=Outcome.UNKNOWN)
    states: dict[int | str, UserState] = {
        "login:user-7": failed.model_copy(update={"user_id": "login:user-7"}),
        7: state_of(7, days=1, hits_a_day=0.0),
    }
    assert select_users([], states, CollectionOptions("starred")) == ([], [])


def test_users_of_stored_stars_are_found(lists: Lists) -> None:
    world = world_of({"a/b": [0, 1, 2], "c/d": [1]}, users=3)
    table = pl.DataFrame(
        {
            "repo_id": 1,
            "user_id": [5001, 5002, -7],
            "login": ["user-1", "user-2", "old"],
            "starred_at": None,
            "source": "events",
        },
        schema=STARGAZERS.dtypes,
    )
    tasks = [CollectionTask(ref, lambda: PreviousStars(table, [])) for ref in refs(world)[:2]]
    users, stars = users_of_stored_stars(tasks, 2)
    found = {user.user_id: user for user in users}
    assert stars == 3 + 1, "no more than GitHub counts"
    assert set(found) == {5001, 5002}
    assert (found[5001].source, found[5001].weight, found[5001].smallest) == ("events", 2, 1)
