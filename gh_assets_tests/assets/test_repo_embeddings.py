"""The asset `repo_embeddings`."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import dagster as dg
import polars as pl
import pytest

from gh_assets.assets.repo_embeddings import repo_embeddings
from gh_assets.io_managers import GcsTypedIOManager
from gh_assets.resources import build_resources
from gh_assets.schemas import REPOS
from gh_assets.services.connections import asset_store
from gh_assets.settings import load_settings
from gh_assets_tests.support.embeddings import HashEncoder


@pytest.mark.usefixtures("fresh_home")
def test_each_text_is_embedded_once_over_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gcs = build_resources(load_settings())["gcs"]
    resources = {"gcs": gcs, "io_manager": GcsTypedIOManager(gcs=gcs)}
    blank = dict.fromkeys(REPOS.columns) | {"topics": [], "lists": [], "outcome": "ok"}

    def materialized(described: Mapping[int, str]) -> tuple[int, int, int]:
        rows = [
            blank | {"repo_id": key, "full_name": f"a/{key}", "description": text} for key, text in described.items()
        ]

        @dg.asset
        def repos() -> pl.DataFrame:
            return pl.DataFrame(rows, schema=REPOS.dtypes)

        result = dg.materialize([repos, repo_embeddings], resources=resources)
        metadata: Mapping[str, Any] = result.asset_materializations_for_node("repo_embeddings")[0].metadata
        stored = asset_store(load_settings()).read_table("repo_embeddings")
        assert stored.height == metadata["dagster/row_count"].value
        return stored.height, metadata["embedded"].value, metadata["without_vector"].value

    module = import_module("gh_assets.assets.repo_embeddings")  # the package has the asset under this name
    monkeypatch.setattr(module, "SentenceEncoder", HashEncoder)
    monkeypatch.setattr(module, "is_installed", lambda: False)
    assert materialized({1: "one", 2: "two"}) == (0, 0, 2)
    monkeypatch.setattr(module, "is_installed", lambda: True)
    assert materialized({1: "one", 2: "two"}) == (2, 2, 0)
    assert materialized({1: "one", 2: "changed", 3: "three"}) == (3, 2, 0)
    monkeypatch.setattr(module, "is_installed", lambda: False)
    assert materialized({1: "one", 2: "changed again", 4: "four"}) == (1, 0, 2), "vectors outlive the extra"
