"""Fixtures of the tests of serving."""

from __future__ import annotations

from pathlib import Path

import pytest

from gh_assets.registry.cache import ModelCache


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")
