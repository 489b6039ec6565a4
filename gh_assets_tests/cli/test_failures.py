"""What a person sees when something is wrong with the machine: one sentence, exit code 1, and a log for details."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gh_assets.cli.documents
from gh_assets.cli import main
from gh_assets.cli.failures import cause_of
from gh_assets.cli.output import print_json, stdout
from gh_assets.instance.storage import open_instance, other_instance_warning
from gh_assets.recommender.training.checkpoints import Checkpoint, Checkpoints
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.commands import fails, let_go, write_stars
from gh_assets_tests.support.dagster_dev import ROOT
from gh_assets_tests.support.worlds import LIST, world_of

STOPPED = "Stopped. What was collected is kept; run again to go on."

SECRET = "ghp_verysecret0123456789wxyz"


def started(home: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start the command as a shell does: as the leader of a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment |= {"GH_ASSETS_HOME": str(home)} | dict(options.pop("environment", {}))  # type: ignore[call-overload]
    return subprocess.Popen(
        [sys.executable, "-m", "gh_assets", *arguments],
        env=environment,
        cwd=home.parent,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},  # type: ignore[call-overload]
    )


@pytest.fixture
def history(fresh_home: Path) -> Path:
    """Dagster's history of a home, with a repository in it."""
    with open_instance() as instance:
        instance.add_dynamic_partitions("repo", ["a/b"])
    return fresh_home / "dagster"


# -- the home --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [["status"], ["run"], ["recommend", "octocat"], ["models", "list"], ["data", "backup", "x"]]
)
@pytest.mark.parametrize("below", ["", "inner/home"])
def test_a_home_that_is_a_file(
    arguments: list[str],
    below: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path / "file" / below))
    monkeypatch.chdir(tmp_path)
    code, said = fails(arguments, capsys)
    assert code == 1
    assert "GH_ASSETS_HOME" in said
    assert "folder that you can write to" in said
    assert (tmp_path / "file").read_text() == "mine"


def test_a_home_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    code, said = fails(["status"], capsys)
    assert code == 1
    assert "cannot be written to" in said


@pytest.mark.parametrize(
    "name", ["a?b", "a%b", "a%41b", "a#b", "a b", "a;b&c=d", "ü-日本", "a[1]*", "a'b\"c", "a\\b", "a:b@c", "-a", "a\nb"]
)
def test_everything_lies_in_the_home_whatever_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GH_ASSETS_HOME", str(tmp_path / name))
    with open_instance() as instance:
        instance.add_dynamic_partitions("repo", ["a/b"])
    with open_instance() as instance:
        assert list(instance.get_dynamic_partitions("repo")) == ["a/b"]
        assert instance.get_runs_count() == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {path.name for path in (tmp_path / name / "dagster").rglob("*.db")} == {
        "runs.db",
        "index.db",
        "schedules.db",
    }


