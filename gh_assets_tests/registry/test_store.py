"""The registry: saving, finding and deleting models."""

import datetime as dt
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import WriteConcernError

import gh_assets
from gh_assets.errors import InputError, ModelNotFoundError
from gh_assets.registry import ModelCard, ModelRegistry, Promotion
from gh_assets.registry import store as registry_module
from gh_assets.registry.archives import Compression
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.conftest import Save, clock_behind
from gh_assets_tests.support.concurrent_registry import run_concurrently
from gh_assets_tests.support.mongo import the_document


def test_file_is_downloaded_unchanged_under_its_name(registry: ModelRegistry, file: Path, tmp_path: Path) -> None:
    model = registry.save(file, ModelCard("recvae", 0.5), file_name="model.bin")
    path = registry.download(model, tmp_path / "out")
    assert path == tmp_path / "out" / "model.bin"
    assert path.read_bytes() == file.read_bytes()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["model.bin"], "drafts were left behind"


def test_document_and_model_have_the_whole_card_and_describe_the_object(
    registry: ModelRegistry, database: MongoDatabase, file: Path
) -> None:
    fields: dict[str, Any] = {
        "metric": "loss",
        "direction": "min",
        "run_id": "run-1",
        "config": {"epochs": 3},
        "metrics": {"ndcg@100": 1},
        "intervals": {"ndcg@100": (0.5, 1.5)},
        "data": {"users": 3, "names": ["a", "b"]},
        "lineage": {"matrix": "gs://b/o"},
        "fingerprint": "f",
    }
    model = registry.save(file, ModelCard("recvae", 2.5, tags=("a",), **fields))
    assert registry.get("recvae", 1) == model
    assert {key: getattr(model, key) for key in fields} == fields
    assert (model.version, model.serial, model.unpacked, model.tags) == (1, 1, None, ("a",))
    assert (model.comparable_score, model.title, model.tag) == (-2.5, "recvae 1", "a")
    assert model.uri == f"gs://{registry.store.name}/recvae/{model.sha256}/weights.bin"
    assert model.code_version == gh_assets.__version__
    document = the_document(database["models"])
    stored = registry.store.describe(document["object"])
    assert stored is not None
    expected = {
        **{key: value for key, value in fields.items() if key != "intervals"},
        "intervals": {"ndcg@100": [0.5, 1.5]},
        "name": "recvae",
        "tag": "a",
        "score": 2.5,
        "size": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bucket": registry.store.name,
        "generation": stored.generation,
        "crc32c": stored.crc32c,
    }
    assert {key: document[key] for key in expected} == expected
    assert abs(document["time"] - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)
    archive = registry.save(file, ModelCard("recvae", None), archive="zstd", file_name="final.bin")
    assert (archive.file_name, archive.unpacked) == ("final.tar.zst", file.stat().st_size)
    assert (archive.comparable_score, archive.tag) == (-math.inf, "")
    assert stored.metadata["registry"] == registry.identity


@pytest.mark.parametrize(
    ("name", "archive", "reason"),
    [
        ("weights.bin", "rar", "'rar' is neither gzip nor zstd"),
        ("nothing", None, "does not exist"),
        ("", None, "tar_zip=True"),
    ],
    ids=["unknown compression", "missing file", "folder without an archive"],
)
def test_what_cannot_be_stored_is_refused(
    registry: ModelRegistry, file: Path, name: str, archive: Any, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        registry.save(file.parent / name, ModelCard("recvae", 0.5), archive=archive)
    assert registry.list() == []
    assert list(registry.store.names("")) == []


@pytest.mark.parametrize(("compression", "name"), [("gzip", "model.tar.gz"), ("zstd", "model.tar.zst")])
def test_folder_is_stored_as_a_reproducible_archive_and_unpacked(
    registry: ModelRegistry, tmp_path: Path, compression: Compression, name: str
) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    weights = bytes(400_000) + os.urandom(1000)
    (folder / "weights").write_bytes(weights)
    (folder / "deep" / "config.json").write_text("{}")
    first, second = (registry.save(folder, ModelCard("recvae", 0.5), archive=compression) for _ in range(2))
    assert first.object == second.object
    assert (first.file_name, first.unpacked) == (name, 401_002)
    assert first.size is not None
    assert first.size < 0.02 * 401_000, "the archive is not compressed"
    unpacked = registry.download(first, tmp_path / "out", unpack=True)
    assert unpacked == tmp_path / "out" / "model"
    assert (unpacked / "weights").read_bytes() == weights
    assert (unpacked / "deep" / "config.json").read_text() == "{}"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]
    assert registry.verify(first) is None


