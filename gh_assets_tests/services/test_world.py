"""Tests of the world of a home."""

from __future__ import annotations

import pytest

from gh_assets.errors import WorldMismatchError
from gh_assets.services.world import claim_world
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
