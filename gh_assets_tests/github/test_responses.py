"""Responses as they occur in practice: the kinds in ``cases/responses``, and what each leads to."""

import pytest
from starlette.responses import Response

from gh_assets.errors import RateLimitedError
from gh_assets_tests.support.github import SECONDARY_LIMIT, FakeClock, answering, fine, rest_case


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def test_missing_permission_is_a_response_and_no_limit() -> None:
    forbidden = Response(b'{"message": "You do not have permission"}', 403, {"x-ratelimit-remaining": "10"})
    with answering(forbidden) as client:
        response = client.get("/x")
    assert (response.status, response.message) == (403, "You do not have permission")


@pytest.mark.parametrize("limited", [SECONDARY_LIMIT, rest_case("abuse-403")], ids=["present text", "former text"])
def test_secondary_limit_without_a_time_is_waited_for(clock: FakeClock, limited: Response) -> None:
    messages: list[str] = []
    with answering(limited, fine(), clock=clock) as client:
        client.pool.notify = messages.append
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 59.99
    assert len(messages) == 1
    assert "secondary rate limit" in messages[0]


@pytest.mark.parametrize("reset", ["1672531200", "0", "99999999999", "soon", "nan", "inf", None])
@pytest.mark.parametrize("status", [200, 403])
def test_impossible_figures_are_waited_for_no_longer_than_a_secondary_limit(
    clock: FakeClock, status: int, reset: str | None
) -> None:
    clock.time = 1_795_000_000.0
    limits = {"x-ratelimit-limit": "5000", "x-ratelimit-remaining": "0"}
    limits |= {"x-ratelimit-reset": reset} if reset else {}
    odd = Response(b'{"fine": true}' if status == 200 else b'{"message": "API rate limit exceeded"}', status, limits)
    with answering(odd, odd, fine(), clock=clock) as client:
        for _ in range(3):
            assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) <= (1 if status == 200 else 200)


def test_limit_without_end_is_one_clear_error(clock: FakeClock) -> None:
    endless = "nothing but its secondary rate limit for"
    with answering(rest_case("abuse-403"), clock=clock) as client, pytest.raises(RateLimitedError, match=endless):
        client.get("/x")
    assert 3600 <= sum(clock.waits) <= 3 * 3600


def test_retry_after_of_years_is_capped_and_of_zero_grows(clock: FakeClock) -> None:
    for_ever, now = (Response(b"{}", 429, {"retry-after": seconds}) for seconds in ("9" * 40, "0"))
    with answering(for_ever, clock=clock) as client, pytest.raises(RateLimitedError, match="another 120 minutes"):
        client.get("/x")
    with answering(*[now] * 12, fine(), clock=clock) as client:
        clock.waits.clear()
        assert client.get("/x").payload == {"fine": True}
    assert sum(clock.waits) >= 30


def test_budget_of_zero_points_is_no_budget(clock: FakeClock) -> None:
    limits = {"x-ratelimit-limit": "0", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "2000000000"}
    with answering(Response(b'{"fine": true}', 200, limits), clock=clock) as client:
        for _ in range(3):
            assert client.get("/x").payload == {"fine": True}
    assert len(clock.waits) < 5
