"""Real servers for the tests: embedded ones per test process, with a database and bucket for each test."""

import os

# Before the imports, which set the number of threads: one test process runs per core, more threads would only wait
# for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import datetime as dt
import gc
import itertools
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance
from google.cloud import storage
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr

from gh_assets.embedded.standin.app import Standin
from gh_assets.embedded.standin.world import World
from gh_assets.embedded.supervision import release_all
from gh_assets.github.client import GitHubClient
from gh_assets.instance.configuration import open_instance
from gh_assets.registry import ModelCard, ModelRegistry, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import Settings, load_settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore, make_client
from gh_assets_tests.support.bucket import tokenless_buckets
from gh_assets_tests.support.policies import QUICK
from gh_assets_tests.support.serving import serving as serving

pytest_plugins = ["gh_assets_tests.support.served_home_fixtures"]

# How long an example takes says more of the machine than of the code.
hypothesis_settings.register_profile("gh_assets", deadline=None)
hypothesis_settings.load_profile("gh_assets")

SETTINGS = [*(str(field.validation_alias) for field in Settings.model_fields.values()), "DAGSTER_HOME"]

TEST_MONGO, TEST_GCS = "GH_ASSETS_TEST_MONGO_URI", "GH_ASSETS_TEST_GCS_PROJECT"
"""Variables that select a MongoDB and Google Cloud Storage (with its credentials) in place of the embedded servers."""

TEST_HOME = "GH_ASSETS_TEST_HOME"
"""Variable with a home whose embedded servers are kept running, for many short runs of the tests."""


# Modules and tests stay until the end, so there is nothing to collect while they are loaded.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the garbage collector pass over modules and tests afterwards, too: with them it takes a second each time."""
    result = yield
    gc.freeze()
    gc.enable()
    return result


def pytest_report_header() -> str:
    """Report the services of the tests, without the connection string, which may contain a password."""
    mongo = f"that of {TEST_MONGO}" if os.environ.get(TEST_MONGO) else "embedded"
    gcs = f"Google's, project {os.environ[TEST_GCS]}" if os.environ.get(TEST_GCS) else "embedded"
    return f"services: MongoDB {mongo}, Cloud Storage {gcs}"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home whose embedded servers are shared by all tests of this process."""
    return Path(os.environ.get(TEST_HOME) or tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _environment(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's settings and .env file from the tests."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    if os.environ.get(TEST_MONGO):
        monkeypatch.setenv("MONGO_URI", os.environ[TEST_MONGO])
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def gcs_client(home: Path) -> Iterator[storage.Client]:
    if os.environ.get(TEST_GCS):
        client = make_client(os.environ[TEST_GCS])
        yield client
        client.close()
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GH_ASSETS_HOME", str(home))
        client = connect_gcs(load_settings())
    yield client
    client.close()


@pytest.fixture
def settings() -> Settings:
    return load_settings()


MakeDatabase = Callable[[], MongoDatabase]


@pytest.fixture
def make_database(settings: Settings) -> Iterator[MakeDatabase]:
    """Make empty MongoDB databases."""
    with ExitStack() as stack:

        def make() -> MongoDatabase:
            named = settings.model_copy(update={"mongo_database": f"test_{secrets.token_hex(6)}"})
            database = connect_mongo(named)
            stack.callback(database.client.close)
            stack.callback(database.client.drop_database, database.name)
            return database

        yield make


@pytest.fixture
def database(make_database: MakeDatabase) -> MongoDatabase:
    """An empty MongoDB database."""
    return make_database()


@pytest.fixture
def objects(gcs_client: storage.Client) -> Iterator[ObjectStore]:
    """An empty bucket."""
    store = ObjectStore(gcs_client, f"gh-assets-test-{secrets.token_hex(8)}", create=True)
    yield store
    if os.environ.get(TEST_GCS):  # the embedded server's buckets are deleted with the home
        for name in list(store.names("")):
            store.delete(name)
        store.bucket.delete()


@pytest.fixture
def asset_store(objects: ObjectStore) -> AssetStore:
    return AssetStore(objects, workers=4)


@pytest.fixture
def registry(objects: ObjectStore, database: MongoDatabase) -> ModelRegistry:
    """An empty model registry."""
    return ModelRegistry(objects, database["models"])


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    """An empty cache of models."""
    return ModelCache(tmp_path / "cache")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file to store."""
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights " * 10_000)
    return path


Save = Callable[..., RegisteredModel]
ServeWorld = Callable[..., tuple[Standin, str]]
GitHubOf = Callable[..., tuple[Standin, GitHubClient]]


@pytest.fixture
def save(registry: ModelRegistry, tmp_path: Path) -> Save:
    """Register a small model of new content under a name and score, with the given fields of its card."""
    numbers = itertools.count(1)

    def save(name: str = "recvae", score: float | None = 0.5, **card: Any) -> RegisteredModel:
        path = tmp_path / "model.bin"
        path.write_bytes(b"model %d" % next(numbers))
        return registry.save(path, ModelCard(name, score, **card))

    return save


@contextmanager
def clock_behind(monkeypatch: pytest.MonkeyPatch, behind: dt.timedelta = dt.timedelta(hours=1)) -> Iterator[None]:
    """Register models as on a machine whose clock is behind."""
    late = SimpleNamespace(now=lambda tz: dt.datetime.now(tz) - behind)
    module = SimpleNamespace(datetime=late, timedelta=dt.timedelta, UTC=dt.UTC)
    with monkeypatch.context() as patch:
        patch.setattr("gh_assets.registry.store.dt", module)
        yield


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[str]:
    """URL of a Cloud Storage that needs no token."""
    with tokenless_buckets(tmp_path / "emulator") as url:
        yield url


@pytest.fixture
def serve_world() -> Iterator[ServeWorld]:
    """Serve worlds by stand-ins, which accept the token ``token`` by default; return stand-in and URL."""
    with ExitStack() as stack:

        def start(
            world: World, *, tokens: Sequence[str] | Mapping[str, int] = ("token",), **options: Any
        ) -> tuple[Standin, str]:
            standin = Standin(world, tokens, **options)
            return standin, stack.enter_context(serving(standin.app()))

        yield start


@pytest.fixture
def github_of(serve_world: ServeWorld) -> Iterator[GitHubOf]:
    """Connect clients to worlds, which are served with the given options; return stand-in and client."""
    with ExitStack() as stack:

        def connect(world: World, *, max_requests: int | None = None, **options: Any) -> tuple[Standin, GitHubClient]:
            standin, url = serve_world(world, **options)
            client = GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=max_requests)
            return standin, stack.enter_context(client)

        yield connect


@pytest.fixture
def fresh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of a single test, whose servers are released at its end."""
    place = tmp_path_factory.mktemp("fresh")
    monkeypatch.setenv("GH_ASSETS_HOME", str(place))
    yield place
    release_all(place)


@pytest.fixture
def instance(fresh_home: Path) -> Iterator[DagsterInstance]:
    """Dagster's instance of a home of the test's own."""
    with open_instance(load_settings()) as instance:
        yield instance
