"""Cursors hold what was shown, and any other text is a clear error."""

from hypothesis import given
from hypothesis import strategies as st

from gh_assets.serving.requests import MAX_PAGED_RECOMMENDATIONS
from gh_assets.web.parameters import read_cursor, write_cursor
from gh_assets.web.problems import RequestProblemError


@given(st.sets(st.integers(0, 2**40), max_size=MAX_PAGED_RECOMMENDATIONS))
def test_cursor_round_trip(shown: set[int]) -> None:
    assert read_cursor(write_cursor(shown)) == tuple(sorted(shown))


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_a_clear_error(text: str) -> None:
    try:
        ids = read_cursor(text)
    except RequestProblemError:
        return
    assert list(ids) == sorted(ids)
