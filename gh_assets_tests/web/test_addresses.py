"""Behind a reverse proxy with a path prefix, every address that pages and API contain keeps the prefix and responds."""

import html
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from gh_assets.web.addresses import network_of, read_prefix
from gh_assets_tests.support.raw_http import connect, receive_all
from gh_assets_tests.support.served_home import Running, ServedHome, name_of, opened

PREFIX = "/recs"

SITE = "http://127.0.0.1"
"""Where browsers see the proxy."""


class ReverseProxy(HTTPAdapter):
    """Sends requests to a server as nginx does with `proxy_pass http://…/;`: without the prefix, and with headers."""

    def __init__(self, server: Running, **headers: str) -> None:
        super().__init__()
        self.server, self.added = server, {"X-Forwarded-For": "192.0.2.7"} | headers

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        assert request.path_url.startswith(f"{PREFIX}/"), f"the server does not see {request.url}"
        forwarded = request.copy()
        forwarded.url = self.server.url + request.path_url.removeprefix(PREFIX)
        forwarded.headers = CaseInsensitiveDict({"host": urlsplit(SITE).netloc} | dict(request.headers) | self.added)
        response = super().send(forwarded, *args, **options)
        response.url, response.request = str(request.url), request
        return response


@pytest.fixture(scope="module", params=["option", "header"])
def proxy(served_home: ServedHome, request: pytest.FixtureRequest) -> Iterator[ReverseProxy]:
    """A proxy in front of a server, which gets the prefix from its option or from the proxy's header."""
    if request.param == "option":
        with opened(served_home.settings, root_path=PREFIX) as server:
            yield ReverseProxy(server)
    else:
        with opened(served_home.settings, trusted_proxies="127.0.0.1") as server:
            yield ReverseProxy(server, **{"X-Forwarded-Prefix": f"{PREFIX}/"})


@pytest.fixture
def browser(proxy: ReverseProxy) -> Iterator[requests.Session]:
    """A new visitor, whose requests go through the proxy."""
    with requests.Session() as session:
        session.mount("http://", proxy)
        yield session


ADDRESSES = re.compile(r'\s(?:href|src|action|hx-get|hx-post)="([^"]*)"')
FORMS = re.compile(r"<form\b([^>]*)>(.*?)</form>", re.DOTALL)
FIELDS = re.compile(r'<input\b[^>]*?name="(\w+)"[^>]*?value="([^"]*)"')


def kind_of(path: str) -> str:
    """Return what pages with the same links have in common."""
    return re.sub(r"/(r|u)/[^?]*", r"/\1/", path.split("?")[0])


def test_every_address_on_the_pages_keeps_the_prefix_and_responds(browser: requests.Session) -> None:
    waiting, kinds, seen = [f"{PREFIX}/"], Counter[str](), set[str]()
    waiting += [f"{PREFIX}/go?login=person-1", f"{PREFIX}/go?similar={name_of(0)}", f"{PREFIX}/go?similar=paint"]
    waiting += [f"{PREFIX}/for?repo={name_of(0)}&q=paint", f"{PREFIX}/for?q=no/such", f"{PREFIX}/go"]
    while waiting and len(seen) < 250:
        path = waiting.pop(0)
        if path in seen or kinds[kind_of(path)] >= 6:
            continue
        seen.add(path)
        kinds[kind_of(path)] += 1
        response = browser.get(SITE + path, timeout=30)
        assert response.status_code == 200, f"{path}: {response.status_code}"
        if response.headers["content-type"].startswith("text/html"):
            for address in map(html.unescape, ADDRESSES.findall(response.text)):
                if address.startswith(("#", "https://github.com/")):
                    continue
                assert address.startswith(f"{PREFIX}/"), f"{address} on {path}"
                if not address.endswith("/feedback"):
                    waiting.append(address)
    parts = {kind.split("/")[2] for kind in kinds}
    assert parts >= {"", "go", "for", "u", "r", "model", "popular", "hidden", "api", "static"}


