"""Whatever GitHub answers: no star is lost, invented, or taken back that is still there.

Worlds, sources, scripts of faulty answers and moments to stop are drawn at random. After any of them what is stored is
true, what is called complete is all there is, and one healthy run later everything is as if nothing had happened.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest
from google.cloud import storage
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gh_assets.collector.collection import CollectionOptions, collect
from gh_assets.collector.pipeline import CollectionState
from gh_assets.collector.star_sources import graphql as graphql_stargazers
from gh_assets.collector.star_sources.base import SOURCES, PreviousStars, StarCollection
from gh_assets.collector.star_sources.graphql import _Stargazers
from gh_assets.collector.star_sources.merging import ListReading
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import GRAPHQL_KINDS, REST_KINDS
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.errors import GhAssetsError
from gh_assets.github import graphql as graphql_lists
from gh_assets.github.client import GitHubClient
from gh_assets.services.connections import connect_mongo
from gh_assets.settings import StarSourceName, load_settings
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import QUICK, serving
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.worlds import world_of

USERS = 260


def test_every_source_of_the_settings_is_described() -> None:
    assert set(SOURCES) == set(get_args(StarSourceName))


SCRIPTED = [kind for kind in (*GRAPHQL_KINDS, *GRAPHQL_KINDS, *REST_KINDS) if kind not in ("timeout", "slow")]
"""What answers are drawn from: those that only GraphQL gives twice as often, without those that only take time."""


@dataclass(frozen=True)
class Case:
    """What is drawn.

    Attributes
    ----------
    sizes : tuple of int
        Stars of each repository.
    source : str
    closed : frozenset of int
        Repositories (by place) whose lists are closed.
    good_home : bool
        Whether the home begins with a faultless collection, to be read again to the ends of all lists.
    shares : tuple of (kind, share)
        How often answers are faulty, and how.
    seed : int
        What decides which answers.
    stop_after : int or None
        Requests after which the faulty run is stopped.
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
        for place, repository in enumerate(world.repositories):
            repository.starred_at = repository.starred_at + place
            repository.restricted = place in self.closed
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
    said: list[str] = field(default_factory=list)

    def begin(self, world: World) -> None:
        """Be new; everybody of the world is known, so that users' lists can tell of all stars."""
        for name in self.database.list_collection_names():
            self.database[name].delete_many({})
        people = zip(world.user_ids, world.logins, strict=True)
        self.database["users"].insert_many(
            [{"_id": n, "login": login, "collected": {"stars": 1}} for n, login in people]
        )
        self.store = AssetStore(ObjectStore(self.client, f"test-{secrets.token_hex(6)}", create=True), 2)

    def run(self, world: World, url: str, source: str, *, full: bool = False, stop_after: int | None = None) -> None:
        options = CollectionOptions(source, 10, full=full, workers=2, max_users=USERS, seed_users=None)
        with GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=stop_after) as client:
            collect(
                options, refs(world), client, self.database, self.store,
                on_progress=lambda *_: None, say=self.said.append,
            )  # fmt: skip

    def tables(self) -> dict[str, pl.DataFrame]:
        tables = PartitionTables(self.store, "stargazers")
        return {key: tables.read(key)[0] for key in sorted(self.store.partitions("stargazers"))}


@pytest.fixture(scope="module")
def homes(gcs_client, home) -> Iterator[tuple[Home, Home]]:
    """A home for good days, and one for bad ones; emptied for each case."""
    made = []
    for _ in range(2):
        settings = load_settings().model_copy(update={"mongo_database": f"test_{secrets.token_hex(6)}"})
        made.append(Home(connect_mongo(settings), gcs_client))
    yield made[0], made[1]
    for one in made:
        one.database.client.drop_database(one.database.name)
        one.database.client.close()


