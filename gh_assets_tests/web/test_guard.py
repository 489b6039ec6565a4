"""Hostile input: what is too large, too slow, too much, from elsewhere, or meant to break out. The server stays up."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gh_assets.errors import InputError
from gh_assets.local.token_bucket import KeyedTokenBuckets
from gh_assets.serving.requests import MAX_PAGED_RECOMMENDATIONS
from gh_assets.web import guard as safety
from gh_assets.web import server as serving
from gh_assets.web.addresses import network_of
from gh_assets.web.cursors import read_cursor, write_cursor
from gh_assets.web.guard import MAX_CLIENTS, MAX_CONCURRENT, MAX_WAITING, ClientConcurrency
from gh_assets.web.logs import JsonLines
from gh_assets.web.pages import plain
from gh_assets_tests.support.served_home import Running, ServedHome, furnish, name_of, opened, until

JSON = {"content-type": "application/json"}

EVIL = (
    "<script>window.broken=1</script>",
    '"><img src=x onerror=window.broken=1>',
    "'-window.broken-'",
    "{{7*7}}${7*7}<%=7*7%>",
    "javascript:window.broken=1",
    "\u202egnirts desrever\u202c",
    "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307",
    "zero\u200bwidth\u2066\u2069",
    "new\nline\r\n\x00\x1b[31mred",
)


def hostile_changes() -> dict[int, dict[str, Any]]:
    """Every third repository is hostile in every field."""
    return {
        place: {
            "full_name": f"painters/{EVIL[place % len(EVIL)]}" if place % 6 == 0 else name_of(place),
            "description": " ".join(EVIL),
            "language": EVIL[place % len(EVIL)],
            "topics": list(EVIL),
        }
        for place in range(0, 60, 3)
    }


@pytest.fixture(scope="module")
def evil(settings_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world in which every field of GitHub's is hostile."""
    settings = settings_of().model_copy(update={"live_requests": 0})
    served_home = furnish(settings, tmp_path_factory.mktemp("evil"), hostile_changes())
    with opened(served_home.settings) as running:
        yield running


