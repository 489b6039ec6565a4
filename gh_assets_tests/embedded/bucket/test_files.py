"""Tests of buckets and objects on disk: names, listings, preconditions, metadata, and damage."""

import resource
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import storage
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.errors import StoredDataError
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.commands import stored_file

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=60).filter(
    lambda name: len(name.encode()) <= 1024 and name not in (".", "..")
)
HOSTILE = st.sampled_from(
    ["../../../x", "..%2f..%2fx", "/etc/passwd", "a/../b", "a//b", "./a", "rewriteTo/b/x/o/y", "a?b#c", "é/ü"]
)


@settings(max_examples=40)
@given(names=st.lists(NAMES | HOSTILE, min_size=1, max_size=4, unique=True))
def test_any_name_is_stored_listed_copied_and_deleted(home: Path, gcs_client: storage.Client, names: list[str]) -> None:
    bucket = gcs_client.create_bucket(f"names-{secrets.token_hex(6)}")
    for number, name in enumerate(names):
        bucket.blob(name).upload_from_string(b"%d" % number)
    assert [blob.name for blob in bucket.list_blobs()] == sorted(names, key=str.encode)
    for number, name in enumerate(names):
        assert bucket.blob(name).download_as_bytes() == b"%d" % number
        bucket.copy_blob(bucket.blob(name), bucket, "copies/" + name)
    for name in names:
        bucket.blob(name).delete()
    assert {blob.name for blob in bucket.list_blobs()} == {"copies/" + name for name in names}
    content = home / "bucket" / "content"
    assert all(len(path.name) == 32 and path.is_file() for folder in content.iterdir() for path in folder.iterdir())
    assert {path.name for path in (home / "bucket").iterdir()} >= {"content", "uploads", "index.sqlite"}


@settings(max_examples=30)
@given(
    names=st.sets(st.text("ab/é", min_size=1, max_size=5), max_size=12),
    prefix=st.text("ab/é", max_size=2),
    page=st.integers(1, 4),
    delimiter=st.sampled_from([None, "/", "b"]),
)
def test_listing_is_complete_and_sorted(
    gcs_client: storage.Client, names: set[str], prefix: str, page: int, delimiter: str | None
) -> None:
    bucket = gcs_client.create_bucket(f"listed-{secrets.token_hex(6)}")
    for name in names:
        bucket.blob(name).upload_from_string(b"")
    listing = bucket.list_blobs(prefix=prefix, delimiter=delimiter, page_size=page)
    listed = [blob.name for blob in listing]
    matching = sorted((name for name in names if name.startswith(prefix)), key=str.encode)
    if delimiter is None:
        assert listed == matching
        return
    folders = {name[: name.index(delimiter, len(prefix)) + 1] for name in matching if delimiter in name[len(prefix) :]}
    assert listed == [name for name in matching if delimiter not in name[len(prefix) :]]
    assert set(listing.prefixes) == folders


def test_preconditions_on_the_generation(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"0", if_generation_match=7)
    blob.upload_from_string(b"1", if_generation_match=0)
    first = blob.generation
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"2", if_generation_match=0)
    blob.upload_from_string(b"2", if_generation_match=first)
    assert blob.generation > first
    with pytest.raises(PreconditionFailed):
        bucket.blob("a").delete(if_generation_match=first)
    with pytest.raises(PreconditionFailed):
        bucket.blob("a").download_as_bytes(if_generation_match=first)
    with pytest.raises(NotFound):
        bucket.blob("a", generation=first).download_as_bytes()
    with pytest.raises(PreconditionFailed):
        bucket.copy_blob(bucket.blob("a"), bucket, "b", if_source_generation_match=first)
    bucket.copy_blob(bucket.blob("a"), bucket, "b", if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        bucket.copy_blob(bucket.blob("a"), bucket, "b", if_generation_match=0)
    bucket.blob("a").delete(if_generation_match=blob.generation)
    assert not bucket.blob("a").exists()
    assert bucket.blob("b").download_as_bytes() == b"2"


def test_properties_of_an_object_are_stored_and_patched(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.metadata = {"x": "1", "y": "ü"}
    blob.cache_control = "no-store"
    blob.upload_from_string("text", content_type="text/plain")
    again = bucket.get_blob("a")
    assert again is not None
    assert (again.metadata, again.content_type, again.cache_control) == ({"x": "1", "y": "ü"}, "text/plain", "no-store")
    assert (again.size, again.metageneration) == (4, 1)
    again.metadata = {"x": None, "z": "3"}
    again.patch()
    changed = bucket.get_blob("a")
    assert changed is not None
    assert (changed.metadata, changed.metageneration) == ({"y": "ü", "z": "3"}, 2)
    assert changed.generation == blob.generation


def test_upload_with_a_wrong_checksum_is_rejected(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.md5_hash = "AAAAAAAAAAAAAAAAAAAAAA=="
    with pytest.raises(Exception, match="doesn't match"):
        blob.upload_from_string(b"content")
    assert not bucket.blob("a").exists()


def test_compose_concatenates_objects(bucket: storage.Bucket) -> None:
    for name in "abc":
        bucket.blob(name).upload_from_string(name * 3)
    bucket.blob("all").compose([bucket.blob(name) for name in "abc"])
    assert bucket.blob("all").download_as_bytes() == b"aaabbbccc"


def test_damage_on_the_disk_is_detected_when_read(home: Path, objects: ObjectStore) -> None:
    for name in ("flipped", "short", "lost", "large"):
        objects.write(name, b"content" * (300_000 if name == "large" else 10))
    paths = {name: stored_file(home, objects.name, name) for name in ("flipped", "short", "lost", "large")}
    paths["flipped"].write_bytes(b"kontent" * 10)
    paths["short"].write_bytes(b"cont")
    paths["lost"].unlink()
    paths["large"].write_bytes(b"content" * 299_999)
    for name in paths:
        with pytest.raises(StoredDataError, match="damaged"):
            objects.read(name)
        assert objects.describe(name) is not None, "a damaged object still exists"
        objects.write(name, b"whole")
        assert objects.read(name) == b"whole"


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files makes writes fail in the middle, as a full disk does."""
    token = tmp_path / "token"
    token.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", "gh_assets.embedded.bucket", "--fd", str(listener.fileno()), "--folder",
             str(tmp_path / "b"), "--old-folder", str(tmp_path / "none"), "--token-file", str(token)],
            pass_fds=[listener.fileno()],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
        )  # fmt: skip
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        own = {"authorization": "Bearer secret"}
        try:
            assert requests.post(f"{url}/storage/v1/b", json={"name": "abc"}, headers=own, timeout=20).ok

            def upload(size: int) -> int:
                address = f"{url}/upload/storage/v1/b/abc/o?uploadType=media&name=a"
                return requests.post(address, data=b"x" * size, headers=own, timeout=20).status_code

            assert upload(1000) == 200
            assert upload(2 << 20) == 503, "clients retry after it"
            read = requests.get(f"{url}/storage/v1/b/abc/o/a?alt=media", headers=own, timeout=20)
            assert read.content == b"x" * 1000
            assert len([path for folder in (tmp_path / "b/content").iterdir() for path in folder.iterdir()]) == 1
        finally:
            process.terminate()
            process.wait(20)
