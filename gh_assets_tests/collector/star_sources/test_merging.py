"""No response of GitHub makes a star disappear, appear or count as taken back although it exists.

Worlds, sources, scripts of faulty responses and moments of interruption are drawn at random. After any of them all
stored stars exist, complete repositories have all of their stars, and one run without faults leads to the same tables
as if there had been no fault.
"""

import datetime as dt
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from google.cloud import storage
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gh_assets.collector.collection import collect
from gh_assets.collector.star_sources import graphql as graphql_stargazers
from gh_assets.collector.star_sources.base import CollectionOptions, PreviousStars, StarCollection, stars_table
from gh_assets.collector.star_sources.graphql import _Stargazers
from gh_assets.collector.star_sources.merging import ListReading, collection_from_list, merge_stars
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import GRAPHQL_KINDS, REST_KINDS
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.errors import GhAssetsError
from gh_assets.github import graphql as graphql_lists
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import MakeDatabase
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.serving import serving
from gh_assets_tests.support.worlds import world_of

USERS = 260

SCRIPTED = [kind for kind in (*GRAPHQL_KINDS, *GRAPHQL_KINDS, *REST_KINDS) if kind not in ("timeout", "slow")]
"""Kinds of faulty responses, those of GraphQL with twice the weight, without those that only take time."""


@dataclass(frozen=True)
class Case:
    """Parameters of an example.

    Attributes
    ----------
    sizes : tuple of int
        Stars of each repository.
    source : str
    closed : frozenset of int
        Positions of repositories whose lists are closed.
    good_home : bool
        Whether the home begins with a collection without faults, and all lists are then read to their ends.
    shares : tuple of (kind, share)
        Share of faulty responses by kind.
    seed : int
        Determines which responses are faulty.
    stop_after : int or None
        Number of requests after which the faulty run is stopped.
    """

    sizes: tuple[int, ...]
    source: str
    closed: frozenset[int]
    good_home: bool
    shares: tuple[tuple[str, float], ...]
    seed: int
    stop_after: int | None

    def world(self) -> World:
        rng = np.random.default_rng(self.seed)
        world = world_of(
            {f"a/{n}": rng.permutation(USERS)[:size].tolist() for n, size in enumerate(self.sizes)}, users=USERS
        )
        for position, repository in enumerate(world.repositories):
            repository.starred_at = repository.starred_at + position
            repository.restricted = position in self.closed
        return world


@st.composite
def cases(draw: st.DrawFn) -> Case:
    sizes = draw(st.lists(st.sampled_from([0, 1, 3, 40, 100, 101, 250]), min_size=1, max_size=7))
    kinds = draw(st.lists(st.sampled_from(SCRIPTED), min_size=1, max_size=4, unique=True))
    share = draw(st.sampled_from([0.1, 0.25, 0.5])) / len(kinds)
    return Case(
        tuple(sizes),
        draw(st.sampled_from(["graphql", "stargazers", "starred", "auto"])),
        draw(st.sampled_from([frozenset(), frozenset({0}), frozenset(range(7))])),
        draw(st.booleans()),
        tuple((kind, share) for kind in kinds),
        draw(st.integers(0, 2**16)),
        draw(st.one_of(st.none(), st.integers(3, 40))),
    )


@dataclass
class Home:
    """A database and a bucket of one collection."""

    database: MongoDatabase
    client: storage.Client

    def begin(self, world: World) -> None:
        """Empty the home and store all users of the world, so that users' lists have all stars."""
        for name in self.database.list_collection_names():
            self.database[name].delete_many({})
        users = zip(world.user_ids, world.logins, strict=True)
        self.database["users"].insert_many(
            [{"_id": n, "login": login, "collected": {"stars": 1}} for n, login in users]
        )
        self.store = AssetStore(ObjectStore(self.client, f"test-{secrets.token_hex(6)}", create=True), 2)

    def run(self, world: World, url: str, source: str, *, full: bool = False, stop_after: int | None = None) -> None:
        options = CollectionOptions(source, 10, full=full, workers=2, max_users=USERS)
        with client_of(url, "token", max_requests=stop_after) as client:
            collect(options, refs(world), client, self.database, self.store)

    def tables(self) -> dict[str, pl.DataFrame]:
        tables = PartitionTables(self.store, "stargazers")
        return {key: tables.read(key)[0] for key in sorted(self.store.partitions("stargazers"))}


Homes = tuple[Home, Home]


@pytest.fixture
def homes(make_database: MakeDatabase, gcs_client: storage.Client) -> Homes:
    """A home for collections without faults, and one for collections with faults."""
    return Home(make_database(), gcs_client), Home(make_database(), gcs_client)


