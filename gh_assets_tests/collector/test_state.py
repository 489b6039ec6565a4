"""States of repositories and users, pages of interrupted runs, and unstars in Mongo."""

import datetime as dt
from typing import Any

import pytest
from pymongo.synchronous.collection import Collection

from gh_assets.collector.star_sources.base import Page, StarCollection, StarRows
from gh_assets.collector.star_sources.starred_state import StarredState, UserState
from gh_assets.collector.state import UNSTARS_CHECKED, CollectionState, MongoCheckpoint, RepositoryState, state_after
from gh_assets.github.outcomes import Outcome
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.collecting import Collecting, ref
from gh_assets_tests.support.worlds import world_of

NOW = dt.datetime(2026, 11, 27, 12, tzinfo=dt.UTC)
REPOSITORY = ref(7, stars=300)


def state_of(repo_id: int = 7, **fields: Any) -> RepositoryState:
    usual: dict[str, Any] = {"partition": "a/b", "full_name": "a/b", "outcome": Outcome.OK, "asked_at": NOW}
    return RepositoryState(repo_id=repo_id, **(usual | fields))


def test_states_survive_mongo(database: MongoDatabase) -> None:
    pages = [Page("etag", 99, True, 100, 1), Page(None, 3, False)]
    read = state_of(stars=102, pages=pages, source="graphql", complete=True, proven=True, collected_at=NOW, entries=103)
    closed = state_of(8, outcome=Outcome.RESTRICTED, reason="403", closed_at=NOW)
    repositories = CollectionState(database)
    repositories.save([read, closed])
    assert repositories.load() == {7: read, 8: closed}
    users = StarredState(database)
    states = [
        UserState(user_id=5, login="octo", outcome=Outcome.OK, segment="s", stars=3, etag="e", asked_at=NOW),
        UserState(user_id="login:ghost", login="ghost", outcome=Outcome.GONE, reason="none", asked_at=NOW),
    ]
    users.save(states)
    assert users.load() == {state.user_id: state for state in states}


def test_latest_state_wins_in_any_order(database: MongoDatabase) -> None:
    collection = CollectionState(database)
    later = state_of(stars=2, asked_at=NOW + dt.timedelta(seconds=1))
    collection.save([later])
    collection.save([state_of(stars=1)])
    assert collection.load() == {7: later}


def test_state_of_an_earlier_version_is_not_proven(database: MongoDatabase) -> None:
    collection = CollectionState(database)
    collection.save([state_of(stars=100, proven=True, entries=100, pages=[Page("etag", 100, True, 100)])])
    missing = ("proven", "entries", "null_entries", "failed_entries", "closed_at", "pages.0.entries", "pages.0.failed")
    database["stargazer_state"].update_one({"_id": 7}, {"$unset": {f"state.{name}": "" for name in missing}})
    (state,) = collection.load().values()
    assert (state.stars, state.proven, state.entries, state.closed_at) == (100, False, 0, None)
    assert (state.pages[0], state.pages[0].count) == (Page("etag", 100, True), 100)


def test_pages_are_resumed_up_to_a_gap_and_only_by_their_source(database: MongoDatabase) -> None:
    pages = database["stargazer_pages"]
    checkpoint = MongoCheckpoint(pages, REPOSITORY, [])
    for number in range(1, 13):
        rows = StarRows(7, "graphql", [(number, f"user-{number}")], [None])
        checkpoint.add("graphql", number, Page(f"cursor {number}", 1, False, 2, 1), rows)
    checkpoint.flush()
    stored = CollectionState(database).interrupted()[7]
    assert stored == checkpoint.stored == [f"7/{number:06d}" for number in range(1, 13)]
    pages.delete_one({"number": 4})
    resumed = MongoCheckpoint(pages, REPOSITORY, stored).pages("graphql")
    assert [page for page, _ in resumed] == [Page(f"cursor {number}", 1, False, 2, 1) for number in (1, 2, 3)]
    assert [table["login"][0] for _, table in resumed] == ["user-1", "user-2", "user-3"]
    assert MongoCheckpoint(pages, REPOSITORY, stored).pages("stargazers") == []
    assert CollectionState(database).interrupted() == {}, "pages of another source are deleted"


def test_pages_are_read_and_deleted_by_whole_ids(database: MongoDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a range of ids, the embedded MongoDB reads the whole collection: once for each long list."""
    filters: list[Any] = []
    for name in ("find", "delete_many"):
        original = getattr(Collection, name)

        def noting(pages: Any, wanted: Any, *more: Any, original: Any = original) -> Any:
            filters.append(wanted)
            return original(pages, wanted, *more)

        monkeypatch.setattr(Collection, name, noting)
    pages = database["stargazer_pages"]
    checkpoint = MongoCheckpoint(pages, REPOSITORY, [])
    for number in range(1, 26):
        checkpoint.add("graphql", number, Page("cursor", 1, True), StarRows(7, "graphql", [(1, "user-1")], [None]))
    assert pages.count_documents({}) == 20
    assert len(MongoCheckpoint(pages, REPOSITORY, checkpoint.stored).pages("graphql")) == 20
    CollectionState(database).delete_pages(checkpoint.stored)
    assert pages.count_documents({}) == 0
    assert filters
    assert all(set(wanted["_id"]) == {"$in"} for wanted in filters)


def test_false_unstars_are_deleted_once_and_true_ones_kept(collecting: Collecting, database: MongoDatabase) -> None:
    world = world_of({"a/b": [1, 2, 3]})
    collecting.rest(world)
    database["meta"].delete_one({"_id": UNSTARS_CHECKED})
    (first, *_) = collecting.tables.read("a/b")[0].iter_rows(named=True)
    long_ago = first["starred_at"] - dt.timedelta(days=300)
    for user_id, starred_at in ((5001, first["starred_at"]), (5002, long_ago), (5099, long_ago)):
        unstar = {"repo_id": 1, "user_id": user_id, "login": "x", "starred_at": starred_at}
        database["unstars"].insert_one({"_id": f"1/{user_id}", "unstar": unstar})
    assert collecting.rest(world).asked == 0
    left = {document["unstar"]["user_id"] for document in database["unstars"].find()}
    assert left == {5002, 5099}, "one was given again later, one is not in the table"


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.RESTRICTED])
def test_a_look_that_finds_nothing_leaves_the_outcome_as_it_was(outcome: Outcome) -> None:
    before = RepositoryState(repo_id=1, partition="a/b", full_name="a/b", outcome=outcome, stars=5, reason="as before")
    look = StarCollection(ref(1, "a/b", 5), Outcome.UNKNOWN, "its feed of events has shown no star yet")
    after = state_after(before, look, "events", 10, None)
    assert (after.outcome, after.reason, after.stars) == (outcome, "as before", 5)
    assert state_after(before, look, "graphql", 10, None).outcome is Outcome.UNKNOWN
