"""The pipeline: what is requested, what is kept, faults, killed and concurrent collectors."""

import datetime as dt
import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from google.cloud import storage

from gh_assets.collector.repositories import KnownRepositories, collect_repositories
from gh_assets.collector.star_sources.base import CollectionTask, Page, RepositoryRef, StarCollection, StarRows
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.collector.state import CollectionState, MongoCheckpoint
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import KINDS, REST_KINDS
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.github.outcomes import Outcome
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import GitHubOf, MakeDatabase, ServeWorld
from gh_assets_tests.support.collecting import Collecting, Source, refs
from gh_assets_tests.support.commands import stored_file
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import LIST, troubled_world, world_of


def test_nothing_is_requested_if_nothing_is_new(collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(120)), "c/d": [1], "no/stars": []})
    first = collecting.rest(world)
    collecting.standin.served.clear()
    second = collecting.rest(world)
    assert (second.asked, second.pages, second.unchanged, second.stars) == (0, 0, 3, first.stars)
    assert (first.stars, sum(collecting.standin.served.values())) == (121, 0)


def test_restricted_repository_is_not_counted_as_empty(github_of: GitHubOf, collecting: Collecting) -> None:
    _, client = github_of(troubled_world())
    collected = collect_repositories(client, [LIST], KnownRepositories()).table
    rows = collected.drop_nulls("partition").select("repo_id", "partition", "full_name", "stargazer_count", "outcome")
    repositories = [RepositoryRef(**row | {"outcome": Outcome(row["outcome"])}) for row in rows.iter_rows(named=True)]
    report = collecting.run(repositories, RestStargazers(client, 10))
    ok = dict.fromkeys(["good/one", "good/starless", "fresh/name"], Outcome.OK)
    assert {key: state.outcome for key, state in report.states.items()} == ok | {"closed/list": Outcome.RESTRICTED}
    closed = report.states["closed/list"]
    assert (report.stars, closed.stars) == (253, None)
    assert "permission" in str(closed.reason)
    assert "closed/list" not in collecting.tables.partitions(), "an empty table would mean a repository without stars"
    assert collecting.tables.read("good/starless")[0].height == 0


def test_data_are_kept_when_a_repository_closes(collecting: Collecting) -> None:
    world = world_of({"a/b": [1, 2, 3]})
    collecting.rest(world)
    closed = world_of({"a/b": [1, 2, 3, 4]})
    closed.repositories[0].restricted = True
    report = collecting.rest(closed)
    state = report.states["a/b"]
    assert (state.outcome, state.stars) == (Outcome.RESTRICTED, 3)
    assert collecting.tables.read("a/b")[0].height == 3
    opened = world_of({"a/b": [1, 2, 3, 4]})
    assert collecting.rest(opened).states["a/b"].stars == 4


def test_data_are_kept_when_a_repository_is_gone(github_of: GitHubOf, collecting: Collecting) -> None:
    world = world_of({"a/b": [1, 2, 3]})
    _, client = github_of(world)
    collecting.rest(world, client)
    gone = [RepositoryRef(1, "a/b", "a/b", 3, Outcome.GONE)]
    report = collecting.run(gone, RestStargazers(client, 10))
    assert (report.states["a/b"].outcome, report.states["a/b"].stars, report.asked) == (Outcome.GONE, 3, 0)


def test_lost_table_is_collected_again(collecting: Collecting) -> None:
    world = world_of({"a/b": [1, 2, 3]})
    collecting.rest(world)
    collecting.tables.store.objects.bucket.blob("assets/stargazers/a/b.parquet").delete()
    assert collecting.rest(world).asked == 1
    assert collecting.tables.read("a/b")[0].height == 3


def test_long_repository_is_resumed_at_its_page(github_of: GitHubOf, collecting: Collecting) -> None:
    world = world_of({"a/long": list(range(40_000))})
    standin, client = github_of(world, max_requests=2 + 398)
    assert collecting.rest(world, client, 400).stopped
    assert (collecting.state.load(), list(collecting.state.interrupted())) == ({}, [1]), "it is not finished"
    standin.served.clear()
    report = collecting.rest(world, client_of(client.api_url, "token"), 400)
    assert standin.served["stargazers"] == 2, "pages 399 and 400"
    assert (report.stars, report.states["a/long"].complete) == (40_000, True)
    assert collecting.users("a/long") == [5000 + user for user in range(40_000)]
    assert collecting.state.interrupted() == {}, "pages of finished repositories are deleted"


