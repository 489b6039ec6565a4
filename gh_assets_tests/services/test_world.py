"""Tests of the world of a home."""

from typing import Any

import pytest

from gh_assets.embedded import servers
from gh_assets.embedded.servers import HomeWorld
from gh_assets.errors import WorldMismatchError
from gh_assets.services.world import claim_world, github_site
from gh_assets.settings import Settings
from gh_assets.storage.mongo import MongoDatabase

TOKEN = {"github_tokens_text": "a-token"}


def test_data_of_two_worlds_are_not_mixed(database: MongoDatabase, settings: Settings) -> None:
    claim_world(settings, database)
    claim_world(settings, database)
    message = r"synthetic world .*; the data of GitHub .* need a separate home. Set GH_ASSETS_HOME"
    with pytest.raises(WorldMismatchError, match=message):
        claim_world(settings.model_copy(update=TOKEN), database)


@pytest.mark.parametrize(
    ("changes", "world", "site"),
    [
        (TOKEN, HomeWorld(), "https://github.com"),
        (TOKEN | {"github_api_url": "https://github.example.org/api/v3/"}, HomeWorld(), "https://github.example.org"),
        (TOKEN | {"github_api_url": "http://127.0.0.1:4000"}, HomeWorld(), None),
        ({}, HomeWorld(), None),
        ({}, HomeWorld(stars="stars.csv"), "https://github.com"),
        ({}, HomeWorld(archive=True), "https://github.com"),
    ],
)
def test_only_real_repositories_have_a_web_site(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], world: HomeWorld, site: str | None
) -> None:
    monkeypatch.setattr(servers, "read_world", lambda home: world)
    assert github_site(settings.model_copy(update=changes)) == site
