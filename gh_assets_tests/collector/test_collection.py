"""Collections by options: every source, what is reported, what is stored for the next run."""

import datetime as dt
import re
from pathlib import Path

import polars as pl
import pytest

from gh_assets.collector.gharchive import read_days
from gh_assets.collector.star_sources.gharchive import read_star_events
from gh_assets.collector.state import CollectionState
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.errors import ConfigurationError
from gh_assets.schemas import STAR_EVENTS
from gh_assets.storage.asset_store import AssetStore, PartitionTables
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf
from gh_assets_tests.support.collecting import Run
from gh_assets_tests.support.gharchive import write_hour
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import world_of


def small() -> World:
    return world_of({f"a/{n}": list(range(n, n + 12)) for n in range(8)}, users=20)


@pytest.mark.parametrize("source", ["auto", "graphql", "stargazers", "starred"])
def test_every_source_is_available_by_name(source: str, run: Run) -> None:
    world = small()
    seeds = [{"_id": 5000 + n, "login": f"user-{n}", "collected": {"stars": 1}} for n in range(20)]
    run.database["users"].insert_many(seeds)
    collected = run(world, source)
    assert (collected.report.stars, collected.report.outcomes) == (world.star_count, {"ok": 8})
    assert collected.requests > 0
    assert (collected.users is not None) == (source == "starred")


def test_forecast_is_announced_and_progress_includes_the_quota(github_of: GitHubOf, run: Run) -> None:
    world = world_of({f"a/{n}": list(range(100)) for n in range(300)})
    _, client = github_of(world, limits=Limits(requests=5000, graphql_points=5000))
    run(world, "stargazers", client=client)
    expected = "300 of 300 repositories may have news: 300 pages; about 300 requests of 5,000 left"
    assert run.sentences[0].startswith(expected)
    done, total, text = run.states[200]
    assert (done, total) == (201, 300)
    assert re.search(r"stars, \d+ pages, \d+ requests, 4,\d+ points left until \d\d:\d\d UTC", text)


def test_restricted_lists_are_completed_from_owners_of_forks_and_reported(run: Run) -> None:
    world = world_of({f"a/{n}": list(range(n, n + 60)) for n in range(6)}, users=80)
    run.standin_of(world).restricted = True
    collected = run(world)
    assert collected.report.outcomes == {"ok": 6}
    assert collected.users is not None
    assert collected.users.collected == len({u for r in world.repositories[:-1] for u in world.forkers(r)})
    summary = " ".join(collected.summary_lines())
    assert "6 of 6 repositories do not let their stargazers be listed; 6 of them were completed" in summary
    assert f"The starred repositories of {collected.users.collected:,} users were requested" in summary


def test_file_of_users_is_sufficient(run: Run, tmp_path: Path) -> None:
    world = small()
    run.standin_of(world).restricted = True
    named = tmp_path / "users.csv"
    named.write_text("login\n" + "\n".join(f"user-{n}" for n in range(20)))
    assert run(world, seed_users=named, max_users=20).report.stars == world.star_count
    assert run.standin.served["forks"] == 0


def test_archive_is_a_source_of_stars_and_of_users(run: Run, tmp_path: Path) -> None:
    world = small()
    path = tmp_path / "2017-07-14-2.json.gz"
    write_hour(path, world)
    ((report, table),) = read_days([dt.date(2017, 7, 14)], [str(path)], "", lambda _: None)
    run.store.write_table("star_events", table, report.day.isoformat())
    assert read_star_events(run.store).height == world.star_count
    assert run(world, offline=True).report.stars == world.star_count, "without GitHub, auto reads the archive"
    assert run(world, "gharchive", offline=True).report.outcomes == {"ok": 8}
    with pytest.raises(ConfigurationError, match="no access to GitHub for the source 'graphql'"):
        run(world, "graphql", offline=True)
    run.standin_of(world).restricted = True
    run.database["stargazer_state"].delete_many({})
    collected = run(world, max_users=19)
    assert collected.users is not None
    assert collected.users.collected == 0, "all stars that GitHub counts are known already"
    run.database["stargazer_state"].delete_many({})
    tables = PartitionTables(run.store, "stargazers")
    for partition in list(tables.partitions()):
        tables.delete(partition)
    collected = run(world, max_users=19)
    assert collected.users is not None
    assert collected.users.collected == 19
    assert {state.source for state in collected.report.states.values()} == {"starred"}


