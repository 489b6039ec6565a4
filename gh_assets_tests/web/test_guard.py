"""Limits, host names, API keys, rates and security headers: no hostile request reaches a route or stops the server."""

import asyncio
import base64
from typing import Any

import pytest
from pydantic import SecretStr

from gh_assets.web.guard import MAX_CONCURRENT, MAX_WAITING, ClientConcurrency
from gh_assets_tests.support.raw_http import connect, receive_all
from gh_assets_tests.support.served_home import Running, ServedHome, opened

JSON = {"content-type": "application/json"}


def test_every_response_has_the_security_headers(server: Running) -> None:
    for path in (
        "/",
        "/u/person-1",
        "/u/missing-user",
        "/api/v1/model",
        "/api/v1/nothing",
        "/static/style.css",
        "/metrics",
    ):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        expected = {"x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "no-referrer"}
        assert expected.items() <= headers.items()
        assert "server" not in headers


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
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
        ("GET", "/api/v1/users/%2e%2e/recommendations", {}, 422),
        ("POST", "/api/v1/recommendations", {"data": b"{", "headers": JSON}, 422),
        ("POST", "/api/v1/recommendations", {"data": b"\xff\xfe", "headers": JSON}, 422),
        ("DELETE", "/api/v1/recommendations", {}, 405),
        ("PUT", "/", {}, 405),
        ("GET", "/nothing", {}, 404),
    ],
)  # fmt: skip
def test_unacceptable_request_gets_the_right_status(
    server: Running, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = server.send_raw(method, path, **options)
    assert response.status_code == status, response.text[:300]
    assert "Traceback" not in response.text
    server.assert_alive()


def test_body_with_ten_thousand_repositories_is_too_large(server: Running) -> None:
    response = server.post("/api/v1/recommendations", json={"repositories": [f"o/r{n}" for n in range(10_000)]})
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "The request body is larger than 64 kB."


@pytest.mark.parametrize("request_line", [b"GET /u/%ff", b"GET /u/%00", b"GET /" + b"x" * 20_000])
def test_refusal_closes_the_connection(server: Running, request_line: bytes) -> None:
    with connect(server) as stream:
        stream.sendall(request_line + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert b"connection: close" in receive_all(stream).lower()


def test_foreign_host_name_is_refused(server: Running) -> None:
    """DNS rebinding: the name of a foreign page may resolve to this machine."""
    port = server.url.rsplit(":", 1)[1]
    assert server.get("/", headers={"host": f"evil.example:{port}"}).status_code == 421
    for name in ("127.0.0.1", f"localhost:{port}", f"[::1]:{port}"):
        assert server.get("/", headers={"host": name}).status_code == 200


def test_configured_host_names_are_served(served_home: ServedHome) -> None:
    with opened(served_home.settings, serve_hosts_text="stars.example") as server:
        assert server.get("/", headers={"host": "Stars.Example"}).status_code == 200
        assert server.get("/", headers={"host": "other.example"}).status_code == 421


def test_key_is_required_if_one_is_configured(served_home: ServedHome) -> None:
    basic = base64.b64encode(b"any-user:first-key").decode()
    accepted = [{"authorization": "Bearer second-key"}, {"x-api-key": "first-key"}, {"authorization": f"Basic {basic}"}]
    with opened(served_home.settings, api_keys_text=SecretStr("first-key, second-key")) as server:
        for path in ("/", "/api/v1/model", "/metrics", "/static/style.css"):
            refused = server.get(path)
            assert "first-key" not in refused.text + str(refused.headers)
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic %%%"}):
                assert server.get(path, headers=headers).status_code == 401
            for headers in accepted:
                assert server.get(path, headers=headers).status_code == 200
        assert server.get("/").headers["www-authenticate"].startswith("Basic")
        assert server.get("/api/v1/model").json()["error"]["code"] == "no_key"
        assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200


def test_client_above_its_rate_is_told_when_to_retry(served_home: ServedHome) -> None:
    with opened(served_home.settings, serve_rate=5) as server:
        responses = [server.get("/api/v1/model") for _ in range(8)]
        assert [response.status_code for response in responses] == [200] * 5 + [429] * 3
        assert 1 <= int(responses[-1].headers["retry-after"]) <= 13
        assert server.get("/static/style.css").status_code == 200
        assert server.get("/healthz").status_code == 200


def test_addresses_of_one_network_share_a_rate(served_home: ServedHome) -> None:
    with opened(served_home.settings, serve_rate=3, trusted_proxies="127.0.0.1") as server:

        def status(address: str) -> int:
            return server.get("/api/v1/model", headers={"x-forwarded-for": address}).status_code

        assert [status(f"2001:db8::{host}") for host in range(1, 6)] == [200] * 3 + [429] * 2
        assert [status(address) for address in ("::ffff:192.0.2.1", "192.0.2.1") * 2] == [200] * 3 + [429]
        assert status("2001:db8:0:1::1") == 200


def test_concurrency_of_a_client_is_limited_without_delaying_others() -> None:
    async def run() -> None:
        concurrency, running, peak = ClientConcurrency(), 0, 0
        done: list[str] = []

        async def one(client: str) -> None:
            nonlocal running, peak
            async with concurrency.slot(client):
                running += 1
                peak = max(peak, running)
                await asyncio.sleep(0.01)
                running -= 1
            done.append(client)

        greedy = [asyncio.create_task(one("greedy")) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        assert concurrency.is_full("greedy")
        assert not concurrency.is_full("other")
        greedy[-1].cancel()
        await one("other")
        assert len(done) <= MAX_CONCURRENT + 1
        await asyncio.gather(*greedy, return_exceptions=True)
        assert peak == MAX_CONCURRENT + 1
        assert not concurrency.is_full("greedy")
        assert not concurrency._clients, "clients without requests are forgotten"

    asyncio.run(run())
