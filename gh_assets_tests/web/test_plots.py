"""Tests of the plots of the page."""

from hypothesis import given
from hypothesis import strategies as st

from gh_assets.web.plots import MAX_MARKS, round_marks


def test_marks_are_round_numbers() -> None:
    assert [label for _, label in round_marks(0.0, 0.487)] == ["0.0", "0.1", "0.2", "0.3", "0.4"]
    assert [label for _, label in round_marks(0.397, 0.471)] == ["0.40", "0.42", "0.44", "0.46"]
    assert [label for _, label in round_marks(0.0, 1.0)] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


@given(low=st.floats(0, 100), width=st.floats(1e-4, 100))
def test_marks_lie_on_the_axis_and_are_few_and_different(low: float, width: float) -> None:
    marks = round_marks(low, low + width)
    assert 1 <= len(marks) <= MAX_MARKS
    assert all(low - 1e-9 <= mark <= low + width + 1e-9 for mark, _ in marks)
    assert len({label for _, label in marks}) == len(marks)
    assert all(abs(float(label) - mark) < 1e-9 for mark, label in marks)
