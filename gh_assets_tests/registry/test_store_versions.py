"""Versions, aliases, deletion, orphans: many at once, clocks that run back, scores that are none."""

from __future__ import annotations

import datetime as dt
import json
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.cloud import storage
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pymongo.errors import DuplicateKeyError

from gh_assets.errors import ConcurrentWriteError, InputError, ModelNotFoundError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, ModelRegistry, RegisteredModel
from gh_assets.storage import migrations
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.storage.objects import ObjectStore, StoredObject
from gh_assets_tests.conftest import clock_behind
from gh_assets_tests.support.paths import CHECKOUT

NOW, HOUR = dt.timedelta(0), dt.timedelta(hours=1)

Save = Callable[..., RegisteredModel]


@pytest.fixture
def save(registry: ModelRegistry, tmp_path: Path) -> Save:
    number = 0

    def save(name: str = "recvae", score: float | None = 0.5, **more: object) -> RegisteredModel:
        nonlocal number
        number += 1
        path = tmp_path / "model.bin"
        path.write_bytes(b"model %d" % number)
        return registry.save(path, name, score, **more)  # type: ignore[arg-type]

    return save


def test_versions_count_up_for_each_name(save: Save, registry) -> None:
    assert [save("a").version for _ in range(3)] == [1, 2, 3]
    assert save("b").version == 1
    assert registry.get("a", 2).title == "a 2"
    with pytest.raises(ModelNotFoundError, match=r"There is no version 9 of model 'a' \(newest: 3, 2, 1\)"):
        registry.get("a", 9)
    with pytest.raises(InputError, match="whole number"):
        registry.get("a", {"$gt": 0})


def test_the_latest_is_by_version_even_if_clocks_run_back(save: Save, registry, database) -> None:
    save(tag="first")
    save(tag="second")
    database["models"].update_one({"version": 2}, {"$set": {"time": dt.datetime(2001, 1, 1, tzinfo=dt.UTC)}})
    assert registry.latest("recvae").version == 2
    assert [model.version for model in registry.list("recvae")] == [2, 1]


