"""Tests of the supervision of embedded servers: started on demand, shared, stopped when unused, restarted."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pymongo
import pytest

from gh_assets.embedded import servers as services
from gh_assets.embedded.guardian import accepts, read_state
from gh_assets.embedded.supervision import ServerSpec, ensure_running, release, release_all
from gh_assets.errors import ConfigurationError, ServiceUnavailableError
from gh_assets.instance.launcher import is_alive
from gh_assets.local.locks import is_locked
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.bucket import bucket_client
from gh_assets_tests.support.commands import script
from gh_assets_tests.support.waiting import until

ECHO = (
    "import http.server, sys, os;"
    "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()"
)

USER = """
import sys, time
from pathlib import Path
from gh_assets.embedded.supervision import ServerSpec, ensure_running
command = (sys.executable, "-c", sys.argv[2], "{port}")
print(ensure_running(ServerSpec("echo", "echo server", command, float(sys.argv[3])), Path(sys.argv[1])), flush=True)
time.sleep(float(sys.argv[4]))
"""


def spec(key: str = "echo", idle_seconds: float = 0.3) -> ServerSpec:
    return ServerSpec(key, "echo server", (sys.executable, "-c", ECHO, "{port}"), idle_seconds)


def user_process(place: Path, idle_seconds: float, seconds: float) -> subprocess.Popen[str]:
    """Start a process that prints the server's port and uses it for some seconds."""
    return script(USER, place, ECHO, idle_seconds, seconds)


def pid_of(place: Path, role: str, key: str = "echo") -> int:
    """Return the process id of a server or its guardian."""
    return int(read_state(place / "run" / key)[f"{role}_pid"])


def kill(place: Path, *roles: str, key: str = "echo") -> None:
    """Kill a server, its guardian or both; wait for the end of the guardian."""
    for pid in [pid_of(place, role, key) for role in roles]:
        os.kill(pid, signal.SIGKILL)
    if "guardian" in roles:
        wait_for_guardian(place, key)


def wait_for_guardian(place: Path, key: str = "echo") -> None:
    until(lambda: not is_locked(place / "run" / f"{key}.guard"))


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
    processes = [user_process(place, 5.0, 0.0) for _ in range(4)]
    assert len({process.communicate(timeout=60)[0] for process in processes}) == 1


def test_unused_server_is_stopped_and_started_again(place: Path) -> None:
    port, server = ensure_running(spec(), place), pid_of(place, "server")
    release("echo", place)
    wait_for_guardian(place)
    assert not accepts(port)
    assert not is_alive(server, time.time())
    assert accepts(ensure_running(spec(), place))


def test_used_server_is_not_stopped(place: Path) -> None:
    port = ensure_running(spec(idle_seconds=0.0), place)
    guardian = pid_of(place, "guardian")
    # Without idle time, the next poll of the guardian would stop an unused server.
    with pytest.raises(AssertionError):
        until(lambda: not is_locked(place / "run" / "echo.guard"), seconds=1.0)
    assert is_alive(guardian, time.time())
    assert accepts(port)


def test_killed_guardian_is_replaced_and_its_server_stopped(place: Path) -> None:
    ensure_running(spec(), place)
    guardian, server = pid_of(place, "guardian"), pid_of(place, "server")
    kill(place, "guardian")
    assert accepts(ensure_running(spec(), place))
    assert pid_of(place, "guardian") != guardian
    until(lambda: not is_alive(server, time.time()))


def test_killed_user_does_not_keep_the_server_running(place: Path) -> None:
    user = user_process(place, 0.3, 600.0)
    assert user.stdout is not None
    assert user.stdout.readline()
    user.kill()
    user.communicate()
    wait_for_guardian(place)


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
    for pid in (pid_of(place, "server"), pid_of(place, "guardian")):
        environment = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
        assert b"ghp_secret" not in environment
        assert b"password" not in environment


def test_writes_that_mongo_acknowledged_survive_its_kill(place: Path) -> None:
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(services.mongo_uri(place))
    before = pid_of(place, "server", "mongo")
    for number in range(200):
        client["test"]["things"].insert_one({"_id": number})
        if number == 120:
            kill(place, "server", key="mongo")
            # The guardian restarts it on the same port; pymongo's retryable writes bridge the gap.
            until(lambda: pid_of(place, "server", "mongo") != before)
    client.close()
    with pymongo.MongoClient[dict[str, object]](services.mongo_uri(place)) as after:
        assert after["test"]["things"].count_documents({}) == 200


def test_writes_that_the_bucket_acknowledged_survive_the_kill_of_server_and_guardian(place: Path) -> None:
    stored = ObjectStore(bucket_client(place), "kept", create=True).write(
        "folder/object", b"x" * 7000, metadata={"a": "b"}
    )
    kill(place, "guardian", "server", key="bucket")
    again = ObjectStore(bucket_client(place), "kept")
    assert again.read("folder/object") == b"x" * 7000
    assert again.describe("folder/object") == stored
