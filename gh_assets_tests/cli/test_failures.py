"""Tests of what the command prints when something is wrong: one sentence, exit code 1, and a log for details."""

import resource
from pathlib import Path

import pytest
import torch

import gh_assets.cli.documents
from gh_assets.cli.failures import cause_of
from gh_assets.embedded.supervision import release_all
from gh_assets.instance.configuration import open_instance, other_instance_warning
from gh_assets.recommender.engine.checkpoints import Checkpoints
from gh_assets.settings import load_settings
from gh_assets_tests.cli.conftest import Failure
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.commands import answer_json
from gh_assets_tests.support.dagster_dev import ROOT
from gh_assets_tests.support.worlds import LIST, world_of

SECRET = "ghp_verysecret0123456789wxyz"


@pytest.fixture
def history(fresh_home: Path) -> Path:
    """Dagster's history of a home, with one repository in it."""
    with open_instance(load_settings()) as instance:
        instance.add_dynamic_partitions("repo", ["a/b"])
    return fresh_home / "dagster"


@pytest.mark.parametrize(
    "name", ["a?b", "a%b", "a%41b", "a#b", "a b", "a;b&c=d", "ü-日本", "a[1]*", "a'b\"c", "a\\b", "a:b@c", "-a", "a\nb"]
)
def test_all_files_are_in_a_home_whose_name_has_special_characters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path / name))
    with open_instance(load_settings()) as instance:
        instance.add_dynamic_partitions("repo", ["a/b"])
    with open_instance(load_settings()) as instance:
        assert list(instance.get_dynamic_partitions("repo")) == ["a/b"]
        assert instance.get_runs_count() == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    databases = {path.name for path in (tmp_path / name / "dagster").rglob("*.db")}
    assert databases == {"runs.db", "index.db", "schedules.db"}


@pytest.mark.parametrize(
    ("dagster_home", "message"),
    [
        ("relative", "not an absolute path"),
        ("{folder}/missing", "no such folder"),
        ("{folder}/file", "no such folder"),
        ("{folder}/unreadable", "dagster.yaml"),
        ("{folder}/wrong", "dagster.yaml"),
    ],
)
def test_invalid_dagster_home_is_explained(
    dagster_home: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    (tmp_path / "file").touch()
    for name, text in (("unreadable", "storage: [1,\n"), ("wrong", "storage: 1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", dagster_home.format(folder=tmp_path))
    output = failure("status")
    assert "DAGSTER_HOME" in output
    assert message in output


@pytest.mark.parametrize("database", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_damaged_history_is_explained_with_its_remedy(database: str, history: Path, failure: Failure) -> None:
    for suffix in ("-wal", "-shm"):
        (history / f"{database}{suffix}").unlink(missing_ok=True)
    (history / database).write_bytes(b"garbage" * 1000)
    (finding,) = [row for row in answer_json("doctor", code=1) if not row["ok"]]
    assert finding["service"] == "Dagster"
    assert f"move the folder {history} away" in finding["words"]
    output = failure("status")
    assert f"move the folder {history} away" in output
    log = Path(output.rpartition("Details: ")[2])
    assert log == history.parent / "errors.log"
    assert log.stat().st_mode & 0o077 == 0
    assert "DatabaseError" in log.read_text()

    history.rename(history.parent / "away")
    assert answer_json("status")["partitions"] == 0


def test_doctor_finds_damage_inside_the_history(history: Path) -> None:
    path = history / "history" / "runs.db"
    content = bytearray(path.read_bytes())
    content[8192:20480] = b"\xff" * 12288
    path.write_bytes(content)
    findings = {row["service"]: row["words"] for row in answer_json("doctor", code=1)}
    assert "Dagster's history is damaged" in findings["Dagster"]


@pytest.mark.parametrize(
    ("dev", "elsewhere", "warned"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_definitions_warn_about_another_instance(
    dev: bool, elsewhere: bool, warned: bool, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path if elsewhere else ROOT)
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1" if dev else "")
    warning = other_instance_warning(load_settings())
    assert (warning is not None) == warned
    if warning is not None:
        assert str(tmp_path) in warning
        assert str(fresh_home) in warning
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))  # the command uses it, too
        assert other_instance_warning(load_settings()) is None


def test_a_checkpoint_that_does_not_fit_is_an_error_of_the_system(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            checkpoints.save({"weights": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value.filename).startswith(str(tmp_path))
    assert checkpoints.load() is None


def test_an_unexpected_error_is_a_sentence_and_a_log_without_data(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    def broken(settings: object) -> None:
        raise KeyError("ghp_secret of octocat")

    monkeypatch.setattr(gh_assets.cli.documents, "read_status", broken)
    output = failure("status")
    assert f"An unexpected KeyError at {Path(__file__).name}" in output
    log = fresh_home / "errors.log"
    assert output.endswith(f"Details: {log}")
    assert "builtins.KeyError" in log.read_text()
    assert "in broken" in log.read_text()
    assert "octocat" not in output + log.read_text().replace('raise KeyError("ghp_secret of octocat")', "")


def test_cause_is_found_in_a_cycle_of_errors() -> None:
    first, second = RuntimeError("first"), OSError("second")
    first.__context__, second.__context__ = second, first
    assert cause_of(first) is second


def test_an_unreachable_mongo_is_one_line_without_its_password(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.3)
    monkeypatch.setenv("MONGO_URI", "mongodb://someone:hunter2secret@127.0.0.1:9/")
    for arguments in (["run"], ["status"], ["recommend", "x"]):
        output = failure(*arguments)
        assert "the MongoDB of MONGO_URI at 127.0.0.1:9 does not answer" in output
        assert "hunter2secret" not in output
    monkeypatch.setenv("MONGO_URI", "postgres://someone:hunter2secret@127.0.0.1/")
    output = failure("status")
    assert "MONGO_URI is not a valid connection string" in output
    assert "hunter2secret" not in output


def test_a_wrong_token_is_one_line_that_names_its_end_only(
    fresh_home: Path, serve_world: ServeWorld, monkeypatch: pytest.MonkeyPatch, failure: Failure
) -> None:
    _, url = serve_world(world_of({"a/b": [0]}))
    monkeypatch.setenv("GITHUB_TOKENS", SECRET)
    monkeypatch.setenv("GITHUB_API_URL", url)
    output = failure("run", "--awesome", LIST)
    assert "GitHub refused the token ending in …wxyz (401 Bad credentials)" in output
    assert SECRET not in output
    release_all(fresh_home)
    kept = [path for path in fresh_home.rglob("*") if path.is_file()]
    assert len(kept) > 5
    for path in kept:  # Dagster's events, Mongo's files, logs
        assert SECRET.encode() not in path.read_bytes(), f"the token was written to {path}"