def test_over_all_names_the_newest_is_what_was_registered_last_whatever_the_clock(
    save: Save, registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("a"), save("b")
    with clock_behind(monkeypatch):
        save("a"), save("c")
    save("b")
    assert [model.title for model in registry.list()] == ["b 2", "c 1", "a 2", "b 1", "a 1"]
    assert [model.serial for model in registry.list()] == [5, 4, 3, 2, 1]
    assert [model.title for model in registry.list("a")] == ["a 2", "a 1"]
    registry.delete("b", 2, why="broken")
    assert save("d").serial == 6, "the number of a deleted model is not given again"


def test_models_from_before_there_were_serial_numbers_get_them_once(save: Save, registry, database) -> None:
    """By their times, as far as versions agree; the original system's come after all that have a version."""
    titles = [save(name).title for name in ("a", "b", "a", "c", "a")]
    times = [5, 4, 3, 6, 7]  # a 2 was registered by a clock behind: it comes after a 1 all the same
    for title, hour in zip(titles, times, strict=True):
        name, version = title.split()
        time = dt.datetime(2026, 1, 1, hour, tzinfo=dt.UTC)
        change = {"$set": {"time": time}, "$unset": {"serial": 1, "tag": 1, "bucket_name": 1}}
        database["models"].update_one({"name": name, "version": int(version)}, change)
    database["models"].insert_one(
        {"name": "old", "bucket_name": "b", "file_name": "f", "tag": "v0", "time": dt.datetime(2027, 1, 1)}
    )
    registry.delete("c", 1, why="old")
    database["models"].update_one({"name": "c"}, {"$set": {"tag": "", "bucket_name": "b"}})
    migrations.MIGRATIONS[3](database)
    expected = ["a 3", "a 2", "a 1", "b 1", "old of 2027-01-01 00:00"]
    assert [model.title for model in registry.list()] == expected
    before = list(database["models"].find().sort("_id"))
    migrations.MIGRATIONS[3](database)
    assert list(database["models"].find().sort("_id")) == before, "doing it twice changes nothing"
    assert save("a").serial == 6
    visible = {"deleted": None, "version": {"$exists": True}}
    assert {document["bucket_name"] for document in database["models"].find(visible)} == {registry.store.name}
    assert all(document["tag"] == "" for document in database["models"].find(visible))
    assert "tag" not in (database["models"].find_one({"name": "c"}) or {})
    tagged = save("a", tags=("first", "second"))
    database["models"].update_one({"version": tagged.version, "name": "a"}, {"$unset": {"tag": 1, "bucket_name": 1}})
    migrations.MIGRATIONS[3](database)
    document = database["models"].find_one({"version": tagged.version, "name": "a"})
    assert (document["tag"], document["bucket_name"]) == ("first", registry.store.name)


def test_a_query_of_the_original_system_finds_what_it_looks_for(save: Save, registry, database, tmp_path: Path) -> None:
    def asked(**wanted: str) -> list[dict[str, Any]]:
        return list(database["models"].find(wanted).sort("time", -1))

    for number, tag in enumerate(("v1", "v2", "v1", "v1", "")):
        saved = save(tag=tag, tags=("more",) if tag else ())
        time = saved.time + dt.timedelta(seconds=number)  # two may fall into one millisecond
        database["models"].update_one({"version": saved.version}, {"$set": {"time": time}})
    registry.delete("recvae", 4, why="broken")
    found = asked(name="recvae", tag="v1")
    assert [document["version"] for document in found] == [3, 1]
    assert [document["version"] for document in asked(name="recvae", tag="")] == [5]
    newest = found[0]
    assert newest["bucket_name"] == registry.store.name
    assert isinstance(newest["time"], dt.datetime)
    again = RegisteredModel.from_document(newest)
    assert (again.tags, again.bucket, again.file_name) == (("v1", "more"), registry.store.name, "model.bin")
    assert registry.download(again, tmp_path / "out").exists()


def test_one_damaged_document_hides_no_other_model(save: Save, registry, database, caplog) -> None:
    save(score=0.1), save(score=0.9)
    database["models"].update_one({"version": 2}, {"$set": {"time": "never"}})
    assert [model.version for model in registry.list()] == [1]
    assert (registry.latest("recvae").version, registry.best("recvae").version) == (1, 1)
    assert "The document of model 'recvae' is wrong at 'time'" in caplog.text


def test_less_can_be_better_and_other_metrics_do_not_compare(save: Save, registry) -> None:
    save(score=0.9, metric="ndcg@100")
    for loss in (3.0, 1.0, 2.0, float("nan")):
        save(score=loss, metric="loss", direction="min")
    assert registry.best("recvae").score == 1.0
    save(score=0.2, metric="ndcg@100")
    assert registry.best("recvae").score == 0.9, "the newest scored model says by what"


@pytest.mark.parametrize("score", [float("inf"), -float("inf")])
def test_an_infinite_score_is_refused(save: Save, score: float) -> None:
    with pytest.raises(InputError, match="not finite"):
        save(score=score)


def test_a_stored_nan_is_no_score(save: Save, registry, database) -> None:
    save(score=0.1, direction="min", metric="loss")
    save(score=0.2, direction="min", metric="loss")
    database["models"].update_one({"version": 2}, {"$set": {"score": float("nan")}})
    assert registry.best("recvae").version == 1


def test_documents_of_the_original_system_are_read(registry, database, objects, save: Save, tmp_path: Path) -> None:
    objects.write("old/model.bin", b"old weights")
    original = {"name": "recvae", "bucket_name": objects.name, "file_name": "old/model.bin", "tag": "v0"}
    database["models"].insert_many(
        [
            {**original, "score": 0.7, "time": dt.datetime(2021, 5, 1)},
            {**original, "score": 0.6, "time": "2021-06-01T00:00:00"},
            {**original, "score": None, "time": 1_600_000_000},
        ]
    )
    # Mongo orders by type first, dates before text: of one type they come by their time.
    assert registry.latest("recvae").time == dt.datetime(2021, 5, 1, tzinfo=dt.UTC)
    best = registry.best("recvae", tag="v0")
    assert (best.score, best.version, best.file_name) == (0.7, 0, "model.bin")
    assert registry.download(best, tmp_path / "out").read_bytes() == b"old weights"
    assert registry.verify(best) is None
    new = save(score=0.1)
    assert new.version == 1
    assert registry.latest("recvae").version == 1, "what has a version is newer than what has none"
    assert "old/model.bin" not in {found.name for found in registry.sweep(NOW)}
    database["models"].insert_one({"name": "broken", "time": "never", "bucket": "b", "object": "o", "file_name": "f"})
    with pytest.raises(StoredDataError, match=r"The document of model 'broken' is wrong at 'time'"):
        registry.latest("broken")


SAVER = """
import json, sys
from pathlib import Path
from gh_assets.storage.objects import ObjectStore, StoredObject
from gh_assets.registry import ModelRegistry
from gh_assets.services.connections import connect_gcs, connect_mongo
from gh_assets.settings import load_settings
settings = load_settings()
database, bucket, number, action = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
mongo = connect_mongo(settings.model_copy(update={"mongo_database": database}))
registry = ModelRegistry(ObjectStore(connect_gcs(settings), bucket, create=True), mongo["models"])
path = Path(f"{number}.bin")
path.write_bytes(b"model %d" % (number % 5))
print("ready", flush=True)
sys.stdin.readline()
seen = []
for turn in range(3):
    if action == "save":
        saved = registry.save(path, "recvae", number + turn / 10, file_name="model.bin")
        latest, best = registry.latest("recvae"), registry.best("recvae")
        seen.append([saved.version, latest.version, best.score, saved.score])
    else:
        try:
            move = registry.promote("recvae", number + 1, why=f"because {number}.{turn}", by=f"process {number}")
            seen.append(move.revision)
        except Exception as error:
            seen.append(type(error).__name__)
print(json.dumps(seen))
"""


def at_once(database, registry: ModelRegistry, folder: Path, count: int, action: str) -> list[list]:
    """What so many processes say that begin at the same moment."""
    command = [sys.executable, "-W", "ignore", "-c", SAVER, database.name, registry.store.name]
    processes = [
        subprocess.Popen(
            [*command, str(number), action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**__import__("os").environ, "PYTHONPATH": str(CHECKOUT)},
        )
        for number in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate(timeout=120)[0]) for process in processes]


