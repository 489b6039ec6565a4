"""Checks of the star histories: what passes, what warns."""

from typing import Any

import dagster as dg
import numpy as np
import pytest

from gh_assets.checks import histories
from gh_assets.collector.history_collection import read_histories
from gh_assets.collector.history_reader import NO_HISTORIES
from gh_assets.collector.history_state import HistoryState, HistoryStates
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.world import World
from gh_assets.github.outcomes import Outcome
from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings
from gh_assets.storage.documents import as_stored
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.checks.conftest import problem_of, result_of
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.star_histories import NOON
from gh_assets_tests.support.worlds import world_of

WARN = dg.AssetCheckSeverity.WARN


@pytest.mark.parametrize(
    ("outcomes", "problem"),
    [
        (["ok"] * 19 + ["unknown"], None),
        (["ok"] * 18 + ["unknown"] * 2, WARN),
        (["unproven"] * 2 + ["ok"] * 18, WARN),
        (["unavailable"] * 20, None),
        (["ok"] * 10 + ["gone"] * 10, None),
        ([], None),
    ],
)
def test_unknown_and_implausible_histories_warn(
    database: MongoDatabase, resources: dict[str, Any], outcomes: list[str], problem: object
) -> None:
    states = []
    for number, name in enumerate(outcomes):
        outcome = Outcome.OK if name == "unproven" else Outcome(name)
        known = {"complete": outcome is Outcome.OK, "proven": name == "ok", "asked_at": as_stored(NOON)}
        states.append(HistoryState(repo_id=number, partition=f"o/{number}", full_name="o/r", outcome=outcome, **known))
    HistoryStates(database).save(states)
    result = result_of(histories.histories_could_be_read, resources["mongo"])
    assert problem_of(result) is problem
    assert result.description == (NO_HISTORIES if "unavailable" in outcomes else None)


def daily_world() -> World:
    """Return four repositories with a star every day, until a while ago."""
    world = world_of({f"a/r{number}": list(range(60)) for number in range(4)}, users=100)
    for repository in world.repositories:
        count = len(repository.stargazers)
        repository.starred_at = int(NOON.timestamp()) - 86_400 * np.arange(100, 100 + count)[::-1].astype(np.int64)
        repository.created_at = "2026-01-01T00:00:00Z"
    return world


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_repositories_with_too_few_collected_stars_warn(
    github_of: GitHubOf, database: MongoDatabase, resources: dict[str, Any], lost: int
) -> None:
    """Some repositories have only every second star collected, as from users' lists."""
    store = asset_store(load_settings())
    world = daily_world()
    _, client = github_of(world)
    collecting = Collecting(store, CollectionState(database), github_of)
    collecting.rest(world, client=client)
    read_histories(refs(world), client, database, store, max_pages=20)
    for repository in world.repositories[:lost]:
        table = store.read_table("stargazers", repository.full_name)
        store.write_table("stargazers", table.gather_every(2), repository.full_name)
    result = result_of(histories.collected_stars_match_githubs_days, resources["mongo"], resources["gcs"])
    assert problem_of(result) is (WARN if lost > 1 else None)
    metadata = {name: entry.value for name, entry in result.metadata.items()}
    assert (metadata["compared"], metadata["with_too_few"], metadata["days"]) == (4, lost, 240)
    assert metadata["agreeing_days_share"] == 1 - lost / 8


def test_repositories_with_a_damaged_or_missing_table_are_not_compared(
    github_of: GitHubOf, database: MongoDatabase, resources: dict[str, Any]
) -> None:
    store = asset_store(load_settings())
    world = daily_world()
    _, client = github_of(world)
    collecting = Collecting(store, CollectionState(database), github_of)
    collecting.rest(world, client=client)
    read_histories(refs(world), client, database, store, max_pages=20)
    collecting.tables.delete("a/r0")
    store.objects.write("assets/star_history/a/r1.parquet", b"garbage")
    result = result_of(histories.collected_stars_match_githubs_days, resources["mongo"], resources["gcs"])
    assert result.metadata["compared"].value == 2


def test_nothing_to_compare_passes(resources: dict[str, Any]) -> None:
    result = result_of(histories.collected_stars_match_githubs_days, resources["mongo"], resources["gcs"])
    assert result.passed
    assert result.description == "There is no repository with both collected stars and a star history."
