"""Tests of file locks, which end with their process."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from gh_assets.local.locks import create_once, is_locked, open_lock, try_lock, unlock, wait_lock
from gh_assets_tests.support.commands import script

HOLDER = """
import sys
from pathlib import Path
from gh_assets.local.locks import open_lock, wait_lock
wait_lock(open_lock(Path(sys.argv[1])), shared=sys.argv[2] == "shared")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_a_process(path: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    with script(HOLDER, path, kind) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        try:
            yield process
        finally:
            process.kill()


def test_exclusive_lock_excludes_all_others_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    descriptor = open_lock(path)
    with held_by_a_process(path, "exclusive"):
        assert is_locked(path)
        assert not try_lock(descriptor)
        assert not try_lock(descriptor, shared=True)
    wait_lock(descriptor)
    assert is_locked(path)
    unlock(descriptor)
    assert not is_locked(path)
    os.close(descriptor)


def test_shared_lock_excludes_exclusive_ones_only(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = open_lock(path)
    with held_by_a_process(path, "shared"):
        assert not is_locked(path), "only exclusive locks count"
        assert not try_lock(descriptor)
        assert try_lock(descriptor, shared=True)
    os.close(descriptor)


def test_file_created_by_many_at_once_has_one_content_that_all_return(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "token"
    with ThreadPoolExecutor(8) as executor:
        contents = set(executor.map(lambda number: create_once(path, b"%d" % number), range(32)))
    assert contents == {path.read_bytes()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path], "no drafts are left"
