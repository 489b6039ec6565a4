"""Tests of the world of a home."""

from __future__ import annotations

import pytest

from gh_assets.embedded import servers
from gh_assets.embedded.servers import HomeWorld
from gh_assets.errors import WorldMismatchError
from gh_assets.services.world import claim_world, github_site
from gh_assets.settings import load_settings


def test_data_of_two_worlds_are_not_mixed(database, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_world(settings, database)
    claim_world(settings, database)
    monkeypatch.setenv("GITHUB_TOKENS", "a-token")
    with pytest.raises(
        WorldMismatchError,
        match=r"synthetic world .*; the data of GitHub .* need a separate home. Set GH_ASSETS_HOME",
    ):
        claim_world(load_settings(), database)


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://github.example.org/api/v3/", "https://github.example.org"),
        ("http://127.0.0.1:4000", None),
    ],
)
def test_web_site_of_a_github_server(settings, url: str, site: str | None) -> None:
    assert github_site(settings.model_copy(update={"github_api_url": url, "github_tokens_text": "a-token"})) == site


@pytest.mark.parametrize(
    ("world", "site"),
    [
        (HomeWorld(), None),
        (HomeWorld(stars="stars.csv"), "https://github.com"),
        (HomeWorld(archive=True), "https://github.com"),
    ],
)
def test_synthetic_repositories_have_no_web_site(settings, monkeypatch, world: HomeWorld, site: str | None) -> None:
    monkeypatch.setattr(servers, "read_world", lambda home: world)
    assert github_site(settings) == site
