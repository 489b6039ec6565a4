"""The model registry: whole models or none, the latest, the best, and what came back is what was stored."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import math
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gh_assets
from gh_assets.errors import InputError, ModelNotFoundError, StoredDataError
from gh_assets.registry import (
    Decision,
    ModelRegistry,
    RegisteredModel,
    download_file,
    extract_archive,
    file_to_storage,
    write_archive,
)
from gh_assets.registry import store as registry_module
from gh_assets.registry.documents import flatten_metrics, leaderboard


def test_a_file_comes_back_as_it_was_under_its_registered_name(registry, file: Path, tmp_path: Path) -> None:
    model = registry.save(file, "recvae", 0.5, file_name="model.bin")
    path = registry.download(model, tmp_path / "out")
    assert path == tmp_path / "out" / "model.bin"
    assert path.read_bytes() == file.read_bytes()
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["model.bin"], "drafts were left behind"


def test_the_document_says_everything(registry, database, file: Path) -> None:
    before = dt.datetime.now(dt.UTC)
    registry.save(
        file, "recvae", 0.5, tag="a", metric="ndcg@100", run_id="run-1", config={"epochs": 3}, metrics={"m": 1.0}
    )
    document = database["models"].find_one({})
    assert document["name"] == "recvae"
    assert (document["tag"], document["score"], document["metric"]) == ("a", 0.5, "ndcg@100")
    assert (document["run_id"], document["config"], document["metrics"]) == ("run-1", {"epochs": 3}, {"m": 1.0})
    assert document["size"] == file.stat().st_size
    assert document["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert document["time"].tzinfo is not None
    assert abs(document["time"] - before) < dt.timedelta(minutes=1)
    stored = registry.store.describe(document["object"])
    assert (document["bucket"], document["generation"]) == (registry.store.name, stored.generation)
    assert document["crc32c"] == stored.crc32c


def test_all_that_is_said_of_a_model_comes_back(registry, file: Path) -> None:
    said = {
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
    model = registry.save(file, "recvae", 2.5, **said)
    assert registry.get("recvae", 1) == model
    assert {key: getattr(model, key) for key in said} == said
    assert (model.version, model.serial, model.unpacked, model.tags) == (1, 1, None, ())
    assert (model.comparable_score, model.title, model.tag) == (-2.5, "recvae 1", "")
    assert model.uri == f"gs://{registry.store.name}/recvae/{model.sha256}/weights.bin"
    assert model.code_version == gh_assets.__version__
    archive = registry.save(file, "recvae", None, tar_zip=True, compression="zstd", file_name="mine.bin")
    assert (archive.file_name, archive.unpacked) == ("mine.tar.zst", file.stat().st_size)
    assert archive.comparable_score == -math.inf
    assert registry.store.describe(archive.object).metadata["registry"] == registry.identity


@pytest.mark.parametrize("more", [{"direction": "up"}, {"tar_zip": True, "compression": "rar"}])
def test_what_is_none_of_the_choices_is_refused(registry, file: Path, more: dict[str, object]) -> None:
    with pytest.raises(InputError, match="is neither"):
        registry.save(file, "recvae", 0.5, **more)
    assert registry.list() == []
    assert list(registry.store.names("")) == []


@pytest.mark.parametrize("name", ["a", "x" * 200, "A-b_c.d+e=f@g h", "0"])
def test_usual_names_are_taken(registry, file: Path, name: str) -> None:
    model = registry.save(file, name, 0.5, tag=name, file_name=name)
    assert (model.name, model.tag, model.file_name) == (name, name, name)
    assert registry.latest(name, name) == model


@given(st.dictionaries(st.sampled_from(["recvae", "ease", "als 2"]), st.just({"ndcg@100": 0.5, "recall@20": 0.25})))
def test_a_leaderboard_goes_into_flat_metrics_and_back(board: dict[str, dict[str, float]]) -> None:
    now = {"time": "2026-01-01", "bucket": "b", "object": "o", "file_name": "f"}
    flat = flatten_metrics("recvae", board)
    assert flat.keys() >= ({"ndcg@100", "recall@20"} if "recvae" in board else set())
    assert leaderboard(RegisteredModel(name="recvae", metrics=flat, **now)) == board


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
def test_times_of_documents_are_utc_however_they_are_written(time: object) -> None:
    document = {"name": "old", "time": time, "bucket_name": "b", "file_name": "folder/f", "tag": "t"}
    model = RegisteredModel.from_document(document)
    assert model.time == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.UTC)
    assert model.time.tzinfo is dt.UTC
    assert (model.title, model.tags, model.bucket) == ("old of 2023-11-14 22:13", ("t",), "b")
    assert (model.object, model.file_name) == ("folder/f", "f")
    unknown = (model.score, model.generation, model.sha256, model.crc32c, model.size, model.run_id, model.code_version)
    assert unknown == (None,) * 7


@pytest.mark.parametrize("time", ["never", True, None])
def test_what_is_no_time_is_named(time: object) -> None:
    with pytest.raises(StoredDataError, match=f"The document of model '{'x' * 60}' is wrong at 'time'"):
        RegisteredModel.from_document({"name": "x" * 99, "time": time, "bucket_name": "b", "file_name": "f"})


def test_the_last_decision_is_kept_whatever_names_it_has(registry) -> None:
    assert registry.decisions.last() is None
    for outcome in ("refused", "promoted"):
        decision = Decision(
            outcome=outcome,
            candidate="a.b 1",
            champion="$c 2",
            words="so it is",
            newest={"a.b": 1, "$c": 2},
            validation={"a.b 1": 0.5},
            checks={"cost": "little"},
            skipped={"d.e 1": "broken"},
            by="run 1",
        )
        registry.decisions.record(decision)
        assert registry.decisions.last() == decision
        assert decision.undecided == (outcome == "refused")
    assert registry.decisions.last("another purpose") is None


def test_latest_is_by_version_and_best_is_by_score(registry, file: Path) -> None:
    for number, score in enumerate([0.3, 0.9, 0.5, None, float("nan")]):
        file.write_bytes(b"version %d" % number)
        registry.save(file, "recvae", score, tag=f"v{number}")
    # The later version, the earlier time: no clock decides.
    days = [dt.datetime(2026, 1, 9 - number, tzinfo=dt.UTC) for number in range(5)]
    for version, day in enumerate(days, start=1):
        registry.documents.update_one({"version": version}, {"$set": {"time": day}})
    assert registry.latest("recvae").tag == "v4"
    assert registry.latest("recvae").score is None, "NaN is no score"
    assert registry.best("recvae").tag == "v1"
    assert registry.best("recvae", tag="v2").score == 0.5
    with pytest.raises(ModelNotFoundError, match=r"No scored model 'recvae' with tag 'v3'"):
        registry.best("recvae", tag="v3")


def test_what_is_not_the_registered_bytes_is_not_delivered_whatever_the_bucket_says(
    registry, file: Path, tmp_path: Path
) -> None:
    """Of the object's name, generation, size and checksum nothing is wrong: only the SHA-256 tells."""
    registry.save(file, "recvae", 0.5)
    registry.documents.update_one({"name": "recvae"}, {"$set": {"sha256": "0" * 64}})
    model = registry.get("recvae", 1)
    assert registry.problem(model) is None
    with pytest.raises(StoredDataError, match=r"is not what was registered: its SHA-256 differs"):
        registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert "SHA-256" in str(registry.verify(model))


