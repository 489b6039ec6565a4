"""The embedded Cloud Storage, through the clients that others made: Google's, pyarrow's and dagster-gcp's."""

from __future__ import annotations

import datetime as dt
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlsplit

import pyarrow.fs
import pytest
import requests
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud import storage
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from gh_assets.embedded import servers as services
from gh_assets.embedded.supervision import read_state
from gh_assets.errors import StoredDataError
from gh_assets.storage.objects import ObjectStore, make_client
from gh_assets_tests.support.commands import stored_file
from gh_assets_tests.support.dagster_dev import until


@pytest.fixture
def bucket(gcs_client: storage.Client, objects: ObjectStore) -> storage.Bucket:
    """An empty bucket, by Google's client."""
    return gcs_client.create_bucket(objects.name)


def client_of(home: Path) -> storage.Client:
    endpoint, token = services.cloud_storage(home)
    return make_client(endpoint=endpoint, token=SecretStr(token))


# -- who gets in -----------------------------------------------------------------------------------------------------

REQUESTS = [
    ("GET", "/storage/v1/b"),
    ("POST", "/storage/v1/b"),
    ("GET", "/storage/v1/b/BUCKET"),
    ("DELETE", "/storage/v1/b/BUCKET"),
    ("GET", "/storage/v1/b/BUCKET/o"),
    ("GET", "/storage/v1/b/BUCKET/o/kept"),
    ("GET", "/storage/v1/b/BUCKET/o/kept?alt=media"),
    ("GET", "/download/storage/v1/b/BUCKET/o/kept?alt=media"),
    ("PATCH", "/storage/v1/b/BUCKET/o/kept"),
    ("DELETE", "/storage/v1/b/BUCKET/o/kept"),
    ("POST", "/upload/storage/v1/b/BUCKET/o?uploadType=media&name=kept"),
    ("POST", "/upload/storage/v1/b/BUCKET/o?uploadType=resumable&name=kept"),
    ("PUT", "/upload/storage/v1/b/BUCKET/o?upload_id=0"),
    ("POST", "/storage/v1/b/BUCKET/o/kept/rewriteTo/b/BUCKET/o/other"),
    ("POST", "/storage/v1/b/BUCKET/o/kept/compose"),
    ("OPTIONS", "/storage/v1/b/BUCKET/o/kept"),
    ("GET", "/"),
]


@pytest.mark.parametrize(("method", "path"), REQUESTS)
def test_nobody_without_the_token_of_the_home_is_answered(
    home: Path, objects: ObjectStore, method: str, path: str
) -> None:
    objects.write("kept", b"content")
    endpoint, token = services.cloud_storage(home)
    port = urlsplit(endpoint).port
    own = f"127.0.0.1:{port}"
    for headers in (
        {"host": own},
        {"host": own, "authorization": "Bearer "},
        {"host": own, "authorization": f"Bearer {token[:-1]}"},
        {"host": own, "authorization": token},
        {"host": own, "authorization": f"Bearer {token}", "origin": "http://evil.example"},
        {"host": f"evil.example:{port}", "authorization": f"Bearer {token}"},
    ):
        answer = requests.request(
            method, endpoint + path.replace("BUCKET", objects.name), headers=headers, data=b"{}", timeout=10
        )
        assert answer.status_code in (401, 403), headers
        assert not any(name.lower().startswith("access-control") for name in answer.headers)
        assert answer.headers["connection"] == "close", "what else a stranger sends is not read"
    assert [found.name for found in objects.list("")] == ["kept"]
    assert objects.read("kept") == b"content"


