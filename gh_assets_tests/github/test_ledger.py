"""Budgets shared between processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gh_assets.errors import (
    CancelledError,
)
from gh_assets.github.ledger import LEASE_SECONDS, MongoLedger
from gh_assets.github.rate_limits import Observation, Resource
from gh_assets.github.retries import RetryPolicy
from gh_assets_tests.support.github import FakeClock, QuotaServer, pool_of, spend


@pytest.fixture
def ledgers(database) -> Callable[[], MongoLedger]:
    return lambda: MongoLedger(database["github_budgets"])


@hypothesis_settings(max_examples=6, deadline=None)
@given(turns=st.lists(st.integers(0, 2), min_size=10, max_size=18), limit=st.integers(1, 18))
def test_processes_that_share_a_ledger_do_not_overspend(home, turns: list[int], limit: int) -> None:
    from gh_assets.services.connections import open_mongo
    from gh_assets.settings import load_settings

    with open_mongo(load_settings()) as database:
        database["ledger_test"].drop()
        clock = FakeClock()
        server = QuotaServer(clock, limit=limit)
        pools = [
            pool_of("user:1", clock=clock, ledger=MongoLedger(database["ledger_test"]), server=server) for _ in range(3)
        ]
        for turn in turns:
            spend(pools[turn], server.respond)
        assert server.refused == 0
        # Unused claims of another process are reported within seconds, or expire.
        assert sum(clock.waits) <= (len(turns) // limit + 1) * (3600 + LEASE_SECONDS + 10)


def test_points_of_one_process_are_not_granted_to_another(ledgers) -> None:
    first, second = ledgers(), ledgers()
    seen = Observation(100, 60, 2000.0, 1000.0)
    assert first.claim("user:1", Resource.REST, seen, 0, 50, 1000.0).points == 50
    grant = second.claim("user:1", Resource.REST, None, 0, 50, 1001.0)
    assert (grant.points, grant.observation, grant.processes) == (10, replace(seen, at=0.0), 2)
    assert second.claim("user:2", Resource.REST, seen, 0, 50, 1001.0).points == 50, "another account"
    first.give_back({("user:1", Resource.REST): 45})
    grant = second.claim("user:1", Resource.REST, None, 5, 50, 1002.0)
    assert (grant.points, grant.processes) == (45, 1)


def test_points_of_a_killed_process_return_after_one_observation(ledgers) -> None:
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


def test_pause_reaches_other_processes(ledgers) -> None:
    clock = FakeClock()
    server = QuotaServer(clock)
    first, second = (pool_of("user:1", clock=clock, ledger=ledgers(), server=server) for _ in range(2))
    spend(second, server.respond)
    first.pause(40.0)
    clock.time += 6.0  # the time within which claims are renewed
    spend(second, server.respond)
    assert server.times[-1] >= server.times[0] + 40


def test_pace_is_shared_between_processes(ledgers) -> None:
    clock = FakeClock()
    server = QuotaServer(clock, limit=5000)
    policy = RetryPolicy(points_a_minute={Resource.REST: 60})
    pools = [pool_of("user:1", clock=clock, policy=policy, ledger=ledgers(), server=server) for _ in range(2)]
    for _ in range(150):
        for pool in pools:
            spend(pool, server.respond)
    late = [time for time in server.times if time > server.times[0] + 60]
    for start in late:
        assert sum(start <= time < start + 60 for time in late) <= 66


def test_unused_claims_are_given_back(ledgers) -> None:
    clock = FakeClock()
    server = QuotaServer(clock, limit=100)
    first, second = (pool_of("user:1", clock=clock, ledger=ledgers(), server=server) for _ in range(2))
    for _ in range(5):
        spend(first, server.respond)
    first.close()
    with pytest.raises(CancelledError):
        spend(first, server.respond)
    for _ in range(95):
        spend(second, server.respond)
    assert sum(clock.waits) < LEASE_SECONDS, "claims were released at once"
    assert server.refused == 0
