"""Tokens and passwords never appear in output, logs, stored data, exceptions or arguments of processes."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from bson.json_util import dumps

from gh_assets.embedded.standin.faults import Faults
from gh_assets.embedded.standin.world import World
from gh_assets.embedded.supervision import release_all
from gh_assets.errors import GhAssetsError, OutageError, ServiceUnavailableError
from gh_assets.github.retries import OUTAGE_AFTER
from gh_assets.services.connections import connect_mongo
from gh_assets.settings import load_settings
from gh_assets_tests.conftest import ServeWorld
from gh_assets_tests.support.commands import command
from gh_assets_tests.support.github import client_of
from gh_assets_tests.support.worlds import LIST, world_of

GOOD, REFUSED = "ghp_goodgoodgood0123456789GOOD", "ghp_refusedrefused9876543210NONE"
TOKENS = {GOOD, REFUSED}
PASSWORD = "verysecretpassword0123"


def tastes() -> World:
    """Return a world large enough for a model, with two pages of stars per repository."""
    stars = {f"a/{n}": [user for user in range(150) if (user + n) % 3 != 0] for n in range(12)}
    return world_of(stars, users=150)


@contextmanager
def recorded_command_lines() -> Iterator[set[str]]:
    """Record the command lines of all processes during a block."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    seen.add((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    over.set()
    thread.join()


def output(home: Path, *arguments: str, **environment: str) -> str:
    """Return the exit code and all output of a command, with logs at their most detailed level."""
    code = "import logging; logging.basicConfig(level=logging.DEBUG); from gh_assets.cli import main; main()"
    done = command(home, *arguments, program=("-c", code), **environment)
    return f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def stored(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, bytes]]:
    """Yield the content of each file in a home, and MongoDB's documents, which are compressed in their files."""
    for path in home.rglob("*"):
        if path.is_file() and path.name != "standin-token":
            yield str(path), path.read_bytes()
    monkeypatch.setenv("GH_ASSETS_HOME", str(home))
    database = connect_mongo(load_settings())
    for name in database.client.list_database_names():
        for collection in database.client[name].list_collection_names():
            documents = dumps(list(database.client[name][collection].find()))
            yield f"Mongo {name}.{collection}", documents.encode()
    database.client.close()


@pytest.mark.slow
def test_runs_with_all_kinds_of_failures_leave_no_token(
    serve_world: ServeWorld, fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("reset", "timeout", "500", "502", "504", "truncated", "wrong link", "slow", "403 retry-after")
    faults = Faults(dict.fromkeys(kinds, 0.02), seed=4, timeout_seconds=0.05, slow_seconds=0.01, retry_after=0)
    standin, url = serve_world(tastes(), tokens=[GOOD], faults=faults)
    both = f"{GOOD},{REFUSED}"
    outputs = []

    def run(exit_code: int | None, *arguments: str, tokens: str = both, **environment: str) -> None:
        own = {"GITHUB_API_URL": url, "GITHUB_TOKENS": tokens} if tokens else {}
        outputs.append(output(fresh_home, *arguments, **own | environment))
        assert exit_code is None or outputs[-1].startswith(f"{exit_code}\n"), outputs[-1][-3000:]

    with recorded_command_lines() as command_lines:
        run(0, "run", "--awesome", LIST, "--epochs", "1", "--source", "stargazers")
        standin.restricted = True
        run(0, "run", "--awesome", LIST, "--epochs", "1", "--full")
        run(None, "run", "--awesome", LIST, "--full", "--max-requests", "3")
        run(1, "run", "--awesome", LIST, "--full", tokens=REFUSED)
        file = fresh_home.parent / "tokens"
        file.write_text(both)
        run(None, "doctor", tokens="", GITHUB_API_URL=url, GITHUB_TOKENS_FILE=str(file))
        run(None, "status", "--json")
        run(1, "status", tokens="", MONGO_URI=f"mongodb://me:{PASSWORD}@127.0.0.1:1/?connectTimeoutMS=200")
    file.unlink()
    assert "…NONE" in "".join(outputs), "a refused token is identified by its last characters"
    for secret in (*TOKENS, PASSWORD):
        assert all(secret not in text for text in outputs)
        assert all(secret not in line for line in command_lines)
        for location, content in stored(fresh_home, monkeypatch):
            assert secret.encode() not in content, location
    assert any("gh_assets.embedded" in line for line in command_lines), "the servers were recorded"
    release_all(fresh_home)


@pytest.mark.parametrize("kind", ["500", "truncated", "reset", "timeout"])
def test_errors_and_logs_contain_no_token(serve_world: ServeWorld, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    faults = Faults({kind: 1.0}, timeout_seconds=0.01)
    _, url = serve_world(tastes(), tokens=[GOOD], faults=faults)
    with client_of(url, GOOD) as client:
        for send in (lambda: client.get("/user"), lambda: client.graphql("{ viewer { login } }", {})):
            with pytest.raises(GhAssetsError) as caught:
                send()
            error: BaseException | None = caught.value
            while error is not None:
                assert GOOD not in f"{error!r} {error}"
                error = error.__cause__ or error.__context__
    assert GOOD not in caplog.text


def test_outage_is_raised_after_several_failed_requests(serve_world: ServeWorld) -> None:
    _, url = serve_world(tastes(), tokens=[GOOD], faults=Faults({"500": 1.0}))
    with client_of(url, GOOD) as client:
        for _ in range(OUTAGE_AFTER - 1):
            with pytest.raises(ServiceUnavailableError):
                client.get("/user")
        with pytest.raises(OutageError, match=f"has not answered {OUTAGE_AFTER} requests in a row"):
            client.get("/user")
