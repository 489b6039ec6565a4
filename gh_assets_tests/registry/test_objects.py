"""Objects of models: downloads, damage, and the coordination of saves and sweeps."""

import datetime as dt
import errno
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from google.cloud import storage
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gh_assets.errors import InputError, StoredDataError
from gh_assets.registry import ModelCard, ModelRegistry
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore, StoredObject
from gh_assets_tests.conftest import Save

NOW, HOUR, DAY = dt.timedelta(0), dt.timedelta(hours=1), dt.timedelta(days=1)


class AgedStore(ObjectStore):
    """A bucket all of whose objects seem to be a day older."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for stored in super().list(prefix):
            yield replace(stored, created=stored.created and stored.created - DAY)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 1}, "has the size 7 instead of 1"),
        ({"crc32c": "AAAAAA=="}, "has the crc32c .* instead of AAAAAA=="),
        ({"generation": 1}, r"has the generation \d+ instead of 1$"),
        ({"bucket": "another"}, "^it is in another bucket, gs://another$"),
        ({"object": "nowhere"}, "^gs://.*/nowhere is missing$"),
        ({"size": None, "crc32c": None, "generation": None, "sha256": None}, None),
    ],
)
def test_problem_names_what_differs(
    save: Save, registry: ModelRegistry, change: dict[str, Any], expected: str | None
) -> None:
    model = save().model_copy(update=change)
    problem = registry.problem(model)
    assert problem is None if expected is None else re.search(expected, str(problem))
    assert registry.verify(model) == problem


def test_broken_archive_is_found_by_reading_it(registry: ModelRegistry, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(b"no archive")
    model = registry.save(path, ModelCard("recvae", 0.5))
    assert registry.problem(model) is None
    assert "model.tar.gz cannot be unpacked" in str(registry.verify(model))


def test_object_with_another_sha256_is_not_delivered(registry: ModelRegistry, file: Path, tmp_path: Path) -> None:
    """Only the SHA-256 differs, not the object's generation, size or checksum."""
    registry.save(file, ModelCard("recvae", 0.5))
    registry.documents.update_one({"name": "recvae"}, {"$set": {"sha256": "0" * 64}})
    model = registry.get("recvae", 1)
    assert registry.problem(model) is None
    with pytest.raises(StoredDataError, match=r"is not what was registered: its SHA-256 differs"):
        registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert "SHA-256" in str(registry.verify(model))


def test_damaged_object_is_not_delivered(registry: ModelRegistry, save: Save, tmp_path: Path) -> None:
    model = save()
    blob = registry.store.bucket.blob(model.object)
    blob.upload_from_string(b"something else")
    with pytest.raises(StoredDataError):
        registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert registry.problem(model) is not None
    blob.delete()
    with pytest.raises(StoredDataError, match="There is no object"):
        registry.download(model, tmp_path / "out")
    assert registry.problem(model) is not None


def test_document_that_points_elsewhere_is_refused(registry: ModelRegistry, save: Save, tmp_path: Path) -> None:
    """To another bucket, another object or another folder."""
    saved, other = save(), save("other")
    place = {"name": "recvae", "version": 1}
    for change, message in (
        ({"bucket": "foreign-bucket"}, "GCS_MODEL_BUCKET"),
        ({"object": other.object}, "There is no object|is not what was registered"),
        ({"file_name": "../../outside"}, "The file name"),
    ):
        registry.documents.update_one(place, {"$set": change})
        with pytest.raises((StoredDataError, InputError), match=message):
            registry.download(registry.get("recvae", 1), tmp_path / "out")
        assert registry.verify(registry.get("recvae", 1)) is not None
        registry.documents.update_one(place, {"$set": {name: getattr(saved, name) for name in change}})
    assert registry.verify(registry.get("recvae", 1)) is None
    assert not (tmp_path / "outside").exists()


