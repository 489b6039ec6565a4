"""Users whose lists may be read: from forks, known users, events of GH Archive and files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from gh_assets.collector.seed_users import SeedUsers, read_seeds_file, seeds_of_events
from gh_assets.collector.star_sources.base import RepositoryRef
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.errors import InputError
from gh_assets.github.outcomes import Outcome
from gh_assets.schemas import STAR_EVENTS
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.worlds import world_of


def test_owners_of_forks_are_seeds_and_are_requested_once(github_of, database) -> None:
    world = world_of({f"a/{n}": list(range(90)) for n in range(1, 4)}, users=90)
    standin, client = github_of(world)
    seeds = SeedUsers(client, database)(refs(world))
    forkers = {world.user_ids[user] for r in world.repositories[:-1] for user in world.forkers(r)}
    assert {seed.user_id for seed in seeds} == forkers
    assert len(forkers) > 20
    spent = standin.quota.spent["graphql"]
    again = SeedUsers(client, database)(refs(world))
    assert {seed.user_id for seed in again} == forkers
    assert standin.quota.spent["graphql"] == spent, "the forks are stored"
    by_rest = {}
    for ref in refs(world):
        _, owners = SeedUsers(client, database)._forks_by_rest(ref)
        by_rest |= dict(owners or [])
    assert set(by_rest) == forkers


def test_named_users_come_before_known_users_and_owners_of_forks(github_of, database, tmp_path: Path) -> None:
    world = world_of({"a/b": list(range(90))}, users=90)
    _, client = github_of(world)
    database["users"].insert_one({"_id": 5003, "login": "user-3", "collected": {"stars": 7}})
    named = tmp_path / "users.txt"
    named.write_text("user-9\n# a comment\nuser-8  # another\n")
    seeds = SeedUsers(client, database, file=named, enough=3)(refs(world))
    ranked = [seed.login for seed in sorted(seeds, key=lambda seed: -seed.weight)]
    assert ranked[:3] == ["user-9", "user-8", "user-3"]
    assert len(ranked) == 3, "forks are not read when enough users are known"
    assert len(SeedUsers(client, database, file=named, enough=50)(refs(world))) > 10


def test_users_of_archive_events_are_seeds() -> None:
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
    ("name", "content", "message"),
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
def test_an_invalid_file_of_users_is_a_clear_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_seeds_file(path)


@pytest.mark.parametrize("name", ["users.txt", "users.csv"])
def test_a_missing_file_of_users_and_a_folder_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"^The file of users .*{name} does not exist\.$"):
        read_seeds_file(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"^The file of users .*{name} is a folder: name the file in it\.$"):
        read_seeds_file(tmp_path / name)


def test_users_of_a_stars_file_have_their_number_of_stars_as_weight(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("repo,login,user_id\na/b,x,1\nc/d,x,1\na/b,y,2\n")
    assert read_seeds_file(path).seeds == [SeedUser("x", 1, 2), SeedUser("y", 2, 1)]


def test_logins_of_any_form_are_read_and_rows_without_one_reported(tmp_path: Path) -> None:
    path = tmp_path / "users.txt"
    path.write_text("ann # me\n\n@bob\nhttps://github.com/Cid/\n# all\n../..\nANN\n1000\n", encoding="utf-8-sig")
    users = read_seeds_file(path)
    assert users.seeds == [SeedUser("ANN", None, 2), SeedUser("bob"), SeedUser("Cid"), SeedUser("1000")]
    assert users.skipped.sentence() == (
        "1 of 6 rows of users.txt was skipped: 1 row has a login that is not a GitHub login "
        "(row 6: '../..' is not a GitHub login)."
    )
    path.write_text("ann\r\nbob", encoding="utf-16")
    assert [seed.login for seed in read_seeds_file(path).seeds] == ["ann", "bob"]
    path = tmp_path / "USERS.CSV"
    path.write_text("Login;User_id\nann;7\nbob;\nother;7\n", encoding="utf-8-sig")
    assert read_seeds_file(path).seeds == [SeedUser("other", 7, 2), SeedUser("bob")]
