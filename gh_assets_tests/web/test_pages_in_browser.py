"""The pages in a real browser: every flow with and without JavaScript, on a phone and on a desktop, and accessibility.

Needs the extra ``screenshots`` (playwright) and Debian's chromium; for the accessibility rules axe-core, which npm puts
under node_modules (`npm install --no-save axe-core`). Tests whose tools are missing are skipped. With
GH_ASSETS_TEST_STARS=FILE the world is read from that file; otherwise it is a small synthetic one.
"""

import datetime as dt
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gh_assets.github.client import GitHubClient
from gh_assets.settings import load_settings
from gh_assets_tests.support.commands import run_json
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.served_home import UNCOLLECTED_LOGIN, Running, opened
from gh_assets_tests.support.waiting import until

MISSING = "playwright is not installed: pip install '.[screenshots]'"
playwright = pytest.importorskip("playwright.sync_api", reason=MISSING)
CHROMIUM = "/usr/bin/chromium"
AXE = CHECKOUT / "node_modules" / "axe-core" / "axe.min.js"
STARS = os.environ.get("GH_ASSETS_TEST_STARS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM} is not installed (Debian's chromium)"),
]

MAX_PAGE_BYTES = 150_000
"""Maximum size of a page with everything that it loads, uncompressed."""

SIZES = {"phone": (375, 812), "desktop": (1440, 900)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as player:
        chromium = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of the world of the file, or of the shared home."""
    if STARS is None:
        yield request.getfixturevalue("server")
        return
    home = tmp_path_factory.mktemp("world")
    run_json(home, "run", "--stars", STARS, "--epochs", "3")
    refresh = dt.timedelta(seconds=0.2)
    with opened(load_settings(), home=home, serve_rate=0, serve_refresh=refresh) as running:
        yield running


@pytest.fixture(params=[f"{size}, {js}" for size in SIZES for js in ("with JavaScript", "without JavaScript")])
def page(request: pytest.FixtureRequest, browser: Any, served: Running) -> Iterator[Any]:
    """A page of a new visitor; see `visiting`."""
    size, _, js = str(request.param).partition(", ")
    with visiting(browser, served, size, js=js == "with JavaScript") as opened_page:
        yield opened_page


@contextmanager
def visiting(
    browser: Any, served: Running, size: str = "desktop", *, js: bool = True, scheme: str = "light"
) -> Iterator[Any]:
    """Open a page of a new visitor; afterwards assert that it had no errors and loaded nothing from other sites."""
    viewport = dict(zip(("width", "height"), SIZES[size], strict=True))
    context = browser.new_context(viewport=viewport, java_script_enabled=js, color_scheme=scheme, base_url=served.url)
    page = context.new_page()
    page.set_default_timeout(15_000)
    problems: list[str] = []
    requested: list[str] = []

    def dismissed(dialog: Any) -> None:
        problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", dismissed)
    page.on("request", lambda sent: requested.append(sent.url))
    yield page
    context.close()
    # The browser reports pages with status 404 or 503 as errors.
    assert [problem for problem in problems if "Failed to load resource" not in problem] == []
    assert all(url.startswith(served.url) for url in requested), requested


def collected_login(served: Running) -> str:
    """Login of a collected user."""
    snapshot = served.state.refresher.snapshot
    assert snapshot is not None
    return snapshot.users.examples(1)[0]


def cards(page: Any) -> list[str]:
    """Return the names of the recommended repositories in order."""
    return [str(text).strip() for text in page.locator("ol.cards > li h3").all_inner_texts()]


def fits(page: Any) -> None:
    """Assert that the page is not wider than the window."""
    if page.viewport_size is None:
        return
    sizes = page.locator("html").evaluate("one => [one.scrollWidth, one.clientWidth]")
    assert sizes[0] <= sizes[1], sizes


def changed(page: Any, before: list[str]) -> list[str]:
    """Wait until the list changes; return the new one."""
    return list(until(lambda: (names := cards(page)) != before and names, 15))


def test_from_a_login_to_a_list_with_reasons(page: Any, served: Running) -> None:
    page.goto("/")
    login = collected_login(served)
    page.get_by_label("GitHub login").fill(login)
    page.get_by_role("button", name="Recommend", exact=True).click()
    page.wait_for_url(f"**/u/{login}")
    assert page.get_by_role("heading", level=1).inner_text() == f"Recommendations for {login}"
    assert len(cards(page)) == 20
    first = page.locator("ol.cards > li").first
    assert "Because you starred" in first.inner_text()
    assert first.locator("meter").count() >= 1
    fits(page)


def test_picking_repositories_by_part_of_their_name(page: Any) -> None:
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
    page.wait_for_url(re.compile("[?&]q=a"))  # until then the suggestions may be replaced
    page.locator("ul.suggestions button").nth(2).click()
    until(lambda: page.locator("ul.chips li").count() == 2)
    two = changed(page, one)
    assert two != one
    page.locator("ul.chips button").first.click()
    until(lambda: page.locator("ul.chips li").count() == 1)
    assert changed(page, two) != two
    fits(page)


def test_suggestions_appear_while_typing(browser: Any, served: Running) -> None:
    with visiting(browser, served) as page:
        page.goto("/for")
        page.get_by_label("Add a repository").press_sequentially("a", delay=30)
        page.locator("ul.suggestions button").first.wait_for()
        assert page.get_by_label("Add a repository").evaluate("one => one === document.activeElement")
        assert page.url.endswith("/for"), "typing adds no history entries"


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


def test_filter_without_matches_shows_a_message(page: Any) -> None:
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
    with visiting(browser, served, js=False) as other:
        other.goto(page.url)
        assert cards(other) == second, "another visitor of the link sees the same list"
    page.get_by_role("link", name="Back to the first page").click()
    until(lambda: cards(page) == first)


def test_not_interested_changes_the_list_at_once_and_can_be_withdrawn(page: Any, served: Running) -> None:
    path = f"/u/{collected_login(served)}"
    page.goto(path)
    before = cards(page)
    page.get_by_role("button", name=f"Not interested: {before[0]}", exact=True).click()
    after = changed(page, before)
    assert after[0] == before[1]
    assert len(after) == 20
    page.get_by_role("button", name=f"I know it: {after[2]}", exact=True).click()
    assert changed(page, after)[2] == after[3]
    visitor = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "visitor")
    until(lambda: served.database["feedback"].count_documents({"said.person": visitor}) == 2)
    page.get_by_role("link", name="Hidden repositories").click()
    page.get_by_role("button", name=f"Show again: {before[0]}", exact=True).click()
    until(lambda: page.locator("ul.rows li").count() == 1)
    page.goto(path)
    assert cards(page)[0] == before[0]
    assert after[2] not in cards(page)


def test_similar_repositories_from_a_card(page: Any) -> None:
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


def test_model_page_shows_scores(page: Any) -> None:
    page.goto("/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Model").click()
    page.wait_for_url("**/model")
    assert re.fullmatch(r"\w+ \d+", page.get_by_role("heading", level=1).inner_text())
    assert page.locator("svg[role=img]").count() == 3, "baselines, known stars and history"
    assert page.get_by_role("heading", name="By number of known stars").is_visible()
    assert "95 % confidence interval" in page.locator("p.lead").inner_text()
    fits(page)


def test_unknown_user_gets_an_error_with_links(page: Any) -> None:
    page.goto("/u/missing-user-1")
    assert "GitHub has no user" in page.locator("p.lead").inner_text()
    page.get_by_role("link", name="Pick repositories you like").click()
    page.wait_for_url("**/for")


@pytest.mark.skipif(STARS is not None, reason="all users of the file are collected")
def test_progress_is_shown_while_stars_are_read(page: Any, served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    proceed, real = threading.Event(), GitHubClient.get

    def blocked(self: GitHubClient, path: str, **options: Any) -> Any:
        if path.endswith("/starred"):
            assert proceed.wait(30)
        return real(self, path, **options)

    monkeypatch.setattr(GitHubClient, "get", blocked)
    assert served.state.live is not None
    served.state.live._users.clear()
    page.goto(f"/u/{UNCOLLECTED_LOGIN}")
    assert page.get_by_role("heading", level=1).inner_text() == f"Reading the stars of {UNCOLLECTED_LOGIN}"
    assert page.locator("progress").count() == 1
    proceed.set()
    until(lambda: page.get_by_role("heading", level=1).inner_text() == f"Recommendations for {UNCOLLECTED_LOGIN}")
    assert len(cards(page)) == 20


def test_keyboard_navigation(browser: Any, served: Running) -> None:
    with visiting(browser, served) as page:
        page.goto("/")
        login = collected_login(served)
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
        assert outline != "none", "the focus is visible"
        page.keyboard.press("Enter")
        assert changed(page, before)[0] == before[1]


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_violations(browser: Any, served: Running, scheme: str, size: str) -> None:
    with visiting(browser, served, size, scheme=scheme) as page:
        page.goto("/")
        login = collected_login(served)
        name = page.locator("section.choice").nth(1).locator("p.hint a").first.inner_text()
        paths = ["/", f"/u/{login}", f"/for?repo={name}&q=a", "/popular?popularity=-0.5&min_stars=1", f"/r/{name}"]
        paths += ["/model", "/hidden", "/api", "/u/missing-user-1", "/popular?min_stars=999999999"]
        for path in paths:
            page.goto(path)
            page.evaluate(AXE.read_text(encoding="utf-8"))
            report = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            violations = [
                f"{path} {violation['id']}: {node['html'][:160]}"
                for violation in report["violations"]
                for node in violation["nodes"]
            ]
            assert violations == []
            assert report["passes"], "the rules ran"


@pytest.mark.parametrize("path", ["/", "/popular?n=20", "/model", "/for?q=a"])
def test_page_size(browser: Any, served: Running, path: str) -> None:
    responses: list[Any] = []
    with visiting(browser, served) as page:
        page.on("response", lambda response: responses.append(response))
        page.goto(path)
        page.wait_for_load_state("networkidle")
        sizes = {response.url: len(response.body()) for response in responses}
    assert len(sizes) >= 3
    assert sum(sizes.values()) <= MAX_PAGE_BYTES, sizes


@pytest.mark.skipif(STARS is not None, reason="one world is enough")
def test_hostile_texts_are_not_executed(browser: Any, hostile_server: Running) -> None:
    with visiting(browser, hostile_server) as page:
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
