"""Tests of resumable uploads."""

import os
import secrets
import signal
from pathlib import Path

import pytest
import requests
from google.cloud import storage
from hypothesis import given, settings
from hypothesis import strategies as st

from gh_assets.embedded import servers
from gh_assets.embedded.guardian import read_state
from gh_assets_tests.support.bucket import bucket_client
from gh_assets_tests.support.waiting import until


def test_upload_is_continued_after_a_kill_of_the_server(fresh_home: Path) -> None:
    client = bucket_client(fresh_home)
    bucket = client.create_bucket("pieces")
    content = os.urandom(1 << 20)
    address = bucket.blob("large").create_resumable_upload_session(size=len(content), if_generation_match=0)
    _, token = servers.cloud_storage(fresh_home)
    own = {"authorization": f"Bearer {token}"}

    def send(first: int, last: int) -> requests.Response:
        headers = own | {"content-range": f"bytes {first}-{last - 1}/{len(content)}"}
        return requests.put(address, data=content[first:last], headers=headers, timeout=10)

    answer = send(0, 1 << 19)
    assert (answer.status_code, answer.headers["range"]) == (308, f"bytes=0-{(1 << 19) - 1}")
    state = read_state(fresh_home / "run" / "bucket")
    os.kill(state["server_pid"], signal.SIGKILL)
    until(lambda: read_state(fresh_home / "run" / "bucket").get("server_pid") != state["server_pid"])
    progress = requests.put(address, headers=own | {"content-range": f"bytes */{len(content)}"}, timeout=10)
    assert (progress.status_code, progress.headers["range"]) == (308, f"bytes=0-{(1 << 19) - 1}")
    assert not bucket.blob("large").exists(), "an incomplete upload is not visible"
    assert send(1 << 19, 1 << 20).status_code == 200
    assert bucket.blob("large").download_as_bytes() == content
    whole = bucket.get_blob("large")
    assert whole is not None
    progress = requests.put(address, headers=own | {"content-range": f"bytes */{len(content)}"}, timeout=10)
    for answer in (progress, send(1 << 19, 1 << 20)):
        assert (answer.status_code, answer.json()["generation"]) == (200, str(whole.generation)), "it is complete"
    assert bucket.get_blob("large").generation == whole.generation, "a repeated chunk writes nothing"
    assert requests.delete(address, headers=own, timeout=10).status_code == 404


@settings(max_examples=10)
@given(size=st.integers(0, 3 << 20), chunk=st.sampled_from([None, 256 << 10, 512 << 10]))
def test_files_of_any_size_are_uploaded(
    gcs_client: storage.Client, tmp_path_factory: pytest.TempPathFactory, size: int, chunk: int | None
) -> None:
    path = tmp_path_factory.mktemp("sent") / "file"
    path.write_bytes(os.urandom(size))
    bucket = gcs_client.create_bucket(f"sized-{secrets.token_hex(6)}")
    bucket.blob("a", chunk_size=chunk).upload_from_filename(str(path))
    with path.open("rb") as file:
        bucket.blob("b", chunk_size=256 << 10).upload_from_file(file)  # without an announced size
    for name in "ab":
        assert bucket.blob(name).download_as_bytes() == path.read_bytes()
