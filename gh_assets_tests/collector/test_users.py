"""Merging users over repositories."""

import datetime as dt
import tracemalloc
from random import Random

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.users import StoredUser, changed_users, merge_users, stored_users, user_messages
from gh_assets.schemas import STARGAZERS, USERS
from gh_assets.storage.consumer import Consumer
from gh_assets.storage.mongo import Collections, MongoDatabase


def stars(*rows: tuple[int, int, str]) -> pl.DataFrame:
    return pl.DataFrame([(*row, None, "test") for row in rows], schema=STARGAZERS.dtypes, orient="row")


def at(day: int) -> dt.datetime:
    return dt.datetime(2026, 1, day, tzinfo=dt.UTC)


def test_renamed_user_is_one_user_with_the_latest_login() -> None:
    table = merge_users(stars((1, 7, "before"), (2, 7, "after"), (3, 8, "other")), {1: at(1), 2: at(3), 3: at(2)})
    assert table.rows() == [(7, "after", 2), (8, "other", 1)]


def test_reused_login_remains_two_users() -> None:
    table = merge_users(stars((1, 7, "name"), (2, 8, "name")), {1: at(1), 2: at(2)})
    assert table["user_id"].to_list() == [7, 8]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8), st.sampled_from(["x", "y", "z"])), max_size=40),
    st.randoms(),
)
def test_result_does_not_depend_on_the_order(rows: list[tuple[int, int, str]], random: Random) -> None:
    # Within one repository a user has one login.
    rows = list({(repo, user): (repo, user, login) for repo, user, login in rows}.values())
    times = {repo: at(repo) for repo in range(1, 6)}
    expected = merge_users(stars(*rows), times)
    random.shuffle(rows)
    assert merge_users(stars(*rows), times).equals(expected)
    assert USERS.problem(expected) is None
    assert expected["stars"].sum() == len({(repo, user) for repo, user, _ in rows})


def test_only_new_and_changed_users_are_stored(database: MongoDatabase) -> None:
    def store(day: int, *rows: tuple[int, str, int]) -> int:
        table = pl.DataFrame(rows, schema=USERS.dtypes, orient="row")
        return Consumer(database).apply(user_messages(changed_users(table, stored_users(database)), at(day))).messages

    assert store(1, (7, "seven", 2), (8, "eight", 1)) == 2
    assert store(2, (7, "seven", 2), (8, "eight", 1)) == 0
    assert store(3, (7, "renamed", 2), (8, "eight", 3), (9, "new", 1)) == 3
    assert stored_users(database) == {
        7: StoredUser("renamed", 2), 8: StoredUser("eight", 3), 9: StoredUser("new", 1)
    }  # fmt: skip


def test_of_stored_users_only_what_is_compared_is_held(database: MongoDatabase) -> None:
    documents = [{"_id": user, "login": f"user-{user}", "profile": "x" * 10_000} for user in range(500)]
    database[Collections.USERS].insert_many(documents)
    del documents
    stored_users(database)  # what a first query needs
    tracemalloc.start()
    known = stored_users(database)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(known) == 500
    assert peak < 500 * 1000