def test_crash_before_the_document_leaves_nothing_visible_and_a_rerun_succeeds(
    registry: ModelRegistry, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(registry_module, "RegisteredModel", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.save(file, ModelCard("recvae", 0.5))
    assert registry.list() == []
    with pytest.raises(ModelNotFoundError):
        registry.latest("recvae")
    model = registry.save(file, ModelCard("recvae", 0.5))
    assert registry.download(model, tmp_path / "out").read_bytes() == file.read_bytes()


def test_concurrent_saves_lose_nothing(registry: ModelRegistry, tmp_path: Path) -> None:
    def save(number: int) -> None:
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"%d" % (number % 3))  # some have the same content
        registry.save(path, ModelCard("recvae", number / 10), file_name="model.bin")

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(save, range(12)))
    assert len(registry.list("recvae")) == 12
    assert registry.best("recvae").score == 1.1


@pytest.mark.parametrize("count", [6, pytest.param(16, marks=pytest.mark.slow)])
def test_concurrent_saves_of_processes_get_versions_without_gaps(
    registry: ModelRegistry, database: MongoDatabase, count: int
) -> None:
    results = run_concurrently(database, registry, count, "save")
    rows = [row for rows in results for row in rows]
    assert sorted(version for version, *_ in rows) == list(range(1, 3 * count + 1))
    for saved, latest, best, score in rows:
        assert latest >= saved, "a saved model is visible at once"
        assert best >= score
    assert [model.version for model in registry.list("recvae")] == list(range(3 * count, 0, -1))
    assert registry.best("recvae").score == pytest.approx(count - 1 + 0.2)
    assert all(registry.verify(model) is None for model in registry.list("recvae"))
    assert len(list(registry.store.names("recvae/"))) == 5, "equal content is one object"


def test_versions_count_up_per_name(save: Save, registry: ModelRegistry) -> None:
    assert [save("a").version for _ in range(3)] == [1, 2, 3]
    assert save("b").version == 1
    assert registry.get("a", 2).title == "a 2"
    with pytest.raises(ModelNotFoundError, match=r"There is no version 9 of model 'a' \(newest: 3, 2, 1\)"):
        registry.get("a", 9)
    with pytest.raises(InputError, match="whole number"):
        registry.get("a", {"$gt": 0})  # type: ignore[arg-type]


def test_models_of_all_names_are_ordered_by_registration_whatever_the_clocks(
    save: Save, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a"), save("b")
    with clock_behind(monkeypatch):
        save("a"), save("c")
    save("b")
    assert [model.title for model in registry.list()] == ["b 2", "c 1", "a 2", "b 1", "a 1"]
    assert [model.serial for model in registry.list()] == [5, 4, 3, 2, 1]
    assert [model.title for model in registry.list("a")] == ["a 2", "a 1"]
    registry.delete("b", 2, why="broken")
    assert save("d").serial == 6, "the serial number of a deleted model is not assigned again"


def test_latest_is_by_version_and_best_is_by_score(save: Save, registry: ModelRegistry, tmp_path: Path) -> None:
    for number, score in enumerate([0.3, 0.9, 0.5, None, float("nan")]):
        save(score=score, tags=(f"v{number}",))
        # Later versions get earlier times: no clock decides.
        day = dt.datetime(2026, 1, 9 - number, tzinfo=dt.UTC)
        registry.documents.update_one({"version": number + 1}, {"$set": {"time": day}})
    assert [model.version for model in registry.list("recvae")] == [5, 4, 3, 2, 1]
    for model in registry.list("recvae"):
        assert registry.download(model, tmp_path / "out").read_bytes() == b"model %d" % model.version
    assert registry.latest("recvae").tag == "v4"
    assert registry.latest("recvae").score is None, "NaN is no score"
    assert registry.best("recvae").tag == "v1"
    assert registry.best("recvae", tag="v2").score == 0.5
    with pytest.raises(ModelNotFoundError, match=r"No scored model 'recvae' with tag 'v3'"):
        registry.best("recvae", tag="v3")
    save(score=0.9)
    assert registry.best("recvae").version == 6, "of equal scores the newest is best"


def test_best_model_respects_direction_and_metric(save: Save, registry: ModelRegistry, database: MongoDatabase) -> None:
    save(score=0.9, metric="ndcg@100")
    for loss in (3.0, 1.0, 2.0, float("nan")):
        save(score=loss, metric="loss", direction="min")
    assert registry.best("recvae").score == 1.0
    database["models"].update_one({"version": 3}, {"$set": {"score": float("nan")}})
    assert registry.best("recvae").score == 2.0, "NaN is no score"
    save(score=0.2, metric="ndcg@100")
    assert registry.best("recvae").score == 0.9, "the newest scored model decides which metric counts"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), st.none() | st.floats(-1, 1)), max_size=8
    )
)
def test_latest_and_best_agree_with_a_list(
    objects: ObjectStore, database: MongoDatabase, file: Path, saved: list[tuple[str, str, float | None]]
) -> None:
    database["models"].delete_many({})
    registry = ModelRegistry(objects, database["models"])
    for number, (name, tag, score) in enumerate(saved):
        registry.save(file, ModelCard(name, score, tags=(tag,) if tag else (), run_id=str(number)))
    for name in ("a", "b"):
        for tag in ("", "x", "y"):
            matching = [(n, s) for n, (m, t, s) in enumerate(saved) if m == name and tag in ("", t)]
            scored = [(s, n) for n, s in matching if s is not None]
            if matching:
                assert registry.latest(name, tag).run_id == str(matching[-1][0])
            if scored:
                assert registry.best(name, tag).run_id == str(max(scored)[1])


