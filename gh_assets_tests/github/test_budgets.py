"""Budgets: what responses say about them, and what is counted in between."""

import pytest

from gh_assets.errors import AuthenticationError
from gh_assets_tests.support.github import Pool, quota_headers


def test_responses_out_of_order_do_not_raise_the_remaining_points() -> None:
    pool = Pool("user:1")
    reset = pool.clock.now() + 1000
    responses = iter((7, 9, 8))
    pool.spend(lambda _: quota_headers(next(responses), reset), times=3)
    assert pool.remaining() == 7
    pool.spend(lambda _: quota_headers(4999, reset - 5000))
    assert pool.remaining() == 7, "of a former window"
    pool.spend(lambda _: quota_headers(4000, reset + 3600))
    assert pool.remaining() == 4000


def test_new_window_is_full_and_counted_until_its_first_response() -> None:
    pool = Pool("user:1")
    pool.spend(lambda _: quota_headers(3, pool.clock.now() + 100, limit=50))
    pool.clock.time += 100.5
    assert pool.remaining() == 3, "resets are given in whole seconds"
    pool.clock.time += 0.5
    assert pool.remaining() == 50
    pool.spend(lambda _: {})
    pool.spend(lambda _: quota_headers(50, pool.clock.now() + 3600, limit=50))
    assert pool.remaining() == 49, "a late response does not raise it"
    pool.spend(lambda _: quota_headers(44, pool.clock.now() + 3600, limit=50))
    assert (pool.remaining(), pool.next_reset()) == (44, pool.clock.now() + 3600)


def test_error_names_all_tokens_if_none_is_valid() -> None:
    pool = Pool("user:1", "user:2")
    for token in pool.directory.tokens:
        pool.directory.retire(token)
    with pytest.raises(AuthenticationError, match=r"refused the tokens ending in …en-0, …en-1 \(401"):
        pool.spend(lambda _: {})