@pytest.mark.parametrize(("source", "reason"), [("gharchive", "has no hours"), ("file", "needs a file")])
def test_error_names_what_a_source_lacks(source: str, reason: str, run: Run) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        run(small(), source)


def test_run_that_was_cut_short_by_the_cap_on_requests_is_resumed(github_of: GitHubOf, run: Run) -> None:
    world = world_of({f"a/{number}": [number] for number in range(40)})
    standin, client = github_of(world, max_requests=2 + 15)
    stopped = run(world, "stargazers", client=client)
    assert "reached: 17 were sent" in stopped.summary_lines()[-1]
    assert "15 of 40 repositories are up to date" in stopped.summary_lines()[-1]
    assert (len(stopped.report.states), stopped.report.pending, stopped.report.outcomes) == (15, 40, {"ok": 15})
    assert len(CollectionState(run.database).load()) == 15, "everything that was requested is kept"
    standin.served.clear()
    report = run(world, "stargazers", client=client_of(client.api_url, "token")).report
    assert (report.unchanged, report.stars, report.outcomes) == (15, 40, {"ok": 40})
    assert standin.served["stargazers"] == 25


def test_query_size_is_stored_for_the_next_run(github_of: GitHubOf, run: Run) -> None:
    world = world_of({f"a/{n}": [1, 2] for n in range(200)})
    standin, client = github_of(world, limits=Limits(query_budget=2500))
    run(world, "graphql", client=client)
    first = standin.quota.spent["graphql"]
    run.database["stargazer_state"].delete_many({})
    run(world, "graphql", client=client)
    second = standin.quota.spent["graphql"] - first
    assert first <= 200 / 25 * 1.5
    assert second == 200 / 25


def test_small_run_does_not_limit_the_query_size(run: Run) -> None:
    few, many = world_of({"a/0": [1]}), world_of({f"a/{n}": [1, 2] for n in range(200)})
    run(few, "graphql")
    run(many, "graphql")
    assert run.standin.quota.spent["graphql"] == 1 + 2


def test_full_run_detects_stars_taken_back(run: Run) -> None:
    old = world_of({"a/b": [0, 1, 2], "c/d": [0]}, users=5)
    run(old)
    new = world_of({"a/b": [0, 2], "c/d": [0]}, users=5)
    collected = run(new, full=True)
    assert collected.report.unstarred == 1
    assert "1 stars were taken back" in " ".join(collected.summary_lines())


@pytest.mark.parametrize("source", ["starred", "gharchive", "file", "graphql", "stargazers", "events"])
def test_stars_whose_state_was_lost_are_kept_until_a_list_proves_otherwise(
    run: Run, database: MongoDatabase, asset_store: AssetStore, tmp_path: Path, source: str
) -> None:
    """A table is written before its state: a run that was killed in between leaves stars that no state describes."""
    whole = world_of({"a/b": list(range(300)), "c/d": [1, 2]}, users=300)
    run(whole, "graphql")
    database["stargazer_state"].delete_many({})
    file = tmp_path / "stars.csv"
    file.write_text("repo,login\na/b,user-3\na/b,another-user\n")
    events = [(1, "a/b", 5003, "user-3", dt.datetime(2026, 1, 1, tzinfo=dt.UTC))]
    asset_store.write_table(
        STAR_EVENTS.name, pl.DataFrame(events, schema=STAR_EVENTS.dtypes, orient="row"), "2026-01-01"
    )
    run(whole, source, max_pages=1, max_users=3, stars_file=file)
    assert set(run.stars("a/b")["user_id"]) >= {5000 + user for user in range(300)}
    state = CollectionState(database).load()[1]
    assert state.checksum == PartitionTables(asset_store, "stargazers").read("a/b")[1], "the state describes the table"