def test_of_equal_scores_the_newest_is_the_best(registry, file: Path) -> None:
    for number in range(3):
        file.write_bytes(b"version %d" % number)
        registry.save(file, "recvae", 0.5, tag=f"v{number}")
    assert registry.best("recvae").tag == "v2"


def test_a_model_that_is_not_there_is_one_error_that_names_what_is(registry, file: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"No model 'recvae' is registered \(registered: none\)"):
        registry.latest("recvae")
    registry.save(file, "other", 1.0)
    with pytest.raises(ModelNotFoundError, match="registered: other"):
        registry.latest("recvae")


def test_the_same_file_saved_twice_is_one_object_and_two_models(registry, file: Path) -> None:
    first, second = (registry.save(file, "recvae", score) for score in (0.1, 0.2))
    assert (first.object, first.generation) == (second.object, second.generation)
    assert len(registry.list()) == 2
    assert len(list(registry.store.names("recvae/"))) == 1


def test_any_model_can_be_fetched_not_only_the_latest(registry, file: Path, tmp_path: Path) -> None:
    for number in range(4):
        file.write_bytes(b"version %d" % number)
        registry.save(file, "recvae", float(-number))
    for number, model in enumerate(reversed(registry.list("recvae"))):
        assert registry.download(model, tmp_path / "out").read_bytes() == b"version %d" % number


