"""Behind a reverse proxy at a path: every address that a browser or a program is given stays below it, and answers."""

from __future__ import annotations

import html
import http.client
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.web.addresses import read_prefix
from gh_assets_tests.support.served_home import Running, ServedHome, name_of, opened

PREFIX = "/recs"


class ReverseProxy(BaseHTTPRequestHandler):
    """Takes the prefix off, as nginx does by `proxy_pass http://…/;`, and answers nothing beside it."""

    protocol_version = "HTTP/1.1"
    target: str
    more: dict[str, str]

    def forward(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream = http.client.HTTPConnection(self.target, timeout=30)
        upstream.request(self.command, self.path.removeprefix(PREFIX), body or None, headers | self.more)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("content-length") if self.command == "HEAD" else str(len(content))
        self.send_header("content-length", length or "0")
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_HEAD = do_POST = forward  # noqa: N815 - the names that the base class calls

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxied(server: Running, **more: str) -> Iterator[str]:
    """A proxy before a server; gives its address without the path."""
    handler = type(
        "Handler",
        (ReverseProxy,),
        {"target": urlsplit(server.url).netloc, "more": {"X-Forwarded-For": "192.0.2.7"} | more},
    )
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture(scope="module", params=["option", "header"])
def behind(served_home: ServedHome, request: pytest.FixtureRequest) -> Iterator[str]:
    """The proxy's address: the server knows the path by its option, or the proxy says it."""
    if request.param == "option":
        with opened(served_home.settings, root_path=PREFIX) as server, proxied(server) as url:
            yield url
    else:
        settings = served_home.settings.model_copy(update={"trusted_proxies": "127.0.0.1"})
        with opened(settings) as server, proxied(server, **{"X-Forwarded-Prefix": f"{PREFIX}/"}) as url:
            yield url


ADDRESSES = re.compile(r'\s(?:href|src|action|hx-get|hx-post)="([^"]*)"')
FORMS = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
FIELDS = re.compile(r'<input\b[^>]*?name="(\w+)"[^>]*?value="([^"]*)"')


def test_every_address_on_the_pages_stays_below_the_path_and_answers(behind: str) -> None:
    with requests.Session() as browser:
        waiting, seen, pages = [f"{PREFIX}/"], set[str](), 0
        waiting += [f"{PREFIX}/go?login=person-1", f"{PREFIX}/go?similar={name_of(0)}", f"{PREFIX}/go?similar=paint"]
        waiting += [f"{PREFIX}/for?repo={name_of(0)}&q=paint", f"{PREFIX}/for?q=no/such", f"{PREFIX}/go"]
        while waiting and len(seen) < 250:
            path = waiting.pop(0)
            # One page of each kind has all the links: a hundred repositories' pages have no others.
            kind = re.sub(r"/(r|u)/[^?]*", r"/\1/", path.split("?")[0])
            if path in seen or sum(kind == re.sub(r"/(r|u)/[^?]*", r"/\1/", one.split("?")[0]) for one in seen) >= 6:
                continue
            seen.add(path)
            answer = browser.get(behind + path, timeout=30)
            for step in [*answer.history, answer]:
                assert urlsplit(step.url).path.startswith(f"{PREFIX}/"), f"{path} leads to {step.url}"
            assert answer.status_code == 200, f"{path}: {answer.status_code}"
            if answer.headers["content-type"].startswith("text/html"):
                pages += 1
                for found in map(html.unescape, ADDRESSES.findall(answer.text)):
                    if found.startswith("#"):
                        continue
                    if found.startswith("https://github.com/"):
                        continue
                    assert found.startswith(f"{PREFIX}/"), f"{found} on {path}"
                    if not found.endswith("/feedback"):
                        waiting.append(found)
        assert pages > 12
        kinds = {path.split("?")[0].split("/")[2] for path in seen}
        assert kinds >= {"", "go", "for", "u", "r", "model", "popular", "hidden", "api", "static"}


def test_forms_and_their_cookie_work_below_the_path(behind: str) -> None:
    with requests.Session() as browser:
        page = browser.get(f"{behind}{PREFIX}/popular", timeout=30)
        assert f"path={PREFIX};" in page.headers["set-cookie"].lower() + ";"
        attributes, content = next(found for found in FORMS.findall(page.text) if "feedback" in found[0])
        fields = {name: html.unescape(value) for name, value in FIELDS.findall(content)}
        assert fields["back"] == f"{PREFIX}/popular"
        action = re.search(r'action="([^"]*)"', attributes)
        assert action is not None
        sent = fields | {"verdict": "known"}
        done = browser.post(behind + action[1], data=sent, headers={"origin": behind}, timeout=30)
        assert (done.status_code, [step.status_code for step in done.history]) == (200, [303])
        assert urlsplit(done.url).path == f"{PREFIX}/popular"
        assert f'value="{fields["repo"]}"' not in done.text
        hidden = browser.get(f"{behind}{PREFIX}/hidden", timeout=30).text
        assert fields["repo"] in hidden
        assert f'value="{PREFIX}/hidden"' in hidden
        for back in ("/popular", "//evil.example", f"{PREFIX}//evil.example", f"{PREFIX}/../x", "/recsx/", ""):
            led = browser.post(behind + action[1], data=sent | {"back": back}, allow_redirects=False, timeout=30)
            assert led.headers["location"] == f"{PREFIX}/"
        taken_back = sent | {"verdict": "none"}
        assert browser.post(behind + action[1], data=taken_back, timeout=30).status_code == 200


def test_cursors_lead_on_below_the_path(behind: str) -> None:
    page = requests.get(f"{behind}{PREFIX}/popular?n=5&language=go", timeout=30).text
    more = re.search(r'<a class="main" href="([^"]*)"', page)
    assert more is not None
    following = requests.get(behind + html.unescape(more[1]), timeout=30)
    assert following.status_code == 200
    assert f'<a href="{PREFIX}/popular?' in following.text
    api = f"{behind}{PREFIX}/api/v1/recommendations"
    first = requests.get(api, params={"n": 5}, timeout=30).json()
    second = requests.get(api, params={"n": 5, "cursor": first["next"]}, timeout=30).json()
    assert [entry["rank"] for entry in second["recommendations"]] == [6, 7, 8, 9, 10]


def test_the_description_says_where_the_server_is(behind: str) -> None:
    description = requests.get(f"{behind}{PREFIX}/api/v1/openapi.json", timeout=30).json()
    assert description["servers"] == [{"url": PREFIX}]
    assert "/api/v1/model" in description["paths"]
    assert f"{behind}{PREFIX}/api/v1/recommendations?" in requests.get(f"{behind}{PREFIX}/api", timeout=30).text


def test_errors_have_the_form_of_their_place_below_the_path(behind: str) -> None:
    assert requests.get(f"{behind}{PREFIX}/api/v1/nothing", timeout=30).json()["error"]["code"] == "http"
    for path in ("/nothing", "/static/nothing.css"):
        page = requests.get(f"{behind}{PREFIX}{path}", timeout=30)
        assert page.status_code == 404
        assert f'href="{PREFIX}/popular"' in page.text
    refused = requests.get(f"{behind}{PREFIX}/api/v1/model", headers={"host": "evil.example"}, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "wrong_host")


def test_a_prefix_is_believed_from_a_trusted_proxy_only(served_home: ServedHome, server: Running) -> None:
    header = {"x-forwarded-prefix": "/elsewhere"}
    assert "/elsewhere" not in server.get("/", headers=header).text
    settings = served_home.settings.model_copy(update={"trusted_proxies": "127.0.0.1"})
    with opened(settings, root_path="/usual") as trusting:
        assert 'href="/elsewhere/for"' in trusting.get("/", headers=header).text
        assert 'href="/usual/for"' in trusting.get("/").text
        for wrong in ("//evil.example", "/a/../b", "/a b", '/"><script>', "https://evil.example", "/\\evil", "/a,/b"):
            assert 'href="/usual/for"' in trusting.get("/", headers={"x-forwarded-prefix": wrong}).text
        with requests.Session() as stranger:
            other = requests.Request("GET", trusting.url + "/", headers=header).prepare()
            adapter = requests.adapters.HTTPAdapter()
            adapter.init_poolmanager(1, 1, source_address=("127.0.0.9", 0))
            stranger.mount("http://", adapter)
            assert 'href="/usual/for"' in stranger.send(other, timeout=30).text


@given(st.text(max_size=40))
def test_a_prefix_that_is_taken_is_a_plain_path(text: str) -> None:
    prefix = read_prefix(text)
    assert prefix is None or re.fullmatch(r"(/[\w.~-]+)*", prefix, re.ASCII)
    assert not prefix or not {".", ".."} & set(prefix.split("/"))


def pages_of(server: Running) -> list[str]:
    """An address of every route that is asked by GET."""
    values = {"login": "person-1", "owner": name_of(0).split("/")[0], "name": name_of(0).split("/")[1]}
    queries = {"/api/v1/repositories": {"q": "paint"}}
    app: Any = server.server.config.app
    found = ["/static/style.css", "/api/v1/openapi.json"]
    for route in app.routes:
        if isinstance(route, APIRoute) and "GET" in route.methods:
            query = urlencode(queries.get(route.path, {}))
            found.append(route.path.format(**values) + (f"?{query}" if query else ""))
    return found


def test_head_is_answered_wherever_get_is(server: Running) -> None:
    addresses = pages_of(server)
    assert len(addresses) > 15
    for path in addresses:
        got, asked = (
            requests.request(method, server.url + path, timeout=30, allow_redirects=False) for method in ("GET", "HEAD")
        )
        assert asked.status_code == got.status_code, path
        assert got.status_code in (200, 303), path
        assert asked.content == b"", path
        assert asked.headers["content-type"] == got.headers["content-type"] if got.content else True
    assert requests.head(f"{server.url}/feedback", timeout=30).status_code == 405


def test_an_address_with_a_slash_at_its_end_has_the_same_answer(server: Running) -> None:
    for path in pages_of(server):
        address, _, query = path.partition("?")
        slashed = f"{address}/?{query}" if query else f"{address}/"
        plain, other = (
            server.get(one, cookies={"visitor": "A" * 22}, allow_redirects=False) for one in (path, slashed)
        )
        assert (other.status_code, other.headers.get("location")) == (plain.status_code, plain.headers.get("location"))
        if path not in ("/metrics", "/"):
            assert other.content == plain.content, path
    sent = server.post("/api/v1/recommendations/", json={"repositories": [name_of(0)], "n": 1})
    assert sent.status_code == 200
