"""Tests of connections: each service is switched from the embedded one to a real one by its own settings."""

from operator import attrgetter
from pathlib import Path

import pymongo
import pytest

from gh_assets.embedded import servers as embedded
from gh_assets.errors import ConfigurationError
from gh_assets.registry import ModelRegistry
from gh_assets.services import connections
from gh_assets.settings import DEFAULT_AWESOME_LISTS, load_settings
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.worlds import LIST, world_of


def started_servers(home: Path) -> set[str]:
    """Return the kinds of the embedded servers that a home has ever started."""
    return {path.stem.split("-")[0] for path in (home / "run").glob("*.spec")}


def test_mongo_uri_alone_starts_no_server(home: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URI", embedded.mongo_uri(home))
    monkeypatch.setenv("MONGO_DATABASE", "elsewhere")
    with connections.open_mongo(load_settings()) as database:
        database["things"].insert_one({"_id": 1})
        assert database.name == "elsewhere"
        database.client.drop_database("elsewhere")
    assert started_servers(fresh_home) == set()


def test_gcs_bucket_alone_starts_no_server(emulator: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's variable for emulators replaces Google's address, so the client has no endpoint of the project's."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("GCS_BUCKET", "my-data")
    monkeypatch.setenv("GCS_MODEL_BUCKET", "my-models")
    monkeypatch.setenv("GCS_PROJECT", "my-project")
    settings = load_settings()
    client = connections.connect_gcs(settings)
    for name in ("my-data", "my-models"):
        client.bucket(name).create()
    connections.data_store(settings, client).write("a", b"b")
    connections.model_store(settings, client).write("c", b"d")
    assert [blob.name for blob in client.list_blobs("my-data")] == ["a"]
    assert [blob.name for blob in client.list_blobs("my-models")] == ["c"]
    assert client.project == "my-project"
    assert started_servers(fresh_home) == set()


def test_configured_bucket_is_never_created(emulator: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("GCS_BUCKET", "misspelt-bucket")
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="misspelt-bucket/a does not exist: create it"):
        connections.data_store(settings).write("a", b"b")


def test_github_tokens_alone_start_no_server(
    fresh_home: Path, serve_world: ServeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("first", "second"))
    monkeypatch.setenv("GITHUB_TOKENS", "first, second\nfirst")
    monkeypatch.setenv("GITHUB_API_URL", url + "/")
    with connections.connect_github(load_settings()) as client:
        assert len(client.pool.directory.tokens) == 2
        assert client.get(f"/repos/{LIST}").status == 200
        assert connections.awesome_lists(load_settings(), client) == list(DEFAULT_AWESOME_LISTS)
    assert standin.served["repository"] == 1
    assert started_servers(fresh_home) == set()


def test_lists_are_those_of_the_settings_or_of_the_standin(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connections.connect_github(load_settings()) as client:
        assert connections.awesome_lists(load_settings(), client) == [f"synthetic-lists/awesome-{n}" for n in (1, 2, 3)]
        monkeypatch.setenv("GH_ASSETS_AWESOME", "a/b c/d,./e.md")
        assert connections.awesome_lists(load_settings(), client) == ["a/b", "c/d", "./e.md"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"GITHUB_TOKENS": "a", "GITHUB_TOKENS_FILE": "b"}, "both set"),
        ({"GITHUB_TOKENS_FILE": "/no/such/file"}, "GITHUB_TOKENS_FILE .* cannot be read"),
        ({"GITHUB_TOKENS": " , "}, "GITHUB_TOKENS contains no token"),
        ({"GITHUB_API_URL": "http://127.0.0.1:9"}, "GITHUB_API_URL is set, but no token"),
        ({"GH_ASSETS_MAX_PAGES": "0"}, "GH_ASSETS_MAX_PAGES is invalid"),
        ({"GH_ASSETS_SOURCE": "gossip"}, "GH_ASSETS_SOURCE is invalid"),
        ({"GH_ASSETS_WORKERS": "many"}, "GH_ASSETS_WORKERS is invalid"),
    ],
)
def test_invalid_setting_is_named(environment: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=reason):
        connections.connect_github(load_settings())


@pytest.mark.parametrize(
    ("option", "name", "expected"),
    [
        ("retryWrites=false", "retry_writes", False),
        ("retryReads=false", "retry_reads", False),
        ("W=1", "write_concern", pymongo.WriteConcern(w=1)),
        ("serverselectiontimeoutms=1234", "server_selection_timeout", 1.234),
        ("appName=other", "pool_options.appname", "other"),
    ],
)
def test_options_of_the_connection_string_take_precedence(
    home: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str, expected: object
) -> None:
    monkeypatch.setenv("MONGO_URI", f"{embedded.mongo_uri(home)}&{option}")
    with connections.open_mongo(load_settings()) as database:
        assert attrgetter(name)(database.client.options) == expected


def test_write_concern_of_the_connection_string_applies_to_the_registry(
    home: Path, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, given = {"w": "majority", "wtimeout": 30_000}, {"w": 1, "wtimeout": 777}
    for option, expected in (("", default), ("&w=1&wtimeoutMS=777", given)):
        monkeypatch.setenv("MONGO_URI", embedded.mongo_uri(home) + option)
        with connections.open_mongo(load_settings()) as database:
            assert ModelRegistry(objects, database["models"]).documents.write_concern.document == expected
