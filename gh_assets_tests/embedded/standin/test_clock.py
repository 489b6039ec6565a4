"""Tests of the virtual clock."""

from __future__ import annotations

import requests
from pydantic import SecretStr

from gh_assets.embedded.standin.clock import RemoteClock, VirtualClock
from gh_assets.embedded.standin.limits import Limits
from gh_assets.github.client import GitHubClient
from gh_assets.github.retries import RetryPolicy
from gh_assets_tests.support.standin import HEADERS
from gh_assets_tests.support.worlds import world_of


def test_virtual_time_passes_when_the_client_waits(serve_world) -> None:
    clock = VirtualClock()
    standin, url = serve_world(world_of({"a/b": [0]}), limits=Limits(requests=50), clock=clock)
    started = clock.now()
    with GitHubClient(url, [SecretStr("token")], policy=RetryPolicy(), clock=clock) as client:
        for _ in range(240):
            assert client.get("/repositories/1").status == 200
    assert 4 * 3600 - 1 <= clock.now() - started <= 4 * 3600 + 60
    assert standin.quota.violations.total() == 0


def test_virtual_time_is_advanced_by_requests(serve_world) -> None:
    _, url = serve_world(world_of({"a/b": [0]}), clock=VirtualClock(5000.0))
    clock = RemoteClock(url, "token")
    assert clock.now() == 5000.0
    clock.wait(3600.0)
    assert requests.get(f"{url}/__standin__/clock", headers=HEADERS, timeout=5).json() == {"now": 8600.0}
    assert RemoteClock(url, "token").now() == 8600.0
    _, real = serve_world(world_of({"a/b": [0]}))
    assert requests.post(f"{real}/__standin__/clock", json={"now": 1}, headers=HEADERS, timeout=5).status_code == 422
    assert requests.post(f"{url}/__standin__/clock", json={"now": 9999}, timeout=5).status_code == 401
    assert requests.get(f"{url}/__standin__", timeout=5).status_code == 401
