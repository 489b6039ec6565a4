"""Tests of the rate limits of the stand-in."""

from __future__ import annotations

import threading
import time

import pytest
import requests

from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import Limits
from gh_assets_tests.support.standin import get
from gh_assets_tests.support.worlds import world_of


def test_requests_beyond_the_secondary_limit_are_rejected(serve_world) -> None:
    clock = VirtualClock()
    standin, url = serve_world(world_of({"a/b": [0]}), limits=Limits(requests_a_minute=5), clock=clock)
    answers = [get(url) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [403] * 2
    assert "secondary rate limit" in answers[-1].text
    assert answers[-1].headers["retry-after"] == "60"
    assert standin.quota.violations == {"secondary": 2}
    clock.wait(61)
    assert get(url).status_code == 200


def test_concurrent_requests_beyond_the_limit_are_rejected(serve_world) -> None:
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
