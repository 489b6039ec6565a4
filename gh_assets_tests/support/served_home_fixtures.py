"""A furnished home that the tests of the web server share, and a server on it: loaded by the root conftest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.settings import Settings, load_settings
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.served_home import Running, ServedHome, furnish, github_world, opened, with_github


@pytest.fixture(scope="session")
def settings_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    """Settings of a new home."""

    def make() -> Settings:
        home: Path = tmp_path_factory.mktemp("served")
        return load_settings().model_copy(
            update={"home": home, "serve_rate": 0, "serve_refresh": dt.timedelta(seconds=0.1)}
        )

    return make


@pytest.fixture(scope="session")
def github() -> Iterator[str]:
    """A GitHub with people who were not collected."""
    with serving(Standin(github_world(), ["token"], Limits()).app()) as url:
        yield url


@pytest.fixture(scope="session")
def served_home(
    settings_of: Callable[[], Settings], github: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedHome]:
    """Not to be changed: one for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nowhere"))
        yield furnish(with_github(settings_of(), github), tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(served_home: ServedHome) -> Iterator[Running]:
    """Not to be changed: one for all."""
    with opened(served_home.settings) as running:
        yield running


@pytest.fixture
def own_served_home(settings_of: Callable[[], Settings], github: str, tmp_path: Path) -> ServedHome:
    """One that a test may change."""
    return furnish(with_github(settings_of(), github), tmp_path / "models")


@pytest.fixture
def world() -> World:
    return github_world()
