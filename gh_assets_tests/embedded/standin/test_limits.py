"""The stand-in on a bad day: secondary limits, faults, and hours that pass in no time."""

from __future__ import annotations

import threading
import time

import pytest
import requests
from pydantic import SecretStr

from gh_assets.collector.star_sources.base import CollectionTask, RepositoryRef
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.embedded.standin.clock import RemoteClock, VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import GRAPHQL_KINDS, REST_KINDS
from gh_assets.embedded.standin.limits import Limits
from gh_assets.github.client import GitHubClient
from gh_assets.github.outcomes import Outcome
from gh_assets.github.retries import RetryPolicy
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.worlds import world_of

HEADERS = {"authorization": "Bearer token"}


def get(url: str, path: str = "/repositories/1") -> requests.Response:
    return requests.get(url + path, headers=HEADERS, timeout=5)


def test_in_virtual_time_an_hour_passes_when_somebody_waits(serve_world) -> None:
    clock = VirtualClock()
    standin, url = serve_world(world_of({"a/b": [0]}), limits=Limits(requests=50), clock=clock)
    started, wall = clock.now(), time.monotonic()
    with GitHubClient(url, [SecretStr("token")], policy=RetryPolicy(), clock=clock) as client:
        for _ in range(240):
            assert client.get("/repositories/1").status == 200
    assert 4 * 3600 - 1 <= clock.now() - started <= 4 * 3600 + 60
    assert time.monotonic() - wall < 20
    assert standin.quota.violations.total() == 0


def test_the_virtual_time_of_a_stand_in_is_set_from_outside(serve_world) -> None:
    _, url = serve_world(world_of({"a/b": [0]}), clock=VirtualClock(5000.0))
    clock = RemoteClock(url, "token")
    assert clock.now() == 5000.0
    clock.wait(3600.0)
    own = {"authorization": "Bearer token"}
    assert requests.get(f"{url}/__standin__/clock", headers=own, timeout=5).json() == {"now": 8600.0}
    assert RemoteClock(url, "token").now() == 8600.0
    _, real = serve_world(world_of({"a/b": [0]}))
    assert requests.post(f"{real}/__standin__/clock", json={"now": 1}, headers=own, timeout=5).status_code == 422
    assert requests.post(f"{url}/__standin__/clock", json={"now": 9999}, timeout=5).status_code == 401
    assert requests.get(f"{url}/__standin__", timeout=5).status_code == 401


def test_the_points_a_minute_are_counted_and_refused(serve_world) -> None:
    clock = VirtualClock()
    standin, url = serve_world(world_of({"a/b": [0]}), limits=Limits(requests_a_minute=5), clock=clock)
    answers = [get(url) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [403] * 2
    assert "secondary rate limit" in answers[-1].text
    assert answers[-1].headers["retry-after"] == "60"
    assert standin.quota.violations == {"secondary": 2}
    clock.wait(61)
    assert get(url).status_code == 200


def test_too_many_at_once_are_refused(serve_world) -> None:
    faults = Faults(probabilities={"timeout": 1.0}, timeout_seconds=0.5)
    standin, url = serve_world(world_of({"a/b": [0]}), limits=Limits(concurrent=2), faults=faults)

    def hold() -> None:
        with pytest.raises(requests.ConnectionError):
            get(url)

    holders = [threading.Thread(target=hold) for _ in range(2)]
    for holder in holders:
        holder.start()
    while standin.quota.in_flight < 2:
        time.sleep(0.005)
    faults.probabilities = {}
    assert get(url).status_code == 403
    for holder in holders:
        holder.join()
    assert get(url).status_code == 200
    assert standin.quota.violations == {"concurrent": 1}


def test_each_fault_is_what_it_says(serve_world) -> None:
    script = ["reset", "500", "502", "504", "truncated", "wrong link", "slow", "403", "403 retry-after", None]
    faults = Faults(script=script, slow_seconds=0.01)
    _, url = serve_world(world_of({"a/b": list(range(150))}), faults=faults)
    path = "/repositories/1/stargazers?per_page=100"
    with pytest.raises(requests.ConnectionError):
        get(url, path)
    assert [get(url, path).status_code for _ in range(3)] == [500, 502, 504]
    with pytest.raises(requests.JSONDecodeError):
        get(url, path).json()
    assert get(url, path).links["next"]["url"].startswith("http://127.0.0.1:9/")
    assert len(get(url, path).json()) == 100
    plain, timed = get(url, path), get(url, path)
    assert (plain.status_code, plain.headers.get("retry-after")) == (403, None)
    assert (timed.status_code, timed.headers["retry-after"]) == (403, "1")
    assert get(url, path).links["next"]["url"].startswith(url)
    assert faults.injected.total() == 9


def test_a_fault_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="'earthquake' is not one of reset"):
        Faults(probabilities={"earthquake": 0.1})


@pytest.mark.parametrize("kind", [kind for kind in REST_KINDS if kind != "timeout"])
def test_the_client_gets_over_every_fault(serve_world, kind: str) -> None:
    faults = Faults(script=[kind, None, kind, None, kind], slow_seconds=0.01, retry_after=0)
    _, url = serve_world(world_of({"a/b": list(range(150))}), faults=faults)
    with GitHubClient(url, [SecretStr("token")], policy=QUICK) as client:
        for _ in range(3):
            answer = client.get("/repositories/1/stargazers", parameters={"per_page": 100, "page": 2})
            assert (answer.status, len(answer.payload)) == (200, 50)
    assert faults.injected[kind] == 3


@pytest.mark.parametrize("kind", GRAPHQL_KINDS)
def test_lists_get_over_every_fault_of_graphql(serve_world, kind: str) -> None:
    world = world_of({f"a/{n}": list(range(150)) for n in range(30)})
    faults = Faults(script=[None, kind, None, kind, None, kind])
    _, url = serve_world(world, faults=faults)
    with GitHubClient(url, [SecretStr("token")], policy=QUICK) as client:
        client.refresh_budgets()
        tasks = [
            CollectionTask(RepositoryRef(r.repo_id, r.full_name, r.full_name, 150, Outcome.OK))
            for r in world.repositories
        ]
        found = list(GraphQLStargazers(client, 10).collect(tasks[:30], 1))
    assert [len(c.table) for c in found if c.table is not None and c.complete] == [150] * 30
    assert faults.injected[kind] >= 1


def test_a_clock_that_is_ahead_does_not_make_the_client_wait_longer(serve_world) -> None:
    clock = VirtualClock()
    faults = Faults(clock_skew=5400.0)
    standin, url = serve_world(world_of({"a/b": [0]}), limits=Limits(requests=5), clock=clock, faults=faults)
    started = clock.now()
    with GitHubClient(url, [SecretStr("token")], policy=RetryPolicy(), clock=clock) as client:
        for _ in range(6):
            client.get("/repositories/1")
    assert clock.now() - started <= 3603
    assert standin.quota.violations.total() == 0
