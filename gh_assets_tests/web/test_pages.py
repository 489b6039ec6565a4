"""The HTML of the pages: nothing from other sites, no markup from GitHub, no personal data of others."""

import json
from typing import Any

from gh_assets.settings import GITHUB_COM_API
from gh_assets_tests.support.hostile_world import HOSTILE_TEXTS
from gh_assets_tests.support.served_home import Running, ServedHome, name_of, opened


def test_pages_load_nothing_from_other_sites_and_have_no_inline_script_or_style(server: Running) -> None:
    for path in ("/", "/u/person-1", f"/for?repo={name_of(0)}&q=a", f"/r/{name_of(0)}", "/model", "/hidden", "/api"):
        page = server.get(path).text
        for inline in ("<style", " style=", "javascript:", " onclick=", " onload=", " onerror=", " onchange="):
            assert inline not in page
        assert page.count("<script") == 1
        for part in page.split('src="')[1:] + page.split('<link rel="stylesheet" href="')[1:]:
            assert part.startswith("/static/"), part[:80]


def test_markup_from_github_is_escaped(hostile_server: Running) -> None:
    name = name_of(3)
    for path in ("/popular?n=100", "/u/person-3?n=100", f"/r/{name}", f"/for?repo={name}&n=100&q=paint", "/model"):
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
    changes: dict[str, Any] = {"github_tokens_text": None, "github_api_url": GITHUB_COM_API, "live_requests": 0}
    with opened(served_home.settings, **changes) as synthetic:
        assert "Person-" in synthetic.get("/").text


def test_the_page_of_the_model_compares_models_by_number_of_known_stars(server: Running) -> None:
    page = " ".join(server.get("/model").text.split())
    assert "By number of known stars" in page
    known, people = "<td>0.201</td><td>0.202</td><td>0.203</td><td>0.205</td><td>0.210</td><td>0.250</td>", "(6,000)"
    assert f'<th scope="row">hybrid</th>{known}<td>0.210</td><td>0.200</td>' in page
    assert people in page, "the number of people with as many stars"
    assert '<th scope="row">popularity</th><td>0.101</td>' in page
    assert "<td>–</td>" in page, "no user has as many"
    assert page.count('<polyline class="line current"') == page.count('<polyline class="line popularity"') == 1
