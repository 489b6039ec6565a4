"""Rate limits as responses describe them."""

from email.utils import formatdate

import pytest

from gh_assets.github.rate_limits import LONGEST_WINDOW, Observation, observation_of, skew_of


@pytest.mark.parametrize(
    ("written", "skew"),
    [(1000, 0), (1030, 0), (998, 0), (1032, 0), (1033, 3), (1100, 70), (997, -3), (400, -600)],
    ids=["at once", "slow", "whole seconds", "whole seconds", "just ahead", "ahead", "just behind", "behind"],
)
def test_slow_response_is_no_sign_of_a_wrong_clock(written: int, skew: float) -> None:
    """Otherwise its reset would be half a minute late, and quota would be wasted."""
    headers = {"date": formatdate(written, usegmt=True)}
    assert skew_of(headers, 1000.0, 1030.0) == skew


@pytest.mark.parametrize(
    ("figures", "skew", "expected"),
    [
        (("5000", "4999", "1060"), 0.0, (5000, 4999, 1060.0)),
        ((60, 60, 1060), 50.0, (60, 60, 1010.0)),
        ((60, 61, 1060), 0.0, (60, 60, 1060.0)),
        ((1, 0, 996), 0.0, (1, 0, 996.0)),
        ((1, 1, 995), 0.0, (1, 1, 995.0)),
        ((1, 1, 1000 + LONGEST_WINDOW), 0.0, (1, 1, 1000 + LONGEST_WINDOW)),
        ((1, 0, 995), 0.0, None),
        ((0, 0, 1060), 0.0, None),
        ((1, -1, 1060), 0.0, None),
        ((1, 1, 1001 + LONGEST_WINDOW), 0.0, None),
        ((1, 1, float("nan")), 0.0, None),
        (("many", 1, 1060), 0.0, None),
        ((1, None, 1060), 0.0, None),
    ],
)
def test_impossible_figures_are_ignored(
    figures: tuple[object, object, object], skew: float, expected: tuple[int, int, float] | None
) -> None:
    seen = observation_of(*figures, 1000.0, skew)
    assert seen == (None if expected is None else Observation(*expected, at=1000.0))