def test_what_a_stranger_sends_without_end_is_not_read(home: Path) -> None:
    endpoint, _ = services.cloud_storage(home)
    with socket.create_connection(("127.0.0.1", urlsplit(endpoint).port or 0), timeout=10) as connection:
        connection.sendall(b"POST /storage/v1/b HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        with pytest.raises(ConnectionError):
            connection.sendall(chunk * 10_000)


def test_everything_in_a_home_is_its_owners_only(fresh_home: Path) -> None:
    before = os.umask(0o000)
    try:
        ObjectStore(client_of(fresh_home), "some-bucket", create=True).write("a/b", b"content")
        services.github_standin(fresh_home)
        services.mongo_uri(fresh_home)
    finally:
        os.umask(before)
    places = [fresh_home, *fresh_home.rglob("*")]
    assert len(places) > 20
    assert [place for place in places if place.stat().st_mode & 0o077 and not place.is_symlink()] == []


# -- names -----------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), min_size=1, max_size=60).filter(
    lambda name: len(name.encode()) <= 1024 and name not in (".", "..")
)
HOSTILE = st.sampled_from(
    ["../../../x", "..%2f..%2fx", "/etc/passwd", "a/../b", "a//b", "./a", "rewriteTo/b/x/o/y", "a?b#c", "é/ü"]
)


@settings(deadline=None, max_examples=40)
@given(names=st.lists(NAMES | HOSTILE, min_size=1, max_size=4, unique=True))
def test_a_name_is_a_name_whatever_is_in_it(home: Path, gcs_client: storage.Client, names: list[str]) -> None:
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


@pytest.mark.parametrize("raw", ["/storage/v1/b/../../x/o", "/storage/v1/b/%2e%2e/o/x?alt=media", "/%2e%2e/%2e%2e/x"])
def test_an_address_that_points_upwards_is_no_address(home: Path, raw: str) -> None:
    endpoint, token = services.cloud_storage(home)
    connection = HTTPConnection("127.0.0.1", urlsplit(endpoint).port or 0, timeout=10)
    connection.request("GET", raw, headers={"authorization": f"Bearer {token}"})
    assert connection.getresponse().status == 404
    connection.close()


@settings(deadline=None, max_examples=30)
@given(
    names=st.sets(st.text("ab/é", min_size=1, max_size=5), max_size=12),
    prefix=st.text("ab/é", max_size=2),
    page=st.integers(1, 4),
    delimiter=st.sampled_from([None, "/", "b"]),
)
def test_a_listing_is_complete_and_in_order(
    gcs_client: storage.Client, names: set[str], prefix: str, page: int, delimiter: str | None
) -> None:
    bucket = gcs_client.create_bucket(f"listed-{secrets.token_hex(6)}")
    for name in names:
        bucket.blob(name).upload_from_string(b"")
    found = bucket.list_blobs(prefix=prefix, delimiter=delimiter, page_size=page)
    listed = [blob.name for blob in found]
    matching = sorted((name for name in names if name.startswith(prefix)), key=str.encode)
    if delimiter is None:
        assert listed == matching
        return
    folders = {name[: name.index(delimiter, len(prefix)) + 1] for name in matching if delimiter in name[len(prefix) :]}
    assert listed == [name for name in matching if delimiter not in name[len(prefix) :]]
    assert set(found.prefixes) == folders


# -- generations, preconditions, what is said of an object ------------------------------------------------------------


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


def test_what_is_said_of_an_object_is_kept_and_changed(bucket: storage.Bucket) -> None:
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