def assert_recovers(case: Case, homes: Homes) -> None:
    """Collect with faults, then without, and compare with a home that had no faults."""
    world = case.world()
    good, bad = homes
    for home in homes:
        home.begin(world)
    standin = Standin(world, ("token",), Limits(query_budget=1500))
    with serving(standin.app()) as url:
        good.run(world, url, case.source)
        if case.good_home:
            bad.run(world, url, case.source)
        standin.faults = Faults(dict(case.shares), seed=case.seed, retry_after=0)
        with suppress(GhAssetsError):  # faults may end the run
            bad.run(world, url, case.source, full=case.good_home, stop_after=case.stop_after)
        assert_stored_stars_exist(world, bad)
        standin.faults = Faults()
        for home in (good, bad):
            home.run(world, url, case.source)
            if case.source == "auto" and case.closed:
                # Closed repositories are completed from users' lists by the next run.
                home.run(world, url, case.source)
    assert_stored_stars_exist(world, bad)
    expected, tables = good.tables(), bad.tables()
    assert tables.keys() == expected.keys()
    for key, table in expected.items():
        assert tables[key].equals(table), f"{key}: {tables[key].height} stars instead of {table.height}"


def assert_stored_stars_exist(world: World, home: Home) -> None:
    """Assert that all stored stars exist, complete repositories have all of theirs, and none counts as taken back."""
    expected = {
        r.full_name: {world.user_ids[user]: int(when) for user, when in zip(r.stargazers, r.starred_at, strict=True)}
        for r in world.repositories
    }
    tables = home.tables()
    for key, table in tables.items():
        stored = dict(zip(table["user_id"], table["starred_at"].dt.epoch("s"), strict=True))
        assert stored.items() <= expected[key].items(), f"{key}: stars that do not exist"
        assert len(stored) == table.height
    for state in CollectionState(home.database).load().values():
        if state.complete:
            assert set(tables[state.partition]["user_id"]) == expected[state.partition].keys(), (
                f"{state.partition} lacks stars"
            )
    assert home.database["unstars"].count_documents({}) == 0, "a star counts as taken back"


FEW_EXAMPLES = hypothesis_settings(
    max_examples=10, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)
SEARCH = hypothesis_settings(FEW_EXAMPLES, max_examples=100, phases=[Phase.generate])
"""Failing examples are not shrunk: it only matters that one is found."""
MANY_EXAMPLES = hypothesis_settings(max_examples=80, database=None, suppress_health_check=list(HealthCheck))


@FEW_EXAMPLES
@given(case=cases())
def test_faults_change_no_stars_in_the_end(homes: Homes, case: Case) -> None:
    assert_recovers(case, homes)


@pytest.mark.slow
@MANY_EXAMPLES
@given(case=cases())
def test_faults_change_no_stars_in_the_end_in_many_examples(homes: Homes, case: Case) -> None:
    assert_recovers(case, homes)


def parse_leniently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the collector ignore errors below a connection, and trust what is left of the list."""
    by_alias, parse_page = graphql_lists._by_alias, _Stargazers.parse_page

    def without_deep_errors(errors: Sequence[Mapping[str, Any]], size: int) -> dict[str, list[Mapping[str, Any]]]:
        return by_alias([error for error in errors if len(error.get("path") or ()) in (1, 2)], size)

    def lenient(self: _Stargazers, node: Any) -> StarCollection | None:
        stars = node["stargazers"]
        return parse_page(self, {"stargazers": {**stars, "edges": stars["edges"] or []}})

    def believed(
        repository: Any, table: Any, before: PreviousStars | None, reading: ListReading, **more: Any
    ) -> StarCollection:
        return collection_from_list(repository, table, before, replace(reading, proven=True, null_entries=0), **more)

    monkeypatch.setattr(graphql_lists, "_by_alias", without_deep_errors)
    monkeypatch.setattr(_Stargazers, "is_whole", lambda _, node: bool(node) and bool(node.get("stargazers")))
    monkeypatch.setattr(_Stargazers, "parse_page", lenient)
    monkeypatch.setattr(graphql_stargazers, "collection_from_list", believed)


def test_lenient_parsing_is_detected_in_a_known_example(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((250, 250, 40), "graphql", frozenset(), True, (("failed entries", 0.5),), 1, None)
    assert_recovers(case, homes)
    parse_leniently(monkeypatch)
    with pytest.raises(AssertionError, match=r"lacks stars|counts as taken back|instead of"):
        assert_recovers(case, homes)


@pytest.mark.slow
def test_lenient_parsing_is_detected_by_random_examples(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_leniently(monkeypatch)

    @SEARCH
    @given(case=cases())
    def search(case: Case) -> None:
        assert_recovers(case, homes)

    with pytest.raises(AssertionError, match=r"lacks stars|counts as taken back|instead of"):
        search()


class LookedUpAlone(dict[int, dt.datetime]):
    """A mapping that cannot be walked through."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("there may be hundreds of thousands of users for each of thousands of repositories")

    keys = values = items = __iter__  # type: ignore[assignment]


def test_users_are_looked_up_for_the_stars_that_no_list_has() -> None:
    at = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    users = [(user, f"user-{user}") for user in range(1, 5)]
    before = stars_table(7, users, ["2023-01-01T00:00:00Z"] * 3 + ["2024-06-01T00:00:00Z"], "events")
    table, unstarred = merge_stars(before.head(1), PreviousStars(before, []), LookedUpAlone({1: at, 2: at, 4: at}))
    assert table["user_id"].to_list() == [1, 3, 4], "the list of 3 was not read, and the star of 4 is younger"
    assert unstarred is not None
    assert unstarred["user_id"].to_list() == [2]
