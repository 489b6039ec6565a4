"""Tests of the rate limits of the stand-in."""

from concurrent.futures import ThreadPoolExecutor

import requests

from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.limits import Limits
from gh_assets_tests.support.standin import StandinOf
from gh_assets_tests.support.waiting import until


def test_requests_beyond_the_secondary_limit_are_rejected(standin_of: StandinOf) -> None:
    clock = VirtualClock()
    api = standin_of(limits=Limits(requests_a_minute=5), clock=clock)
    answers = [api.get() for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [403] * 2
    assert "secondary rate limit" in answers[-1].text
    assert (answers[-1].headers["retry-after"], api.standin.quota.violations) == ("60", {"secondary": 2})
    clock.wait(61)
    assert api.get().status_code == 200


def test_concurrent_requests_beyond_the_limit_are_rejected(standin_of: StandinOf) -> None:
    faults = Faults(probabilities={"timeout": 1.0}, timeout_seconds=0.5)
    api = standin_of(limits=Limits(concurrent=2), faults=faults)

    with ThreadPoolExecutor(2) as executor:
        held = [executor.submit(api.get) for _ in range(2)]
        until(lambda: api.standin.quota.in_flight == 2)
        faults.probabilities = {}
        assert api.get().status_code == 403
    for request in held:
        assert isinstance(request.exception(), requests.ConnectionError)
    assert (api.get().status_code, api.standin.quota.violations) == (200, {"concurrent": 1})