def test_forms_and_their_cookie_work_with_the_prefix(browser: requests.Session) -> None:
    page = browser.get(f"{SITE}{PREFIX}/popular", timeout=30)
    assert f"path={PREFIX};" in page.headers["set-cookie"].lower() + ";"
    attributes, content = next(form for form in FORMS.findall(page.text) if "feedback" in form[0])
    fields = {name: html.unescape(value) for name, value in FIELDS.findall(content)}
    assert fields["back"] == f"{PREFIX}/popular"
    action = re.search(r'action="([^"]*)"', attributes)
    assert action is not None

    def post(**changes: str) -> requests.Response:
        data = fields | {"verdict": "known"} | changes
        return browser.post(SITE + action[1], data=data, headers={"origin": SITE}, timeout=30)

    done = post()
    assert (done.status_code, [step.status_code for step in done.history]) == (200, [303])
    assert urlsplit(done.url).path == f"{PREFIX}/popular"
    assert f'value="{fields["repo"]}"' not in done.text
    hidden = browser.get(f"{SITE}{PREFIX}/hidden", timeout=30).text
    assert fields["repo"] in hidden
    assert f'value="{PREFIX}/hidden"' in hidden
    for back in ("/popular", "//evil.example", f"{PREFIX}//evil.example", f"{PREFIX}/../x", "/recsx/", ""):
        assert post(back=back).history[0].headers["location"] == f"{PREFIX}/"
    assert post(verdict="none").status_code == 200


def test_cursors_work_with_the_prefix(browser: requests.Session) -> None:
    page = browser.get(f"{SITE}{PREFIX}/popular?n=5&language=go", timeout=30).text
    more = re.search(r'<a class="main" href="([^"]*)"', page)
    assert more is not None
    following = browser.get(SITE + html.unescape(more[1]), timeout=30)
    assert following.status_code == 200
    assert f'<a href="{PREFIX}/popular?' in following.text
    api = f"{SITE}{PREFIX}/api/v1/recommendations"
    first = browser.get(api, params={"n": 5}, timeout=30).json()
    second = browser.get(api, params={"n": 5, "cursor": first["next"]}, timeout=30).json()
    assert [entry["rank"] for entry in second["recommendations"]] == [6, 7, 8, 9, 10]


def test_openapi_description_contains_the_prefix(browser: requests.Session) -> None:
    description = browser.get(f"{SITE}{PREFIX}/api/v1/openapi.json", timeout=30).json()
    assert description["servers"] == [{"url": PREFIX}]
    assert "/api/v1/model" in description["paths"]
    assert f"{SITE}{PREFIX}/api/v1/recommendations?" in browser.get(f"{SITE}{PREFIX}/api", timeout=30).text


def test_errors_are_json_or_pages_with_the_prefix(browser: requests.Session) -> None:
    assert browser.get(f"{SITE}{PREFIX}/api/v1/nothing", timeout=30).json()["error"]["code"] == "http"
    for path in ("/nothing", "/static/nothing.css"):
        page = browser.get(f"{SITE}{PREFIX}{path}", timeout=30)
        assert page.status_code == 404
        assert f'href="{PREFIX}/popular"' in page.text
    refused = browser.get(f"{SITE}{PREFIX}/api/v1/model", headers={"host": "evil.example"}, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "wrong_host")


def test_prefix_header_is_accepted_only_from_a_trusted_proxy(served_home: ServedHome, server: Running) -> None:
    header = {"x-forwarded-prefix": "/elsewhere"}
    assert "/elsewhere" not in server.get("/", headers=header).text
    with opened(served_home.settings, root_path="/usual", trusted_proxies="127.0.0.1") as trusting:
        assert 'href="/elsewhere/for"' in trusting.get("/", headers=header).text
        assert 'href="/usual/for"' in trusting.get("/").text
        for wrong in ("//evil.example", "/a/../b", "/a b", '/"><script>', "https://evil.example", "/\\evil", "/a,/b"):
            assert 'href="/usual/for"' in trusting.get("/", headers={"x-forwarded-prefix": wrong}).text
        with connect(trusting, "127.0.0.9") as untrusted:
            head = b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-forwarded-prefix: /elsewhere\r\nconnection: close\r\n\r\n"
            untrusted.sendall(head)
            assert b'href="/usual/for"' in receive_all(untrusted)


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
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
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
