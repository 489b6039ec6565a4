"""Tests of the virtual clock."""

import requests

from gh_assets.embedded.standin.clock import RemoteClock, VirtualClock
from gh_assets.embedded.standin.limits import Limits
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.standin import StandinOf


def test_virtual_time_passes_when_the_client_waits(standin_of: StandinOf) -> None:
    clock = VirtualClock()
    api = standin_of(limits=Limits(requests=50), clock=clock)
    started = clock.now()
    with client_of(api.url, "token", clock=clock) as client:
        for _ in range(240):
            assert client.get("/repositories/1").status == 200
    assert 4 * 3600 - 1 <= clock.now() - started <= 4 * 3600 + 60
    assert api.standin.quota.violations.total() == 0


def test_virtual_time_is_advanced_by_requests(standin_of: StandinOf) -> None:
    api = standin_of(clock=VirtualClock(5000.0))
    clock = RemoteClock(api.url, "token")
    assert clock.now() == 5000.0
    clock.wait(3600.0)
    assert api.get("/__standin__/clock").json() == {"now": 8600.0}
    assert RemoteClock(api.url, "token").now() == 8600.0
    assert standin_of().post("/__standin__/clock", {"now": 1}).status_code == 422
    assert requests.post(f"{api.url}/__standin__/clock", json={"now": 9999}, timeout=5).status_code == 401
    assert requests.get(f"{api.url}/__standin__", timeout=5).status_code == 401