@pytest.mark.parametrize("count", [6, pytest.param(16, marks=pytest.mark.slow)])
def test_processes_saving_one_name_get_all_versions_without_gap(registry, database, tmp_path: Path, count: int) -> None:
    said = at_once(database, registry, tmp_path, count, "save")
    rows = [row for rows in said for row in rows]
    assert sorted(version for version, *_ in rows) == list(range(1, 3 * count + 1))
    for saved, latest, best, score in rows:
        assert latest >= saved, "what was saved is seen at once"
        assert best >= score
    assert [model.version for model in registry.list("recvae")] == list(range(3 * count, 0, -1))
    assert registry.best("recvae").score == pytest.approx(count - 1 + 0.2)
    assert all(registry.verify(model) is None for model in registry.list("recvae"))
    assert len(list(registry.store.names("recvae/"))) == 5, "equal content is one object"


def test_eight_processes_promoting_make_one_champion_and_a_whole_history(
    registry, database, save: Save, tmp_path: Path
) -> None:
    for _ in range(8):
        save()
    said = at_once(database, registry, tmp_path, 8, "promote")
    acknowledged = sorted(entry for entries in said for entry in entries if isinstance(entry, int))
    refused = {entry for entries in said for entry in entries if isinstance(entry, str)}
    assert refused <= {"ConcurrentWriteError"}
    moves = registry.aliases.history(PURPOSE, CHAMPION)
    assert [move.revision for move in moves] == sorted(acknowledged, reverse=True) == list(range(len(moves), 0, -1))
    assert (registry.champion().name, registry.champion().version) == (moves[0].name, moves[0].version)
    assert all(move.below == (move.revision - 1 or None) for move in moves)