def test_missing_model_error_lists_the_registered_names(registry: ModelRegistry, save: Save) -> None:
    with pytest.raises(ModelNotFoundError, match=r"No model 'recvae' is registered \(registered: none\)"):
        registry.latest("recvae")
    save("other")
    with pytest.raises(ModelNotFoundError, match="registered: other"):
        registry.latest("recvae")


def test_damaged_document_hides_no_other_model(
    save: Save, registry: ModelRegistry, database: MongoDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    save(score=0.1), save(score=0.9)
    database["models"].update_one({"version": 2}, {"$set": {"time": "never"}})
    assert [model.version for model in registry.list()] == [1]
    assert (registry.latest("recvae").version, registry.best("recvae").version) == (1, 1)
    assert "The document of model 'recvae' is wrong at 'time'" in caplog.text


def test_training_is_found_by_its_fingerprint(save: Save, registry: ModelRegistry) -> None:
    save(fingerprint="a"), save(fingerprint="a"), save(fingerprint="b"), save("other", fingerprint="a")
    assert [registry.find("recvae", fingerprint) for fingerprint in "ac"] == [registry.get("recvae", 2), None]
    registry.store.delete(registry.get("recvae", 2).object)
    assert registry.find("recvae", "a") is None, "it has to be trained again"


def test_tags_keep_their_order(save: Save, registry: ModelRegistry) -> None:
    save(tags=("a", "b", "a", "c")), save(tags=("b",)), save()
    assert registry.get("recvae", 1).tags == ("a", "b", "c")
    assert [model.tag for model in registry.list("recvae")] == ["", "b", "a"]
    assert [model.version for model in registry.list(tag="b")] == [2, 1]
    assert registry.latest("recvae", "c").version == 1
    with pytest.raises(
        ModelNotFoundError, match=r"^No model 'recvae' with tag 'd' is registered \(registered: recvae\)"
    ):
        registry.latest("recvae", "d")


def test_deletion_records_who_and_why(save: Save, registry: ModelRegistry, database: MongoDatabase) -> None:
    model = save(tags=("a",))
    registry.delete("recvae", 1, why="broken", by="a user")
    document = the_document(database["models"], name="recvae")
    assert {key: document["deleted"][key] for key in ("by", "why")} == {"by": "a user", "why": "broken"}
    assert abs(document["deleted"]["time"] - model.time) < dt.timedelta(minutes=1)
    assert not {"tag", "bucket_name"} & set(document), "no query of the original system finds it"
    assert (registry.list(), registry.list("recvae"), registry.list(tag="a")) == ([], [], [])
    with pytest.raises(ModelNotFoundError):
        registry.delete("recvae", 1, why="again")


def test_version_of_a_deleted_model_is_not_assigned_again(save: Save, registry: ModelRegistry) -> None:
    for _ in range(3):
        save()
    registry.delete("recvae", 3, why="broken", by="a user")
    assert registry.latest("recvae").version == 2
    with pytest.raises(ModelNotFoundError):
        registry.get("recvae", 3)
    assert save().version == 4
    registry.promote(Promotion("recvae", 4, why="good"))
    with pytest.raises(InputError, match="recvae 4 is the champion to recommend repositories"):
        registry.delete("recvae", 4, why="by mistake")
    assert registry.get("recvae", 4).version == 4


def test_model_that_is_promoted_during_its_deletion_stays(
    save: Save, registry: ModelRegistry, database: MongoDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is promoted after the first check, and the second check undoes the deletion."""
    save(tags=("good",))
    before = database["models"].find_one({})

    def promote_meanwhile() -> str:
        registry.promote(Promotion("recvae", 1, why="at the same moment", by="another user"))
        return "a user"

    monkeypatch.setattr(registry_module, "current_user", promote_meanwhile)
    with pytest.raises(InputError, match="recvae 1 is the champion"):
        registry.delete("recvae", 1, why="old")
    assert registry.champion().title == "recvae 1"
    assert database["models"].find_one({}) == before, "the deletion was not undone completely"


def test_save_succeeds_if_the_document_is_visible_but_the_write_concern_is_not_met(
    registry: ModelRegistry, save: Save, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a replica set whose secondary is unavailable."""
    real = registry.documents.insert_one

    def unconfirmed(document: dict[str, Any]) -> None:
        real(document)
        details = {"writeConcernError": {"code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting"}}
        raise WriteConcernError("waiting", 64, details)

    monkeypatch.setattr(registry.documents, "insert_one", unconfirmed)
    saved = save()
    assert saved.version == 1
    assert registry.verify(saved) is None
    assert "recvae 1 is saved, but not acknowledged by as many servers" in caplog.text
