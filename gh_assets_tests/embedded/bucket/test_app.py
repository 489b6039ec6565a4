"""Tests of the embedded Cloud Storage by the clients of others: Google's, pyarrow's and dagster-gcp's."""

import datetime as dt
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow.fs
import pytest
import requests
from google.api_core.exceptions import NotFound
from google.cloud import storage

from gh_assets.embedded import servers
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.faults.storage_testbench import requires_testbench, running_testbench
from gh_assets_tests.support.bucket_conversation import Conversation, converse

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
def test_request_without_the_homes_token_is_rejected(home: Path, objects: ObjectStore, method: str, path: str) -> None:
    objects.write("kept", b"content")
    endpoint, token = servers.cloud_storage(home)
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
        assert answer.headers["connection"] == "close", "the rest of the request is not read"
    assert [found.name for found in objects.list("")] == ["kept"]
    assert objects.read("kept") == b"content"


def test_endless_body_of_an_unauthorized_request_is_not_read(home: Path) -> None:
    endpoint, _ = servers.cloud_storage(home)
    with socket.create_connection(("127.0.0.1", urlsplit(endpoint).port or 0), timeout=10) as connection:
        connection.sendall(b"POST /storage/v1/b HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
        with pytest.raises(ConnectionError):
            connection.sendall(chunk * 10_000)


@pytest.mark.parametrize("raw", ["/storage/v1/b/../../x/o", "/storage/v1/b/%2e%2e/o/x?alt=media", "/%2e%2e/%2e%2e/x"])
def test_path_outside_of_the_buckets_is_not_found(home: Path, raw: str) -> None:
    endpoint, token = servers.cloud_storage(home)
    connection = HTTPConnection("127.0.0.1", urlsplit(endpoint).port or 0, timeout=10)
    connection.request("GET", raw, headers={"authorization": f"Bearer {token}"})
    assert connection.getresponse().status == 404
    connection.close()


def test_ranges_of_an_object(bucket: storage.Bucket) -> None:
    bucket.blob("a").upload_from_string(b"0123456789")
    blob = bucket.blob("a")
    assert blob.download_as_bytes(start=3, end=5, checksum=None) == b"345"
    assert blob.download_as_bytes(start=-4, checksum=None) == b"6789"


def test_pyarrow_reads_writes_and_lists(home: Path, objects: ObjectStore) -> None:
    endpoint, token = servers.cloud_storage(home)
    store = pyarrow.fs.GcsFileSystem(
        access_token=token,
        credential_token_expiration=dt.datetime.now(dt.UTC) + dt.timedelta(days=1),
        endpoint_override=endpoint.removeprefix("http://"),
        scheme="http",
        retry_time_limit=dt.timedelta(seconds=5),
    )
    objects.write("folder/a b%", b"content")
    with store.open_input_stream(f"{objects.name}/folder/a b%") as file:
        assert file.read() == b"content"
    with store.open_output_stream(f"{objects.name}/folder/large") as file:
        file.write(b"x" * (20 << 20))
    assert objects.read("folder/large") == b"x" * (20 << 20)
    files = store.get_file_info(pyarrow.fs.FileSelector(f"{objects.name}/folder"))
    assert sorted(file.base_name for file in files) == ["a b%", "large"]
    store.move(f"{objects.name}/folder/large", f"{objects.name}/moved")
    store.delete_file(f"{objects.name}/folder/a b%")
    assert list(objects.names("")) == ["moved"]


def test_dagster_gcp_writes_and_reads_files(gcs_client: storage.Client, bucket: storage.Bucket) -> None:
    from dagster_gcp.gcs.file_manager import GCSFileManager

    manager: Any = GCSFileManager(gcs_client, bucket.name, "dagster")  # type: ignore[no-untyped-call]
    handle = manager.write_data(b"content", ext="bin")
    assert manager.read_data(handle) == b"content"
    assert [blob.name for blob in bucket.list_blobs()] == [handle.gcs_key]


def test_error_about_a_missing_object_names_it(bucket: storage.Bucket) -> None:
    with pytest.raises(NotFound, match=quote(bucket.name)):
        bucket.blob("missing").download_as_bytes()


@pytest.mark.slow
@requires_testbench
def test_embedded_bucket_has_the_responses_of_the_testbench(fresh_home: Path) -> None:
    endpoint, token = servers.cloud_storage(fresh_home)
    embedded = Conversation(endpoint, {"authorization": f"Bearer {token}"})
    converse(embedded)
    with running_testbench() as port:
        testbench = Conversation(f"http://127.0.0.1:{port}", {})
        converse(testbench)
    assert len(embedded.answers) > 80
    for actual, expected in zip(embedded.answers, testbench.answers, strict=True):
        assert actual == expected
