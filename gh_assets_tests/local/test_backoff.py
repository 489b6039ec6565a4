"""Tests of the exponential backoff."""

from hypothesis import given
from hypothesis import strategies as st

from gh_assets.local.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.wait(attempt) for attempt in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(st.integers(1, 10_000), st.floats(0.1, 60), st.floats(60, 1000), st.floats(0.5, 1), st.floats(1, 1.5))
def test_jitter_keeps_waits_within_bounds(attempt: int, first: float, longest: float, low: float, high: float) -> None:
    plain = Backoff(first, longest).wait(attempt)
    wait = Backoff(first, longest, (low, high)).wait(attempt)
    assert plain * low * (1 - 1e-9) <= wait <= plain * high * (1 + 1e-9)


def test_waits_with_jitter_differ() -> None:
    backoff = Backoff(1.0, 10.0, (0.5, 1.0))
    assert len({backoff.wait(1) for _ in range(20)}) > 1
