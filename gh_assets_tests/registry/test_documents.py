"""Documents of models: their typed form, and those of the original system."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.errors import InputError, StoredDataError
from gh_assets.registry import ModelCard, ModelRegistry, RegisteredModel
from gh_assets.registry.documents import flatten_metrics, leaderboard
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import Save


@given(st.dictionaries(st.sampled_from(["recvae", "ease", "als 2"]), st.just({"ndcg@100": 0.5, "recall@20": 0.25})))
def test_leaderboard_survives_flattening(board: dict[str, dict[str, float]]) -> None:
    place = {"time": "2026-01-01", "bucket": "b", "object": "o", "file_name": "f"}
    flat = flatten_metrics("recvae", board)
    assert flat.keys() >= ({"ndcg@100", "recall@20"} if "recvae" in board else set())
    assert leaderboard(RegisteredModel(name="recvae", metrics=flat, **place)) == board


@pytest.mark.parametrize(
    "time",
    [
        1_700_000_000,
        1_700_000_000.0,
        "2023-11-14T22:13:20",
        "2023-11-14T23:13:20+01:00",
        dt.datetime(2023, 11, 14, 22, 13, 20),
        dt.datetime(2023, 11, 15, 7, 13, 20, tzinfo=dt.timezone(dt.timedelta(hours=9))),
    ],
)
def test_times_in_any_form_are_read_as_utc(time: object) -> None:
    document = {"name": "old", "time": time, "bucket_name": "b", "file_name": "folder/f", "tag": "t"}
    model = RegisteredModel.from_document(document)
    assert model.time == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)
    assert model.time.tzinfo is dt.UTC
    assert (model.title, model.tags, model.bucket) == ("old of 2023-11-14 22:13", ("t",), "b")
    assert (model.object, model.file_name) == ("folder/f", "f")
    unknown = (model.score, model.generation, model.sha256, model.crc32c, model.size, model.run_id, model.code_version)
    assert unknown == (None,) * 7


@pytest.mark.parametrize("time", ["never", True, None])
def test_invalid_time_is_named_in_the_error(time: object) -> None:
    with pytest.raises(StoredDataError, match=f"The document of model '{'x' * 60}' is wrong at 'time'"):
        RegisteredModel.from_document({"name": "x" * 99, "time": time, "bucket_name": "b", "file_name": "f"})


def test_documents_of_the_original_system_are_read(
    registry: ModelRegistry, database: MongoDatabase, objects: ObjectStore, save: Save, tmp_path: Path
) -> None:
    objects.write("old/model.bin", b"old weights")
    original = {"name": "recvae", "bucket_name": objects.name, "file_name": "old/model.bin", "tag": "v0"}
    for score, time in ((0.7, dt.datetime(2021, 5, 1)), (0.6, "2021-06-01T00:00:00"), (None, 1_600_000_000)):
        database["models"].insert_one({**original, "score": score, "time": time})
    # Mongo orders by type first, dates before text, and then by time.
    assert registry.latest("recvae").time == dt.datetime(2021, 5, 1, tzinfo=dt.UTC)
    best = registry.best("recvae", tag="v0")
    assert (best.score, best.version, best.file_name) == (0.7, 0, "model.bin")
    assert registry.download(best, tmp_path / "out").read_bytes() == b"old weights"
    assert registry.verify(best) is None
    new = save(score=0.1)
    assert new.version == 1
    assert registry.latest("recvae").version == 1, "a model with a version is newer than one without"
    assert "old/model.bin" not in {swept.name for swept in registry.sweep(dt.timedelta(0))}
    database["models"].insert_one({"name": "broken", "time": "never", "bucket": "b", "object": "o", "file_name": "f"})
    with pytest.raises(StoredDataError, match=r"The document of model 'broken' is wrong at 'time'"):
        registry.latest("broken")


def test_queries_of_the_original_system_find_visible_models(
    save: Save, registry: ModelRegistry, database: MongoDatabase, tmp_path: Path
) -> None:
    def query(**fields: str) -> list[dict[str, Any]]:
        return list(database["models"].find(fields).sort("time", -1))

    for number, tag in enumerate(("v1", "v2", "v1", "v1", "")):
        saved = save(tags=(tag, "more") if tag else ())
        time = saved.time + dt.timedelta(seconds=number)  # two saves may fall into one millisecond
        database["models"].update_one({"version": saved.version}, {"$set": {"time": time}})
    registry.delete("recvae", 4, why="broken")
    documents = query(name="recvae", tag="v1")
    assert [document["version"] for document in documents] == [3, 1]
    assert [document["version"] for document in query(name="recvae", tag="")] == [5]
    newest = documents[0]
    assert newest["bucket_name"] == registry.store.name
    assert isinstance(newest["time"], dt.datetime)
    again = RegisteredModel.from_document(newest)
    assert (again.tags, again.bucket, again.file_name) == (("v1", "more"), registry.store.name, "model.bin")
    assert registry.download(again, tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"score": float("inf")}, "not finite"),
        ({"score": -float("inf")}, "not finite"),
        ({"direction": "up"}, "The direction 'up' is neither 'max' nor 'min'"),
        ({"config": {"x": "y" * 2_000_000}}, r"takes 2\.0 MB: the maximum is 1 MB"),
        ({"config": {"x": object()}}, "cannot be stored in Mongo"),
    ],
)
def test_card_that_is_wrong_too_large_or_not_storable_is_refused(fields: dict[str, Any], reason: str) -> None:
    card: dict[str, Any] = {"name": "recvae", "score": 0.5, **fields}
    with pytest.raises(InputError, match=reason):
        ModelCard(**card)


def test_metrics_become_floats_and_tags_unique() -> None:
    float32: Any = np.float32(0.25)
    card = ModelCard("recvae", 0.5, tags=("a", "b", "a"), metrics={"recall@20": float32})
    assert card.tags == ("a", "b")
    assert type(card.metrics["recall@20"]) is float
