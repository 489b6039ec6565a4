"""People who were not collected: looked up within a budget, remembered for as long as a setting says, never stored."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import Repository, World
from gh_assets.errors import ServiceUnavailableError
from gh_assets.github.client import GitHubClient
from gh_assets.serving.catalogue import Description
from gh_assets.serving.live_lookups import Budget, LiveLookups, Lookup, LookupOutcome, is_login
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.served_home import ServedHome, github_world, opened, until


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lookups(serve_world: Callable[..., tuple[Standin, str]]) -> Iterator[Callable[..., tuple[LiveLookups, Standin]]]:
    made = []

    def make(world: World | None = None, **more: Any) -> tuple[LiveLookups, Standin]:
        standin, url = serve_world(world or github_world())
        options: dict[str, Any] = {"requests_an_hour": 100, "pages": 3, "keep": 600.0} | more
        made.append(LiveLookups(lambda: GitHubClient(url, [SecretStr("token")], policy=QUICK), **options))
        return made[-1], standin

    yield make
    for live in made:
        live.close()


def finished(lookup: Lookup) -> Lookup:
    assert lookup.done.wait(20)
    return lookup


def great(stars: int) -> World:
    """Somebody with many stars."""
    repositories = [
        Repository(
            number,
            f"o/r{number}",
            stargazers=np.array([0]),
            starred_at=np.array([1_600_000_000 + number]),
        )
        for number in range(1, stars + 1)
    ]
    return World(repositories, ["fan"], [77], [], "one with many stars")


def test_a_person_is_read_once_and_newest_first(lookups: Any) -> None:
    live, standin = lookups(great(250))
    found = finished(live.look_up("FAN"))
    assert (found.found, found.login, found.user_id, found.complete) == (LookupOutcome.OK, "fan", 77, True)
    assert (found.pages, found.stars_read) == (3, 250)
    assert list(found.stars) == list(range(250, 0, -1))
    used = standin.used("token")
    assert live.look_up("fan") is found
    assert standin.used("token") == used


def test_a_long_list_is_read_as_far_as_the_setting_says(lookups: Any) -> None:
    live, _ = lookups(great(250), pages=2)
    found = finished(live.look_up("fan"))
    assert (len(found.stars), found.complete) == (200, False)


@pytest.mark.parametrize(
    ("login", "found"),
    [
        ("nobody", LookupOutcome.NOT_FOUND),
        ("starless", LookupOutcome.STARLESS),
        ("painters", LookupOutcome.ORGANIZATION),
        ("stranger-1", LookupOutcome.OK),
    ],
)
def test_what_can_be_found(lookups: Any, login: str, found: LookupOutcome) -> None:
    live, _ = lookups()
    assert finished(live.look_up(login)).found is found


def test_who_was_read_is_forgotten_after_the_time_that_is_set(lookups: Any) -> None:
    clock = Clock()
    live, standin = lookups(keep=60.0, clock=clock)
    first = finished(live.look_up("stranger-1"))
    clock.now = 59
    assert live.look_up("stranger-1") is first
    clock.now = 61
    live.forget()
    assert "stranger-1" not in live._kept, "without anybody asking"
    used = standin.used("token")
    assert finished(live.look_up("stranger-1")) is not first
    assert standin.used("token") > used


def test_with_zero_nobody_is_remembered(lookups: Any) -> None:
    live, _ = lookups(keep=0.0)
    assert finished(live.look_up("stranger-1")).found is LookupOutcome.OK
    until(lambda: not live._kept)


def test_the_budget_is_its_own_and_comes_back(lookups: Any) -> None:
    clock = Clock()
    live, standin = lookups(requests_an_hour=8, pages=3, clock=clock)
    assert finished(live.look_up("stranger-1")).found is LookupOutcome.OK
    used = standin.used("token")
    assert used <= 3, "what was not needed was given back"
    for login in ("a1", "a2", "a3", "a4", "a5", "a6", "a7"):
        last = finished(live.look_up(login))
    assert last.found is LookupOutcome.BUDGET_SPENT
    assert standin.used("token") <= 8
    assert isinstance(live.describe("o/r"), LookupOutcome)
    clock.now = 3600
    assert finished(live.look_up("a7")).found is LookupOutcome.NOT_FOUND


@given(st.lists(st.tuples(st.integers(1, 10), st.floats(0, 2000), st.booleans()), max_size=40), st.integers(1, 60))
def test_a_budget_is_never_overdrawn(taken: list[tuple[int, float, bool]], an_hour: int) -> None:
    clock = Clock()
    budget = Budget(an_hour, clock)
    spent: list[tuple[float, int]] = []
    for requests, pause, back in taken:
        clock.now += pause
        if budget.take(requests):
            if back:
                budget.give_back(requests)
            else:
                spent.append((clock.now, requests))
    for start, _ in spent:
        assert sum(requests for at, requests in spent if start <= at < start + 3600) <= 2 * an_hour


def test_what_a_lookup_did_not_need_is_given_back_to_the_budget(lookups: Any) -> None:
    """Of a person's four requests and a repository's two, what was not sent; in an hour that stands still."""
    live, standin = lookups(requests_an_hour=8, pages=3, clock=Clock())
    found = [finished(live.look_up(f"nobody-{number}")).found for number in range(7)]
    assert found == [LookupOutcome.NOT_FOUND] * 5 + [LookupOutcome.BUDGET_SPENT] * 2, (
        "each took one: of 8, 4 are wanted at 8, 7, 6, 5, 4"
    )
    assert standin.used("token") == 5
    assert [live.describe(f"no/such-{number}") for number in range(3)] == [LookupOutcome.NOT_FOUND] * 2 + [
        LookupOutcome.BUDGET_SPENT
    ]
    assert standin.used("token") == 7


def test_what_could_not_be_sent_costs_nothing() -> None:
    def refuse() -> GitHubClient:
        raise ServiceUnavailableError("there is no GitHub")

    live = LiveLookups(refuse, requests_an_hour=4, pages=3, keep=60.0, clock=Clock())
    try:
        for number in range(3):
            assert finished(live.look_up(f"somebody-{number}")).found is LookupOutcome.UNAVAILABLE
            assert live.describe(f"o/r{number}") is LookupOutcome.UNAVAILABLE
    finally:
        live.close()


def test_failures_are_told_and_tried_again_soon(lookups: Any) -> None:
    clock = Clock()
    live, _ = lookups(clock=clock)
    good = live._connect
    live._connect = lambda: GitHubClient("http://127.0.0.1:9", [SecretStr("token")], policy=QUICK)
    assert finished(live.look_up("stranger-1")).found is LookupOutcome.UNAVAILABLE
    assert live.failing_since is not None
    assert not live.check()
    live._connect = good
    clock.now = 11
    assert finished(live.look_up("stranger-1")).found is LookupOutcome.OK
    assert live.failing_since is None
    assert live.check()


def test_repositories_are_described_and_renames_followed(lookups: Any) -> None:
    live, standin = lookups()
    found = live.describe("outside/plumbing-hall")
    assert found == (
        99_001,
        Description("outside/plumbing-hall", "Pipes, valves and taps for everybody", "Go", ("plumbing",), 0, False),
    )
    used = standin.used("token")
    assert live.describe("Outside/Plumbing-Hall") == found
    assert standin.used("token") == used, "remembered"
    renamed = live.describe("outside/before")
    assert isinstance(renamed, tuple)
    assert renamed[1].full_name == "outside/now"
    assert live.describe("no/such") is LookupOutcome.NOT_FOUND


def test_what_a_login_can_be() -> None:
    assert all(map(is_login, ("a", "octo-cat", "a1", "under_score", "x" * 100)))
    assert not any(map(is_login, ("", "-a", "a-", "a b", "a/b", "../x", "a%", "é", "x" * 101, "a\n")))


def test_progress_is_told_while_it_is_read(
    own_served_home: ServedHome, serve_world: Callable[..., tuple[Standin, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub is held up between two pages: API and page say how far it is."""
    _, url = serve_world(great(250), limits=Limits())
    settings = own_served_home.settings.model_copy(update={"github_api_url": url})
    go_on, real = threading.Event(), GitHubClient.get

    def held(self: GitHubClient, path: str, **more: Any) -> Any:
        if (more.get("parameters") or {}).get("page") == 3:
            assert go_on.wait(30)
        return real(self, path, **more)

    monkeypatch.setattr(GitHubClient, "get", held)
    with opened(settings) as server:

        def progress() -> dict[str, Any] | None:
            answer = server.get("/api/v1/users/fan/recommendations?wait=0")
            assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
            found: dict[str, Any] = answer.json()
            return found if found["pages"] == 2 else None

        assert until(progress) == {"login": "fan", "found": "reading", "pages": 2, "stars": 200}
        page = server.get("/u/fan")
        assert page.status_code == 202
        assert "200 stars on 2 pages so far" in page.text
        assert '<noscript><meta http-equiv="refresh"' in page.text
        go_on.set()
        done = server.get("/api/v1/users/fan/recommendations?wait=20")
        assert (done.status_code, done.json()["known_stars"]) == (200, 250)
        names = server.state.refresher.database()
        assert names is not None
        for name in names.list_collection_names():
            for document in names[name].find():
                assert "fan" not in str(document), "nothing of it is written"
