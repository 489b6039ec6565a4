"""The HTML of the pages: nothing from other sites, no markup from GitHub, no personal data of others."""

from __future__ import annotations

import json

from gh_assets_tests.support.hostile_world import HOSTILE_TEXTS
from gh_assets_tests.support.served_home import Running, ServedHome, name_of, opened


def test_pages_load_nothing_from_other_sites_and_have_no_inline_script_or_style(server: Running) -> None:
    for path in ("/", "/u/person-1", f"/for?repo={name_of(0)}&q=a", f"/r/{name_of(0)}", "/model", "/hidden", "/api"):
        page = server.get(path).text
        assert "<style" not in page
        assert " style=" not in page
        assert "javascript:" not in page
        assert page.count("<script") == 1
        assert " on" not in page.replace(" on ", " ") or not any(
            f" {name}=" in page for name in ("onclick", "onload", "onerror", "onchange")
        )
        for part in page.split('src="')[1:] + page.split('<link rel="stylesheet" href="')[1:]:
            assert part.startswith("/static/"), part[:80]


def test_markup_from_github_is_escaped(hostile_server: Running) -> None:
    for path in (
        "/popular?n=100",
        "/u/person-3?n=100",
        f"/r/{name_of(3)}",
        f"/for?repo={name_of(3)}&n=100&q=paint",
        "/model",
    ):
        page = hostile_server.get(path)
        assert page.status_code == 200, page.text[:300]
        assert "<script>window" not in page.text
        assert "<img" not in page.text
        assert 'href="javascript' not in page.text
        assert "49" not in page.text.split("{{7*7}}")[0][-10:]
        for char in "\u202e\u202c\u200b\u2066\u2069\x1b\x00":
            assert char not in page.text
    response = hostile_server.get("/api/v1/recommendations?n=100")
    assert response.headers["content-type"] == "application/json"
    assert HOSTILE_TEXTS[0] in json.dumps(response.json(), ensure_ascii=False), "the API does not escape data"


def test_api_page_shows_names_as_code(server: Running) -> None:
    page = server.get("/api").text
    assert "<code>next</code> of the previous page" in page
    assert "`" not in page


def test_real_users_are_not_shown_as_examples(server: Running, served_home: ServedHome) -> None:
    assert "Person-" not in server.get("/").text
    synthetic = served_home.settings.model_copy(
        update={"github_tokens_text": None, "github_api_url": "https://api.github.com"}
    )
    with opened(synthetic.model_copy(update={"live_requests": 0})) as standin:
        assert "Person-" in standin.get("/").text
