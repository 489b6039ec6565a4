"""Fixtures of served homes, which the root conftest loads: one that many tests share, and others of their own."""

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.limits import Limits
from gh_assets.embedded.standin.world import World
from gh_assets.settings import Settings, load_settings
from gh_assets_tests.conftest import serving
from gh_assets_tests.support.hostile_world import hostile_changes
from gh_assets_tests.support.served_home import Running, ServedHome, furnish, github_world, opened, with_github


@pytest.fixture(scope="session")
def settings_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    """Make settings of new homes."""

    def make() -> Settings:
        home: Path = tmp_path_factory.mktemp("served")
        return load_settings().model_copy(
            update={"home": home, "serve_rate": 0, "serve_refresh": dt.timedelta(seconds=0.1)}
        )

    return make


@pytest.fixture(scope="session")
def github() -> Iterator[str]:
    """URL of a GitHub stand-in with users who were not collected."""
    with serving(Standin(github_world(), ["token"], Limits()).app()) as url:
        yield url


@pytest.fixture(scope="session")
def served_home(
    settings_of: Callable[[], Settings], github: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedHome]:
    """The home that many tests share; they must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("nowhere"))
        yield furnish(with_github(settings_of(), github), tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def server(served_home: ServedHome) -> Iterator[Running]:
    """The server of the shared home; tests must not change it."""
    with opened(served_home.settings) as running:
        yield running


@pytest.fixture(scope="session")
def hostile_server(settings_of: Callable[[], Settings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of repositories with hostile texts in every field."""
    settings = settings_of().model_copy(update={"live_requests": 0})
    home = furnish(settings, tmp_path_factory.mktemp("hostile"), hostile_changes())
    with opened(home.settings) as running:
        yield running


@pytest.fixture
def own_served_home(settings_of: Callable[[], Settings], github: str, tmp_path: Path) -> ServedHome:
    """A home of the test's own, which it may change."""
    return furnish(with_github(settings_of(), github), tmp_path / "models")


@pytest.fixture
def world() -> World:
    return github_world()
