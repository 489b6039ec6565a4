"""The page in a real browser: every flow with and without JavaScript, on a phone and on a desk, and for everybody.

Needs the extra ``screenshots`` (playwright) and Debian's chromium; for the accessibility rules axe-core, which npm puts
under node_modules (`npm install --no-save axe-core`). What is missing is said, and skipped. With
GH_ASSETS_TEST_STARS=FILE the world is that file's, else a small one.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gh_assets.github.client import GitHubClient
from gh_assets.settings import Settings, load_settings
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.served_home import UNCOLLECTED_LOGIN, Running, ServedHome, furnish, opened, until
from gh_assets_tests.web.test_guard import hostile_changes

MISSING = "playwright is not installed: pip install '.[screenshots]'"
playwright = pytest.importorskip("playwright.sync_api", reason=MISSING)
CHROMIUM = "/usr/bin/chromium"
ROOT = CHECKOUT
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
STARS = os.environ.get("GH_ASSETS_TEST_STARS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed (Debian's chromium)"),
]

MOST_WEIGHT = 150_000
"""Bytes of a page with all that it loads, uncompressed."""

SIZES = {"phone": (375, 812), "desk": (1440, 900)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The world of a file if there is one, else the small one."""
    if STARS is None:
        yield request.getfixturevalue("server")
        return
    home = tmp_path_factory.mktemp("world")
    command = [str(Path(sys.executable).parent / "gh-assets"), "run", "--stars", STARS, "--epochs", "3", "--json"]
    subprocess.run(command, env=os.environ | {"GH_ASSETS_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL)
    settings: Settings = load_settings().model_copy(
        update={"home": home, "serve_rate": 0, "serve_refresh": dt.timedelta(seconds=0.2)}
    )
    with opened(settings) as running:
        yield running


@pytest.fixture(params=[f"{size}, {js}" for size in SIZES for js in ("with JavaScript", "without JavaScript")])
def page(request: pytest.FixtureRequest, browser: Any, served: Running) -> Iterator[Any]:
    """A new visitor's page; afterwards nothing was loaded from elsewhere, and nothing was complained about."""
    size, _, js = str(request.param).partition(", ")
    width, height = SIZES[size]
    with visiting(browser, served, width, height, js == "with JavaScript") as found:
        yield found


@contextmanager
def visiting(browser: Any, served: Running, width: int, height: int, js: bool, scheme: str = "light") -> Iterator[Any]:
    context = browser.new_context(
        viewport={"width": width, "height": height}, java_script_enabled=js, color_scheme=scheme, base_url=served.url
    )
    found = context.new_page()
    found.set_default_timeout(15_000)
    complaints: list[str] = []
    found.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}") or dialog.dismiss())
    found.on(
        "request",
        lambda asked: complaints.append(f"asked {asked.url}") if not asked.url.startswith(served.url) else None,
    )
    yield found
    context.close()
    # The browser itself calls a page of status 404 or 503 an error.
    assert [words for words in complaints if "Failed to load resource" not in words] == []


def somebody(served: Running) -> str:
    """A login that was collected."""
    snapshot = served.state.refresher.snapshot
    assert snapshot is not None
    return snapshot.people.examples(1)[0]


def cards(page: Any) -> list[str]:
    """Names of the recommended repositories, in order."""
    return [str(text).strip() for text in page.locator("ol.cards > li h3").all_inner_texts()]


def fits(page: Any) -> None:
    """Nothing sticks out to the side."""
    if page.viewport_size is None:
        return
    sizes = page.locator("html").evaluate("one => [one.scrollWidth, one.clientWidth]")
    assert sizes[0] <= sizes[1], sizes


def changed(page: Any, before: list[str]) -> list[str]:
    """The list after it changed."""
    return list(until(lambda: (found := cards(page)) != before and found, 15))


def test_from_a_login_to_a_list_with_reasons(page: Any, served: Running) -> None:
    page.goto("/")
    login = somebody(served)
    page.get_by_label("GitHub login").fill(login)
    page.get_by_role("button", name="Recommend", exact=True).click()
    page.wait_for_url(f"**/u/{login}")
    assert page.get_by_role("heading", level=1).inner_text() == f"Recommendations for {login}"
    assert len(cards(page)) == 20
    first = page.locator("ol.cards > li").first
    assert "Because you starred" in first.inner_text()
    assert first.locator("meter").count() >= 1
    fits(page)


def test_picking_repositories_by_a_part_of_their_name(page: Any) -> None:
    page.goto("/")
    name = page.locator("section.choice").nth(1).locator("p.hint a").first.inner_text()
    page.get_by_label("A repository you like").fill(name.split("/")[1][:5])
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("ul.suggestions button").first.wait_for()
    chosen = page.locator("ul.suggestions button bdi").first.inner_text()
    page.locator("ul.suggestions button").first.click()
    page.locator("ul.chips li").first.wait_for()
    assert page.locator("ul.chips li > bdi").all_inner_texts() == [chosen]
    one = cards(page)
    assert len(one) == 20
    search = page.get_by_label("Add a repository")
    search.fill("a")
    page.get_by_role("button", name="Search", exact=True).click()
    page.locator("ul.suggestions button").nth(2).click()
    until(lambda: page.locator("ul.chips li").count() == 2)
    two = changed(page, one)
    assert two != one
    page.locator("ul.chips button").first.click()
    until(lambda: page.locator("ul.chips li").count() == 1)
    assert changed(page, two) != two
    fits(page)


def test_suggestions_come_while_one_types(browser: Any, served: Running) -> None:
    with visiting(browser, served, 1440, 900, True) as page:
        page.goto("/for")
        page.get_by_label("Add a repository").press_sequentially("a", delay=30)
        page.locator("ul.suggestions button").first.wait_for()
        assert page.get_by_label("Add a repository").evaluate("one => one === document.activeElement")
        assert page.url.endswith("/for"), "not every letter is a place to go back to"


def test_filters_and_order(page: Any) -> None:
    page.goto("/popular")
    before = cards(page)
    page.locator("details.filters summary").click()
    page.get_by_label("Min stars").fill("0")
    page.get_by_label("Niche ↔ popular").evaluate(
        "one => { one.value = '-0.5'; one.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    if page.url.endswith("/popular"):
        page.get_by_role("button", name="Apply", exact=True).click()
    page.wait_for_url("**/popular?*popularity=-0.5*")
    after = changed(page, before)
    assert after != before
    page.get_by_role("link", name="Clear", exact=True).click()
    page.wait_for_url("**/popular")
    assert changed(page, after) == before


def test_a_filter_that_nothing_passes_says_so(page: Any) -> None:
    page.goto("/popular?min_stars=999999999")
    assert "No repositories match" in page.locator("p.empty").inner_text()
    page.get_by_role("link", name="Clear the filters").click()
    page.wait_for_url("**/popular")
    assert len(cards(page)) == 20


def test_pages_do_not_repeat_and_lists_can_be_shared(page: Any, browser: Any, served: Running) -> None:
    page.goto("/popular?n=10")
    first = cards(page)
    page.get_by_role("link", name="More", exact=True).click()
    page.wait_for_url("**cursor=*")
    second = changed(page, first)
    assert not set(first) & set(second)
    with visiting(browser, served, 1440, 900, False) as other:
        other.goto(page.url)
        assert cards(other) == second, "whoever gets the link sees the same"
    page.get_by_role("link", name="Back to the first page").click()
    until(lambda: cards(page) == first)


def test_not_interested_changes_the_list_at_once_and_can_be_taken_back(page: Any, served: Running) -> None:
    path = f"/u/{somebody(served)}"
    page.goto(path)
    before = cards(page)
    page.get_by_role("button", name=f"Not interested: {before[0]}", exact=True).click()
    after = changed(page, before)
    assert after[0] == before[1]
    assert len(after) == 20
    page.get_by_role("button", name=f"I know it: {after[2]}", exact=True).click()
    assert changed(page, after)[2] == after[3]
    visitor = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "visitor")
    database = served.state.refresher.database()
    assert database is not None
    until(lambda: database["feedback"].count_documents({"said.person": visitor}) == 2)
    page.get_by_role("link", name="Hidden repositories").click()
    page.get_by_role("button", name=f"Show again: {before[0]}", exact=True).click()
    until(lambda: page.locator("ul.rows li").count() == 1)
    page.goto(path)
    assert cards(page)[0] == before[0]
    assert after[2] not in cards(page)


def test_similar_ones_from_a_card(page: Any) -> None:
    page.goto("/popular")
    name = cards(page)[0]
    page.get_by_role("link", name=f"Similar to {name}", exact=True).click()
    page.wait_for_url("**/r/**")
    assert page.get_by_role("heading", level=1).inner_text() == name
    assert len(cards(page)) > 3
    assert name not in cards(page)
    page.get_by_role("link", name="Recommendations based on this repository").click()
    page.wait_for_url("**/for?repo=*")
    assert len(cards(page)) == 20
    fits(page)


def test_the_model_page_shows_scores(page: Any) -> None:
    page.goto("/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Model").click()
    page.wait_for_url("**/model")
    assert re.fullmatch(r"\w+ \d+", page.get_by_role("heading", level=1).inner_text())
    assert page.locator("svg[role=img]").count() == 2
    assert "95 % confidence interval" in page.locator("p.lead").inner_text()
    fits(page)


def test_who_cannot_be_found_is_told_and_can_go_on(page: Any) -> None:
    page.goto("/u/nobody-by-that-name-1")
    assert "GitHub has no user" in page.locator("p.lead").inner_text()
    page.get_by_role("link", name="Pick repositories you like").click()
    page.wait_for_url("**/for")


@pytest.mark.skipif(STARS is not None, reason="the world of a file has nobody who was not collected")
def test_progress_is_shown_while_a_stranger_is_read(
    page: Any, served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, real = threading.Event(), GitHubClient.get

    def blocked(self: GitHubClient, path: str, **more: Any) -> Any:
        if path.endswith("/starred"):
            assert go_on.wait(30)
        return real(self, path, **more)

    monkeypatch.setattr(GitHubClient, "get", blocked)
    assert served.state.live is not None
    served.state.live._kept.clear()
    page.goto(f"/u/{UNCOLLECTED_LOGIN}")
    assert page.get_by_role("heading", level=1).inner_text() == f"Reading the stars of {UNCOLLECTED_LOGIN}"
    assert page.locator("progress").count() == 1
    go_on.set()
    until(lambda: page.get_by_role("heading", level=1).inner_text() == f"Recommendations for {UNCOLLECTED_LOGIN}")
    assert len(cards(page)) == 20


def test_by_keyboard_alone(browser: Any, served: Running) -> None:
    with visiting(browser, served, 1440, 900, True) as page:
        page.goto("/")
        login = somebody(served)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "login"
        page.keyboard.type(login)
        page.keyboard.press("Enter")
        page.wait_for_url("**/u/**")
        before = cards(page)
        for _ in range(60):
            page.keyboard.press("Tab")
            if "Not interested" in (page.evaluate("document.activeElement.textContent") or ""):
                break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "one sees where one is"
        page.keyboard.press("Enter")
        assert changed(page, before)[0] == before[1]


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_nothing(browser: Any, served: Running, scheme: str, size: str) -> None:
    with visiting(browser, served, *SIZES[size], True, scheme) as page:
        page.goto("/")
        login = somebody(served)
        name = page.locator("section.choice").nth(1).locator("p.hint a").first.inner_text()
        paths = ["/", f"/u/{login}", f"/for?repo={name}&q=a", "/popular?popularity=-0.5&min_stars=1", f"/r/{name}"]
        paths += ["/model", "/hidden", "/api", "/u/nobody-by-that-name-1", "/popular?min_stars=999999999"]
        for path in paths:
            page.goto(path)
            page.evaluate(AXE.read_text(encoding="utf-8"))
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            told = [
                f"{path} {violation['id']}: {node['html'][:160]}"
                for violation in found["violations"]
                for node in violation["nodes"]
            ]
            assert told == []
            assert found["passes"], "the rules were run"


@pytest.mark.parametrize("path", ["/", "/popular?n=20", "/model", "/for?q=a"])
def test_a_page_weighs_little(browser: Any, served: Running, path: str) -> None:
    answers: list[Any] = []
    with visiting(browser, served, 1440, 900, True) as page:
        page.on("response", lambda answer: answers.append(answer))
        page.goto(path)
        page.wait_for_load_state("networkidle")
        sizes = {answer.url: len(answer.body()) for answer in answers}
    assert len(sizes) >= 3
    assert sum(sizes.values()) <= MOST_WEIGHT, sizes


@pytest.mark.skipif(STARS is not None, reason="one world is enough")
def test_nothing_hostile_is_executed(browser: Any, settings_of: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = settings_of().model_copy(update={"live_requests": 0})
    served_home: ServedHome = furnish(settings, tmp_path_factory.mktemp("evil"), hostile_changes())
    with opened(served_home.settings) as running, visiting(browser, running, 1440, 900, True) as page:
        for path in ("/", "/popular?n=100", "/u/person-3?n=100", "/for?q=paint", "/for?q=%3Cscript%3E", "/model"):
            page.goto(path)
            page.wait_for_load_state("networkidle")
            assert page.evaluate("window.broken") is None
        page.goto("/popular?n=100")
        page.get_by_role("link", name=re.compile("^Similar to painters")).first.click()
        page.wait_for_url("**/r/**")
        assert page.evaluate("window.broken") is None
        page.goto("/popular?n=100")
        before = cards(page)
        hostile = next(place for place, name in enumerate(before) if "<" in name or "{" in name or "javascript" in name)
        page.locator("ol.cards > li").nth(hostile).get_by_role("button", name=re.compile("Not interested")).click()
        changed(page, before)
        assert page.evaluate("window.broken") is None
