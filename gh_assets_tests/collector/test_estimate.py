"""The estimated cost of a collection."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.collector.estimate import Assumptions, Way, hours_for, ways_to_collect
from gh_assets.github.rate_limits import Resource


def by_source(assumed: Assumptions) -> dict[str, Way]:
    return {way.source: way for way in ways_to_collect(assumed)}


def test_lists_cost_their_pages() -> None:
    ways = by_source(Assumptions([0, 1, 100, 101, 5000, None], max_pages=10, max_users=100))
    assert ways["stargazers"].requests == 1 + 1 + 1 + 2 + 10 + 5
    assert ways["graphql"].points == 1 + 1
    assert ways["stargazers"].stars == 0 + 1 + 100 + 101 + 1000 + 500
    assert (ways["starred"].users, ways["starred"].stars) == (100, 900)
    assert ways["starred"].points == 1 + 1 + 2
    assert (ways["events"].requests, ways["events"].a_day) == (18, True)


def test_hours_follow_from_the_windows_of_the_quota() -> None:
    assert hours_for(5_000, Resource.REST, 1) == pytest.approx(5_000 / 800 / 60)
    assert 19 < hours_for(100_000, Resource.REST, 1) < 19.2, "20 windows, of which the last ends early"
    assert 4 < hours_for(100_000, Resource.REST, 4) < 4.2
    assert hours_for(720, Resource.GRAPHQL, 1) == pytest.approx(1.0), "60 s of computing a minute, 5 s a query"


@given(
    st.lists(st.none() | st.integers(0, 100_000), min_size=1, max_size=50), st.integers(1, 400), st.integers(1, 9999)
)
def test_more_tokens_never_take_longer_and_nothing_exceeds_what_there_is(
    counts: Sequence[int | None], max_pages: int, max_users: int
) -> None:
    assumed = Assumptions(counts, max_pages, max_users)
    for way in ways_to_collect(assumed):
        assert 0 <= way.hours(4) <= way.hours(1)
        assert 0 <= way.stars <= sum(assumed.known_counts)
        assert way.to_json()["hours"].keys() == {"1", "4"}
    assert by_source(assumed)["starred"].users <= max_users
