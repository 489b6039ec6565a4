"""The token pool: which token sends, what is waited for, totals."""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.errors import CancelledError, RateLimitedError
from gh_assets.github.budgets import Token
from gh_assets.github.rate_limits import Resource
from gh_assets.github.retries import Clock, RetryPolicy
from gh_assets_tests.support.github import UNPACED, Pool, in_threads, quota_headers


def test_tokens_of_one_user_share_one_budget(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("user:1", "user:1", limit=10)
    pool.spend(times=10)
    assert pool.clock.waits == []
    pool.spend()
    assert sum(pool.clock.waits) >= 3600, "a second token of the same user has no quota of its own"
    assert pool.server.refused == 0
    assert "share a quota" in caplog.text
    assert "token-1" not in caplog.text


@given(accounts=st.integers(1, 5), limit=st.integers(1, 12), requests=st.integers(1, 60))
def test_limits_are_kept_and_available_quota_is_never_waited_for(accounts: int, limit: int, requests: int) -> None:
    pool = Pool(*(f"user:{n}" for n in range(accounts)), limit=limit)
    pool.spend(times=requests)
    assert pool.server.refused == 0
    windows = -(-requests // (accounts * limit))
    assert sum(pool.clock.waits) <= (windows - 1) * (3600 + 2), "waited while a token had quota"


def test_pace_keeps_an_account_below_its_points_a_minute() -> None:
    pool = Pool("user:1", limit=5000, policy=RetryPolicy(points_a_minute={Resource.REST: 60}))
    pool.spend(times=200)
    times = pool.server.times
    for start in times:
        assert sum(start <= time < start + 60 for time in times) <= 60 + 11
    assert sum(pool.clock.waits) <= 200, "slower than the pace"


def test_clock_skew_of_the_server_is_corrected() -> None:
    pool = Pool("user:1")
    there = pool.clock.now() + 7200  # two hours ahead of us
    pool.spend(lambda _: quota_headers(0, there + 100, date=formatdate(there, usegmt=True)))
    pool.spend(lambda _: quota_headers(5, there + 3700, date=formatdate(there + 101, usegmt=True)))
    assert 100 <= sum(pool.clock.waits) <= 102


def test_responses_about_other_resources_leave_the_budget_unchanged() -> None:
    pool = Pool("user:1")
    now = pool.clock.now()
    pool.spend(lambda _: quota_headers(50, now + 1000))
    pool.spend(lambda _: quota_headers(3, now + 10, resource="search"))
    assert pool.remaining() == 49, "counted by the pool"
    pool.spend(lambda _: quota_headers(100, now + 1000, resource="graphql"))
    assert (pool.remaining(), pool.remaining(Resource.GRAPHQL)) == (48, 100)
    pool.spend(lambda _: {})
    assert pool.remaining() == 47, "a response without limits is counted, too"


def test_requests_without_limits_never_wait() -> None:
    pool = Pool("user:1", policy=RetryPolicy(points_a_minute={Resource.REST: 1}))
    pool.spend(lambda _: {}, times=50)
    with pool.lease(Resource.REST) as lease:
        assert pool.has_points(lease)
        lease.settle({})
    assert (pool.clock.waits, pool.remaining()) == ([], None)


def test_totals_cover_the_accounts_in_use() -> None:
    pool = Pool("user:1", "user:1", "user:2", "user:3")
    clock = pool.clock
    assert (pool.remaining(), pool.limit(), pool.next_reset(), pool.directory.retired) == (None, None, None, [])
    resets = {"user:1": clock.now() + 900, "user:2": clock.now() + 800, "user:3": clock.now() + 700}
    charged = pool.spend(lambda account: quota_headers(40, resets[account], limit=50), times=3)
    assert sorted(charged) == ["user:1", "user:2", "user:3"], "accounts are used evenly"
    assert (pool.remaining(), pool.limit(), pool.next_reset()) == (120, 150, clock.now() + 700)
    unknown = Resource.GRAPHQL
    assert (pool.remaining(unknown), pool.limit(unknown), pool.next_reset(unknown)) == (None, None, None)
    pool.directory.retire(pool.directory.tokens[3])
    assert pool.directory.retired == ["…en-3"]
    assert (pool.remaining(), pool.limit(), pool.next_reset()) == (80, 100, clock.now() + 800)
    clock.time += 801
    assert pool.remaining() == 90, "a window that has ended begins anew"
    assert pool.next_reset() == resets["user:1"], "the first response tells when the new window ends"


def test_an_account_is_kept_as_long_as_it_has_quota() -> None:
    pool = Pool("user:1", "user:2", limit=5)
    pool.spend(times=2)
    kept, charged = pool.directory.accounts["user:2"], []
    for _ in range(5):
        with pool.lease(Resource.REST, keep=kept) as lease:
            lease.settle(pool.server.respond(lease.account.identity))
            charged.append(lease.account.identity)
    assert (charged, pool.clock.waits) == (["user:2"] * 4 + ["user:1"], [])
    with pool.lease(Resource.REST, 3) as lease:
        assert pool.has_points(lease) is False, "the rest is reserved for this request"
        lease.settle(None, 0)
    assert pool.has_points(lease)


def test_concurrent_requests_are_counted_before_their_responses() -> None:
    pool = Pool("user:1", "user:2", limit=3)
    with (
        pool.lease(Resource.REST, 2) as first,
        pool.lease(Resource.REST, 2) as second,
        pool.lease(Resource.REST, 1) as third,
        pool.lease(Resource.REST, 1) as fourth,
    ):
        assert pool.in_flight == 4
        for pair in ((first, second), (third, fourth)):
            assert {lease.account.identity for lease in pair} == {"user:1", "user:2"}
    assert (pool.clock.waits, pool.in_flight) == ([], 0)
    assert pool.remaining() == 0, "requests without a response count as spent"


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set a time zone other than UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_long_waits_are_announced_once_and_short_ones_never() -> None:
    pool = Pool("user:1", limit=2)
    pool.pause(4.0)
    pool.spend()
    assert (pool.messages, pool.clock.waits) == ([], [4.0])
    pool.spend(times=2)
    (only,) = pool.messages
    until = dt.datetime.fromtimestamp(pool.clock.now(), dt.UTC)
    assert only == f"The quota of all tokens is spent: waiting 3601 s, until {until:%H:%M:%S} UTC."
    assert max(pool.clock.waits) <= 60, "in steps, since a token may become available"


def test_secondary_limit_pauses_all_tokens_and_one_without_end_is_an_error() -> None:
    pool = Pool("user:1", "user:2", policy=replace(UNPACED, longest_quota_wait=500.0))
    began = pool.clock.now()
    pool.pause(100.0)
    pool.pause(20.0)  # the longest of several pauses holds
    pool.spend(lambda _: {})
    assert pool.clock.now() == began + 100
    assert [text.split(":")[0] for text in pool.messages] == ["GitHub's secondary rate limit was reached"]
    pool.pause(450.0)
    pool.spend(lambda _: {})
    with pytest.raises(RateLimitedError, match="nothing but its secondary rate limit for 10 minutes"):
        pool.pause(1.0)
    pool.answered()
    pool.pause(1.0)
    pool.spend(lambda _: {})
    assert pool.clock.now() == began + 551


def test_requests_in_flight_do_not_exceed_the_policy() -> None:
    pool = Pool("user:1", policy=replace(UNPACED, in_flight=2))
    pair = threading.Barrier(2)
    peaks: list[int] = []

    def work() -> None:
        for _ in range(4):
            with pool.lease(Resource.REST) as lease:
                pair.wait(10)
                peaks.append(pool.in_flight)
                pair.wait(10)
                lease.settle({})

    in_threads(work, 6)
    assert (peaks, pool.in_flight) == ([2] * 24, 0)


def test_token_that_cannot_be_identified_yet_is_waited_for() -> None:
    class SpentPool(Pool):
        def _identify(self, token: Token) -> None:
            if self.clock.waits:
                super()._identify(token)
            else:
                self.directory.postpone(token, self.clock.now() + 100)

    pool = SpentPool("user:1")
    assert pool.spend(lambda _: {}) == ["user:1"]
    assert 100 <= sum(pool.clock.waits) <= 102


@pytest.mark.parametrize("waits_for", ["quota", "place in flight"])
def test_cancelling_ends_all_waits(waits_for: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool("user:1", policy=replace(UNPACED, longest_quota_wait=1e6, in_flight=1))
    monkeypatch.setattr(pool, "clock", Clock())
    pool.spend(lambda _: {})  # without limits
    lease = pool.lease(Resource.REST)
    lease.__enter__()
    if waits_for == "quota":
        pool.pause(1e5)
    errors: list[Exception] = []

    def work() -> None:
        try:
            pool.lease(Resource.REST).__enter__()
        except CancelledError as error:
            errors.append(error)

    in_threads(work, 4, meanwhile=pool.cancel)
    assert len(errors) == 4
