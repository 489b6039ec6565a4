"""Objects in the bucket: replaced in one step, conditionally, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gh_assets.errors import ConcurrentWriteError, ConfigurationError, ServiceUnavailableError, StoredDataError
from gh_assets.objects import ABSENT, ObjectStore, make_client


def test_content_metadata_and_generation(objects: ObjectStore, tmp_path: Path) -> None:
    first = objects.write("a/b", b"one", metadata={"k": "v"})
    second = objects.write("a/b", b"two two")
    assert objects.read("a/b") == b"two two"
    assert second.generation != first.generation
    assert (first.size, second.size, first.metadata) == (3, 7, {"k": "v"})
    assert objects.describe("a/b") == second
    assert objects.describe("a/c") is None
    objects.read_to("a/b", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"two two"
    assert list(objects.names("a/")) == ["a/b"]


def test_a_condition_that_does_not_hold_changes_nothing(objects: ObjectStore) -> None:
    objects.write("x", b"mine", if_generation=ABSENT)
    with pytest.raises(ConcurrentWriteError, match="another process"):
        objects.write("x", b"yours", if_generation=ABSENT)
    stale = objects.write("x", b"newer").generation
    objects.write("x", b"newest", if_generation=stale)
    with pytest.raises(ConcurrentWriteError):
        objects.write("x", b"late", if_generation=stale)
    assert objects.read("x") == b"newest"


def test_what_is_missing_is_named(objects: ObjectStore, gcs_client) -> None:
    with pytest.raises(StoredDataError, match=r"There is no object gs://.*/nothing"):
        objects.read("nothing")
    with pytest.raises(ConfigurationError, match="does not exist: create it"):
        ObjectStore(gcs_client, "no-such-bucket-here").write("x", b"y")


def test_a_server_that_is_away_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.objects.RETRY_SECONDS", 0.2)
    with pytest.raises(ServiceUnavailableError, match="Run again"):
        ObjectStore(make_client(endpoint="http://127.0.0.1:9"), "bucket").read("x")