# -- Dagster's instance ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dagster_home", "words"),
    [
        ("relative", "not an absolute path"),
        ("{folder}/missing", "no such folder"),
        ("{folder}/file", "no such folder"),
        ("{folder}/unreadable", "dagster.yaml"),
        ("{folder}/wrong", "dagster.yaml"),
    ],
)
def test_a_dagster_home_that_is_none(
    dagster_home: str,
    words: str,
    fresh_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    for name, text in (("unreadable", "storage: [1,\n"), ("wrong", "storage: 1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dagster.yaml").write_text(text)
    monkeypatch.setenv("DAGSTER_HOME", dagster_home.format(folder=tmp_path))
    code, said = fails(["status"], capsys)
    assert code == 1
    assert "DAGSTER_HOME" in said
    assert words in said


@pytest.mark.parametrize("database", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"])
def test_a_damaged_history_is_named_with_its_remedy(
    database: str, history: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suffix in ("-wal", "-shm"):
        (history / f"{database}{suffix}").unlink(missing_ok=True)
    (history / database).write_bytes(b"garbage" * 1000)
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    findings = {row["service"]: row for row in json.loads(capsys.readouterr().out)}
    assert not findings["Dagster"]["ok"]
    assert f"move the folder {history} away" in findings["Dagster"]["words"]
    code, said = fails(["status"], capsys)
    assert code == 1
    assert f"move the folder {history} away" in said
    log = Path(said.strip().rpartition("Details: ")[2])
    assert log == history.parent / "errors.log"
    assert log.stat().st_mode & 0o077 == 0
    assert "DatabaseError" in log.read_text()

    history.rename(history.parent / "away")
    main(["status", "--json"])
    assert json.loads(capsys.readouterr().out)["partitions"] == 0


def test_damage_within_a_history_is_found_by_the_doctor(history: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = history / "history" / "runs.db"
    content = bytearray(path.read_bytes())
    content[8192:20480] = b"\xff" * 12288
    path.write_bytes(content)
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    findings = {row["service"]: row for row in json.loads(capsys.readouterr().out)}
    assert "Dagster's history is damaged" in findings["Dagster"]["words"]


@pytest.mark.parametrize(
    ("dev", "elsewhere", "warned"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_definitions_of_another_instance_say_so(
    dev: bool, elsewhere: bool, warned: bool, fresh_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path if elsewhere else ROOT)
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1" if dev else "")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    warning = other_instance_warning()
    assert (warning is not None) == warned
    if warning is not None:
        assert str(tmp_path) in warning
        assert str(fresh_home) in warning
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))  # the command uses it, too
        assert other_instance_warning() is None


# -- terminals and disks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_shows_what_it_can(encoding: str, fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    main(["doctor", "--settings"])
    stdout().print("★ 3 × 4 – 日本")
    sys.stdout.flush()
    shown = written.getvalue().decode(encoding)
    assert "GH_ASSETS_HOME" in shown
    assert {"ascii": "* 3 x 4 - ??", "latin-1": "* 3 × 4 - ??", "utf-8": "★ 3 × 4 – 日本"}[encoding] in shown


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_the_same_document_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"why": "é ★ 日本"}
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    print_json(document)
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == document


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = started(tmp_path / "home", "doctor", "--settings", stdout=full)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert said.startswith("Error: The disk is full")
    assert said.count("\n") == 1


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    home = tmp_path / "home"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    process = started(home, "status", preexec_fn=limit)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1
    assert "Traceback" not in said
    assert said.startswith("Error: ")
    again = started(home, "status", "--json")
    shown, said = again.communicate(timeout=120)
    let_go(home)
    assert again.returncode == 0, said
    assert json.loads(shown)["stars"] == 0


def test_a_checkpoint_that_does_not_fit_is_an_error_of_the_system(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "x")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            checkpoints.save(Checkpoint({"weights": torch.zeros(100_000)}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value.filename).startswith(str(tmp_path))
    assert checkpoints.load() is None


# -- what nobody thought of ------------------------------------------------------------------------------------------


def test_an_unexpected_error_is_a_sentence_and_a_log_without_data(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(settings: object) -> None:
        raise KeyError("ghp_secret of octocat")

    monkeypatch.setattr(gh_assets.cli.documents, "read_status", broken)
    code, said = fails(["status"], capsys)
    assert code == 1
    assert f"An unexpected KeyError at {Path(__file__).name}" in said
    log = fresh_home / "errors.log"
    assert said.strip().endswith(f"Details: {log}")
    assert "builtins.KeyError" in log.read_text()
    assert "in broken" in log.read_text()
    assert "octocat" not in said + log.read_text().replace('raise KeyError("ghp_secret of octocat")', "")


def test_the_cause_is_found_where_errors_go_in_a_circle() -> None:
    first, second = RuntimeError("first"), OSError("second")
    first.__context__, second.__context__ = second, first
    assert cause_of(first) is second


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_middle_of_a_run_is_one_sentence(tmp_path: Path) -> None:
    write_stars(tmp_path / "stars.parquet")
    home = tmp_path / "home"
    process = started(home, "run", "--stars", "stars.parquet", "--epochs", "2")
    assert process.stderr is not None
    said = ""
    while "users: 1" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    let_go(home)
    assert process.returncode == 1
    assert rest.strip().endswith(STOPPED)
    assert "Traceback" not in rest


def test_ctrl_c_while_modules_are_loaded_is_one_sentence(tmp_path: Path) -> None:
    """The modules take most of a second, and Python's own answer is a stack trace."""
    (tmp_path / "interrupted.py").write_text(
        "import builtins\nload = builtins.__import__\n"
        "def interrupted(name, *rest):\n"
        "    if name == 'rich.console': raise KeyboardInterrupt\n"
        "    return load(name, *rest)\n"
        "builtins.__import__ = interrupted\n"
        "from gh_assets.__main__ import main\nmain()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "interrupted.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr.strip()) == (1, STOPPED)


def test_an_unreachable_mongo_is_one_line_without_its_password(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.3)
    monkeypatch.setenv("MONGO_URI", "mongodb://someone:hunter2secret@127.0.0.1:9/")
    for arguments in (["run"], ["status"], ["recommend", "x"]):
        code, said = fails(arguments, capsys)
        assert code == 1
        assert "the MongoDB of MONGO_URI at 127.0.0.1:9 does not answer" in said
        assert "hunter2secret" not in said
    monkeypatch.setenv("MONGO_URI", "postgres://someone:hunter2secret@127.0.0.1/")
    code, said = fails(["status"], capsys)
    assert "MONGO_URI is not a valid connection string" in said
    assert "hunter2secret" not in said


def test_a_wrong_token_is_one_line_that_names_its_end_only(
    fresh_home: Path, serve_world, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, url = serve_world(world_of({"a/b": [0]}))
    monkeypatch.setenv("GITHUB_TOKENS", SECRET)
    monkeypatch.setenv("GITHUB_API_URL", url)
    code, said = fails(["run", "--awesome", LIST], capsys)
    assert code == 1
    assert "GitHub refused the token ending in …wxyz (401 Bad credentials)" in said
    assert SECRET not in said
    let_go(fresh_home)
    kept = [path for path in fresh_home.rglob("*") if path.is_file()]
    assert len(kept) > 5
    for path in kept:  # Dagster's events, Mongo's files, logs
        assert SECRET.encode() not in path.read_bytes(), f"the token was written to {path}"
