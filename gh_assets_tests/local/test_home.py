"""Tests of the home: only its owner has access."""

import os
from pathlib import Path

from gh_assets.embedded import servers
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.bucket import bucket_client


def test_all_files_of_a_home_are_private(fresh_home: Path) -> None:
    before = os.umask(0o000)
    try:
        ObjectStore(bucket_client(fresh_home), "some-bucket", create=True).write("a/b", b"content")
        servers.github_standin(fresh_home)
        servers.mongo_uri(fresh_home)
    finally:
        os.umask(before)
    paths = [fresh_home, *fresh_home.rglob("*")]
    assert len(paths) > 20
    assert [path for path in paths if path.stat().st_mode & 0o077 and not path.is_symlink()] == []


def test_home_that_is_accessible_to_others_is_made_private(fresh_home: Path) -> None:
    fresh_home.mkdir(exist_ok=True)
    fresh_home.chmod(0o755)
    (fresh_home / "dagster").mkdir(mode=0o755)
    (fresh_home / "dagster" / "history.db").write_bytes(b"")
    (fresh_home / "dagster" / "history.db").chmod(0o644)
    bucket_client(fresh_home)
    for path in (fresh_home, fresh_home / "dagster", fresh_home / "dagster" / "history.db"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_folder_with_other_files_keeps_its_permissions(fresh_home: Path) -> None:
    fresh_home.mkdir(exist_ok=True)
    fresh_home.chmod(0o755)
    (fresh_home / "notes.txt").write_text("another program's")
    (fresh_home / "notes.txt").chmod(0o644)
    bucket_client(fresh_home)
    assert fresh_home.stat().st_mode & 0o777 == 0o755
    assert (fresh_home / "notes.txt").stat().st_mode & 0o777 == 0o644
    assert (fresh_home / "bucket").stat().st_mode & 0o077 == 0