def test_promotion_and_rollback_go_up_and_down_a_stack(save: Save, registry) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no champion to recommend repositories yet"):
        registry.champion()
    for _ in range(3):
        save()
        registry.promote("recvae", registry.latest("recvae").version, why="newer", by="somebody")
    other = save("ease")
    registry.promote("ease", other.version, why="a baseline can be champion")
    assert registry.champion().name == "ease"
    assert [registry.rollback(why="worse").version for _ in range(3)] == [3, 2, 1]
    with pytest.raises(ModelNotFoundError, match="nothing to return to"):
        registry.rollback(why="worse still")
    registry.promote("recvae", 3, why="fixed")
    assert registry.rollback(why="not fixed").version == 1
    moves = registry.aliases.history(PURPOSE, CHAMPION)
    assert [move.revision for move in moves] == list(range(9, 0, -1))
    assert (moves[-1].by, moves[-1].why, moves[-1].action) == ("somebody", "newer", "promote")
    with pytest.raises(InputError, match="Say why"):
        registry.promote("recvae", 1, why=" ")


def test_a_move_says_who_when_why_and_on_what(save: Save, registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "somebody")
    model = save(), save()
    began = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    registry.promote("recvae", 1, why="first", by="run 7", evidence={"users": 30})
    registry.promote("recvae", 2, why="second")
    registry.promote("recvae", 2, why="the next one", alias="candidate")
    second, first = registry.aliases.history(PURPOSE, CHAMPION)
    assert first.model_dump(exclude={"time"}) == {
        "purpose": PURPOSE,
        "alias": CHAMPION,
        "revision": 1,
        "name": "recvae",
        "version": 1,
        "action": "promote",
        "below": None,
        "by": "run 7",
        "why": "first",
        "evidence": {"users": 30},
    }
    assert (second.revision, second.below, second.by, second.evidence) == (2, 1, "somebody", {})
    assert began <= first.time <= second.time <= dt.datetime.now(dt.UTC)
    assert registry.aliases.current(PURPOSE, CHAMPION) == second
    assert registry.alias_holders() == {("recvae", 2): ["candidate", "champion"]}
    back = registry.rollback(why="worse")
    assert (back.action, back.version, back.below, back.by, back.evidence) == ("rollback", 1, None, "somebody", {})
    assert registry.aliases.current(PURPOSE, CHAMPION) == back
    assert registry.alias_holders() == {("recvae", 2): ["candidate"], ("recvae", 1): ["champion"]}
    assert [move.version for move in registry.holders()] == [1]
    assert [move.version for move in registry.holders(alias="candidate")] == [2]
    with pytest.raises(ModelNotFoundError, match="There is no champion to predict the weather yet"):
        registry.champion("predict the weather")
    with pytest.raises(ModelNotFoundError, match="There is no other to recommend repositories yet"):
        registry.rollback(why="worse", alias="other")
    assert registry.get("recvae", 1) == model[0], "a move changes no model"


@pytest.mark.parametrize("why", ["", " ", "x" * 2001, {"$ne": ""}])
def test_a_decision_without_a_reason_is_refused(save: Save, registry, why: object) -> None:
    save(), save()
    registry.promote("recvae", 1, why="x" * 2000)
    for decide in (
        lambda: registry.promote("recvae", 2, why=why),
        lambda: registry.rollback(why=why),
        lambda: registry.delete("recvae", 2, why=why),
    ):
        with pytest.raises(InputError, match=r"Say why|must be text"):
            decide()
    assert (registry.latest("recvae").version, registry.champion().version) == (2, 1)


def test_what_was_deleted_says_by_whom_and_why(save: Save, registry, database) -> None:
    model = save(tag="a")
    registry.delete("recvae", 1, why="broken", by="somebody")
    document = database["models"].find_one({"name": "recvae"})
    assert {key: document["deleted"][key] for key in ("by", "why")} == {"by": "somebody", "why": "broken"}
    assert abs(document["deleted"]["time"] - model.time) < dt.timedelta(minutes=1)
    assert not {"tag", "bucket_name"} & set(document), "no query of the original system finds it"
    assert (registry.list(), registry.list("recvae"), registry.list(tag="a")) == ([], [], [])
    with pytest.raises(ModelNotFoundError):
        registry.delete("recvae", 1, why="again")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 1}, "has the size 7 instead of 1"),
        ({"crc32c": "AAAAAA=="}, "has the crc32c .* instead of AAAAAA=="),
        ({"generation": 1}, r"has the generation \d+ instead of 1$"),
        ({"bucket": "another"}, "^it lies in another bucket, gs://another$"),
        ({"object": "nowhere"}, "^gs://.*/nowhere is missing$"),
        ({"size": None, "crc32c": None, "generation": None, "sha256": None}, None),
    ],
)
def test_what_is_wrong_with_an_object_is_said(save: Save, registry, change: dict[str, Any], words: str | None) -> None:
    model = save().model_copy(update=change)
    problem = registry.problem(model)
    assert registry.is_stored(model) == (words is None)
    assert problem is None if words is None else re.search(words, str(problem))
    assert registry.verify(model) == problem


