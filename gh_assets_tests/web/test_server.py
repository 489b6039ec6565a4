"""Limits on connections: clients that are slow, endless or too many do not keep others out."""

import time
from contextlib import suppress

import pytest

from gh_assets.web import guard
from gh_assets.web import server as web_server
from gh_assets.web.uvicorn_internals import Phase, phase_of
from gh_assets_tests.support.raw_http import connect, connections, exchange
from gh_assets_tests.support.served_home import Running, ServedHome, opened
from gh_assets_tests.support.waiting import until

REFUSED = b"POST /api/v1/recommendations HTTP/1.1\r\nhost: elsewhere.example\r\ntransfer-encoding: chunked\r\n\r\n"
"""A request that is refused before its body is read."""

ACCEPTED = REFUSED.replace(b"elsewhere.example", b"127.0.0.1")


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\n\x00\x01\x02\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET http://elsewhere.example/ HTTP/1.1\r\nhost: elsewhere.example\r\nconnection: close\r\n\r\n",
        b"POST /api/v1/feedback HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: -5\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: 127.0.0.1\r\n\r\n",
        b"G" * 100_000,
    ],
)
def test_malformed_http_is_refused(server: Running, content: bytes) -> None:
    response = exchange(server, content, wait=3)
    assert response == b"" or response.startswith((b"HTTP/1.1 4", b"HTTP/1.1 505")), response[:200]
    server.assert_alive()


@pytest.mark.parametrize(
    "content",
    [
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: evil.example\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: 127.0.0.1\r\n\r\n",
        ACCEPTED.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"),
    ],
)
def test_two_hosts_or_two_lengths_are_refused(server: Running, content: bytes) -> None:
    """Request smuggling: a proxy and a server that trust different headers see different requests."""
    assert exchange(server, content).startswith(b"HTTP/1.1 400")


def test_slow_clients_are_disconnected(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.4)
    with opened(served_home.settings) as server:
        started = time.monotonic()
        assert exchange(server, b"GET / HTTP/1.1\r\nhost: 127").startswith(b"HTTP/1.1 408")
        assert exchange(server, b"").startswith(b"HTTP/1.1 408"), "a silent client"
        body = exchange(
            server,
            b"POST /api/v1/feedback HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n{",
        )
        assert body.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < 8
        endless = exchange(server, b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"x: y\r\n" * 20_000, wait=3)
        assert endless.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408")) or endless == b""
        server.assert_alive()


def test_many_silent_connections_do_not_block_other_clients(server: Running) -> None:
    with connections(server, 200):
        server.assert_alive()


@pytest.mark.parametrize(
    ("begin", "endless"),
    [
        pytest.param(REFUSED + b"0\r\n", b"x: " + b"y" * 1000 + b"\r\n", id="trailers after a refusal"),
        pytest.param(ACCEPTED + b"0\r\n", b"x: y\r\n" * 999, id="trailers"),
        pytest.param(REFUSED, b"3e8\r\n" + b"y" * 1000 + b"\r\n", id="body after a refusal"),
        pytest.param(ACCEPTED, b"1;" + b"x" * 999, id="chunk extension"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n", b"x: " + b"y" * 1000 + b"\r\n", id="head"),
        pytest.param(b"GET /", b"y" * 1000, id="address"),
    ],
)
def test_endless_request_is_cut_off(server: Running, begin: bytes, endless: bytes) -> None:
    sent = 0
    with connect(server) as stream, suppress(OSError):
        stream.sendall(begin)
        while sent < 8 << 20:
            sent += stream.send(endless)
    assert sent < 8 << 20
    server.assert_alive()


def test_too_large_head_is_refused_even_if_it_arrives_at_once(server: Running) -> None:
    head = b"GET /api/v1/model HTTP/1.1\r\nhost: 127.0.0.1\r\n"
    line = b"x: " + b"y" * 995 + b"\r\n"
    assert exchange(server, head + 25 * line + b"\r\n").startswith(b"HTTP/1.1 200")
    refused = exchange(server, head + 50 * line + b"\r\n")
    assert refused.startswith(b"HTTP/1.1 4")
    assert b"connection: close" in refused.lower()


def test_one_address_cannot_use_all_connections(server: Running) -> None:
    with connections(server, 3 * web_server.MAX_CLIENT_CONNECTIONS, "127.0.0.3"):
        until(lambda: len(server.server.connections) <= web_server.MAX_CLIENT_CONNECTIONS, 5)
        server.assert_alive()
        with connect(server, "127.0.0.3") as stream:
            stream.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert stream.recv(65536).startswith(b"HTTP/1.1 200"), "replaces one of its own idle connections"


def test_connections_of_a_trusted_proxy_are_not_limited(served_home: ServedHome) -> None:
    expected = 2 * web_server.MAX_CLIENT_CONNECTIONS
    with (
        opened(served_home.settings, trusted_proxies="127.0.0.3") as server,
        connections(server, expected, "127.0.0.3"),
    ):
        until(lambda: len(server.server.connections) >= expected)
        time.sleep(0.5)  # several ticks of the server
        assert len(server.server.connections) >= expected


def test_client_that_never_reads_is_disconnected(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "WRITE_SECONDS", 0.5)
    with opened(served_home.settings) as server, connections(server, 5, "127.0.0.3", receive_buffer=2048) as streams:
        for stream in streams:
            stream.sendall(b"GET /popular?n=100 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 40)
        until(lambda: any(phase_of(connection) is Phase.WRITING for connection in server.server.connections))
        until(lambda: not server.server.connections, 15)


def test_client_that_reads_slowly_gets_its_response(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "WRITE_SECONDS", 5.0)
    with opened(served_home.settings) as server, connect(server, receive_buffer=4096) as stream:
        stream.sendall(b"GET /popular?n=100 HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        received = b""
        while part := stream.recv(8192):
            received += part
            time.sleep(0.01)
    assert received.endswith(b"</html>") or received.rstrip().endswith((b"</html>", b"0"))


def test_slow_head_is_cut_off(served_home: ServedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "HEAD_SECONDS", 0.5)
    with opened(served_home.settings) as server:
        for before in (b"", b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"):
            with connect(server) as stream:
                stream.sendall(before)
                if before:
                    assert stream.recv(65536).startswith(b"HTTP/1.1 200")
                stream.sendall(b"GET / HTTP/1.1\r\n")
                started, response = time.monotonic(), b""
                stream.settimeout(0.05)
                while time.monotonic() < started + 10 and not response:
                    try:
                        response = stream.recv(65536)
                    except TimeoutError:
                        stream.sendall(b"x")
                assert response.startswith(b"HTTP/1.1 408")
