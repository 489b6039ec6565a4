"""The client: tokens, limits, conditional requests."""

from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gh_assets.embedded.standin.limits import Limits
from gh_assets.errors import AuthenticationError, GitHubError, RateLimitedError
from gh_assets.github.responses import RAW
from gh_assets.github.retries import RetryPolicy
from gh_assets.github.transport import API_VERSION
from gh_assets_tests.conftest import GitHubOf, ServeWorld
from gh_assets_tests.support.github import SECRET, FakeClock, answering, client_of, fine
from gh_assets_tests.support.worlds import LIST, world_of


def test_unchanged_resource_responds_304_and_costs_no_quota(github_of: GitHubOf) -> None:
    standin, client = github_of(world_of({"a/b": [0]}))
    first = client.get("/repos/a/b")
    used = standin.used("token")
    second = client.get("/repos/a/b", etag=first.etag)
    assert (first.status, second.status, standin.used("token")) == (200, 304, used)


def test_raw_content_is_not_parsed(github_of: GitHubOf) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    response = client.get(f"/repos/{LIST}/readme", accept=RAW)
    assert response.payload is None
    assert b"github.com/a/b" in response.content


def test_refused_token_is_named_by_its_last_characters_only(serve_world: ServeWorld) -> None:
    _, url = serve_world(world_of({"a/b": [0]}))
    with client_of(url) as client, pytest.raises(AuthenticationError) as caught:
        client.get("/repos/a/b")
    assert "ending in …wxyz (401" in str(caught.value)
    assert repr(client.pool.directory.tokens) == "[Token(…wxyz)]"


def test_refused_token_is_retired_and_the_other_is_used(serve_world: ServeWorld) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("good",))
    with client_of(url, SECRET, "good") as client:
        for _ in range(3):
            assert client.get("/repos/a/b").status == 200
    assert standin.served["401"] == 2, "confirmed once, and not used again"


def test_spent_token_is_replaced_by_another_and_recognized_by_the_next_client(serve_world: ServeWorld) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one", "two"), limits=Limits(requests=4))
    clock = FakeClock()
    with client_of(url, "one", "two", clock=clock) as client:
        assert [client.get("/repos/a/b").status for _ in range(8)] == [200] * 8
    assert (standin.used("one"), standin.used("two"), clock.waits) == (4, 4, [])
    with client_of(url, "two", "one") as client, pytest.raises(RateLimitedError, match=r"another (60|61) minutes"):
        client.get("/repos/a/b")
    assert standin.served["limited"] == 0, "no request was sent without quota, and reading the quota costs nothing"


def test_reset_is_waited_for_if_all_tokens_are_spent(serve_world: ServeWorld) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one",), limits=Limits(requests=3, window_seconds=1.0))
    with client_of(url, "one", policy=RetryPolicy(longest_quota_wait=5.0)) as client:
        assert [client.get("/repos/a/b").status for _ in range(4)] == [200] * 4
    assert standin.served["limited"] <= 1


def test_retry_after_is_obeyed_with_the_same_token() -> None:
    seen: list[str] = []

    def noting(response: Response) -> Callable[[Request], Response]:
        def respond(request: Request) -> Response:
            seen.append(request.headers["authorization"])
            return response

        return respond

    clock = FakeClock()
    limited = noting(Response(b'{"message": "slow down"}', 403, {"retry-after": "7"}))
    with answering(limited, noting(fine()), tokens=("one", "two"), clock=clock) as client:
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) == pytest.approx(7.0)
    assert seen == ["Bearer one", "Bearer one"]


def test_token_is_not_sent_to_another_server() -> None:
    with client_of("http://127.0.0.1:9") as client, pytest.raises(GitHubError, match="another server"):
        client.get("http://127.0.0.1:10/repositories/1")


def test_version_of_the_api_is_sent_also_after_a_redirect() -> None:
    versions: list[str] = []

    def redirect(request: Request) -> Response:
        versions.append(request.headers["x-github-api-version"])
        return Response(b"{}", 301, {"location": f"http://{request.headers['host']}/elsewhere"})

    def respond(request: Request) -> Response:
        versions.append(request.headers["x-github-api-version"])
        return fine()

    with answering(redirect, respond) as client:
        assert client.get("/path", version="2026-03-10", redirects=1).moved
        client.get("/path")
    assert versions == ["2026-03-10", "2026-03-10", API_VERSION]
