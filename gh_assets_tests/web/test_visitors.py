"""Forms are accepted only from this site and for the visitor they were made for."""

from typing import Any

import requests

from gh_assets_tests.support.served_home import Running


def test_form_is_accepted_only_from_this_site_and_for_its_visitor(server: Running) -> None:
    with requests.Session() as browser:
        page = browser.get(server.url + "/popular").text
        token = page.split('name="token" value="')[1].split('"')[0]
        name = page.split('name="repo" value="')[1].split('"')[0]
        cookie = browser.cookies["visitor"]
        form = {"token": token, "repo": name, "verdict": "known", "back": "/popular"}

        def send(**more: Any) -> requests.Response:
            options = {"data": form, "cookies": {"visitor": cookie}, "allow_redirects": False} | more
            return server.post("/feedback", **options)

        for status, options in (
            (403, {"headers": {"sec-fetch-site": "cross-site"}}),
            (403, {"headers": {"origin": "https://evil.example"}}),
            (403, {"data": form | {"token": "0" * 64}}),
            (403, {"cookies": {}}),
            (403, {"cookies": {"visitor": "A" * 22}}),  # the form of another visitor
            (422, {"data": form | {"repo": "no/such"}}),
            (422, {"data": form | {"verdict": "great"}}),
            (415, {"data": None, "json": form}),
        ):
            assert send(**options).status_code == status, options
        done = send(headers={"sec-fetch-site": "same-origin", "origin": server.url})
        assert (done.status_code, done.headers["location"]) == (303, "/popular")
        evil = ("//evil.example", "https://evil.example", "/\\evil.example", "\\evil", "/a\r\nset-cookie: x=y", "")
        for back in evil:
            assert send(data=form | {"back": back}).headers["location"] == "/"
        response = browser.get(server.url + "/popular")
        assert name not in [part.split('"')[0] for part in response.text.split('name="repo" value="')[1:]]


def test_cookie_is_limited_to_this_site(server: Running) -> None:
    cookie = server.get("/popular").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