def test_an_archive_that_cannot_be_unpacked_is_found_by_reading_it(registry, tmp_path: Path) -> None:
    path = tmp_path / "model.tar.gz"
    path.write_bytes(b"no archive")
    model = registry.save(path, "recvae", 0.5)
    assert registry.problem(model) is None
    assert "model.tar.gz cannot be unpacked" in str(registry.verify(model))


def test_the_same_training_is_found_by_its_fingerprint(save: Save, registry) -> None:
    save(fingerprint="a"), save(fingerprint="a"), save(fingerprint="b"), save("other", fingerprint="a")
    assert (registry.find("recvae", "a").version, registry.find("recvae", "c")) == (2, None)
    registry.store.delete(registry.get("recvae", 2).object)
    assert registry.find("recvae", "a") is None, "it has to be made again"


def test_tags_are_in_the_order_in_which_they_were_given(save: Save, registry) -> None:
    save(tag="a", tags=("b", "a", "c")), save(tags=("b",)), save()
    assert registry.get("recvae", 1).tags == ("a", "b", "c")
    assert [model.tag for model in registry.list("recvae")] == ["", "b", "a"]
    assert [model.version for model in registry.list(tag="b")] == [2, 1]
    assert registry.latest("recvae", "c").version == 1
    with pytest.raises(
        ModelNotFoundError, match=r"^No model 'recvae' with tag 'd' is registered \(registered: recvae\)"
    ):
        registry.latest("recvae", "d")


def test_a_decision_against_an_older_champion_is_refused(save: Save, registry) -> None:
    save(), save()
    before = registry.aliases.current(PURPOSE, CHAMPION)
    registry.promote("recvae", 1, why="first", after=before)
    with pytest.raises(ConcurrentWriteError, match=r"moved by somebody else meanwhile, to recvae 1 \(first\)"):
        registry.promote("recvae", 2, why="second", after=before)
    assert registry.champion().version == 1


def test_what_is_not_stored_is_not_promoted(save: Save, registry) -> None:
    model = save()
    registry.store.delete(model.object)
    with pytest.raises(StoredDataError, match="is missing or not what was registered"):
        registry.promote("recvae", 1, why="try")
    assert registry.verify(model) == f"{model.uri} is missing"


def test_a_deleted_model_is_gone_for_ever_and_its_version_is_not_given_again(save: Save, registry) -> None:
    for _ in range(3):
        save()
    registry.delete("recvae", 3, why="broken", by="somebody")
    assert registry.latest("recvae").version == 2
    with pytest.raises(ModelNotFoundError):
        registry.get("recvae", 3)
    assert save().version == 4
    registry.promote("recvae", 4, why="good")
    with pytest.raises(InputError, match="recvae 4 is the champion to recommend repositories"):
        registry.delete("recvae", 4, why="by mistake")
    assert registry.get("recvae", 4).version == 4


def test_a_champion_deleted_behind_the_registrys_back_is_the_one_before(save: Save, registry, database) -> None:
    save(), save()
    registry.promote("recvae", 1, why="first")
    registry.promote("recvae", 2, why="second")
    database["models"].update_one({"version": 2}, {"$set": {"deleted": {"why": "by hand"}}})
    assert registry.champion().version == 1
    with pytest.raises(ModelNotFoundError, match=r"There was no champion before recvae 1: there is nothing"):
        registry.rollback(why="one more")