def raw(server: Running, content: bytes, wait: float = 10.0) -> bytes:
    """Send bytes as they are; gives what comes back until the server closes or falls silent."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as stream:
        stream.sendall(content)
        received = b""
        try:
            while part := stream.recv(65536):
                received += part
                if b"\r\n\r\n" in received and b"connection: close" not in received.lower():
                    break
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def alive(server: Running) -> None:
    assert server.get("/healthz").status_code == 200
    assert server.get("/api/v1/recommendations?n=1").status_code == 200


def test_every_answer_says_what_a_browser_may_do_with_it(server: Running) -> None:
    for path in (
        "/",
        "/u/person-1",
        "/u/nobody-here",
        "/api/v1/model",
        "/api/v1/nothing",
        "/static/style.css",
        "/metrics",
    ):
        answer = server.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy.replace("https://", "http")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "server" not in answer.headers


def test_pages_load_nothing_from_elsewhere_and_hold_no_inline_script_or_style(server: Running) -> None:
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


def test_markup_of_github_is_text(evil: Running) -> None:
    for path in (
        "/popular?n=100",
        "/u/person-3?n=100",
        f"/r/{name_of(3)}",
        f"/for?repo={name_of(3)}&n=100&q=paint",
        "/model",
    ):
        page = evil.get(path)
        assert page.status_code == 200, page.text[:300]
        assert "<script>window" not in page.text
        assert "<img" not in page.text
        assert 'href="javascript' not in page.text
        assert "49" not in page.text.split("{{7*7}}")[0][-10:]
        for sign in "\u202e\u202c\u200b\u2066\u2069\x1b\x00":
            assert sign not in page.text
    answer = evil.get("/api/v1/recommendations?n=100")
    assert answer.headers["content-type"] == "application/json"
    assert EVIL[0] in json.dumps(answer.json(), ensure_ascii=False), "data are data"


@given(st.text(max_size=300))
def test_plain_text_has_nothing_that_turns_or_breaks(text: str) -> None:
    found = plain(text)
    assert len(found) <= 400
    assert not set(found) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\n\r\t\x00\x1b")
    assert plain(found) == found


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("POST", "/api/v1/recommendations", {"data": b"x" * (1 << 20), "headers": JSON}, 413),
        ("POST", "/feedback", {"data": b"a=b&" * (1 << 18)}, 413),
        ("POST", "/api/v1/recommendations", {"json": {"repositories": [f"a/{n}" for n in range(1001)]}}, 422),
        ("GET", "/for?" + "&".join(f"repo=a/{n}" for n in range(51)), {}, 422),
        ("GET", "/for?q=" + "x" * 20_000, {}, 414),
        ("GET", "/u/" + "x" * 300, {}, 422),
        ("GET", "/api/v1/users/" + "x" * 300 + "/recommendations", {}, 422),
        ("GET", "/u/%00", {}, 400),
        ("GET", "/for?q=%00", {}, 400),
        ("GET", "/u/%ff%fe", {}, 400),
        ("GET", "/static/../app.py", {}, 404),
        ("GET", "/static/%2e%2e/app.py", {}, 404),
        ("GET", "/static/..%2fapp.py", {}, 404),
        ("GET", "/static//etc/passwd", {}, 404),
        ("GET", "/r/../../etc/passwd", {}, 404),
        ("GET", "/r/a/b/c", {}, 404),
        ("GET", "/r/a%2fb/c", {}, 404),
        ("POST", "/api/v1/recommendations", {"data": b"{", "headers": JSON}, 422),
        ("POST", "/api/v1/recommendations", {"data": b"\xff\xfe", "headers": JSON}, 422),
        ("DELETE", "/api/v1/recommendations", {}, 405),
        ("PUT", "/", {}, 405),
        ("GET", "/nothing", {}, 404),
    ],
)  # fmt: skip
def test_what_no_request_should_be_gets_the_right_status(
    server: Running, method: str, path: str, more: dict[str, Any], status: int
) -> None:
    with requests.Session() as session:
        request = requests.Request(method, server.url + "/", **more).prepare()
        request.url = server.url + path  # as it is: the library would tidy it up
        answer = session.send(request, timeout=30)
    assert answer.status_code == status, answer.text[:300]
    assert "Traceback" not in answer.text
    alive(server)


def test_ten_thousand_repositories_in_one_request(server: Running) -> None:
    body = json.dumps({"repositories": [f"o/r{n}" for n in range(10_000)]}).encode()
    answer = server.post("/api/v1/recommendations", data=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "The request body is larger than 64 kB."
    alive(server)


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET http://elsewhere.example/ HTTP/1.1\r\nhost: elsewhere.example\r\nconnection: close\r\n\r\n",
        b"POST /api/v1/feedback HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n",
        b"POST /feedback HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
        b"G" * 100_000,
    ],
)
def test_malformed_http_is_refused(server: Running, content: bytes) -> None:
    answer = raw(server, content, wait=3)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), answer[:200]
    alive(server)


def test_slow_clients_are_let_go(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(safety, "BODY_SECONDS", 0.4)
    with opened(served_home.settings) as server:
        started = time.monotonic()
        assert raw(server, b"GET / HTTP/1.1\r\nhost: 127").startswith(b"HTTP/1.1 408")
        assert raw(server, b"").startswith(b"HTTP/1.1 408"), "one that says nothing at all"
        body = raw(
            server,
            b"POST /api/v1/feedback HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n{",
        )
        assert body.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 8
        endless = raw(server, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x: y\r\n" * 20_000, wait=3)
        assert endless.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408")) or endless == b""
        alive(server)


def test_many_who_open_and_say_nothing_do_not_keep_others_out(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        alive(server)
    finally:
        for stream in silent:
            stream.close()


# -- what a connection may cost ---------------------------------------------------------------------------------------

REFUSED = b"POST /api/v1/recommendations HTTP/1.1\r\nhost: elsewhere.example\r\ntransfer-encoding: chunked\r\n\r\n"
"""A request that is refused before its body is read."""


def connect(server: Running, source: str = "127.0.0.1", receive: int | None = None) -> socket.socket:
    """A connection of some client; the whole of 127/8 is this machine."""
    host, port = server.url.removeprefix("http://").split(":")
    stream = socket.socket()
    if receive is not None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    stream.bind((source, 0))
    stream.settimeout(10)
    stream.connect((host, int(port)))
    return stream


def sent_until_closed(server: Running, begin: bytes, endless: bytes, most: int = 20 << 20) -> int:
    """Bytes that the server takes before it closes the connection; `most` if it never does."""
    with connect(server) as stream:
        sent = 0
        try:
            stream.sendall(begin)
            while sent < most:
                sent += stream.send(endless)
        except OSError:
            pass
        return sent


@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        pytest.param(REFUSED + b"0\r\n", b"x: " + b"y" * 1000 + b"\r\n", id="trailers after a refusal"),
        pytest.param(REFUSED.replace(b"elsewhere.example", b"127.0.0.1") + b"0\r\n", b"x: y\r\n" * 999, id="trailers"),
        pytest.param(REFUSED, b"3e8\r\n" + b"y" * 1000 + b"\r\n", id="a body after a refusal"),
        pytest.param(REFUSED.replace(b"elsewhere.example", b"127.0.0.1"), b"1;" + b"x" * 999, id="a chunk's extension"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"x: " + b"y" * 1000 + b"\r\n", id="a head"),
        pytest.param(b"GET /", b"y" * 1000, id="an address"),
    ],
)
def test_what_never_ends_is_cut_off(server: Running, begin: bytes, endless: bytes) -> None:
    assert sent_until_closed(server, begin, endless) < 8 << 20
    alive(server)


def test_a_head_that_is_too_large_is_refused_also_when_it_comes_at_once(server: Running) -> None:
    head = b"GET /api/v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    line = b"x: " + b"y" * 995 + b"\r\n"
    assert raw(server, head + 25 * line + b"\r\n").startswith(b"HTTP/1.1 200")
    refused = raw(server, head + 50 * line + b"\r\n")
    assert refused.startswith(b"HTTP/1.1 4")
    assert b"connection: close" in refused.lower()


@pytest.mark.parametrize("hosts", [("127.0.0.1", "evil.example"), ("evil.example", "127.0.0.1"), ("127.0.0.1",) * 2])
def test_two_host_headers_are_refused(server: Running, hosts: tuple[str, ...]) -> None:
    lines = "".join(f"host: {host}\r\n" for host in hosts)
    assert raw(server, f"GET / HTTP/1.1\r\n{lines}\r\n".encode()).startswith(b"HTTP/1.1 400")


def test_a_body_of_two_lengths_is_refused(server: Running) -> None:
    """A proxy that believes the one and a server that believes the other see different requests."""
    head = b"POST /feedback HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"
    assert raw(server, head + b"0\r\n\r\n").startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("request_line", [b"GET /u/%ff", b"GET /u/%00", b"GET /" + b"x" * 20_000])
def test_a_connection_ends_with_a_refusal(server: Running, request_line: bytes) -> None:
    with connect(server) as stream:
        stream.sendall(request_line + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        received = b""
        while part := stream.recv(65536):
            received += part
    assert b"connection: close" in received.lower()


def test_one_address_cannot_take_all_connections(server: Running) -> None:
    taken = [connect(server, "127.0.0.3") for _ in range(3 * serving.MAX_CLIENT_CONNECTIONS)]
    try:
        until(lambda: len(server.server.server_state.connections) <= serving.MAX_CLIENT_CONNECTIONS, 5)
        alive(server)
        with connect(server, "127.0.0.3") as stream:
            stream.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert stream.recv(65536).startswith(b"HTTP/1.1 200"), "its own idle connections make room"
    finally:
        for stream in taken:
            stream.close()


def test_connections_of_a_trusted_proxy_are_those_of_its_clients(served_home: ServedHome) -> None:
    with opened(served_home.settings.model_copy(update={"trusted_proxies": "127.0.0.3"})) as server:
        wanted = 2 * serving.MAX_CLIENT_CONNECTIONS
        streams = [connect(server, "127.0.0.3") for _ in range(wanted)]
        try:
            until(lambda: len(server.server.server_state.connections) >= wanted)
            time.sleep(0.5)  # several looks at the connections
            assert len(server.server.server_state.connections) >= wanted
        finally:
            for stream in streams:
                stream.close()


def test_a_client_that_never_reads_is_dropped(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WRITE_SECONDS", 0.5)
    with opened(served_home.settings) as server:
        streams = [connect(server, "127.0.0.3", receive=2048) for _ in range(5)]
        connections = server.server.server_state.connections
        try:
            for stream in streams:
                stream.sendall(b"GET /popular?n=100 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 40)
            until(lambda: any(connection.transport.get_write_buffer_size() for connection in list(connections)))
            until(lambda: not connections, 15)
        finally:
            for stream in streams:
                stream.close()


def test_a_client_that_reads_slowly_gets_its_answer(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "WRITE_SECONDS", 5.0)
    with opened(served_home.settings) as server, connect(server, receive=4096) as stream:
        stream.sendall(b"GET /popular?n=100 HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        received = b""
        while part := stream.recv(8192):
            received += part
            time.sleep(0.01)
    assert received.endswith(b"</html>") or received.rstrip().endswith((b"</html>", b"0"))


def test_a_head_that_trickles_is_cut_off(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEAD_SECONDS", 0.5)
    with opened(served_home.settings) as server:
        for before in (b"", b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"):
            with connect(server) as stream:
                stream.sendall(before)
                if before:
                    assert stream.recv(65536).startswith(b"HTTP/1.1 200")
                stream.sendall(b"GET / HTTP/1.1\r\n")
                started, answer = time.monotonic(), b""
                stream.settimeout(0.05)
                while time.monotonic() < started + 10 and not answer:
                    try:
                        answer = stream.recv(65536)
                    except TimeoutError:
                        stream.sendall(b"x")
                assert answer.startswith(b"HTTP/1.1 408")


def test_limits_count_networks_of_version_6_and_addresses_of_version_4() -> None:
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


def test_many_addresses_of_one_network_share_a_rate(served_home: ServedHome) -> None:
    settings = served_home.settings.model_copy(update={"serve_rate": 3, "trusted_proxies": "127.0.0.1"})
    with opened(settings) as server:

        def ask(address: str) -> int:
            return server.get("/api/v1/model", headers={"x-forwarded-for": address}).status_code

        assert [ask(f"2001:db8::{host}") for host in range(1, 6)] == [200] * 3 + [429] * 2
        assert [ask(address) for address in ("::ffff:192.0.2.1", "192.0.2.1") * 2] == [200] * 3 + [429]
        assert ask("2001:db8:0:1::1") == 200


def test_one_client_has_so_many_requests_worked_on_at_once_and_others_come_in_between() -> None:
    async def ask() -> None:
        turns, running, most = ClientConcurrency(), 0, 0
        done: list[str] = []

        async def one(client: str) -> None:
            nonlocal running, most
            async with turns.slot(client):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0.01)
                running -= 1
            done.append(client)

        greedy = [asyncio.create_task(one("greedy")) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        assert turns.is_full("greedy")
        assert not turns.is_full("other")
        greedy[-1].cancel()
        await one("other")
        assert len(done) <= MAX_CONCURRENT + 1
        await asyncio.gather(*greedy, return_exceptions=True)
        assert most == MAX_CONCURRENT + 1
        assert not turns.is_full("greedy")
        assert not turns._clients, "nobody is remembered who waits for nothing"

    asyncio.run(ask())


# -- what strangers are told ------------------------------------------------------------------------------------------


def test_strangers_learn_only_whether_it_is_ready(server: Running, served_home: ServedHome) -> None:
    for more in ({}, {"authorization": "Bearer guess"}, {"x-forwarded-for": "127.0.0.1"}):
        answer = server.get("/readyz", headers=more)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
    keyed = served_home.settings.model_copy(update={"api_keys_text": SecretStr("a-key"), "serve_rate": 5})
    with opened(keyed, loaded=False) as other:
        until(lambda: other.get("/readyz").json() == {"ready": True})
        told = other.get("/readyz", headers={"authorization": "Bearer a-key"}).json()
        assert told.keys() >= {"ready", "model", "loaded", "missing", "services", "version"}
        guesses = [other.get("/readyz", headers={"x-api-key": f"guess {n}"}).status_code for n in range(8)]
        assert guesses == [401] * 5 + [429] * 3, "guessing here is no faster than elsewhere"
        assert all(other.get("/readyz").status_code == 200 for _ in range(8))


# -- who may ask ------------------------------------------------------------------------------------------------------


def test_a_foreign_host_name_is_refused(server: Running) -> None:
    """A page elsewhere could let its own name point to this machine, and read."""
    port = server.url.rsplit(":", 1)[1]
    assert server.get("/", headers={"host": f"evil.example:{port}"}).status_code == 421
    for name in ("127.0.0.1", f"localhost:{port}", f"[::1]:{port}"):
        assert server.get("/", headers={"host": name}).status_code == 200


def test_named_hosts_are_answered(served_home: ServedHome) -> None:
    with opened(served_home.settings.model_copy(update={"serve_hosts_text": "stars.example"})) as server:
        assert server.get("/", headers={"host": "Stars.Example"}).status_code == 200
        assert server.get("/", headers={"host": "other.example"}).status_code == 421


def test_a_key_is_wanted_where_one_is_set(served_home: ServedHome) -> None:
    keys = SecretStr("first-key, second-key")
    with opened(served_home.settings.model_copy(update={"api_keys_text": keys})) as server:
        for path in ("/", "/api/v1/model", "/metrics", "/static/style.css"):
            refused = server.get(path)
            assert refused.status_code == 401
            assert "first-key" not in refused.text + str(refused.headers)
            assert server.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
            assert server.get(path, headers={"authorization": "Basic %%%"}).status_code == 401
            assert server.get(path, headers={"authorization": "Bearer second-key"}).status_code == 200
            assert server.get(path, headers={"x-api-key": "first-key"}).status_code == 200
            basic = base64.b64encode(b"anybody:first-key").decode()
            assert server.get(path, headers={"authorization": f"Basic {basic}"}).status_code == 200
        assert server.get("/").headers["www-authenticate"].startswith("Basic")
        assert server.get("/api/v1/model").json()["error"]["code"] == "no_key"
        assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200


def test_a_client_that_asks_too_much_is_told_when_to_come_back(served_home: ServedHome) -> None:
    with opened(served_home.settings.model_copy(update={"serve_rate": 5})) as server:
        answers = [server.get("/api/v1/model") for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 13
        assert server.get("/static/style.css").status_code == 200
        assert server.get("/healthz").status_code == 200


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 30)), max_size=60), st.integers(1, 20))
def test_a_client_never_gets_more_than_its_rate(asked: list[tuple[str, float]], a_minute: int) -> None:
    now = 0.0
    rates = KeyedTokenBuckets(a_minute, a_minute / 60, MAX_CLIENTS, lambda: now)
    let_in: dict[str, list[float]] = {}
    for client, pause in asked:
        now += pause
        wait = rates.take(client)
        if wait == 0:
            let_in.setdefault(client, []).append(now)
        else:
            assert wait <= 60 / a_minute + 1e-6
    for times in let_in.values():
        for first in range(len(times)):
            within = [at for at in times[first:] if at <= times[first] + 60]
            assert len(within) <= 2 * a_minute


# -- forms ------------------------------------------------------------------------------------------------------------


def test_a_form_counts_only_from_this_site_for_this_visitor(server: Running) -> None:
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
        assert send(form, cookies={"visitor": "A" * 22}).status_code == 403, "somebody else's form"
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
        answer = browser.get(server.url + "/popular")
        assert name not in [part.split('"')[0] for part in answer.text.split('name="repo" value="')[1:]]


def test_the_cookie_is_for_this_site_alone(server: Running) -> None:
    cookie = server.get("/popular").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()


# -- what is written --------------------------------------------------------------------------------------------------


def test_logs_are_json_and_say_nothing_of_who_asked_for_what(served_home: ServedHome) -> None:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("gh_assets")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with opened(served_home.settings.model_copy(update={"api_keys_text": SecretStr("the-secret-key")})) as server:
            key = {"authorization": "Bearer the-secret-key"}
            server.get("/u/person-1?language=go", headers=key)
            server.get("/u/person-1", headers={"authorization": "Bearer wrong-one"})
            until(lambda: sink.getvalue().count('"event":"request"') >= 2)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    asked = [line for line in lines if line["event"] == "request" and line["route"] == "/u/{login}"]
    assert asked[0].keys() >= {"time", "level", "logger", "event", "route", "status", "ms", "method"}
    for secret in ("person-1", "language=go", "the-secret-key", "wrong-one", "127.0.0.1:"):
        assert secret not in sink.getvalue()


def test_an_error_is_logged_by_kind_and_place_without_its_words() -> None:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("some.test")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        raise ValueError("mongodb://user:password@host")
    except ValueError:
        logger.exception("failed")
    line = json.loads(sink.getvalue())
    assert line["error"] == "ValueError"
    assert line["where"].startswith(f"{Path(__file__).name}:")
    assert "password" not in sink.getvalue()


def test_answers_hold_no_address_and_no_token(server: Running, served_home: ServedHome, github: str) -> None:
    ports = {github.rsplit(":", 1)[1]}
    text = ""
    for path in ("/", "/readyz", "/api/v1/model", "/metrics", "/u/nobody-here", "/r/no/such", "/model", "/u/person-1"):
        text += server.get(path).text
    for secret in (*ports, str(served_home.settings.home), "mongodb://", "ghp_"):
        assert secret not in text


# -- cursors ----------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 2**40), max_size=MAX_PAGED_RECOMMENDATIONS))
def test_a_cursor_holds_what_was_shown(shown: set[int]) -> None:
    assert read_cursor(write_cursor(shown)) == tuple(sorted(shown))


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_one_clear_error(text: str) -> None:
    try:
        found = read_cursor(text)
    except InputError:
        return
    assert list(found) == sorted(found)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40))
def test_any_address_gets_an_answer(server: Running, path: str) -> None:
    for base in ("/u/", "/r/a/", "/for?q=", "/api/v1/users/", "/static/"):
        with requests.Session() as session:
            request = requests.Request("GET", server.url + "/").prepare()
            request.url = server.url + base + requests.utils.quote(path, safe="/?&=.")
            answer = session.send(request, timeout=30, allow_redirects=False)
        assert answer.status_code < 500, (base, path)


def test_real_people_are_no_examples(server: Running, served_home: ServedHome) -> None:
    assert "Person-" not in server.get("/").text
    made_up = served_home.settings.model_copy(
        update={"github_tokens_text": None, "github_api_url": "https://api.github.com"}
    )
    with opened(made_up.model_copy(update={"live_requests": 0})) as standin:
        assert "Person-" in standin.get("/").text
