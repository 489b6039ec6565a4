"""Tests of the adoption of buckets of version 0.x."""

import datetime as dt
import os
from pathlib import Path

import pytest

from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.bucket import bucket_client


@pytest.mark.parametrize("attributes", [True, False], ids=["with attributes", "on a file system without attributes"])
def test_buckets_of_version_0_are_adopted_with_or_without_attributes(fresh_home: Path, attributes: bool) -> None:
    path = fresh_home / "gcs" / "gh-assets" / "assets/stargazers/b/two%237.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    (fresh_home / "gcs" / "gh-assets.bucketMetadata").write_text('{"VersioningEnabled":false}')
    (fresh_home / "gcs" / "empty-bucket").mkdir()
    if attributes:
        description = (
            b'{"ContentType":"application/vnd.apache.parquet","Crc32c":"Ya91Mw==","Md5Hash":"mgNkuembtIDdJeHwKEyFVQ==",'
            b'"Metadata":{"rows":"7"},"Created":"2026-11-26T19:42:34.007564Z","Generation":1795722154007568}'
        )
        try:
            os.setxattr(path, "user.metadata", description)
        except OSError:
            pytest.skip("the file system has no extended attributes")
    store = ObjectStore(bucket_client(fresh_home), "gh-assets")
    (found,) = store.list("")
    assert found.name == "assets/stargazers/b/two%237.parquet"
    assert store.read(found.name) == b"content"
    if attributes:
        assert (found.generation, dict(found.metadata)) == (1795722154007568, {"rows": "7"})
        assert found.created == dt.datetime(2026, 11, 26, 19, 42, 34, 7564, dt.UTC)
    assert [bucket.name for bucket in store.client.list_buckets()] == ["empty-bucket", "gh-assets"]
    assert not (fresh_home / "gcs").exists()
    store.write(found.name, b"newer", if_generation=found.generation)
    assert store.read(found.name) == b"newer"
