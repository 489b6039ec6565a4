"""Tests of the settings."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from gh_assets.settings import load_settings


def test_comments_in_a_file_of_tokens_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tokens"
    file.write_text("# mine\none\n\ntwo # the app's\n")
    monkeypatch.setenv("GITHUB_TOKENS_FILE", str(file))
    assert load_settings().github_tokens() == [SecretStr("one"), SecretStr("two")]


def test_settings_do_not_print_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKENS", "ghp_secret")
    monkeypatch.setenv("MONGO_URI", "mongodb://user:hunter2@host/")
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "ghp_secret" not in text
        assert "hunter2" not in text


def test_environment_takes_precedence_over_a_dotenv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("MONGO_DATABASE=from_file\nGH_ASSETS_WORKERS=3\n")
    assert load_settings().mongo_database == "from_file"
    monkeypatch.setenv("MONGO_DATABASE", "from_environment")
    assert (load_settings().mongo_database, load_settings().workers) == ("from_environment", 3)
