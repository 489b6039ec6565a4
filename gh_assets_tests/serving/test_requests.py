"""Requests: what a user can choose, and the request that it becomes."""

import pytest
from pydantic import ValidationError

from gh_assets.serving.requests import DEFAULT_REQUEST, MAX_COUNT, MAX_STARS, Filters, RecommendationParameters


def test_default_parameters_are_the_default_request() -> None:
    assert RecommendationParameters().request() == DEFAULT_REQUEST


def test_parameters_become_filters_and_controls() -> None:
    parameters = RecommendationParameters(
        n=5, language=" Go ", topic=("cli", ""), owner="a", min_stars=1, own=True, archived="only", popularity=-0.5
    )
    request = parameters.request(hidden=[7], shown=[8, 9])
    assert request.filters == Filters(own=True, archived="only", language="Go", topics=("cli",), owner="a", min_stars=1)
    assert (request.n, request.popularity, request.diversity) == (5, -0.5, None)
    assert (list(request.hidden), list(request.shown)) == ([7], [8, 9])


@pytest.mark.parametrize(
    "values",
    [
        {"n": 0},
        {"n": MAX_COUNT + 1},
        {"min_stars": -1},
        {"max_stars": MAX_STARS + 1},
        {"popularity": 1.1},
        {"popularity": float("nan")},
        {"diversity": -0.1},
        {"archived": "maybe"},
        {"language": "x" * 101},
        {"topic": ("x",) * 11},
        {"unknown": 1},
    ],
)
def test_values_out_of_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RecommendationParameters(**values)


def test_every_parameter_has_a_description() -> None:
    assert all(field.description for field in RecommendationParameters.model_fields.values())


def test_filters_accept_unknown_repositories_unless_they_need_metadata() -> None:
    assert Filters(own=True, forks=True, archived="yes").accepts_unknown
    assert not Filters(language="go").accepts_unknown
    assert not Filters(archived="only").accepts_unknown