def test_pages_of_long_repositories_are_stored_before_the_run_ends(
    collecting: Collecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `kill -9` nothing more is written."""
    world = world_of({"a/long": list(range(3000))})
    pages: list[int] = []
    add = MongoCheckpoint.add

    def add_and_count(checkpoint: MongoCheckpoint, source: str, number: int, page: Page, rows: StarRows) -> None:
        add(checkpoint, source, number, page, rows)
        pages.append(collecting.state.pages.count_documents({}))

    monkeypatch.setattr(MongoCheckpoint, "add", add_and_count)
    collecting.rest(world, max_pages=30)
    assert pages == [0] * 9 + [10] * 10 + [20] * 10


def test_table_that_differs_from_its_state_is_not_reused(collecting: Collecting) -> None:
    """This happens after a crash between both writes, or with another collector."""
    world = world_of({"a/b": list(range(250))})
    collecting.rest(world)
    table, _ = collecting.tables.read("a/b")
    collecting.tables.write("a/b", table.reverse())
    report = collecting.rest(world, full=True)
    assert report.pages_not_modified == 0
    assert collecting.tables.read("a/b")[0].equals(table)


def test_repositories_without_data_come_first_then_the_oldest(github_of: GitHubOf, collecting: Collecting) -> None:
    world = world_of({f"a/{number}": [number] for number in range(6)})
    _, client = github_of(world)
    everything = refs(world)
    for part in (everything[2:3], everything[0:1]):
        collecting.run(part, RestStargazers(client, 10))

    class Noting:
        name = "noting"

        def __init__(self) -> None:
            self.order: list[int] = []

        def collect(self, tasks: Iterable[CollectionTask], workers: int) -> Iterator[StarCollection]:
            for work in tasks:
                self.order.append(work.repository.repo_id)
                yield StarCollection(work.repository, Outcome.UNKNOWN, "only noted")

    noting = Noting()
    collecting.run(everything, noting, full=True)
    assert noting.order == [2, 4, 5, 6, 3, 1]


def unstars(collecting: Collecting) -> dict[str, object]:
    return {document["_id"]: document["unstar"]["login"] for document in collecting.state.unstars.find()}


@pytest.mark.parametrize("source", [RestStargazers, GraphQLStargazers])
def test_full_run_detects_stars_taken_back_and_keeps_them_as_history(source: Source, collecting: Collecting) -> None:
    old = world_of({"a/b": list(range(250)), "c/d": [1, 2]}, users=300)
    collecting.of_world(source, old)
    left = [user for user in range(250) if user not in (3, 120)]
    new = world_of({"a/b": left, "c/d": [1, 2]}, users=300)
    report = collecting.of_world(source, new, full=True)
    assert report.unstarred == 2
    assert unstars(collecting) == {"1/5003": "user-3", "1/5120": "user-120"}
    assert report.states["a/b"].stars == 248
    # A star given again is in the table with a later time; the history stays.
    again = world_of({"a/b": [*left, 3, 120], "c/d": [1, 2]}, users=300)
    collecting.of_world(source, again, full=True)
    assert collecting.tables.read("a/b")[0].height == 250
    assert len(unstars(collecting)) == 2
    # A star that is in the table with its former time was never taken back.
    collecting.of_world(source, old, full=True)
    assert unstars(collecting) == {}


@pytest.mark.parametrize("source", [RestStargazers, GraphQLStargazers])
def test_stars_beyond_the_requested_pages_do_not_count_as_taken_back(source: Source, collecting: Collecting) -> None:
    world = world_of({"a/b": list(range(450))})
    collecting.of_world(source, world)
    assert collecting.of_world(source, world, max_pages=2, full=True).unstarred == 0
    assert unstars(collecting) == {}


def as_an_earlier_version_wrote(database: MongoDatabase, partition: str, store: AssetStore, kept: int) -> None:
    """Store a list that lost stars: complete, with GitHub's count, and the lost stars as taken back."""
    tables = PartitionTables(store, "stargazers")
    table = tables.read(partition)[0]
    checksum = tables.write(partition, table.head(kept))
    now = dt.datetime.now(dt.UTC)
    (document,) = database["stargazer_state"].find({"state.partition": partition})
    unknown = ("proven", "null_entries", "failed_entries")
    state = {name: value for name, value in document["state"].items() if name not in unknown}
    state |= {"checksum": checksum, "stars": kept, "complete": True}
    for page in state["pages"]:
        del page["entries"], page["failed"]
    database["stargazer_state"].replace_one({"_id": document["_id"]}, {"_id": document["_id"], "state": state})
    for row in table.tail(table.height - kept).iter_rows(named=True):
        unstar = {name: row[name] for name in ("repo_id", "user_id", "login", "starred_at")} | {"noticed_at": now}
        database["unstars"].insert_one({"_id": f"{row['repo_id']}/{row['user_id']}", "unstar": unstar})


@pytest.mark.parametrize("source", [RestStargazers, GraphQLStargazers])
def test_home_of_an_earlier_version_that_lost_stars_is_repaired(
    github_of: GitHubOf, collecting: Collecting, database: MongoDatabase, asset_store: AssetStore, source: Source
) -> None:
    world = world_of({"a/b": list(range(250)), "c/d": list(range(40)), "e/f": []})
    _, client = github_of(world)
    run = partial(collecting.of_world, source, world, client)
    run()
    good = {key: collecting.tables.read(key)[0] for key in ("a/b", "c/d", "e/f")}
    as_an_earlier_version_wrote(database, "a/b", asset_store, 70)
    as_an_earlier_version_wrote(database, "c/d", asset_store, 40)
    assert run().unstarred == 0
    assert all(collecting.tables.read(key)[0].equals(table) for key, table in good.items())
    assert database["unstars"].count_documents({}) == 0, "a star in the table was not taken back"
    assert run().asked == 0, "the repair is done once"


@pytest.mark.parametrize("content", [b"", b"garbage"], ids=["empty", "no Parquet"])
@pytest.mark.parametrize("behind_its_back", [False, True], ids=["overwritten", "on the disk"])
def test_damaged_table_is_collected_again(
    collecting: Collecting, home: Path, caplog: pytest.LogCaptureFixture, content: bytes, behind_its_back: bool
) -> None:
    world = world_of({"a/b": [1, 2, 3], "c/d": [4]})
    collecting.rest(world)
    damage(collecting, home, "assets/stargazers/a/b.parquet", content, behind_its_back=behind_its_back)
    report = collecting.rest(world)
    assert (report.asked, report.stars) == (1, 4)
    assert collecting.tables.read("a/b")[0].height == 3
    assert "The stored stars of a/b are damaged" in caplog.text
    assert list(collecting.tables.store.objects.names("damaged/")) == ["damaged/assets/stargazers/a/b.parquet"]


def damage(collecting: Collecting, home: Path, name: str, content: bytes, *, behind_its_back: bool) -> None:
    objects = collecting.tables.store.objects
    if behind_its_back:
        stored_file(home, objects.name, name).write_bytes(content)
    else:
        objects.write(name, content)


def test_damaged_table_of_a_closed_list_is_replaced_by_its_previous_version(collecting: Collecting, home: Path) -> None:
    old = world_of({"a/b": [1, 2]})
    collecting.rest(old)
    new = world_of({"a/b": [1, 2, 3]})
    collecting.rest(new)
    damage(collecting, home, "assets/stargazers/a/b.parquet", b"garbage", behind_its_back=True)
    new.repositories[0].restricted = True
    report = collecting.rest(new)
    assert report.states["a/b"].outcome is Outcome.RESTRICTED
    assert collecting.users("a/b") == [5001, 5002]


def test_stars_of_the_previous_version_of_a_damaged_table_are_kept(collecting: Collecting, home: Path) -> None:
    """What is read next may be but a part of the list."""
    collecting.rest(world_of({"a/b": list(range(250))}))
    world = world_of({"a/b": list(range(300))})
    collecting.rest(world)
    damage(collecting, home, "assets/stargazers/a/b.parquet", b"garbage", behind_its_back=True)
    collecting.rest(world, max_pages=1)
    assert set(collecting.users("a/b")) >= {5000 + user for user in range(250)}


USERS = 1500


def busy_world(repositories: int, most: int) -> World:
    """Return repositories of very different sizes, some without stars."""
    rng = np.random.default_rng(5)
    sizes = (rng.random(repositories) ** 4 * most).astype(int)
    stars = {f"owner/repo-{n}": rng.permutation(USERS)[:size].tolist() for n, size in enumerate(sizes)}
    world = world_of(stars, users=USERS)
    for number, repository in enumerate(world.repositories):
        repository.starred_at = repository.starred_at + number
    return world


@dataclass
class Place:
    """A database and a bucket, with collectors in processes of their own."""

    database: MongoDatabase
    store: AssetStore

    def start(self, url: str, world: World, source: str, tokens: Sequence[str] = ("token",)) -> subprocess.Popen[str]:
        repositories = [(ref.repo_id, ref.full_name, ref.stargazer_count) for ref in refs(world)]
        arguments = {"url": url, "source": source, "tokens": list(tokens), "repositories": repositories}
        arguments |= {"database": self.database.name, "bucket": self.store.objects.name}
        return subprocess.Popen(
            [sys.executable, "-m", "gh_assets_tests.collector.collect_child", json.dumps(arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def data(self) -> tuple[dict[str, pl.DataFrame], dict[str, tuple[Any, ...]]]:
        """Return all collected data except times."""
        tables = PartitionTables(self.store, "stargazers")
        states = {
            state.partition: (state.outcome, state.stars, state.complete, state.source, state.checksum)
            for state in CollectionState(self.database).load().values()
        }
        return {key: tables.read(key)[0] for key in tables.partitions()}, states


MakePlace = Callable[[], Place]


@pytest.fixture
def place(make_database: MakeDatabase, gcs_client: storage.Client) -> MakePlace:
    def make() -> Place:
        objects = ObjectStore(gcs_client, f"test-{secrets.token_hex(6)}", create=True)
        return Place(make_database(), AssetStore(objects, 4))

    return make


def ended(process: subprocess.Popen[str]) -> int:
    _, stderr = process.communicate(timeout=120)
    assert process.returncode in (0, 3), stderr[-2000:]
    return process.returncode


def assert_same(found: Place, expected: Place) -> None:
    (tables, states), (wanted_tables, wanted_states) = found.data(), expected.data()
    assert states == wanted_states
    assert tables.keys() == wanted_tables.keys()
    for key, table in wanted_tables.items():
        assert tables[key].equals(table), key


def faulty(seed: int) -> Faults:
    """Let half of all responses fail, in every way."""
    return Faults(
        dict.fromkeys(KINDS, 0.5 / len(KINDS)), seed=seed, timeout_seconds=0.05, slow_seconds=0.01, retry_after=0
    )


def survives(serve_world: ServeWorld, place: MakePlace, source: str, kills: int, world: World) -> None:
    """Kill collectors at random moments, let the last one end, and compare with a run without faults."""
    good, bad = place(), place()
    limits = Limits(query_budget=400)  # small queries: more of them to fail
    _, url = serve_world(world, limits=limits)
    assert ended(good.start(url, world, source)) == 0
    rng = random.Random(kills)
    standin, url = serve_world(world, faults=faulty(kills), limits=limits)
    killed = 0
    while killed < kills:
        process = bad.start(url, world, source)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()[1][-2000:]
        try:
            process.wait(rng.uniform(0.0, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        killed += 1
        if process.returncode == 0 and killed < kills:
            # It had finished: the remaining kills need work, too.
            forgotten = rng.sample(sorted(bad.data()[1]), k=max(1, len(world.repositories) // 2))
            ids = [world.by_name[name].repo_id for name in forgotten]
            bad.database["stargazer_state"].delete_many({"_id": {"$in": ids}})
            bad.database["starred_state"].delete_many({"_id": {"$mod": [2, killed % 2]}})
    deadline = time.monotonic() + 120
    while ended(bad.start(url, world, source)) != 0:
        assert time.monotonic() < deadline
    assert_same(bad, good)
    # Up to two kinds may not have occurred: the number of requests depends on the kills.
    wanted = set(REST_KINDS if source == "stargazers" else KINDS)
    assert len(wanted - set(standin.faults.injected)) <= 2


TWIN = pytest.mark.slow
"""Other sources of a test that the fast tests run with one."""


@pytest.mark.parametrize(
    "source", ["graphql", pytest.param("stargazers", marks=TWIN), pytest.param("starred", marks=TWIN)]
)
def test_faults_and_kills_do_not_change_the_result(serve_world: ServeWorld, place: MakePlace, source: str) -> None:
    survives(serve_world, place, source, 4, busy_world(120, 900))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["stargazers", "graphql", "starred"])
def test_fifty_kills_with_faulty_responses(serve_world: ServeWorld, place: MakePlace, source: str) -> None:
    survives(serve_world, place, source, 50, busy_world(250, 1400))


@pytest.mark.parametrize("source", ["graphql", pytest.param("stargazers", marks=TWIN)])
def test_concurrent_collectors_end_with_the_same_data_and_do_not_overspend(
    serve_world: ServeWorld, place: MakePlace, source: str
) -> None:
    world = busy_world(60, 900)
    alone, both = place(), place()
    _, url = serve_world(world)
    assert ended(alone.start(url, world, source)) == 0
    pages = sum(max(1, -(-len(repository.stargazers) // 100)) for repository in world.repositories[:-1])
    # Slightly more than both need together.
    limits = Limits(requests=pages * 2 + 60, graphql_points=60)
    standin, url = serve_world(world, tokens={"one": 7, "two": 7}, limits=limits)
    processes = [both.start(url, world, source, ["one", "two"]) for _ in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    assert standin.quota.violations == {}
    assert_same(both, alone)
