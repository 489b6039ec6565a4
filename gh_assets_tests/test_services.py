"""Settings, and how each service is switched to the real thing alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from gh_assets.embedded import services as embedded
from gh_assets.errors import ConfigurationError, WorldMismatchError
from gh_assets.services import (
    awesome_lists,
    claim_world,
    connect_gcs,
    connect_github,
    connect_mongo,
    data_store,
    model_store,
)
from gh_assets.settings import DEFAULT_AWESOME_LISTS, load_settings
from gh_assets_tests.worlds import LIST, world_of


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
        assert len(client.pool.tokens) == 2
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
        ({"GITHUB_TOKENS": " , "}, "GITHUB_TOKENS holds no token"),
        ({"GITHUB_API_URL": "http://127.0.0.1:9"}, "GITHUB_API_URL is set, but no token"),
        ({"GH_ASSETS_MAX_PAGES": "0"}, "GH_ASSETS_MAX_PAGES is wrong"),
        ({"GH_ASSETS_SOURCE": "gossip"}, "GH_ASSETS_SOURCE is wrong"),
        ({"GH_ASSETS_WORKERS": "many"}, "GH_ASSETS_WORKERS is wrong"),
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
    from gh_assets.documents import SyncCounts, sync_documents

    things = database["things"]
    documents = [{"_id": number, "value": number} for number in range(2500)]
    assert sync_documents(things, documents) == SyncCounts(2500, 0, 0)
    assert sync_documents(things, documents) == SyncCounts(0, 0, 2500)
    documents[7]["value"] = 0
    assert sync_documents(things, [*documents, {"_id": "new"}]) == SyncCounts(1, 1, 2499)
    assert things.count_documents({}) == 2501