def test_a_wrong_checksum_is_refused(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.md5_hash = "AAAAAAAAAAAAAAAAAAAAAA=="
    with pytest.raises(Exception, match="doesn't match"):
        blob.upload_from_string(b"content")
    assert not bucket.blob("a").exists()


def test_compose_puts_objects_behind_one_another(bucket: storage.Bucket) -> None:
    for name in "abc":
        bucket.blob(name).upload_from_string(name * 3)
    bucket.blob("all").compose([bucket.blob(name) for name in "abc"])
    assert bucket.blob("all").download_as_bytes() == b"aaabbbccc"


def test_a_range_of_an_object(bucket: storage.Bucket) -> None:
    bucket.blob("a").upload_from_string(b"0123456789")
    blob = bucket.blob("a")
    assert blob.download_as_bytes(start=3, end=5, checksum=None) == b"345"
    assert blob.download_as_bytes(start=-4, checksum=None) == b"6789"


# -- uploads in pieces ------------------------------------------------------------------------------------------------


def test_an_upload_goes_on_after_the_server_was_killed(fresh_home: Path) -> None:
    client = client_of(fresh_home)
    bucket = client.create_bucket("pieces")
    content = os.urandom(1 << 20)
    place = bucket.blob("large").create_resumable_upload_session(size=len(content), if_generation_match=0)
    _, token = services.cloud_storage(fresh_home)
    own = {"authorization": f"Bearer {token}"}

    def send(first: int, last: int) -> requests.Response:
        given = own | {"content-range": f"bytes {first}-{last - 1}/{len(content)}"}
        return requests.put(place, data=content[first:last], headers=given, timeout=10)

    answer = send(0, 1 << 19)
    assert (answer.status_code, answer.headers["range"]) == (308, f"bytes=0-{(1 << 19) - 1}")
    state = read_state(fresh_home / "run" / "bucket")
    os.kill(state["server_pid"], signal.SIGKILL)
    until(lambda: read_state(fresh_home / "run" / "bucket").get("server_pid") != state["server_pid"])
    asked = requests.put(place, headers=own | {"content-range": f"bytes */{len(content)}"}, timeout=10)
    assert (asked.status_code, asked.headers["range"]) == (308, f"bytes=0-{(1 << 19) - 1}")
    assert not bucket.blob("large").exists(), "nothing of it is seen before it is whole"
    assert send(1 << 19, 1 << 20).status_code == 200
    assert bucket.blob("large").download_as_bytes() == content
    whole = bucket.get_blob("large")
    assert whole is not None
    asked = requests.put(place, headers=own | {"content-range": f"bytes */{len(content)}"}, timeout=10)
    for answer in (asked, send(1 << 19, 1 << 20)):
        assert (answer.status_code, answer.json()["generation"]) == (200, str(whole.generation)), "it is finished"
    assert bucket.get_blob("large").generation == whole.generation, "nothing is written again"
    assert requests.delete(place, headers=own, timeout=10).status_code == 404


@settings(deadline=None, max_examples=10)
@given(size=st.integers(0, 3 << 20), chunk=st.sampled_from([None, 256 << 10, 512 << 10]))
def test_a_file_of_any_size_arrives(gcs_client: storage.Client, tmp_path_factory, size: int, chunk: int | None) -> None:
    path = tmp_path_factory.mktemp("sent") / "file"
    path.write_bytes(os.urandom(size))
    bucket = gcs_client.create_bucket(f"sized-{secrets.token_hex(6)}")
    bucket.blob("a", chunk_size=chunk).upload_from_filename(str(path))
    with path.open("rb") as file:
        bucket.blob("b", chunk_size=256 << 10).upload_from_file(file)  # of a size that is not announced
    for name in "ab":
        assert bucket.blob(name).download_as_bytes() == path.read_bytes()


# -- other clients -----------------------------------------------------------------------------------------------------


def test_pyarrow_reads_writes_and_lists(home: Path, objects: ObjectStore) -> None:
    endpoint, token = services.cloud_storage(home)
    store = pyarrow.fs.GcsFileSystem(
        access_token=token,
        credential_token_expiration=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        retry_time_limit=dt.timedelta(seconds=5),
    )
    objects.write("folder/a b%", b"ours")
    with store.open_input_stream(f"{objects.name}/folder/a b%") as file:
        assert file.read() == b"ours"
    with store.open_output_stream(f"{objects.name}/folder/theirs") as file:
        file.write(b"x" * (20 << 20))
    assert objects.read("folder/theirs") == b"x" * (20 << 20)
    found = store.get_file_info(pyarrow.fs.FileSelector(f"{objects.name}/folder"))
    assert sorted(one.base_name for one in found) == ["a b%", "theirs"]
    store.move(f"{objects.name}/folder/theirs", f"{objects.name}/moved")
    store.delete_file(f"{objects.name}/folder/a b%")
    assert list(objects.names("")) == ["moved"]


def test_dagster_gcp_keeps_files(gcs_client: storage.Client, bucket: storage.Bucket) -> None:
    from dagster_gcp.gcs.file_manager import GCSFileManager

    manager = GCSFileManager(gcs_client, bucket.name, "dagster")
    handle = manager.write_data(b"content", ext="bin")
    assert manager.read_data(handle) == b"content"
    assert [blob.name for blob in bucket.list_blobs()] == [handle.gcs_key]


# -- damage, a full disk, homes of before ------------------------------------------------------------------------------


def test_damage_on_the_disk_is_seen_by_who_reads(home: Path, objects: ObjectStore) -> None:
    for name in ("flipped", "short", "lost", "large"):
        objects.write(name, b"content" * (300_000 if name == "large" else 10))
    places = {name: stored_file(home, objects.name, name) for name in ("flipped", "short", "lost", "large")}
    places["flipped"].write_bytes(b"kontent" * 10)
    places["short"].write_bytes(b"cont")
    places["lost"].unlink()
    places["large"].write_bytes(b"content" * 299_999)
    for name in places:
        with pytest.raises(StoredDataError, match="damaged"):
            objects.read(name)
        assert objects.describe(name) is not None, "damaged is not gone"
        objects.write(name, b"whole")
        assert objects.read(name) == b"whole"


def test_a_disk_that_is_full_loses_nothing(tmp_path: Path) -> None:
    """By a limit on the size of files, which fails as a full disk does: in the middle of a write."""
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
                place = f"{url}/upload/storage/v1/b/abc/o?uploadType=media&name=a"
                return requests.post(place, data=b"x" * size, headers=own, timeout=20).status_code

            assert upload(1000) == 200
            assert upload(2 << 20) == 503, "clients try again after it"
            read = requests.get(f"{url}/storage/v1/b/abc/o/a?alt=media", headers=own, timeout=20)
            assert read.content == b"x" * 1000
            assert len([path for folder in (tmp_path / "b/content").iterdir() for path in folder.iterdir()]) == 1
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("attributes", [True, False], ids=["with attributes", "on a file system without attributes"])
def test_the_buckets_of_an_earlier_version_are_taken_over(fresh_home: Path, attributes: bool) -> None:
    """As fake-gcs-server left them: a file each, and what is said of it in an attribute."""
    path = fresh_home / "gcs" / "gh-assets" / "assets/stargazers/b/two%237.parquet"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content")
    (fresh_home / "gcs" / "gh-assets.bucketMetadata").write_text('{"VersioningEnabled":false}')
    (fresh_home / "gcs" / "empty-bucket").mkdir()
    if attributes:
        said = (
            b'{"ContentType":"application/vnd.apache.parquet","Crc32c":"Ya91Mw==","Md5Hash":"mgNkuembtIDdJeHwKEyFVQ==",'
            b'"Metadata":{"rows":"7"},"Created":"2026-11-26T19:42:34.007564Z","Generation":1795722154007568}'
        )
        try:
            os.setxattr(path, "user.metadata", said)
        except OSError:
            pytest.skip("no extended attributes here")
    store = ObjectStore(client_of(fresh_home), "gh-assets")
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


def test_a_home_that_was_open_to_others_is_closed(fresh_home: Path) -> None:
    fresh_home.mkdir(exist_ok=True)
    fresh_home.chmod(0o755)
    (fresh_home / "dagster").mkdir(mode=0o755)
    (fresh_home / "dagster" / "history.db").write_bytes(b"")
    (fresh_home / "dagster" / "history.db").chmod(0o644)
    client_of(fresh_home)
    for path in (fresh_home, fresh_home / "dagster", fresh_home / "dagster" / "history.db"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_folder_with_other_things_stays_as_open_as_it_was(fresh_home: Path) -> None:
    fresh_home.mkdir(exist_ok=True)
    fresh_home.chmod(0o755)
    (fresh_home / "mine.txt").write_text("not the product's")
    (fresh_home / "mine.txt").chmod(0o644)
    client_of(fresh_home)
    assert fresh_home.stat().st_mode & 0o777 == 0o755
    assert (fresh_home / "mine.txt").stat().st_mode & 0o777 == 0o644
    assert (fresh_home / "bucket").stat().st_mode & 0o077 == 0


def test_the_name_in_an_error_is_the_objects(bucket: storage.Bucket) -> None:
    with pytest.raises(NotFound, match=quote(bucket.name)):
        bucket.blob("missing").download_as_bytes()
