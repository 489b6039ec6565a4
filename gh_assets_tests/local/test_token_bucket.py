"""Tests of token buckets: no more than the rate and one burst, nothing lost, and a bounded number of keys."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.local.token_bucket import KeyedTokenBuckets, TokenBucket
from gh_assets_tests.support.github import FakeClock

Steps = list[tuple[int, float, bool]]
steps = st.lists(st.tuples(st.integers(1, 10), st.floats(0, 100), st.booleans()), max_size=40)


@given(steps, st.integers(1, 20), st.floats(0.01, 10))
def test_bucket_never_gives_more_than_a_burst_and_the_rate(steps: Steps, capacity: int, per_second: float) -> None:
    clock = FakeClock()
    bucket = TokenBucket(capacity, per_second, clock.now)
    used: list[tuple[float, int]] = []
    for tokens, pause, unused in steps:
        clock.time += pause
        if bucket.take(tokens) == 0:
            if unused:
                bucket.give_back(tokens)
            else:
                used.append((clock.now(), tokens))
    for number, (start, _) in enumerate(used):
        total = 0
        for at, tokens in used[number:]:
            total += tokens
            assert total <= capacity + per_second * (at - start) + 1e-6


@given(steps, st.integers(1, 20), st.floats(0.01, 10))
def test_refused_tokens_are_available_after_the_returned_wait(steps: Steps, capacity: int, per_second: float) -> None:
    clock = FakeClock()
    bucket = TokenBucket(capacity, per_second, clock.now)
    for tokens, pause, _ in steps:
        clock.time += pause
        wait = bucket.take(tokens)
        if tokens > capacity:
            assert wait == math.inf
        elif wait > 0:
            clock.time += wait + 1e-6
            assert bucket.take(tokens) == 0


def test_refused_take_uses_nothing_and_given_back_tokens_do_not_exceed_the_capacity() -> None:
    bucket = TokenBucket(3, 1 / 60, FakeClock().now)
    assert bucket.take(2) == 0
    assert bucket.take(2) == pytest.approx(60)
    assert bucket.take(1) == 0
    bucket.give_back(10)
    assert [bucket.take(), bucket.take(), bucket.take()] == [0, 0, 0]
    assert bucket.take() == pytest.approx(60)


def test_bucket_without_capacity_gives_nothing() -> None:
    assert TokenBucket(0, 0, FakeClock().now).take() == math.inf


@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(1, 5))
def test_keys_do_not_share_tokens(keys: list[str], capacity: int) -> None:
    buckets = KeyedTokenBuckets(capacity, 1, max_keys=3, clock=FakeClock().now)
    taken = [key for key in keys if buckets.take(key) == 0]
    assert {key: taken.count(key) for key in "abc"} == {key: min(capacity, keys.count(key)) for key in "abc"}


def test_least_recently_used_key_is_dropped() -> None:
    buckets = KeyedTokenBuckets(1, 1, max_keys=2, clock=FakeClock().now)
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    assert buckets.take("a") > 0
    assert buckets.take("c") == 0
    assert buckets.take("a") > 0, "used after b"
    assert buckets.take("b") == 0, "dropped for c, so it starts anew"
