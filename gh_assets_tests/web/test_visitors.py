"""Forms are accepted only from this site and for the visitor they were made for."""

from __future__ import annotations

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

        def send(
            fields: dict[str, str], headers: dict[str, str] | None = None, cookies: Any = None
        ) -> requests.Response:
            return requests.post(
                server.url + "/feedback",
                data=fields,
                headers=headers or {},
                cookies={"visitor": cookie} if cookies is None else cookies,
                allow_redirects=False,
                timeout=30,
            )

        assert send(form, {"sec-fetch-site": "cross-site"}).status_code == 403
        assert send(form, {"origin": "https://evil.example"}).status_code == 403
        assert send(form | {"token": "0" * 64}).status_code == 403
        assert send(form, cookies={}).status_code == 403
        assert send(form, cookies={"visitor": "A" * 22}).status_code == 403, "the form of another visitor"
        assert send(form | {"repo": "no/such"}).status_code == 422
        assert send(form | {"verdict": "great"}).status_code == 422
        assert (
            requests.post(server.url + "/feedback", json=form, cookies={"visitor": cookie}, timeout=30).status_code
            == 415
        )
        done = send(form, {"sec-fetch-site": "same-origin", "origin": server.url})
        assert (done.status_code, done.headers["location"]) == (303, "/popular")
        for back in (
            "//evil.example",
            "https://evil.example",
            "/\\evil.example",
            "\\evil",
            "/a\r\nset-cookie: x=y",
            "",
        ):
            assert send(form | {"back": back}).headers["location"] == "/"
        response = browser.get(server.url + "/popular")
        assert name not in [part.split('"')[0] for part in response.text.split('name="repo" value="')[1:]]


def test_cookie_is_limited_to_this_site(server: Running) -> None:
    cookie = server.get("/popular").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
