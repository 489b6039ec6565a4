"""Bad days: answers that fail in every way, processes that are killed, two collectors at once."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pytest

from gh_assets.collector.pipeline import CollectionState
from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import KINDS, REST_KINDS
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.services.connections import connect_mongo
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.collector.test_pipeline import refs
from gh_assets_tests.support.worlds import world_of

USERS = 1500


def busy_world(repositories: int, most: int) -> World:
    """Repositories of very different sizes, some without a star."""
    rng = np.random.default_rng(5)
    sizes = (rng.random(repositories) ** 4 * most).astype(int)
    stars = {f"owner/repo-{n}": rng.permutation(USERS)[:size].tolist() for n, size in enumerate(sizes)}
    world = world_of(stars, users=USERS)
    for number, repository in enumerate(world.repositories):
        repository.starred_at = repository.starred_at + number
    return world


@dataclass
class Place:
    """A database and a bucket, and collectors that work on them."""

    database: MongoDatabase
    store: AssetStore

    def start(self, url: str, world: World, source: str, tokens: Sequence[str] = ("token",)) -> subprocess.Popen[str]:
        asked = {
            "url": url,
            "source": source,
            "tokens": list(tokens),
            "database": self.database.name,
            "bucket": self.store.objects.name,
            "repositories": [(ref.repo_id, ref.full_name, ref.stargazer_count) for ref in refs(world)],
        }
        return subprocess.Popen(
            [sys.executable, "-m", "gh_assets_tests.collector.collect_child", json.dumps(asked)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def data(self) -> tuple[dict[str, pl.DataFrame], dict[str, tuple[Any, ...]]]:
        """All that was collected, but for the times at which it was."""
        tables = PartitionTables(self.store, "stargazers")
        states = {
            state.partition: (state.outcome, state.stars, state.complete, state.source, state.checksum)
            for state in CollectionState(self.database).load().values()
        }
        return {key: tables.read(key)[0] for key in tables.partitions()}, states


@pytest.fixture
def place(gcs_client, settings) -> Callable[[], Place]:
    made = []

    def make() -> Place:
        named = settings.model_copy(update={"mongo_database": f"test_{secrets.token_hex(6)}"})
        store = AssetStore(ObjectStore(gcs_client, f"test-{secrets.token_hex(6)}", create=True), 4)
        made.append(Place(connect_mongo(named), store))
        return made[-1]

    yield make
    for one in made:
        one.database.client.drop_database(one.database.name)
        one.database.client.close()


def ended(process: subprocess.Popen[str]) -> int:
    _, words = process.communicate(timeout=120)
    assert process.returncode in (0, 3), words[-2000:]
    return process.returncode


def assert_same(found: Place, expected: Place) -> None:
    (tables, states), (wanted_tables, wanted_states) = found.data(), expected.data()
    assert states == wanted_states
    assert tables.keys() == wanted_tables.keys()
    for key, table in wanted_tables.items():
        assert tables[key].equals(table), key


def bad_day(seed: int) -> Faults:
    """Half of all answers fail, in every way."""
    return Faults(
        dict.fromkeys(KINDS, 0.5 / len(KINDS)), seed=seed, timeout_seconds=0.05, slow_seconds=0.01, retry_after=0
    )


def survives(
    serve_world: Callable[..., tuple[Standin, str]], place: Callable[[], Place], source: str, kills: int, world: World
) -> None:
    """Kill collectors at random moments until so many were killed; then let one end. Compare with a good day."""
    good, bad = place(), place()
    limits = Limits(query_budget=400)  # small queries: more of them to fail
    _, url = serve_world(world, limits=limits)
    assert ended(good.start(url, world, source)) == 0
    rng = random.Random(kills)
    standin, url = serve_world(world, faults=bad_day(kills), limits=limits)
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
            # It was done: the rest of the kills shall have work, too.
            forgotten = rng.sample(sorted(bad.data()[1]), k=max(1, len(world.repositories) // 2))
            ids = [world.by_name[name].repo_id for name in forgotten]
            bad.database["stargazer_state"].delete_many({"_id": {"$in": ids}})
            bad.database["starred_state"].delete_many({"_id": {"$mod": [2, killed % 2]}})
    deadline = time.monotonic() + 120
    while ended(bad.start(url, world, source)) != 0:
        assert time.monotonic() < deadline
    assert_same(bad, good)
    # A kind or two may not have come up: how often the collector asks depends on when it was killed.
    wanted = set(REST_KINDS if source == "stargazers" else KINDS)
    assert len(wanted - set(standin.faults.injected)) <= 2


TWIN = pytest.mark.slow
"""Of what the fast tests show for one source."""


@pytest.mark.parametrize(
    "source", ["graphql", pytest.param("stargazers", marks=TWIN), pytest.param("starred", marks=TWIN)]
)
def test_failing_answers_and_killed_collectors_change_nothing_in_the_end(serve_world, place, source: str) -> None:
    survives(serve_world, place, source, 4, busy_world(120, 900))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["stargazers", "graphql", "starred"])
def test_fifty_kills_on_a_bad_day(serve_world, place, source: str) -> None:
    survives(serve_world, place, source, 50, busy_world(250, 1400))


@pytest.mark.parametrize("source", ["graphql", pytest.param("stargazers", marks=TWIN)])
def test_two_collectors_at_once_end_with_the_same_data_and_overspend_nothing(serve_world, place, source: str) -> None:
    world = busy_world(60, 900)
    alone, both = place(), place()
    _, url = serve_world(world)
    assert ended(alone.start(url, world, source)) == 0
    pages = sum(max(1, -(-len(repository.stargazers) // 100)) for repository in world.repositories[:-1])
    # Little more than the two need together.
    limits = Limits(requests=pages * 2 + 60, graphql_points=60)
    standin, url = serve_world(world, tokens={"one": 7, "two": 7}, limits=limits)
    processes = [both.start(url, world, source, ["one", "two"]) for _ in range(2)]
    assert [ended(process) for process in processes] == [0, 0]
    assert standin.quota.violations == {}
    assert_same(both, alone)
