"""Tests of the faults of the stand-in, from which the client recovers."""

import pytest
import requests

from gh_assets.collector.star_sources.base import CollectionTask
from gh_assets.collector.star_sources.graphql import GraphQLStargazers
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.kinds import GRAPHQL_KINDS, REST_KINDS
from gh_assets.embedded.standin.limits import Limits
from gh_assets_tests.support.collecting import refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.standin import StandinOf
from gh_assets_tests.support.worlds import world_of


def test_faults_of_a_script_are_injected_in_order(standin_of: StandinOf) -> None:
    script = ["reset", "500", "502", "504", "truncated", "wrong link", "slow", "403", "403 retry-after", None]
    faults = Faults(script=script, slow_seconds=0.01)
    api = standin_of(world_of({"a/b": list(range(150))}), faults=faults)
    path = "/repositories/1/stargazers?per_page=100"
    with pytest.raises(requests.ConnectionError):
        api.get(path)
    assert [api.get(path).status_code for _ in range(3)] == [500, 502, 504]
    with pytest.raises(requests.JSONDecodeError):
        api.get(path).json()
    assert api.get(path).links["next"]["url"].startswith("http://127.0.0.1:9/")
    assert len(api.get(path).json()) == 100
    plain, timed = api.get(path), api.get(path)
    assert (plain.status_code, plain.headers.get("retry-after")) == (403, None)
    assert (timed.status_code, timed.headers["retry-after"]) == (403, "1")
    assert api.get(path).links["next"]["url"].startswith(api.url)
    assert faults.injected.total() == 9


def test_unknown_fault_is_named() -> None:
    with pytest.raises(ValueError, match="'earthquake' is not one of reset"):
        Faults(probabilities={"earthquake": 0.1})


@pytest.mark.parametrize("kind", [kind for kind in REST_KINDS if kind != "timeout"])
def test_client_recovers_from_every_fault(standin_of: StandinOf, kind: str) -> None:
    faults = Faults(script=[kind, None, kind, None, kind], slow_seconds=0.01, retry_after=0)
    api = standin_of(world_of({"a/b": list(range(150))}), faults=faults)
    with client_of(api.url, "token") as client:
        for _ in range(3):
            answer = client.get("/repositories/1/stargazers", parameters={"per_page": 100, "page": 2})
            assert (answer.status, len(answer.payload)) == (200, 50)
    assert faults.injected[kind] == 3


@pytest.mark.parametrize("kind", GRAPHQL_KINDS)
def test_lists_recover_from_every_fault_of_graphql(standin_of: StandinOf, kind: str) -> None:
    world = world_of({f"a/{n}": list(range(150)) for n in range(30)})
    faults = Faults(script=[None, kind, None, kind, None, kind])
    api = standin_of(world, faults=faults)
    with client_of(api.url, "token") as client:
        client.refresh_budgets()
        found = list(GraphQLStargazers(client, 10).collect(map(CollectionTask, refs(world)), 1))
    assert [len(c.table) for c in found if c.table is not None and c.complete] == [150] * 30
    assert faults.injected[kind] >= 1


def test_clock_skew_of_the_server_does_not_prolong_waits(standin_of: StandinOf) -> None:
    clock = VirtualClock()
    faults = Faults(clock_skew=5400.0)
    api = standin_of(limits=Limits(requests=5), clock=clock, faults=faults)
    started = clock.now()
    with client_of(api.url, "token", clock=clock) as client:
        for _ in range(6):
            client.get("/repositories/1")
    assert clock.now() - started <= 3603
    assert api.standin.quota.violations.total() == 0
