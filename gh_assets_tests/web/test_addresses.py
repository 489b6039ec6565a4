"""Behind a reverse proxy with a path prefix, every address that pages and API contain keeps the prefix and responds."""

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

from gh_assets.web.addresses import network_of, read_prefix
from gh_assets_tests.support.served_home import Running, ServedHome, name_of, opened

PREFIX = "/recs"


class ReverseProxy(BaseHTTPRequestHandler):
    """Strips the prefix, as nginx does with `proxy_pass http://…/;`; other paths are not found."""

    protocol_version = "HTTP/1.1"
    target: str
    headers_to_add: dict[str, str]

    def forward(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream = http.client.HTTPConnection(self.target, timeout=30)
        upstream.request(self.command, self.path.removeprefix(PREFIX), body or None, headers | self.headers_to_add)
        response = upstream.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "date", "content-length"):
                self.send_header(name, value)
        length = response.getheader("content-length") if self.command == "HEAD" else str(len(content))
        self.send_header("content-length", length or "0")
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_HEAD = do_POST = forward  # noqa: N815 - the names that the base class calls

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def proxied(server: Running, **headers: str) -> Iterator[str]:
    """Run a proxy in front of a server; yield its URL without the prefix."""
    handler = type(
        "Handler",
        (ReverseProxy,),
        {"target": urlsplit(server.url).netloc, "headers_to_add": {"X-Forwarded-For": "192.0.2.7"} | headers},
    )
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture(scope="module", params=["option", "header"])
def proxy_url(served_home: ServedHome, request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a proxy; the server gets the prefix from its option or from the proxy's header."""
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


def test_every_address_on_the_pages_keeps_the_prefix_and_responds(proxy_url: str) -> None:
    with requests.Session() as browser:
        waiting, seen, pages = [f"{PREFIX}/"], set[str](), 0
        waiting += [f"{PREFIX}/go?login=person-1", f"{PREFIX}/go?similar={name_of(0)}", f"{PREFIX}/go?similar=paint"]
        waiting += [f"{PREFIX}/for?repo={name_of(0)}&q=paint", f"{PREFIX}/for?q=no/such", f"{PREFIX}/go"]
        while waiting and len(seen) < 250:
            path = waiting.pop(0)
            # Pages of the same kind have the same links: six of each are enough.
            kind = re.sub(r"/(r|u)/[^?]*", r"/\1/", path.split("?")[0])
            if path in seen or sum(kind == re.sub(r"/(r|u)/[^?]*", r"/\1/", one.split("?")[0]) for one in seen) >= 6:
                continue
            seen.add(path)
            response = browser.get(proxy_url + path, timeout=30)
            for step in [*response.history, response]:
                assert urlsplit(step.url).path.startswith(f"{PREFIX}/"), f"{path} leads to {step.url}"
            assert response.status_code == 200, f"{path}: {response.status_code}"
            if response.headers["content-type"].startswith("text/html"):
                pages += 1
                for address in map(html.unescape, ADDRESSES.findall(response.text)):
                    if address.startswith(("#", "https://github.com/")):
                        continue
                    assert address.startswith(f"{PREFIX}/"), f"{address} on {path}"
                    if not address.endswith("/feedback"):
                        waiting.append(address)
        assert pages > 12
        kinds = {path.split("?")[0].split("/")[2] for path in seen}
        assert kinds >= {"", "go", "for", "u", "r", "model", "popular", "hidden", "api", "static"}


def test_forms_and_their_cookie_work_with_the_prefix(proxy_url: str) -> None:
    with requests.Session() as browser:
        page = browser.get(f"{proxy_url}{PREFIX}/popular", timeout=30)
        assert f"path={PREFIX};" in page.headers["set-cookie"].lower() + ";"
        attributes, content = next(form for form in FORMS.findall(page.text) if "feedback" in form[0])
        fields = {name: html.unescape(value) for name, value in FIELDS.findall(content)}
        assert fields["back"] == f"{PREFIX}/popular"
        action = re.search(r'action="([^"]*)"', attributes)
        assert action is not None
        sent = fields | {"verdict": "known"}
        done = browser.post(proxy_url + action[1], data=sent, headers={"origin": proxy_url}, timeout=30)
        assert (done.status_code, [step.status_code for step in done.history]) == (200, [303])
        assert urlsplit(done.url).path == f"{PREFIX}/popular"
        assert f'value="{fields["repo"]}"' not in done.text
        hidden = browser.get(f"{proxy_url}{PREFIX}/hidden", timeout=30).text
        assert fields["repo"] in hidden
        assert f'value="{PREFIX}/hidden"' in hidden
        for back in ("/popular", "//evil.example", f"{PREFIX}//evil.example", f"{PREFIX}/../x", "/recsx/", ""):
            redirect = browser.post(
                proxy_url + action[1], data=sent | {"back": back}, allow_redirects=False, timeout=30
            )
            assert redirect.headers["location"] == f"{PREFIX}/"
        withdrawn = sent | {"verdict": "none"}
        assert browser.post(proxy_url + action[1], data=withdrawn, timeout=30).status_code == 200


def test_cursors_work_with_the_prefix(proxy_url: str) -> None:
    page = requests.get(f"{proxy_url}{PREFIX}/popular?n=5&language=go", timeout=30).text
    more = re.search(r'<a class="main" href="([^"]*)"', page)
    assert more is not None
    following = requests.get(proxy_url + html.unescape(more[1]), timeout=30)
    assert following.status_code == 200
    assert f'<a href="{PREFIX}/popular?' in following.text
    api = f"{proxy_url}{PREFIX}/api/v1/recommendations"
    first = requests.get(api, params={"n": 5}, timeout=30).json()
    second = requests.get(api, params={"n": 5, "cursor": first["next"]}, timeout=30).json()
    assert [entry["rank"] for entry in second["recommendations"]] == [6, 7, 8, 9, 10]


def test_openapi_description_contains_the_prefix(proxy_url: str) -> None:
    description = requests.get(f"{proxy_url}{PREFIX}/api/v1/openapi.json", timeout=30).json()
    assert description["servers"] == [{"url": PREFIX}]
    assert "/api/v1/model" in description["paths"]
    assert f"{proxy_url}{PREFIX}/api/v1/recommendations?" in requests.get(f"{proxy_url}{PREFIX}/api", timeout=30).text


def test_errors_are_json_or_pages_with_the_prefix(proxy_url: str) -> None:
    assert requests.get(f"{proxy_url}{PREFIX}/api/v1/nothing", timeout=30).json()["error"]["code"] == "http"
    for path in ("/nothing", "/static/nothing.css"):
        page = requests.get(f"{proxy_url}{PREFIX}{path}", timeout=30)
        assert page.status_code == 404
        assert f'href="{PREFIX}/popular"' in page.text
    refused = requests.get(f"{proxy_url}{PREFIX}/api/v1/model", headers={"host": "evil.example"}, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "wrong_host")


def test_prefix_header_is_accepted_only_from_a_trusted_proxy(served_home: ServedHome, server: Running) -> None:
    header = {"x-forwarded-prefix": "/elsewhere"}
    assert "/elsewhere" not in server.get("/", headers=header).text
    settings = served_home.settings.model_copy(update={"trusted_proxies": "127.0.0.1"})
    with opened(settings, root_path="/usual") as trusting:
        assert 'href="/elsewhere/for"' in trusting.get("/", headers=header).text
        assert 'href="/usual/for"' in trusting.get("/").text
        for wrong in ("//evil.example", "/a/../b", "/a b", '/"><script>', "https://evil.example", "/\\evil", "/a,/b"):
            assert 'href="/usual/for"' in trusting.get("/", headers={"x-forwarded-prefix": wrong}).text
        with requests.Session() as untrusted:
            other = requests.Request("GET", trusting.url + "/", headers=header).prepare()
            adapter = requests.adapters.HTTPAdapter()
            adapter.init_poolmanager(1, 1, source_address=("127.0.0.9", 0))
            untrusted.mount("http://", adapter)
            assert 'href="/usual/for"' in untrusted.send(other, timeout=30).text


@given(st.text(max_size=40))
def test_accepted_prefix_is_a_plain_path(text: str) -> None:
    prefix = read_prefix(text)
    assert prefix is None or re.fullmatch(r"(/[\w.~-]+)*", prefix, re.ASCII)
    assert not prefix or not {".", ".."} & set(prefix.split("/"))


def pages_of(server: Running) -> list[str]:
    """Return a path for every route with the method GET."""
    values = {"login": "person-1", "owner": name_of(0).split("/")[0], "name": name_of(0).split("/")[1]}
    queries = {"/api/v1/repositories": {"q": "paint"}}
    app: Any = server.server.config.app
    paths = ["/static/style.css", "/api/v1/openapi.json"]
    for route in app.routes:
        if isinstance(route, APIRoute) and "GET" in route.methods:
            query = urlencode(queries.get(route.path, {}))
            paths.append(route.path.format(**values) + (f"?{query}" if query else ""))
    return paths


def test_head_is_supported_wherever_get_is(server: Running) -> None:
    addresses = pages_of(server)
    assert len(addresses) > 15
    for path in addresses:
        get, head = (
            requests.request(method, server.url + path, timeout=30, allow_redirects=False) for method in ("GET", "HEAD")
        )
        assert head.status_code == get.status_code, path
        assert get.status_code in (200, 303), path
        assert head.content == b"", path
        assert head.headers["content-type"] == get.headers["content-type"] if get.content else True
    assert requests.head(f"{server.url}/feedback", timeout=30).status_code == 405


def test_trailing_slash_does_not_change_the_response(server: Running) -> None:
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


def test_client_is_an_ipv6_network_or_an_ipv4_address() -> None:
    assert network_of("2001:db8:1:2::1") == network_of("2001:db8:1:2:ffff::2")
    assert network_of("2001:db8:1:2::1") != network_of("2001:db8:1:3::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("fe80::1%eth0") == network_of("fe80::2")
    assert network_of("no address") == "no address"


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_every_address_of_a_network_is_one_client(address: Any, host: int) -> None:
    other = type(address)(int(address) >> 64 << 64 | host)
    if address.ipv4_mapped is None and other.ipv4_mapped is None:
        assert network_of(str(address)) == network_of(str(other))
