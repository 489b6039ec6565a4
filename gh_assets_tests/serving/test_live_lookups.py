"""Live lookups: within a budget, kept in memory for a configured time, never stored."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import Repository, World
from gh_assets.errors import ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.serving.catalogue import Description
from gh_assets.serving.live_lookups import LiveLookups, Lookup, LookupOutcome
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.github import FakeClock, client_of
from gh_assets_tests.support.served_home import ServedHome, github_world, opened
from gh_assets_tests.support.waiting import until

Lookups = Callable[..., tuple[LiveLookups, Standin]]


@pytest.fixture
def lookups(serve_world: ServeWorld) -> Iterator[Lookups]:
    with ExitStack() as stack:

        def make(world: World | None = None, **more: Any) -> tuple[LiveLookups, Standin]:
            standin, url = serve_world(world or github_world())
            options: dict[str, Any] = {"requests_an_hour": 100, "pages": 3, "keep": 600.0} | more
            return stack.enter_context(closing(LiveLookups(lambda: client_of(url, "token"), **options))), standin

        yield make


def finished(lookup: Lookup) -> Lookup:
    assert lookup.done.wait(20)
    return lookup


def world_of_fan(stars: int) -> World:
    """A world in which the user `fan` has starred all repositories."""
    repositories = [
        Repository(number, f"o/r{number}", stargazers=np.array([0]), starred_at=np.array([1_600_000_000 + number]))
        for number in range(1, stars + 1)
    ]
    return World(repositories, ["fan"], [77], [], "a user with many stars")


def test_user_is_read_once_and_newest_stars_come_first(lookups: Lookups) -> None:
    live, standin = lookups(world_of_fan(250))
    lookup = finished(live.look_up("FAN"))
    assert (lookup.outcome, lookup.login, lookup.user_id, lookup.complete) == (LookupOutcome.OK, "fan", 77, True)
    assert (lookup.pages, lookup.stars_read) == (3, 250)
    assert list(lookup.stars) == list(range(250, 0, -1))
    used = standin.used("token")
    assert live.look_up("fan") is lookup
    assert standin.used("token") == used


def test_long_list_is_read_up_to_the_configured_pages(lookups: Lookups) -> None:
    live, _ = lookups(world_of_fan(250), pages=2)
    lookup = finished(live.look_up("fan"))
    assert (len(lookup.stars), lookup.complete) == (200, False)


@pytest.mark.parametrize(
    ("login", "outcome"),
    [
        ("nobody", LookupOutcome.NOT_FOUND),
        ("starless", LookupOutcome.STARLESS),
        ("painters", LookupOutcome.ORGANIZATION),
        ("uncollected-1", LookupOutcome.OK),
    ],
)
def test_outcomes_of_lookups(lookups: Lookups, login: str, outcome: LookupOutcome) -> None:
    live, _ = lookups()
    assert finished(live.look_up(login)).outcome is outcome


def test_user_is_forgotten_after_the_configured_time(lookups: Lookups) -> None:
    clock = FakeClock()
    live, standin = lookups(keep=60.0, clock=clock.now)
    first = finished(live.look_up("uncollected-1"))
    clock.time += 59
    assert live.look_up("uncollected-1") is first
    clock.time += 2
    live.forget()
    assert "uncollected-1" not in live._users, "it stayed in memory"
    used = standin.used("token")
    assert finished(live.look_up("uncollected-1")) is not first
    assert standin.used("token") > used
    live, _ = lookups(keep=0.0)
    assert finished(live.look_up("uncollected-1")).outcome is LookupOutcome.OK
    until(lambda: not live._users)


def test_budget_is_separate_and_refills(lookups: Lookups) -> None:
    """A user takes four requests and a repository two; unsent ones are given back."""
    clock = FakeClock()
    live, standin = lookups(requests_an_hour=8, pages=3, clock=clock.now)
    outcomes = [finished(live.look_up(f"nobody-{number}")).outcome for number in range(7)]
    expected = [LookupOutcome.NOT_FOUND] * 5 + [LookupOutcome.BUDGET_SPENT] * 2
    assert outcomes == expected, "each uses one request, and needs four at its start"
    assert standin.used("token") == 5
    outcomes = [live.describe(f"no/such-{number}") for number in range(3)]  # type: ignore[misc]
    assert outcomes == [LookupOutcome.NOT_FOUND] * 2 + [LookupOutcome.BUDGET_SPENT]
    assert standin.used("token") == 7
    clock.time += 3600
    assert finished(live.look_up("uncollected-1")).outcome is LookupOutcome.OK
    assert standin.used("token") <= 10, "unused requests were not given back"


def test_unsent_requests_cost_nothing() -> None:
    refuse = Mock(side_effect=ServiceUnavailableError("there is no GitHub"))
    with closing(LiveLookups(refuse, requests_an_hour=4, pages=3, keep=60.0, clock=FakeClock().now)) as live:
        for number in range(3):
            assert finished(live.look_up(f"user-{number}")).outcome is LookupOutcome.UNAVAILABLE
            assert live.describe(f"o/r{number}") is LookupOutcome.UNAVAILABLE


def test_failures_are_reported_and_tried_again_soon(lookups: Lookups) -> None:
    clock = FakeClock()
    live, _ = lookups(clock=clock.now)
    good = live._connect
    live._connect = lambda: client_of("http://127.0.0.1:9", "token")
    assert finished(live.look_up("uncollected-1")).outcome is LookupOutcome.UNAVAILABLE
    assert not live.check()
    live._connect = good
    clock.time += 11
    assert finished(live.look_up("uncollected-1")).outcome is LookupOutcome.OK
    assert live.check()


def test_repositories_are_described_and_renames_followed(lookups: Lookups) -> None:
    live, standin = lookups()
    text, topics = "Pipes, valves and taps for every house", ("plumbing",)
    described = live.describe("outside/plumbing-hall")
    assert described == (99_001, Description("outside/plumbing-hall", text, "Go", topics, 0, False))
    used = standin.used("token")
    assert live.describe("Outside/Plumbing-Hall") == described
    assert standin.used("token") == used, "it was requested again"
    renamed = live.describe("outside/before")
    assert isinstance(renamed, tuple)
    assert renamed[1].full_name == "outside/now"
    assert live.describe("no/such") is LookupOutcome.NOT_FOUND


def test_progress_is_shown_while_stars_are_read(
    own_served_home: ServedHome, serve_world: ServeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub delays the third page; the API and the page show the progress."""
    _, url = serve_world(world_of_fan(250), limits=Limits())
    settings = own_served_home.settings.model_copy(update={"github_api_url": url})
    proceed, real = threading.Event(), GitHubClient.get

    def delayed(self: GitHubClient, path: str, **more: Any) -> Any:
        if (more.get("parameters") or {}).get("page") == 3:
            assert proceed.wait(30)
        return real(self, path, **more)

    monkeypatch.setattr(GitHubClient, "get", delayed)
    with opened(settings) as server:

        def progress() -> dict[str, Any] | None:
            response = server.get("/api/v1/users/fan/recommendations?wait=0")
            assert (response.status_code, response.headers["retry-after"]) == (202, "1")
            document: dict[str, Any] = response.json()
            return document if document["pages"] == 2 else None

        assert until(progress) == {"login": "fan", "found": "reading", "pages": 2, "stars": 200}
        page = server.get("/u/fan")
        assert page.status_code == 202
        assert "200 stars read from GitHub so far" in page.text
        assert '<noscript><meta http-equiv="refresh"' in page.text
        proceed.set()
        done = server.get("/api/v1/users/fan/recommendations?wait=20")
        assert (done.status_code, done.json()["known_stars"]) == (200, 250)
        for name in server.database.list_collection_names():
            for document in server.database[name].find():
                assert "fan" not in str(document), "it was stored"
