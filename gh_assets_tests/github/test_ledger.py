"""Budgets shared between processes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gh_assets.errors import CancelledError
from gh_assets.github.budgets import Account
from gh_assets.github.ledger import LEASE_SECONDS, MongoLedger
from gh_assets.github.rate_limits import Observation, Resource
from gh_assets.github.retries import RetryPolicy
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.support.github import FakeClock, Pool, QuotaServer

Ledgers = Callable[[], MongoLedger]


@pytest.fixture
def ledgers(database: MongoDatabase) -> Ledgers:
    return lambda: MongoLedger(database["github_budgets"])


@hypothesis_settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.integers(0, 2), min_size=10, max_size=18), limit=st.integers(1, 18))
def test_processes_that_share_a_ledger_do_not_overspend(database: MongoDatabase, turns: list[int], limit: int) -> None:
    database["ledger_test"].drop()
    server = QuotaServer(FakeClock(), limit)
    pools = [Pool("user:1", ledger=MongoLedger(database["ledger_test"]), server=server) for _ in range(3)]
    for turn in turns:
        pools[turn].spend()
    assert server.refused == 0
    # Unused claims of another process are reported within seconds, or expire.
    assert sum(server.clock.waits) <= (len(turns) // limit + 1) * (3600 + LEASE_SECONDS + 10)


def test_points_of_one_process_are_not_granted_to_another(ledgers: Ledgers) -> None:
    first, second = ledgers(), ledgers()
    seen = Observation(100, 60, 2000.0, 1000.0)
    assert first.claim("user:1", Resource.REST, seen, 0, 50, 1000.0).points == 50
    grant = second.claim("user:1", Resource.REST, None, 0, 50, 1001.0)
    assert (grant.points, grant.observation, grant.processes) == (10, replace(seen, at=0.0), 2)
    assert second.claim("user:2", Resource.REST, seen, 0, 50, 1001.0).points == 50, "another account"
    account = Account("user:1")
    account.budgets[Resource.REST].remaining = 45
    first.give_back([account])
    grant = second.claim("user:1", Resource.REST, None, 5, 50, 1002.0)
    assert (grant.points, grant.processes) == (45, 1)


def test_points_of_a_killed_process_return_after_one_observation(ledgers: Ledgers) -> None:
    dead, alive = ledgers(), ledgers()
    seen = Observation(100, 60, 9000.0, 1000.0)
    dead.claim("user:1", Resource.REST, seen, 0, 60, 1000.0)
    assert alive.claim("user:1", Resource.REST, None, 0, 50, 1001.0).points == 0
    later = 1001.0 + LEASE_SECONDS
    unsure = alive.claim("user:1", Resource.REST, seen, 0, 50, later)
    assert (unsure.points, unsure.observation) == (0, None), "what it spent last is not known"
    assert alive.claim("user:1", Resource.REST, seen, 0, 50, later).points == 0, "an earlier observation does not count"
    found = Observation(100, 37, 9000.0, later)
    assert alive.claim("user:1", Resource.REST, found, 0, 50, later + 1).points == 37


def test_pause_reaches_other_processes(ledgers: Ledgers) -> None:
    server = QuotaServer(FakeClock())
    first, second = (Pool("user:1", ledger=ledgers(), server=server) for _ in range(2))
    second.spend()
    first.pause(40.0)
    server.clock.time += 6.0  # the time within which claims are renewed
    second.spend()
    assert server.times[-1] >= server.times[0] + 40


def test_pace_is_shared_between_processes(ledgers: Ledgers) -> None:
    server = QuotaServer(FakeClock(), limit=5000)
    policy = RetryPolicy(points_a_minute={Resource.REST: 60})
    pools = [Pool("user:1", policy=policy, ledger=ledgers(), server=server) for _ in range(2)]
    for _ in range(150):
        for pool in pools:
            pool.spend()
    late = [time for time in server.times if time > server.times[0] + 60]
    for start in late:
        assert sum(start <= time < start + 60 for time in late) <= 66


def test_unused_claims_are_given_back(ledgers: Ledgers) -> None:
    server = QuotaServer(FakeClock(), limit=100)
    first, second = (Pool("user:1", ledger=ledgers(), server=server) for _ in range(2))
    first.spend(times=5)
    first.close()
    with pytest.raises(CancelledError):
        first.spend()
    second.spend(times=95)
    assert sum(server.clock.waits) < LEASE_SECONDS, "claims were released at once"
    assert server.refused == 0
