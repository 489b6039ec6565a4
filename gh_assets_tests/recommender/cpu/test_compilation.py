"""One process compiles a function at a time, and where nothing can be written, each for itself."""

import errno
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from numba.core import caching

from gh_assets.recommender.cpu import compilation


def test_one_process_compiles_a_function_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(compilation, "LOCKS", tmp_path)
    with compilation.one_process("added"), compilation.one_process("other"), pytest.raises(Timeout):
        FileLock(tmp_path / "added.lock").acquire(timeout=0)
    FileLock(tmp_path / "added.lock").acquire(timeout=0).lock.release()


def test_where_nothing_can_be_written_every_process_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(compilation, "LOCKS", tmp_path / "file")
    added = compilation.compiled(lambda number: number + 1)
    assert compilation.call(added, 1) == compilation.call(added, 1) == 2


def test_functions_that_call_one_another_run_where_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    monkeypatch.setattr(caching.IndexDataCacheFile, "load", lambda *arguments: None)
    added = compilation.compiled(lambda number: number + 1)
    doubled = compilation.compiled(lambda number: 2 * added(number))
    assert compilation.call(doubled, 1) == compilation.call(doubled, 1) == 4
