"""PostgreSQL and Redis servers from Debian's packages, for single tests."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gh_assets.embedded.guardian import accepts, free_port
from gh_assets_tests.support.waiting import running, until

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


QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@contextmanager
def postgres() -> Iterator[int]:
    """Run a server with a database `dagster` of a user `dagster` without a password; yield its port."""
    tools, folder = str(POSTGRES[-1].parent), tempfile.mkdtemp(prefix="gh-assets-pg-")
    # PostgreSQL does not run as root.
    user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    if os.getuid() == 0:
        shutil.chown(folder, user)
    port, data = free_port(), f"{folder}/data"
    create = [f"{tools}/initdb", "-D", data, "-U", "dagster", "--auth=trust", "--no-sync"]
    subprocess.run(create, user=user, cwd=folder, check=True, env={"PATH": os.environ["PATH"]}, **QUIET)
    server = [f"{tools}/postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
    database = [f"{tools}/createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "dagster", "dagster"]
    try:
        with running(server, lambda: accepts(port), user=user, cwd=folder):
            until(lambda: subprocess.run(database, **QUIET).returncode == 0, 30)
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis() -> Iterator[int]:
    """Run an empty server on 127.0.0.1; yield its port."""
    assert REDIS is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="gh-assets-redis-") as folder:
        command = [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with running(command, lambda: accepts(port), cwd=folder):
            yield port
