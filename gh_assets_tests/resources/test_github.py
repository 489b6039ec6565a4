"""The GitHub resource: where its pages are."""

import pytest

from gh_assets.resources import GitHubResource


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"github_tokens_text": "token"}, "https://github.com"),
        (
            {"github_tokens_text": "token", "github_api_url": "https://git.example.org/api/v3"},
            "https://git.example.org",
        ),
    ],
)
def test_pages_are_those_of_the_configured_github(fields: dict[str, str], expected: str | None) -> None:
    assert GitHubResource(**fields).web_url() == expected
