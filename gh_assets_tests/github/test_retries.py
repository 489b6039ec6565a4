"""Retries and their waits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from gh_assets.errors import ServiceUnavailableError
from gh_assets.github.rate_limits import Resource
from gh_assets.github.retries import RetryPolicy
from gh_assets_tests.support.github import SECONDARY_LIMIT, SECRET, FakeClock, answering, client_of, fine


def test_waits_for_secondary_limits_double() -> None:
    clock = FakeClock()
    responses = (*[SECONDARY_LIMIT] * 3, fine())
    with answering(*responses, tokens=("one", "two"), clock=clock) as client:
        client.get("/x")
    assert 60 + 120 + 240 <= sum(clock.waits) <= 1.1 * (60 + 120 + 240) + 1


@given(st.integers(1, 40))
def test_waits_double_with_jitter_up_to_the_policys_limit(attempt: int) -> None:
    policy = RetryPolicy(first_wait=0.5, longest_wait=30.0, secondary_wait=60.0, longest_secondary_wait=960.0)
    ceiling = min(30.0, 0.5 * 2 ** (attempt - 1))
    assert ceiling / 2 <= policy.wait_before(attempt) <= ceiling
    least = min(960.0, 60.0 * 2 ** (attempt - 1))
    assert least <= policy.secondary_wait_before(attempt) <= 1.1 * least


def test_default_policy_stays_below_githubs_limits() -> None:
    usual = RetryPolicy()
    assert usual.points_a_minute[Resource.REST] < 900
    assert usual.points_a_minute[Resource.GRAPHQL] < 2000
    assert usual.in_flight < 100
    assert usual.secondary_wait >= 60
    assert usual.longest_quota_wait > 3600, "long enough for a window"


@pytest.mark.parametrize(
    "fault",
    [Response(b"", 500), Response(b"", 502), Response(b"", 503), Response(b"", 504), Response(b'{"cut', 200)],
    ids=["500", "502", "503", "504", "truncated JSON"],
)
def test_transient_fault_is_retried(fault: Response) -> None:
    with answering(fault, fault, fine()) as client:
        assert client.get("/x").payload == {"fine": True}
        assert (client.usage.requests, client.usage.retries) == (5, 2), "quota, account, and the page three times"


def test_permanent_fault_is_one_clear_error() -> None:
    unanswered = r"did not answer /x in 4 tries \(status 502\)"
    with answering(Response(b"", 502)) as client, pytest.raises(ServiceUnavailableError, match=unanswered):
        client.get("/x")


def test_unreachable_server_is_one_clear_error() -> None:
    unreachable = pytest.raises(ServiceUnavailableError, match=r"Check GITHUB_API_URL")
    with client_of("http://127.0.0.1:9") as client, unreachable as caught:
        client.get("/x")
    assert SECRET not in str(caught.value)