def test_plain_file_is_not_unpacked(registry: ModelRegistry, save: Save, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.bin of recvae 1 is not an archive"):
        registry.download(save(), tmp_path, unpack=True)


def test_folder_that_cannot_be_written_is_reported_and_nothing_is_left_there(
    registry: ModelRegistry, save: Save, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save()
    with pytest.raises(StoredDataError, match="cannot be written to"):
        registry.download(model, file / "below a file")
    monkeypatch.setattr(registry.store, "read_to", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StoredDataError, match=r"cannot be written to \(No space left on device\): free some space"):
        registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_only_orphans_older_than_the_grace_period_are_swept(
    save: Save, registry: ModelRegistry, objects: ObjectStore, tmp_path: Path
) -> None:
    kept, deleted = save(), save()
    shared = registry.save(tmp_path / "model.bin", ModelCard("recvae", 0.1))
    assert shared.object == deleted.object
    registry.delete("recvae", deleted.version, why="old")
    objects.write("foreign/object.bin", b"x")
    objects.write(f"recvae/{'0' * 64}/model.bin", b"of another registry", metadata={"registry": "another"})
    assert registry.sweep(NOW) == [], "another model has the same bytes"
    registry.delete("recvae", shared.version, why="old")
    assert registry.sweep(dt.timedelta(hours=1)) == [], "too young"
    assert [swept.name for swept in registry.sweep(NOW, dry_run=True)] == [deleted.object]
    assert objects.describe(deleted.object) is not None
    assert [swept.name for swept in registry.sweep(NOW)] == [deleted.object]
    assert sorted(objects.names("")) == sorted([kept.object, "foreign/object.bin", f"recvae/{'0' * 64}/model.bin"])
    again = registry.save(tmp_path / "model.bin", ModelCard("recvae", 0.1))
    assert again.object == deleted.object
    assert registry.verify(again) is None


class Turns:
    """Lets two threads take turns according to a schedule; once one has ended, the other runs freely."""

    def __init__(self, schedule: Sequence[bool]) -> None:
        self.schedule, self.place, self.ended = list(schedule), 0, set[bool]()
        self.changed = threading.Condition()

    def take(self, thread: bool) -> None:
        """Wait for a turn."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._may(thread), 20)
            self.place += 1
            self.changed.notify_all()

    def end(self, thread: bool) -> None:
        with self.changed:
            self.ended.add(thread)
            self.changed.notify_all()

    def _may(self, thread: bool) -> bool:
        return self.place >= len(self.schedule) or (not thread) in self.ended or self.schedule[self.place] == thread


class ByTurns:
    """A collection or bucket whose calls wait for their thread's turn."""

    def __init__(self, real: Any, turns: Turns, thread: bool) -> None:
        self.real, self.turns, self.thread = real, turns, thread

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.real, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: object, **more: object) -> object:
            self.turns.take(self.thread)
            return attribute(*arguments, **more)

        return call


def save_and_sweep(client: storage.Client, database: MongoDatabase, folder: Path, schedule: list[bool]) -> None:
    """Save content whose object is an orphan, and sweep, whose calls alternate as scheduled; check the saved model."""
    name = f"turns-{secrets.token_hex(8)}"
    saver, sweeper = (
        ModelRegistry(kind(client, name, create=True), database[name]) for kind in (ObjectStore, AgedStore)
    )
    path = folder / "model.bin"
    path.write_bytes(b"weights")
    orphan = saver.save(path, ModelCard("recvae", 0.5))
    saver.delete("recvae", 1, why="an orphan")
    saver.notes.update_one({"_id": orphan.object}, {"$set": {"wanted_at": dt.datetime.now(dt.UTC) - DAY}})
    assert sweeper.identity == saver.identity
    turns = Turns(schedule)
    for registry, thread in ((saver, True), (sweeper, False)):
        for attribute in ("notes", "documents", "store"):
            setattr(registry, attribute, ByTurns(getattr(registry, attribute), turns, thread))

    def sweep() -> None:
        try:
            sweeper.sweep(HOUR)
        finally:
            turns.end(False)

    with ThreadPoolExecutor(1) as pool:
        sweeping = pool.submit(sweep)
        try:
            saved = saver.save(path, ModelCard("recvae", 0.5))
        finally:
            turns.end(True)
        sweeping.result()
    assert ModelRegistry(ObjectStore(client, name), database[name]).verify(saved) is None


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=st.lists(st.booleans(), min_size=8, max_size=24))
@example(schedule=[True] + [False] * 4 + [True] * 6)
@example(schedule=[False] * 2 + [True] * 3 + [False] * 12)
def test_save_and_sweep_lose_nothing_in_any_interleaving(
    gcs_client: storage.Client, database: MongoDatabase, tmp_path: Path, schedule: list[bool]
) -> None:
    save_and_sweep(gcs_client, database, tmp_path, schedule)


@pytest.mark.parametrize("steps", range(12))
def test_sweep_after_any_step_of_a_save_loses_nothing(
    gcs_client: storage.Client, database: MongoDatabase, tmp_path: Path, steps: int
) -> None:
    save_and_sweep(gcs_client, database, tmp_path, [True] * steps + [False] * 50)


def test_model_that_becomes_visible_during_a_sweep_keeps_its_object(
    save: Save, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its save claimed the object before the grace period and was suspended until now."""
    model = save()
    registry.delete("recvae", 1, why="not visible yet")
    claimed = dt.datetime.now(dt.UTC) - DAY
    registry.notes.update_one({"_id": model.object}, {"$set": {"wanted_at": claimed}})
    real = registry.store.list

    def listed(prefix: str) -> Iterator[StoredObject]:
        stored = list(real(prefix))
        registry.documents.update_one({"name": "recvae"}, {"$unset": {"deleted": 1}})
        yield from stored

    monkeypatch.setattr(registry.store, "list", listed)
    assert registry.sweep(NOW) == []
    assert registry.problem(model) is None
    assert registry.notes.find_one({"_id": {"$regex": "^deleting:"}}) is None, "it can be saved again"


@pytest.mark.parametrize("form", ["note", "field of earlier versions"])
def test_content_whose_object_is_being_deleted_is_stored_under_another_name(
    save: Save, registry: ModelRegistry, tmp_path: Path, form: str
) -> None:
    """A sweep was killed between its note and the deletion; a save of the same content does not wait for it."""
    first = save()
    registry.delete("recvae", 1, why="old")
    if form == "note":
        registry.notes.insert_one({"_id": f"deleting:{first.object}:killed-sweep"})
    else:
        registry.notes.update_one({"_id": first.object}, {"$currentDate": {"deleting": True}})
    second = registry.save(tmp_path / "model.bin", ModelCard("recvae", 0.5))
    assert second.object != first.object
    assert second.sha256 == first.sha256
    assert [swept.name for swept in registry.sweep(NOW)] == [first.object], "the next sweep completes the deletion"
    assert registry.verify(second) is None
    third = registry.save(tmp_path / "model.bin", ModelCard("recvae", 0.5))
    assert third.object in (first.object, second.object), "its notes were deleted with it"
    assert list(registry.notes.find({"_id": {"$regex": "^deleting:"}})) == []