def holds(case: Case, homes: tuple[Home, Home]) -> None:
    """What must hold of a case."""
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
        with suppress(GhAssetsError):  # a bad day may end a run: then its sentence says why
            bad.run(world, url, case.source, full=case.good_home, stop_after=case.stop_after)
        check_truth(world, bad)
        standin.faults = Faults()
        for home in (good, bad):
            home.run(world, url, case.source)
            if case.source == "auto" and case.closed:
                # What was found closed is asked of users in the run after.
                home.run(world, url, case.source)
    check_truth(world, bad)
    expected, found = good.tables(), bad.tables()
    assert found.keys() == expected.keys()
    for key, table in expected.items():
        assert found[key].equals(table), f"{key}: {found[key].height} stars instead of {table.height}"


def check_truth(world: World, home: Home) -> None:
    """What is stored is true; what is called complete is all there is; nobody took anything back."""
    truth = {
        r.full_name: {world.user_ids[user]: int(when) for user, when in zip(r.stargazers, r.starred_at, strict=True)}
        for r in world.repositories
    }
    tables = home.tables()
    for key, table in tables.items():
        stored = dict(zip(table["user_id"], table["starred_at"].dt.epoch("s"), strict=True))
        assert stored.items() <= truth[key].items(), f"{key}: stars that nobody gave"
        assert len(stored) == table.height
    for state in CollectionState(home.database).load().values():
        if state.complete:
            assert set(tables[state.partition]["user_id"]) == truth[state.partition].keys(), (
                f"{state.partition} lacks stars"
            )
    assert home.database["unstars"].count_documents({}) == 0, "somebody is said to have taken a star back"


FEW = hypothesis_settings(
    max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)
SEARCH = hypothesis_settings(FEW, max_examples=100, phases=[Phase.generate])
"""What is found is not made smaller: that it is found is all that is wanted."""
MANY = hypothesis_settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@FEW
@given(case=cases())
def test_no_star_is_lost_invented_or_taken_back(homes, case: Case) -> None:
    holds(case, homes)


@pytest.mark.slow
@MANY
@given(case=cases())
def test_no_star_is_lost_invented_or_taken_back_in_many_cases(homes, case: Case) -> None:
    holds(case, homes)


def take_the_repair_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the collector once was: what failed below a connection is left out, and what is left counts as whole."""
    by_alias, parse_page, collected = (
        graphql_lists._by_alias,
        _Stargazers.parse_page,
        graphql_stargazers.collection_from_list,
    )

    def above(errors: Sequence[Mapping[str, Any]], size: int) -> dict[str, list[Mapping[str, Any]]]:
        return by_alias([error for error in errors if len(error.get("path") or ()) in (1, 2)], size)

    def lenient(self: _Stargazers, node: Any) -> StarCollection | None:
        stars = node["stargazers"]
        return parse_page(self, {"stargazers": {**stars, "edges": stars["edges"] or []}})

    def believed(
        repository: Any, table: Any, before: PreviousStars | None, reading: ListReading, **more: Any
    ) -> StarCollection:
        return collected(repository, table, before, replace(reading, proven=True, null_entries=0), **more)

    monkeypatch.setattr(graphql_lists, "_by_alias", above)
    monkeypatch.setattr(_Stargazers, "is_whole", lambda _, node: bool(node) and bool(node.get("stargazers")))
    monkeypatch.setattr(_Stargazers, "parse_page", lenient)
    monkeypatch.setattr(graphql_stargazers, "collection_from_list", believed)


def test_the_proof_sees_stars_that_are_dropped_below_a_connection(homes, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case((250, 250, 40), "graphql", frozenset(), True, (("failed entries", 0.5),), 1, None)
    holds(case, homes)
    take_the_repair_back(monkeypatch)
    with pytest.raises(AssertionError, match=r"lacks stars|taken a star back|instead of"):
        holds(case, homes)


@pytest.mark.slow
def test_the_proof_finds_by_itself_that_stars_are_dropped(homes, monkeypatch: pytest.MonkeyPatch) -> None:
    take_the_repair_back(monkeypatch)

    @SEARCH
    @given(case=cases())
    def search(case: Case) -> None:
        holds(case, homes)

    with pytest.raises(AssertionError, match=r"lacks stars|taken a star back|instead of"):
        search()
