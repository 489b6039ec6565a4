"""Forecasts of cost and duration."""

import pytest

from gh_assets.collector.forecast import duration, expected_pages, forecast
from gh_assets.collector.star_sources.stargazers import RestStargazers
from gh_assets.embedded.standin.clock import VirtualClock
from gh_assets.embedded.standin.limits import Limits
from gh_assets.github.rate_limits import Resource
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.collecting import Collecting, refs
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import world_of


def test_expected_pages_of_new_and_known_repositories() -> None:
    wanted = [
        (0, None, None),
        (250, None, None),
        (5000, None, None),
        (None, None, None),
        (250, 240, 240),
        (900, 500, 500),
    ]
    assert expected_pages(wanted, 10) == 1 + 3 + 10 + 1 + 1 + 4


def test_forecast_without_a_pool_costs_nothing() -> None:
    assert forecast(None, Resource.REST, 100).summary() == "costs no quota"


@pytest.mark.parametrize("tokens", [1, 3])
def test_forecast_equals_the_time_taken(serve_world: ServeWorld, collecting: Collecting, tokens: int) -> None:
    """Run in virtual time, with pages for two and a half windows."""
    clock = VirtualClock()
    names = [f"token-{number}" for number in range(tokens)]
    limits = Limits.of_github(requests=50, requests_a_minute=900)
    world = world_of({f"a/{n}": list(range(100 * tokens)) for n in range(125)})
    standin, url = serve_world(world, tokens=names, limits=limits, clock=clock)
    with client_of(url, *names, clock=clock) as client:
        clock.busy = lambda: client.pool.in_flight > 0
        client.refresh_budgets()
        expected = forecast(client.pool, Resource.REST, 125 * tokens)
        assert expected.cost == 125 * tokens
        assert expected.left is not None
        assert 45 * tokens <= expected.left <= 50 * tokens
        started = clock.now()
        report = collecting.run(refs(world), RestStargazers(client, 10))
        took = clock.now() - started
    assert report.stars == world.star_count
    assert standin.quota.violations == {}
    assert took == pytest.approx(expected.seconds, rel=0.03)


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (89, "89 s"), (120, "2 min"), (5400, "1 h 30 min"), (float("inf"), "for ever")]
)
def test_formatted_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
