"""Settings, and how each service is switched to the real thing alone."""

from __future__ import annotations

import secrets
from pathlib import Path

import pymongo
import pytest
from pydantic import SecretStr
from pymongo.errors import AutoReconnect, OperationFailure, WriteConcernError

from gh_assets.cli.service_checks import check_mongo
from gh_assets.embedded import servers as embedded
from gh_assets.errors import ConfigurationError, WorldMismatchError
from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.services.connections import (
    awesome_lists,
    connect_gcs,
    connect_github,
    connect_mongo,
    data_store,
    model_store,
)
from gh_assets.services.world import claim_world
from gh_assets.settings import DEFAULT_AWESOME_LISTS, load_settings
from gh_assets.storage.mongo import mongo_reason
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.worlds import LIST, world_of


def running(home: Path) -> set[str]:
    """Which embedded servers this home has ever started."""
    return {path.stem.split("-")[0] for path in (home / "run").glob("*.spec")}


def test_mongo_alone(home: Path, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGO_URI", embedded.mongo_uri(home))
    monkeypatch.setenv("MONGO_DATABASE", "elsewhere")
    database = connect_mongo(load_settings())
    database["things"].insert_one({"_id": 1})
    assert database.name == "elsewhere"
    database.client.drop_database("elsewhere")
    database.client.close()
    assert running(fresh_home) == set()


def test_gcs_alone(emulator: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Google's own variable for emulators stands for Google here: the client is made without an endpoint of ours."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("GCS_BUCKET", "my-data")
    monkeypatch.setenv("GCS_MODEL_BUCKET", "my-models")
    monkeypatch.setenv("GCS_PROJECT", "my-project")
    settings = load_settings()
    client = connect_gcs(settings)
    for name in ("my-data", "my-models"):
        client.bucket(name).create()
    data_store(settings, client).write("a", b"b")
    model_store(settings, client).write("c", b"d")
    assert [blob.name for blob in client.list_blobs("my-data")] == ["a"]
    assert [blob.name for blob in client.list_blobs("my-models")] == ["c"]
    assert client.project == "my-project"
    assert running(fresh_home) == set()


def test_a_bucket_of_the_users_is_never_created(
    emulator: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    monkeypatch.setenv("GCS_BUCKET", "misspelt-bucket")
    settings = load_settings()
    with pytest.raises(ConfigurationError, match="misspelt-bucket/a does not exist: create it"):
        data_store(settings).write("a", b"b")


def test_github_alone(fresh_home: Path, serve_world, monkeypatch: pytest.MonkeyPatch) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("first", "second"))
    monkeypatch.setenv("GITHUB_TOKENS", "first, second\nfirst")
    monkeypatch.setenv("GITHUB_API_URL", url + "/")
    with connect_github(load_settings()) as client:
        assert len(client.pool.directory.tokens) == 2
        assert client.get(f"/repos/{LIST}").status == 200
        assert awesome_lists(load_settings(), client) == list(DEFAULT_AWESOME_LISTS)
    assert standin.served["repository"] == 1
    assert running(fresh_home) == set()


def test_nothing_configured_is_the_standin_with_its_own_lists(fresh_home: Path) -> None:
    with connect_github(load_settings()) as client:
        assert awesome_lists(load_settings(), client) == [f"synthetic-lists/awesome-{n}" for n in (1, 2, 3)]


def test_lists_of_the_settings_win(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GH_ASSETS_AWESOME", "a/b c/d,./e.md")
    with connect_github(load_settings()) as client:
        assert awesome_lists(load_settings(), client) == ["a/b", "c/d", "./e.md"]


def test_tokens_from_a_file_with_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    file.write_text("# mine\none\n\ntwo # the app's\n")
    monkeypatch.setenv("GITHUB_TOKENS_FILE", str(file))
    assert load_settings().github_tokens() == [SecretStr("one"), SecretStr("two")]


@pytest.mark.parametrize(
    ("environment", "words"),
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
def test_a_wrong_setting_is_named(environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=words):
        connect_github(load_settings())


def test_settings_never_print_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKENS", "ghp_secret")
    monkeypatch.setenv("MONGO_URI", "mongodb://user:hunter2@host/")
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "ghp_secret" not in text
        assert "hunter2" not in text


def test_a_dotenv_file_counts_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MONGO_DATABASE=from_file\nGH_ASSETS_WORKERS=3\n")
    assert load_settings().mongo_database == "from_file"
    monkeypatch.setenv("MONGO_DATABASE", "from_environment")
    assert (load_settings().mongo_database, load_settings().workers) == ("from_environment", 3)


def test_data_of_two_worlds_are_never_mixed(database, settings, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_world(settings, database)
    claim_world(settings, database)
    monkeypatch.setenv("GITHUB_TOKENS", "a-token")
    with pytest.raises(
        WorldMismatchError,
        match=r"synthetic world .*; the data of GitHub .* need a home of their own. Set GH_ASSETS_HOME",
    ):
        claim_world(load_settings(), database)


def test_documents_are_written_only_when_they_change(database) -> None:
    from gh_assets.storage.documents import SyncCounts, sync_documents

    things = database["things"]
    documents = [{"_id": number, "value": number} for number in range(2500)]
    assert sync_documents(things, documents) == SyncCounts(2500, 0, 0)
    assert sync_documents(things, documents) == SyncCounts(0, 0, 2500)
    documents[7]["value"] = 0
    assert sync_documents(things, [*documents, {"_id": "new"}]) == SyncCounts(1, 1, 2499)
    assert things.count_documents({}) == 2501


@pytest.mark.parametrize(
    ("option", "name", "expected"),
    [
        ("retryWrites=false", "retry_writes", False),
        ("retryReads=false", "retry_reads", False),
        ("W=1", "write_concern", pymongo.WriteConcern(w=1)),
        ("serverselectiontimeoutms=1234", "server_selection_timeout", 1.234),
        ("appName=theirs", "pool_options.appname", "theirs"),
    ],
)
def test_what_the_connection_string_says_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str, expected: object
) -> None:
    monkeypatch.setenv("MONGO_URI", f"{embedded.mongo_uri(home)}&{option}")
    database = connect_mongo(load_settings())
    try:
        found: object = database.client.options
        for part in name.split("."):
            found = getattr(found, part)
        assert found == expected
    finally:
        database.client.close()


def test_a_write_concern_of_the_connection_string_holds_for_the_registry(
    home: Path, objects: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = {"w": "majority", "wtimeout": 30_000}, {"w": 1, "wtimeout": 777}
    for option, expected in (("", ours), ("&w=1&wtimeoutMS=777", theirs)):
        monkeypatch.setenv("MONGO_URI", embedded.mongo_uri(home) + option)
        database = connect_mongo(load_settings())
        assert ModelRegistry(objects, database["models"]).documents.write_concern.document == expected
        database.client.close()


def test_a_refusal_of_mongo_shows_code_and_reason_and_nothing_of_a_document() -> None:
    unauthorized = OperationFailure("x", 13, {"codeName": "Unauthorized", "errmsg": "not authorized to insert"})
    assert mongo_reason(unauthorized) == "Unauthorized (code 13): not authorized to insert"
    duplicate = OperationFailure("x", 11000, {"codeName": "DuplicateKey", "errmsg": 'dup key: { login: "somebody" }'})
    assert mongo_reason(duplicate) == "DuplicateKey (code 11000)"
    assert mongo_reason(AutoReconnect("mongodb://user:secret@host")) == "AutoReconnect"


def test_a_save_that_is_visible_but_not_confirmed_is_no_failure(
    registry: ModelRegistry, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a replica set whose secondary is away: the write is there, and the write concern is not met."""
    real = registry.documents.insert_one

    class Unconfirmed:
        def __getattr__(self, name: str) -> object:
            return getattr(documents, name)

        def insert_one(self, document: dict[str, object]) -> None:
            real(document)
            details = {"writeConcernError": {"code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting"}}
            raise WriteConcernError("waiting", 64, details)

    documents = registry.documents
    monkeypatch.setattr(registry, "documents", Unconfirmed())
    saved = registry.save(file, ModelCard("recvae", 0.5))
    assert saved.version == 1
    assert registry.verify(saved) is None
    assert "recvae 1 is saved, but not confirmed by as many servers" in caplog.text


def test_doctor_says_where_a_validator_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_collection_is_created_with_its_validator(registry: ModelRegistry, file: Path) -> None:
    registry.save(file, ModelCard("recvae", 0.5))
    assert "validator" in registry.documents.options()
