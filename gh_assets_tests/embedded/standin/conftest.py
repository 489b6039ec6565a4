"""Stand-ins for the tests, and for slow ones GitHub's descriptions of its APIs, which this repository does not have."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from graphql import GraphQLSchema, build_schema

from gh_assets.embedded.standin.world import World
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.octokit import PACKAGES
from gh_assets_tests.support.standin import StandinClient, StandinOf
from gh_assets_tests.support.worlds import world_of


@pytest.fixture
def standin_of(serve_world: ServeWorld) -> StandinOf:
    """Serve a world, by default of one repository with one star."""

    def serve(world: World | None = None, **options: Any) -> StandinClient:
        return StandinClient(*serve_world(world or world_of({"a/b": [0]}), **options))

    return serve


@pytest.fixture(scope="session")
def octokit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packages; tests are skipped if npm cannot fetch them."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed: GitHub's descriptions of its APIs cannot be fetched")
    folder = tmp_path_factory.mktemp("octokit")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm could not fetch {', '.join(PACKAGES)}: {done.stderr.strip()[-200:]}")
    return folder / "node_modules" / "@octokit"


@pytest.fixture(scope="session")
def rest(octokit: Path) -> Any:
    return json.loads((octokit / "openapi" / "generated" / "api.github.com.json").read_text())


@pytest.fixture(scope="session")
def graph(octokit: Path) -> GraphQLSchema:
    return build_schema((octokit / "graphql-schema" / "schema.graphql").read_text(), assume_valid_sdl=True)