def test_tar_zip_compresses_and_unpacks(registry, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(b"\0" * 200_000)
    (folder / "deep" / "config.json").write_text("{}")
    model = registry.save(folder, "recvae", 0.5, tar_zip=True)
    assert model.file_name == "model.tar.gz"
    assert model.size < 10_000, "the archive is not compressed"
    unpacked = registry.download(model, tmp_path / "out", unpack=True)
    assert unpacked == tmp_path / "out" / "model"
    assert (unpacked / "weights.bin").read_bytes() == b"\0" * 200_000
    assert (unpacked / "deep" / "config.json").read_text() == "{}"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_archives_of_the_same_content_have_the_same_bytes(tmp_path: Path) -> None:
    import os

    for name in ("a", "b"):
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        for file in ("two", "one") if name == "a" else ("one", "two"):
            (folder / file).write_text(file)
            os.utime(folder / file, (1 if name == "a" else 2,) * 2)
            (folder / file).chmod(0o600 if name == "a" else 0o644)
        write_archive(folder, tmp_path / f"{name}.tar.gz")
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


@pytest.mark.parametrize("kind", ["parent", "inner parent", "absolute", "link", "hard link", "device"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    names = {"parent": "../outside", "inner parent": "a/../../outside", "absolute": str(outside)}
    member = tarfile.TarInfo(names.get(kind, "x"))
    if kind == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    elif kind == "hard link":
        member.type, member.linkname = tarfile.LNKTYPE, "../outside"
    elif kind == "device":
        member.type = tarfile.CHRTYPE
    else:
        member.size = 1
    path = tmp_path / "in" / "bad.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(b"x"))
    target = tmp_path / "in" / "bad"
    with pytest.raises(StoredDataError, match="cannot be unpacked"):
        extract_archive(path, target)
    assert not target.exists()
    assert not outside.exists()
    assert not [entry for entry in path.parent.iterdir() if entry.name.startswith(".bad")]


def test_a_damaged_object_is_never_delivered(registry, file: Path, tmp_path: Path) -> None:
    model = registry.save(file, "recvae", 0.5)
    blob = registry.store.bucket.blob(model.object)
    blob.upload_from_string(b"something else")
    with pytest.raises(StoredDataError):
        registry.download(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not registry.is_stored(model)
    blob.delete()
    with pytest.raises(StoredDataError, match="There is no object"):
        registry.download(model, tmp_path / "out")
    assert not registry.is_stored(model)


def test_a_crash_before_the_document_leaves_nothing_visible_and_a_rerun_succeeds(
    registry, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(registry_module, "RegisteredModel", crash)
        with pytest.raises(Killed):
            registry.save(file, "recvae", 0.5)
    assert registry.list() == []
    with pytest.raises(ModelNotFoundError):
        registry.latest("recvae")
    model = registry.save(file, "recvae", 0.5)
    assert registry.download(model, tmp_path / "out").read_bytes() == file.read_bytes()


def test_many_savers_at_once_lose_nothing(registry, tmp_path: Path) -> None:
    def save(number: int) -> None:
        path = tmp_path / f"{number}.bin"
        path.write_bytes(b"%d" % (number % 3))  # some have the same content
        registry.save(path, "recvae", number / 10, file_name="model.bin")

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(save, range(12)))
    assert len(registry.list("recvae")) == 12
    assert registry.best("recvae").score == 1.1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 201, "new\nline", {"$ne": ""}])
def test_names_that_could_do_harm_are_refused(registry, file: Path, name: str) -> None:
    with pytest.raises(InputError):
        registry.save(file, name, 0.5)
    with pytest.raises(InputError):
        registry.save(file, "recvae", 0.5, file_name=name or ".")
    if not isinstance(name, str):
        with pytest.raises(InputError, match="must be text"):
            registry.latest(name)
        with pytest.raises(InputError, match="must be text"):
            registry.list(tag=name)


def test_what_cannot_be_stored_is_one_error(registry, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        registry.save(tmp_path / "nothing", "recvae", 0.5)
    with pytest.raises(InputError, match="tar_zip=True"):
        registry.save(tmp_path, "recvae", 0.5)


def test_a_model_of_another_bucket_is_refused(registry, file: Path, tmp_path: Path) -> None:
    model = registry.save(file, "recvae", 0.5).model_copy(update={"bucket": "somebody-elses"})
    with pytest.raises(StoredDataError, match="GCS_MODEL_BUCKET"):
        registry.download(model, tmp_path)


def test_the_two_functions_keep_their_contract(database, file: Path, tmp_path: Path) -> None:
    collection = database["models"]
    for score, tag in ((0.9, "good"), (0.1, "bad")):
        file.write_text(tag)
        document = file_to_storage(file, "recvae", score, tag, collection, "model.txt", True)
    assert document["file_name"] == "model.tar.gz"
    assert document["bucket"] == "model-save"
    assert document["tag"] == "bad"
    latest = download_file("recvae", collection, directory=tmp_path / "latest", unpack=True)
    best = download_file("recvae", collection, latest=False, directory=tmp_path / "best", unpack=True)
    tagged = download_file("recvae", collection, tag="good", directory=tmp_path / "tagged")
    assert (latest / "weights.bin").read_text() == "bad"
    assert (best / "weights.bin").read_text() == "good"
    assert tagged == tmp_path / "tagged" / "model.tar.gz"
    plain = file_to_storage(str(file), "plain", None, db_conn=collection)
    assert (plain["file_name"], plain["score"], plain["tag"]) == ("weights.bin", None, "")
    assert download_file("plain", collection, directory=tmp_path).read_text() == "bad"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), st.none() | st.floats(-1, 1)), max_size=8
    )
)
def test_latest_and_best_against_a_list(
    objects, database, file: Path, saved: list[tuple[str, str, float | None]]
) -> None:
    database["models"].delete_many({})
    registry = ModelRegistry(objects, database["models"])
    for number, (name, tag, score) in enumerate(saved):
        registry.save(file, name, score, tag=tag, run_id=str(number))
    for name in ("a", "b"):
        for tag in ("", "x", "y"):
            mine = [(n, s) for n, (m, t, s) in enumerate(saved) if m == name and tag in ("", t)]
            scored = [(s, n) for n, s in mine if s is not None]
            if mine:
                assert registry.latest(name, tag).run_id == str(mine[-1][0])
            if scored:
                assert registry.best(name, tag).run_id == str(max(scored)[1])
