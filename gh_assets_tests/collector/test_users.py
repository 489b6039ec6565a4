"""Merging users over repositories."""

import datetime as dt
from random import Random

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.users import merge_users
from gh_assets.schemas import STARGAZERS, USERS


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
