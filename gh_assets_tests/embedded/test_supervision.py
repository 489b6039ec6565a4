"""Tests of the supervision of embedded servers: started on demand, shared, stopped when unused, restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymongo
import pytest
from pydantic import SecretStr

from gh_assets.embedded import servers as services
from gh_assets.embedded.guardian import accepts
from gh_assets.embedded.supervision import ServerSpec, ensure_running, read_state, release, release_all
from gh_assets.errors import ConfigurationError, ServiceUnavailableError
from gh_assets.local.locks import is_locked
from gh_assets.storage.objects import ObjectStore, make_client
from gh_assets_tests.support.waiting import until

ECHO = (
    "import http.server, sys, os;"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"
)


def spec(key: str = "echo", idle_seconds: float = 0.3) -> ServerSpec:
    return ServerSpec(key, "echo server", (sys.executable, "-c", ECHO, "{port}"), idle_seconds)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # a zombie child would accept signal 0
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A home, whose servers are released at the end."""
    yield tmp_path
    release_all(tmp_path)


def test_server_is_started_once_and_shared_by_threads(place: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        ports = set(executor.map(lambda _: ensure_running(spec(), place), range(16)))
    assert len(ports) == 1
    port = ports.pop()
    until(lambda: accepts(port))  # its only thread may still serve the sixteen connections


def test_processes_share_one_server(place: Path) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from gh_assets.embedded.supervision import ServerSpec, ensure_running;"
        "print(ensure_running(ServerSpec('echo', 'echo server', (sys.executable, '-c', sys.argv[2], '{port}'), 5.0),"
        " Path(sys.argv[1])))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(place), ECHO], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    ports = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(ports) == 1


def test_unused_server_is_stopped_and_started_again(place: Path) -> None:
    port = ensure_running(spec(), place)
    state = read_state(place / "run" / "echo")
    release("echo", place)
    until(lambda: not is_locked(place / "run" / "echo.guard"))
    assert not accepts(port)
    assert not is_alive(state["server_pid"])
    assert accepts(ensure_running(spec(), place))


def test_used_server_is_not_stopped(place: Path) -> None:
    port = ensure_running(spec(idle_seconds=0.0), place)
    guardian = read_state(place / "run" / "echo")["guardian_pid"]
    # Without idle time, the next poll of the guardian would stop an unused server.
    with pytest.raises(AssertionError):
        until(lambda: not is_locked(place / "run" / "echo.guard"), seconds=1.0)
    assert is_alive(guardian)
    assert accepts(port)


def test_killed_server_is_restarted_on_its_port(place: Path) -> None:
    port = ensure_running(spec(), place)
    before = read_state(place / "run" / "echo")["server_pid"]
    os.kill(before, signal.SIGKILL)
    until(lambda: read_state(place / "run" / "echo").get("server_pid") not in (None, before))
    assert ensure_running(spec(), place) == port


def test_killed_guardian_is_replaced_and_its_server_stopped(place: Path) -> None:
    ensure_running(spec(), place)
    state = read_state(place / "run" / "echo")
    os.kill(state["guardian_pid"], signal.SIGKILL)
    until(lambda: not is_locked(place / "run" / "echo.guard"))
    port = ensure_running(spec(), place)
    assert accepts(port)
    after = read_state(place / "run" / "echo")
    assert after["guardian_pid"] != state["guardian_pid"]
    until(lambda: not is_alive(state["server_pid"]))


def test_server_starts_again_after_a_kill_of_guardian_and_server(place: Path) -> None:
    ensure_running(spec(), place)
    state = read_state(place / "run" / "echo")
    os.kill(state["guardian_pid"], signal.SIGKILL)
    os.kill(state["server_pid"], signal.SIGKILL)
    until(lambda: not is_locked(place / "run" / "echo.guard"))
    assert accepts(ensure_running(spec(), place))


def test_killed_user_does_not_keep_the_server_running(place: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path;"
        "from gh_assets.embedded.supervision import ServerSpec, ensure_running;"
        "ensure_running(ServerSpec('echo', 'echo server', (sys.executable, '-c', sys.argv[2], '{port}'), 0.3),"
        " Path(sys.argv[1])); print('up', flush=True); time.sleep(600)"
    )
    user = subprocess.Popen([sys.executable, "-c", program, str(place), ECHO], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    assert user.stdout.readline() == "up\n"
    user.kill()
    user.communicate()
    until(lambda: not is_locked(place / "run" / "echo.guard"))


def test_server_of_a_deleted_home_is_stopped(tmp_path: Path) -> None:
    place = tmp_path / "home"
    port = ensure_running(spec(idle_seconds=60.0), place)
    shutil.rmtree(place)
    until(lambda: not accepts(port))
    assert accepts(ensure_running(spec(), place))
    release("echo", place)


def test_server_that_cannot_start_is_an_error_with_the_end_of_its_log(place: Path) -> None:
    broken = ServerSpec("broken", "broken server", (sys.executable, "-c", "raise SystemExit('no more room')"))
    with pytest.raises(ServiceUnavailableError, match=r"The embedded broken server did not start.*no more room"):
        ensure_running(broken, place)


def test_home_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ConfigurationError, match="GH_ASSETS_HOME"):
        ensure_running(spec(), blocked)


def test_servers_do_not_inherit_secrets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKENS", "ghp_secret")
    monkeypatch.setenv("MONGO_URI", "mongodb://user:password@example.com/")
    ensure_running(spec(), place)
    state = read_state(place / "run" / "echo")
    for pid in (state["server_pid"], state["guardian_pid"]):
        environment = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"ghp_secret" not in environment
        assert b"password" not in environment


def test_writes_that_mongo_acknowledged_survive_its_kill(place: Path) -> None:
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(services.mongo_uri(place))
    state = read_state(place / "run" / "mongo")
    acknowledged = 0
    for number in range(200):
        client["test"]["things"].insert_one({"_id": number})
        acknowledged += 1
        if number == 120:
            os.kill(state["server_pid"], signal.SIGKILL)
            # The guardian restarts it on the same port; pymongo's retryable writes bridge the gap.
            until(lambda: read_state(place / "run" / "mongo").get("server_pid") != state["server_pid"])
    client.close()
    after: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(services.mongo_uri(place))
    assert after["test"]["things"].count_documents({}) == acknowledged
    after.close()


def bucket(place: Path) -> ObjectStore:
    endpoint, token = services.cloud_storage(place)
    return ObjectStore(make_client(endpoint=endpoint, token=SecretStr(token)), "kept", create=True)


def test_writes_that_the_bucket_acknowledged_survive_the_kill_of_server_and_guardian(place: Path) -> None:
    store = bucket(place)
    stored = store.write("folder/object", b"content" * 1000, metadata={"a": "b"})
    state = read_state(place / "run" / "bucket")
    os.kill(state["guardian_pid"], signal.SIGKILL)
    os.kill(state["server_pid"], signal.SIGKILL)
    until(lambda: not is_locked(place / "run" / "bucket.guard"))
    again = bucket(place)
    assert again.read("folder/object") == b"content" * 1000
    assert again.describe("folder/object") == stored
