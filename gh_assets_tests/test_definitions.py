"""The definitions of the code location, as people and tools see them."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from gh_assets.assets import ALL_ASSETS
from gh_assets.definitions import build_definitions
from gh_assets.schemas import TABLES
from gh_assets.settings import load_settings
from gh_assets_tests.support.commands import environment_of
from gh_assets_tests.support.definitions_snapshot import SNAPSHOT, definitions_text
from gh_assets_tests.support.paths import CHECKOUT

DG = Path(sys.executable).parent / "dg"


def test_the_definitions_are_those_of_the_snapshot() -> None:
    """If the change is intended, write the snapshot again: python -m gh_assets_tests.support.definitions_snapshot."""
    assert definitions_text(build_definitions(load_settings())) == SNAPSHOT.read_text(encoding="utf-8")


@pytest.mark.parametrize("asset", ALL_ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_every_asset_is_described(asset: dg.AssetsDefinition | dg.AssetSpec) -> None:
    spec = asset if isinstance(asset, dg.AssetSpec) else next(iter(asset.specs))
    assert spec.description
    assert spec.group_name in ("collection", "recommender")
    assert spec.kinds
    assert spec.owners
    if not isinstance(asset, dg.AssetSpec):
        (code,) = spec.metadata["dagster/code_references"].code_references
        assert code.file_path.endswith(f"gh_assets/assets/{spec.key.to_user_string()}.py")
        decorator = "@collection_asset(" if spec.group_name == "collection" else "@recommender_asset("
        assert Path(code.file_path).read_text().splitlines()[code.line_number - 1].startswith(decorator)
    if spec.key.to_user_string() in TABLES:
        schema = spec.metadata["dagster/column_schema"]
        assert all(column.description for column in schema.columns)


@pytest.mark.skipif(not DG.exists(), reason="dg is not installed: pip install dagster-dg-cli")
@pytest.mark.parametrize("arguments", [["check", "defs"], ["list", "defs"]])
def test_dg_loads_the_checkout(arguments: list[str], tmp_path: Path) -> None:
    environment = environment_of(tmp_path)
    done = subprocess.run([DG, *arguments], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    if "list" in arguments:
        assert "recommendations" in done.stdout