def test_a_rollback_says_what_became_of_the_models_that_it_cannot_return_to(save: Save, registry) -> None:
    for version in (1, 2, 3, 4):
        save()
        registry.promote("recvae", version, why=f"version {version}")
    registry.delete("recvae", 3, why="it recommended nonsense")
    registry.store.delete(registry.get("recvae", 2).object)
    move = registry.rollback(why="worse")
    assert (move.version, registry.champion().version) == (1, 1)
    deleted, missing = move.evidence["passed_over"]
    assert deleted == "recvae 3 was deleted (it recommended nonsense)"
    assert missing.startswith("recvae 2 cannot be read any more (gs://")
    assert registry.aliases.history(PURPOSE, CHAMPION)[0].evidence == move.evidence
    registry.promote("recvae", 4, why="not so bad")
    registry.delete("recvae", 1, why="old")
    with pytest.raises(ModelNotFoundError) as raised:
        registry.rollback(why="worse after all")
    assert str(raised.value) == (
        "There is nothing to return to: before recvae 4, recvae 1 was deleted (old). Promote another model: gh-assets "
        "models promote NAME VERSION --why TEXT."
    )
    assert registry.champion().version == 4


def test_a_model_that_is_promoted_while_it_is_deleted_stays(
    save: Save, registry, database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the deed: the second look sees it, and takes the deed back."""
    save(tag="good")
    before = database["models"].find_one({})
    real = registry._refuse_if_held
    looks = []

    def look(model: RegisteredModel) -> None:
        looks.append(model.title)
        real(model)
        if len(looks) == 1:
            registry.promote("recvae", 1, why="at the same moment")

    monkeypatch.setattr(registry, "_refuse_if_held", look)
    with pytest.raises(InputError, match="recvae 1 is the champion"):
        registry.delete("recvae", 1, why="old")
    assert registry.champion().title == "recvae 1"
    assert database["models"].find_one({}) == before, "nothing of the deletion is left"


def test_orphans_go_after_the_grace_time_and_nothing_else(save: Save, registry, objects, tmp_path: Path) -> None:
    kept, deleted = save(), save()
    shared = registry.save(tmp_path / "model.bin", "recvae", 0.1)
    assert shared.object == deleted.object
    registry.delete("recvae", deleted.version, why="old")
    objects.write("somebody/elses.bin", b"x")
    objects.write(f"recvae/{'0' * 64}/model.bin", b"of another registry", metadata={"registry": "another"})
    assert registry.sweep(NOW) == [], "another model has the same bytes"
    registry.delete("recvae", shared.version, why="old")
    assert registry.sweep(dt.timedelta(hours=1)) == [], "too young"
    assert [found.name for found in registry.sweep(NOW, dry_run=True)] == [deleted.object]
    assert objects.describe(deleted.object) is not None
    assert [found.name for found in registry.sweep(NOW)] == [deleted.object]
    assert sorted(objects.names("")) == sorted([kept.object, "somebody/elses.bin", f"recvae/{'0' * 64}/model.bin"])
    again = registry.save(tmp_path / "model.bin", "recvae", 0.1)
    assert again.object == deleted.object
    assert registry.verify(again) is None


def test_a_save_and_a_sweep_of_the_same_bytes_never_lose_them(
    save: Save, registry, tmp_path: Path, monkeypatch
) -> None:
    """A sweep at each moment of a save, of bytes that were an orphan when it began."""
    path = tmp_path / "model.bin"

    def orphan() -> str:
        model = save("recvae")
        registry.delete("recvae", model.version, why="an orphan")
        return model.object

    class Older(ObjectStore):
        """As if all that is there had been there for a day."""

        def list(self, prefix: str) -> Iterator[StoredObject]:
            day = dt.timedelta(days=1)
            for found in super().list(prefix):
                yield replace(found, created=found.created - day)

    sweeper = ModelRegistry(Older(registry.store.client, registry.store.name), registry.documents)
    moments = [
        (registry, "_claim_object"),
        (registry.store, "write"),
        (registry.store, "describe"),
        (registry, "_commit"),
    ]
    for owner, name in moments:
        for after in (False, True):
            orphan()
            real = getattr(owner, name)

            def meanwhile(*arguments: object, real=real, after=after, **more: object) -> object:
                if not after:
                    sweeper.sweep(HOUR)
                result = real(*arguments, **more)
                if after:
                    sweeper.sweep(HOUR)
                return result

            with monkeypatch.context() as patched:
                patched.setattr(owner, name, meanwhile)
                saved = registry.save(path, "recvae", 0.5)
            assert registry.verify(saved) is None, (name, after)


class ClientConcurrency:
    """Lets two threads go on by turns, as a schedule says; who is left alone goes on as it likes."""

    def __init__(self, schedule: Sequence[bool]) -> None:
        self.schedule, self.place, self.ended = list(schedule), 0, set[bool]()
        self.changed = threading.Condition()

    def take(self, who: bool) -> None:
        """Wait for a turn."""
        with self.changed:
            assert self.changed.wait_for(lambda: self._may(who), 20)
            self.place += 1
            self.changed.notify_all()

    def end(self, who: bool) -> None:
        with self.changed:
            self.ended.add(who)
            self.changed.notify_all()

    def _may(self, who: bool) -> bool:
        return self.place >= len(self.schedule) or (not who) in self.ended or self.schedule[self.place] == who


class ByTurns:
    """A collection, or a bucket, each of whose calls waits for its thread's turn."""

    def __init__(self, real: Any, turns: ClientConcurrency, who: bool) -> None:
        self.real, self.turns, self.who = real, turns, who

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if not callable(found):
            return found

        def call(*arguments: object, **more: object) -> object:
            self.turns.take(self.who)
            return found(*arguments, **more)

        return call


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedule=st.lists(st.booleans(), min_size=8, max_size=24))
@example(schedule=[True] + [False] * 4 + [True] * 6)
@example(schedule=[False] * 2 + [True] * 3 + [False] * 12)
def test_a_save_and_a_sweep_agree_however_their_statements_alternate(
    gcs_client: storage.Client, database: MongoDatabase, tmp_path_factory: pytest.TempPathFactory, schedule: list[bool]
) -> None:
    """Of bytes that are an orphan when both begin."""

    class Older(ObjectStore):
        def list(self, prefix: str) -> Iterator[StoredObject]:
            for found in super().list(prefix):
                yield replace(found, created=found.created - dt.timedelta(days=1))

    name = f"turns-{secrets.token_hex(8)}"
    saver, sweeper = (
        ModelRegistry(kind(gcs_client, name, create=True), database[name]) for kind in (ObjectStore, Older)
    )
    path = tmp_path_factory.mktemp("turns") / "model.bin"
    path.write_bytes(b"weights")
    orphan = saver.save(path, "recvae", 0.5)
    saver.delete("recvae", 1, why="an orphan")
    old = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    saver._objects.update_one({"_id": orphan.object}, {"$set": {"wanted_at": old}})
    assert sweeper.identity == saver.identity
    turns = ClientConcurrency(schedule)
    for registry, who in ((saver, True), (sweeper, False)):
        for owner in ("_objects", "documents", "store"):
            setattr(registry, owner, ByTurns(getattr(registry, owner), turns, who))

    def swept() -> None:
        try:
            sweeper.sweep(HOUR)
        finally:
            turns.end(False)

    with ThreadPoolExecutor(1) as pool:
        sweeping = pool.submit(swept)
        try:
            saved = saver.save(path, "recvae", 0.5)
        finally:
            turns.end(True)
        sweeping.result()
    assert ModelRegistry(ObjectStore(gcs_client, name), database[name]).verify(saved) is None


