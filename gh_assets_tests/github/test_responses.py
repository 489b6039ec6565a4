"""Responses as they occur in practice: the kinds in ``cases/responses``, and what each leads to."""

from __future__ import annotations

import pytest
from starlette.responses import Response

from gh_assets.errors import (
    RateLimitedError,
)
from gh_assets.github.retries import RetryPolicy
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.github import FakeClock, client_of, fine, rest_case, scripted


def test_missing_permission_is_a_response_and_no_limit() -> None:
    forbidden = Response(b'{"message": "You do not have permission"}', 403, {"x-ratelimit-remaining": "10"})
    with serving(scripted([forbidden])) as url, client_of(url) as client:
        response = client.get("/x")
    assert (response.status, response.message) == (403, "You do not have permission")


def test_former_text_of_a_secondary_limit_is_waited_for() -> None:
    clock, messages = FakeClock(), list[str]()
    policy = RetryPolicy()
    with (
        serving(scripted([rest_case("abuse-403"), fine()])) as url,
        client_of(url, policy=policy, clock=clock) as client,
    ):
        client.pool.notify = messages.append
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 59.99
    assert len(messages) == 1
    assert "secondary rate limit" in messages[0]


@pytest.mark.parametrize("reset", ["1672531200", "0", "99999999999", "soon", "nan", "inf", None])
@pytest.mark.parametrize("status", [200, 403])
def test_impossible_figures_are_waited_for_no_longer_than_a_secondary_limit(status: int, reset: str | None) -> None:
    clock = FakeClock()
    clock.time = 1_795_000_000.0
    limits = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0"} | (
        {"x-ratelimit-reset": reset} if reset else {}
    )
    odd = Response(b'{"fine": true}' if status == 200 else b'{"message": "API rate limit exceeded"}', status, limits)
    with (
        serving(scripted([odd, odd, fine()])) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
    ):
        for _ in range(3):
            assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) <= (1 if status == 200 else 200)


def test_limit_without_end_is_one_clear_error() -> None:
    clock = FakeClock()
    with (
        serving(scripted([rest_case("abuse-403")])) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
        pytest.raises(RateLimitedError, match="nothing but its secondary rate limit for"),
    ):
        client.get("/x")
    assert 3600 <= sum(clock.waits) <= 3 * 3600


def test_retry_after_of_years_is_capped_and_of_zero_grows() -> None:
    clock = FakeClock()
    for_ever = Response(b"{}", 429, {"retry-after": "9" * 40})
    with (
        serving(scripted([for_ever])) as url,
        client_of(url, policy=RetryPolicy(), clock=clock) as client,
        pytest.raises(RateLimitedError, match="another 120 minutes"),
    ):
        client.get("/x")
    now = Response(b"{}", 429, {"retry-after": "0"})
    with serving(scripted([*[now] * 12, fine()])) as url, client_of(url, policy=RetryPolicy(), clock=clock) as client:
        clock.waits.clear()
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 30


def test_budget_of_zero_points_is_no_budget() -> None:
    limits = {"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "2000000000"}
    clock = FakeClock()
    with serving(scripted([Response(b'{"fine": true}', 200, limits)])) as url, client_of(url, clock=clock) as client:
        for _ in range(3):
            assert client.get("/x").payload == {"fine": True}
    assert len(clock.waits) < 5
