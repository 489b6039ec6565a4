"""PostgreSQL and Redis servers from Debian's packages, for single tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gh_assets_tests.support.tcp import free_port

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
REDIS = shutil.which("redis-server")
NEEDED = "needs Debian's packages postgresql and redis-server, and pip install '.[scale]'"


def available() -> bool:
    try:
        import dagster_celery  # noqa: F401
        import dagster_postgres  # noqa: F401
    except ImportError:
        return False
    return bool(POSTGRES) and REDIS is not None


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the server exited during its start"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def postgres() -> Iterator[int]:
    """Run a server with a database `dagster` of a user `dagster` without a password; yield its port."""
    tools = POSTGRES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="gh-assets-pg-"))
    # PostgreSQL does not run as root.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() == 0:
        shutil.chown(folder, user)
    port, data = free_port(), folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(
        [tools / "initdb", "-D", data, "-U", "dagster", "--auth=trust", "--no-sync"],
        user=user, cwd=folder, check=True, env={"PATH": os.environ["PATH"]}, **quiet,
    )  # fmt: skip
    process = subprocess.Popen(
        [tools / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"],
        user=user, cwd=folder, **quiet,
    )  # fmt: skip
    try:
        _wait_for(port, process)
        create = [tools / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster"]
        deadline = time.monotonic() + 30
        while subprocess.run(create, **quiet).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis() -> Iterator[int]:
    """Run an empty server on 127.0.0.1; yield its port."""
    assert REDIS is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gh-assets-redis-") as folder:
        process = subprocess.Popen(
            [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(30)
