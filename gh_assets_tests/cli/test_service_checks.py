"""Tests of the checks of services."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from gh_assets.cli.service_checks import check_mongo
from gh_assets.services.connections import (
    connect_mongo,
)
from gh_assets.settings import load_settings


def test_check_of_mongo_reports_a_missing_validator(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_DATABASE", f"test_{secrets.token_hex(6)}")
    database = connect_mongo(load_settings())
    try:
        assert "no validator" not in check_mongo(load_settings())
        database.drop_collection("models")
        database["models"].insert_one({"name": "by another program"})
        assert "The collection models has no validator" in check_mongo(load_settings())
    finally:
        database.client.drop_database(database.name)
        database.client.close()