def test_a_model_that_becomes_visible_while_a_sweep_looks_keeps_its_object(
    save: Save, registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its save wanted the object before the grace time, and slept until now."""
    model = save()
    registry.delete("recvae", 1, why="not visible yet")
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    registry._objects.update_one({"_id": model.object}, {"$set": {"wanted_at": long_ago}})
    real = registry.store.list

    def listed(prefix: str) -> Iterator[StoredObject]:
        found = list(real(prefix))
        registry.documents.update_one({"name": "recvae"}, {"$unset": {"deleted": 1}})
        yield from found

    monkeypatch.setattr(registry.store, "list", listed)
    assert registry.sweep(NOW) == []
    assert registry.problem(model) is None
    assert registry._objects.find_one({"_id": {"$regex": "^deleting:"}}) is None, "and others may save it again"


@pytest.mark.parametrize("form", ["a note of its own", "a field, as before"])
def test_bytes_that_are_being_deleted_are_stored_beside(save: Save, registry, tmp_path: Path, form: str) -> None:
    """A sweep was killed between its note and its deed; whoever saves the same bytes need not wait for it."""
    first = save()
    registry.delete("recvae", 1, why="old")
    if form == "a note of its own":
        registry._objects.insert_one({"_id": f"deleting:{first.object}:of-one-that-was-killed"})
    else:
        registry._objects.update_one({"_id": first.object}, {"$currentDate": {"deleting": True}})
    second = registry.save(tmp_path / "model.bin", "recvae", 0.5)
    assert second.object != first.object
    assert second.sha256 == first.sha256
    assert [found.name for found in registry.sweep(NOW)] == [first.object], "the next sweep does it"
    assert registry.verify(second) is None
    third = registry.save(tmp_path / "model.bin", "recvae", 0.5)
    assert third.object in (first.object, second.object), "its notes have gone with it"
    assert list(registry._objects.find({"_id": {"$regex": "^deleting:"}})) == []


@pytest.mark.parametrize("what", ["model name", "tag", "file name"])
@pytest.mark.parametrize("value", [{"$ne": ""}, "../../etc/passwd", "x" * 10_000_000, "a\0b", "‮gnp.exe"])
def test_hostile_names_are_refused_with_one_short_error(registry, file: Path, what: str, value: object) -> None:
    given = {"model name": "recvae", "tag": "", "file name": "model.bin"} | {what: value}
    with pytest.raises(InputError, match=f"The {what}") as raised:
        registry.save(file, given["model name"], 0.5, tag=given["tag"], file_name=given["file name"])
    assert len(str(raised.value)) < 400
    assert registry.list() == []


def test_a_description_that_is_too_large_or_no_document_is_refused(registry, file: Path) -> None:
    with pytest.raises(InputError, match=r"takes 2\.0 MB: 1 MB at most"):
        registry.save(file, "recvae", 0.5, config={"x": "y" * 2_000_000})
    with pytest.raises(InputError, match="cannot be kept by Mongo"):
        registry.save(file, "recvae", 0.5, config={"x": object()})


def test_mongo_itself_refuses_what_is_no_model(registry, database, save: Save) -> None:
    from pymongo.errors import WriteError

    from gh_assets.storage.migrations import migrate

    save()
    migrate(database)
    migrate(database)
    for wrong in ({"name": {"$ne": ""}}, {"name": "a", "version": 0}, {"name": "a", "score": "high"}):
        with pytest.raises(WriteError, match="failed validation"):
            database["models"].insert_one({"time": dt.datetime.now(dt.UTC), **wrong})
    assert save().version == 2


@pytest.mark.parametrize("number", ["version", "serial"])
def test_mongo_itself_refuses_a_number_that_was_given(save: Save, database, number: str) -> None:
    save(), save()
    again = database["models"].find_one({"version": 1}, {"_id": 0})
    free = {"version": 9, "serial": 9} | {number: 1}
    with pytest.raises(DuplicateKeyError):
        database["models"].insert_one(again | free)
    database["models"].insert_one({"name": "recvae", "time": again["time"]})
    database["models"].insert_one({"name": "recvae", "time": again["time"]})
    assert save().version == 3, "documents without numbers are in nobody's way"


def test_a_database_of_a_newer_version_is_refused(database) -> None:
    from gh_assets.errors import ConfigurationError
    from gh_assets.storage.migrations import migrate

    database["meta"].update_one({"_id": "schema"}, {"$set": {"version": 999}})
    with pytest.raises(ConfigurationError, match="of a newer version of gh_assets"):
        migrate(database)


def test_threads_that_promote_see_one_order(save: Save, registry) -> None:
    for _ in range(4):
        save()

    def promote(version: int) -> int:
        for _ in range(100):
            try:
                return registry.promote("recvae", version, why=f"version {version}").revision
            except ConcurrentWriteError:
                continue
        raise AssertionError("never its turn")

    with ThreadPoolExecutor(4) as executor:
        revisions = sorted(executor.map(promote, [1, 2, 3, 4]))
    assert revisions == [1, 2, 3, 4]
