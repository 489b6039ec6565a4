"""Asking GitHub: tokens, limits, faults, conditional requests."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.embedded.standin.limits import Limits
from gh_assets.errors import (
    AuthenticationError,
    CancelledError,
    GitHubError,
    RateLimitedError,
    ServiceUnavailableError,
)
from gh_assets.github.client import RAW, GitHubClient
from gh_assets.github.rate_limits import Resource, RetryPolicy, TokenPool
from gh_assets_tests.conftest import QUICK, serving
from gh_assets_tests.support.worlds import LIST, world_of

SECRET = "ghp_verysecret0123456789wxyz"


class FakeClock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        self.waits.append(seconds)
        self.time += seconds
        if cancelled.is_set():
            return


def scripted(answers: list[Response | Callable[[Request], Response]]) -> Starlette:
    """A server that gives these answers, one after another, then the last again and again."""
    remaining = list(answers)

    async def endpoint(request: Request) -> Response:
        if request.url.path == "/rate_limit":
            return Response(b'{"message": "Rate limiting is not enabled."}', 404)
        if request.url.path == "/user":
            whose = sum(request.headers["authorization"].encode())  # another user for each token
            return Response(b'{"id": %d}' % whose, media_type="application/json")
        answer = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return answer if isinstance(answer, Response) else answer(request)

    return Starlette(routes=[Route("/{path:path}", endpoint)])


def fine() -> Response:
    return Response(b'{"fine": true}', media_type="application/json")


def client_of(url: str, *tokens: str, policy: RetryPolicy = QUICK, clock: FakeClock | None = None) -> GitHubClient:
    return GitHubClient(url, [SecretStr(token) for token in tokens or (SECRET,)], policy=policy, clock=clock)


def test_an_unchanged_resource_answers_304_and_costs_no_quota(github_of) -> None:
    standin, client = github_of(world_of({"a/b": [0]}))
    first = client.get("/repos/a/b")
    used = standin.used("token")
    second = client.get("/repos/a/b", etag=first.etag)
    assert (first.status, second.status) == (200, 304)
    assert standin.used("token") == used


def test_raw_content_is_not_parsed(github_of) -> None:
    _, client = github_of(world_of({"a/b": [0]}))
    answer = client.get(f"/repos/{LIST}/readme", accept=RAW)
    assert answer.payload is None
    assert b"github.com/a/b" in answer.content


def test_a_refused_token_is_named_by_its_end_only(serve_world) -> None:
    _, url = serve_world(world_of({"a/b": [0]}))
    with client_of(url) as client, pytest.raises(AuthenticationError) as caught:
        client.get("/repos/a/b")
    assert "ending in …wxyz (401" in str(caught.value)
    assert repr(client.pool.tokens) == "[Token(…wxyz)]"


def test_a_refused_token_is_retired_and_the_other_is_used(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("good",))
    with client_of(url, SECRET, "good") as client:
        for _ in range(3):
            assert client.get("/repos/a/b").status == 200
    assert standin.served["401"] == 2, "once more after a pause, and never again"


def test_a_spent_token_is_left_for_another_without_waiting(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one", "two"), limits=Limits(requests=4))
    clock = FakeClock()
    with client_of(url, "one", "two", clock=clock) as client:
        answers = [client.get("/repos/a/b").status for _ in range(8)]
    assert answers == [200] * 8
    assert [standin.used(token) for token in ("one", "two")] == [4, 4]
    assert clock.waits == []
    assert standin.served["limited"] == 0, "a request was sent that could only be refused"


def test_when_all_is_spent_the_reset_is_waited_for(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one",), limits=Limits(requests=3, window_seconds=1.0))
    with client_of(url, "one", policy=RetryPolicy(longest_quota_wait=5.0)) as client:
        assert [client.get("/repos/a/b").status for _ in range(4)] == [200] * 4
    assert standin.served["limited"] <= 1


def test_a_wait_longer_than_allowed_is_an_error_that_says_when(serve_world) -> None:
    _, url = serve_world(world_of({"a/b": [0]}), tokens=("one",), limits=Limits(requests=1))
    with client_of(url, "one") as client:
        client.get("/repos/a/b")
        with pytest.raises(RateLimitedError, match=r"another (60|61) minutes"):
            client.get("/repos/a/b")


def test_retry_after_is_obeyed_and_the_token_not_changed() -> None:
    seen: list[str] = []

    def limited(request: Request) -> Response:
        seen.append(request.headers["authorization"])
        return Response(b'{"message": "slow down"}', 403, {"retry-after": "7"})

    def then(request: Request) -> Response:
        seen.append(request.headers["authorization"])
        return fine()

    clock = FakeClock()
    policy = RetryPolicy()
    app = scripted([limited, then])
    with serving(app) as url, client_of(url, "one", "two", policy=policy, clock=clock) as client:
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) == pytest.approx(7.0)
    assert seen == ["Bearer one", "Bearer one"]


def test_a_secondary_limit_without_time_is_waited_out() -> None:
    clock = FakeClock()
    limited = Response(b'{"message": "You have exceeded a secondary rate limit."}', 403)
    policy = RetryPolicy()
    with serving(scripted([limited, fine()])) as url, client_of(url, policy=policy, clock=clock) as client:
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 59.99


@pytest.mark.parametrize(
    "fault",
    [Response(b"", 500), Response(b"", 502), Response(b"", 503), Response(b"", 504), Response(b'{"cut', 200)],
    ids=["500", "502", "503", "504", "truncated JSON"],
)
def test_a_passing_fault_is_tried_again(fault: Response) -> None:
    with serving(scripted([fault, fault, fine()])) as url, client_of(url) as client:
        assert client.get("/x").payload == {"fine": True}
        assert (client.usage.requests, client.usage.retries) == (5, 2), "what is left, whose token, the page thrice"


def test_a_lasting_fault_is_one_clear_error() -> None:
    with (
        serving(scripted([Response(b"", 502)])) as url,
        client_of(url) as client,
        pytest.raises(ServiceUnavailableError, match=r"did not answer /x in 4 tries \(status 502\)"),
    ):
        client.get("/x")


def test_nobody_listening_is_one_clear_error() -> None:
    with (
        client_of("http://127.0.0.1:9") as client,
        pytest.raises(ServiceUnavailableError, match=r"Check GITHUB_API_URL") as caught,
    ):
        client.get("/x")
    assert SECRET not in str(caught.value)


def test_the_token_is_not_taken_to_another_server() -> None:
    with client_of("http://127.0.0.1:9") as client, pytest.raises(GitHubError, match="another server"):
        client.get("http://127.0.0.1:10/repositories/1")


def test_a_permission_problem_is_an_answer_not_a_limit() -> None:
    forbidden = Response(b'{"message": "You do not have permission"}', 403, {"x-ratelimit-remaining": "10"})
    with serving(scripted([forbidden])) as url, client_of(url) as client:
        answer = client.get("/x")
    assert (answer.status, answer.message) == (403, "You do not have permission")


def test_cancelling_reaches_those_who_wait() -> None:
    pool = TokenPool([SecretStr("one")], RetryPolicy(longest_quota_wait=1e6))
    pool.pause(1e5)
    errors: list[Exception] = []

    def work() -> None:
        try:
            with pool.lease(Resource.REST):
                pass
        except CancelledError as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    pool.cancel()
    for worker in workers:
        worker.join(5)
    assert len(errors) == 4
