"""Users whose lists may be read: from forks, known users, events of GH Archive and files."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from gh_assets.collector.seed_users import SeedsFile, SeedUsers, read_seeds_file
from gh_assets.collector.star_sources.base import CollectionOptions
from gh_assets.collector.star_sources.starred_state import SeedUser
from gh_assets.errors import InputError
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.worlds import world_of

OPTIONS = CollectionOptions("starred", 10)


def test_owners_of_forks_are_seeds_and_are_requested_once(
    github_of: GitHubOf, database: MongoDatabase, asset_store: AssetStore
) -> None:
    world = world_of({f"a/{n}": list(range(90)) for n in range(1, 4)}, users=90)
    forkers = {world.user_ids[user] for r in world.repositories[:-1] for user in world.forkers(r)}
    assert len(forkers) > 20
    standin, client = github_of(world)
    spent = set()
    for _ in range(2):
        seeds = SeedUsers(client, database, asset_store, OPTIONS)
        assert {seed.user_id for seed in seeds(refs(world))} == forkers
        spent.add(standin.quota.spent["graphql"])
    assert len(spent) == 1, "the forks are stored"
    by_rest = [seeds._forks_by_rest(ref)[1] or {} for ref in refs(world)]
    assert set().union(*by_rest) == forkers


def test_further_forks_are_read_while_users_are_too_few(
    github_of: GitHubOf, database: MongoDatabase, asset_store: AssetStore
) -> None:
    sizes = {"a/large": 9000, "a/medium": 1500, "a/small": 30}
    world = world_of({name: list(range(size)) for name, size in sizes.items()}, users=9000)
    newest = [[world.user_ids[user] for user in world.forkers(r)] for r in world.repositories[:-1]]
    assert [len(owners) for owners in newest] == [1500, 250, 5]
    standin, client = github_of(world)
    client.graphql("{ viewer { login } }", {})  # the first query asks whose token it is, too
    for enough, pages, points in ((50, 1, 1), (300, 2, 2), (10_000, 10, 10)):
        database["stargazer_state"].delete_many({})
        before = standin.quota.spent["graphql"]
        seeds = SeedUsers(client, database, asset_store, replace(OPTIONS, max_users=enough))._forkers(
            refs(world), set()
        )
        assert {seed.user_id for seed in seeds} == {user for owners in newest for user in owners[: 100 * pages]}
        assert standin.quota.spent["graphql"] - before == points


def test_named_users_come_before_known_users_those_of_events_and_owners_of_forks(
    github_of: GitHubOf, database: MongoDatabase, asset_store: AssetStore
) -> None:
    world = world_of({"a/b": list(range(90))}, users=90)
    _, client = github_of(world)
    database["users"].insert_one({"_id": 5003, "login": "user-3", "collected": {"stars": 7}})
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    events = [(1, "a/b", 5, "five", at), (None, "A/B", 5, "five", at), (None, "A/B", -9, "old", at)]
    table = pl.DataFrame(events, schema=STAR_EVENTS.dtypes, orient="row")
    asset_store.write_table(STAR_EVENTS.name, table, "2024-01-01")
    named = Path("users.txt")
    named.write_text("user-9\n# a comment\nuser-8  # another\n")
    options = replace(OPTIONS, seed_users=named, max_users=5)
    seeds = SeedUsers(client, database, asset_store, options)(refs(world))
    ranked = [seed.login for seed in sorted(seeds, key=lambda seed: -seed.weight)]
    assert ranked == ["user-9", "user-8", "user-3", "five", "old"], "no forks are read when enough users are known"
    assert [SeedUser("old", -9, 1), SeedUser("five", 5, 2)] == seeds[3:]
    options = replace(options, max_users=50)
    assert len(SeedUsers(client, database, asset_store, options)(refs(world))) > 10


def seeds_in(name: str, content: str, encoding: str = "utf-8") -> SeedsFile:
    """Write a file of users to the test's folder, and read it."""
    Path(name).write_text(content, encoding)
    return read_seeds_file(Path(name))


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
def test_an_invalid_file_of_users_is_a_clear_error(name: str, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        seeds_in(name, content)


@pytest.mark.parametrize("name", ["users.txt", "users.csv"])
def test_a_missing_file_of_users_and_a_folder_are_named(name: str) -> None:
    with pytest.raises(InputError, match=rf"^The file of users .*{name} does not exist\.$"):
        read_seeds_file(Path(name))
    Path(name).mkdir()
    with pytest.raises(InputError, match=rf"^The file of users .*{name} is a folder: name the file in it\.$"):
        read_seeds_file(Path(name))


def test_logins_of_any_form_are_read_and_rows_without_one_reported() -> None:
    logins = "ann # me\n\n@bob\nhttps://github.com/Cid/\n# all\n../..\nANN\n1000\n"
    users = seeds_in("users.txt", logins, "utf-8-sig")
    assert users.seeds == [SeedUser("ANN", None, 2), SeedUser("bob"), SeedUser("Cid"), SeedUser("1000")]
    assert users.skipped.sentence() == (
        "1 of 6 rows of users.txt was skipped: 1 row has a login that is not a GitHub login "
        "(row 6: '../..' is not a GitHub login)."
    )
    assert [seed.login for seed in seeds_in("users.txt", "ann\r\nbob", "utf-16").seeds] == ["ann", "bob"]


def test_users_of_a_table_have_their_number_of_rows_as_weight() -> None:
    stars = seeds_in("stars.csv", "repo,login,user_id\na/b,x,1\nc/d,x,1\na/b,y,2\n")
    assert stars.seeds == [SeedUser("x", 1, 2), SeedUser("y", 2, 1)]
    users = seeds_in("USERS.CSV", "Login;User_id\nann;7\nbob;\nother;7\n", "utf-8-sig")
    assert users.seeds == [SeedUser("other", 7, 2), SeedUser("bob")]
