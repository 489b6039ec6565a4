"""Aliases: promotion, rollback and their history."""

import contextlib
import datetime as dt
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gh_assets.errors import ConcurrentWriteError, InputError, ModelNotFoundError, StoredDataError
from gh_assets.registry import CHAMPION, PURPOSE, Decision, ModelRegistry, Promotion
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import Save
from gh_assets_tests.support.concurrent_registry import run_concurrently
from gh_assets_tests.support.mongo import the_document


def test_rollbacks_return_through_earlier_champions(save: Save, registry: ModelRegistry) -> None:
    with pytest.raises(ModelNotFoundError, match="There is no champion to recommend repositories yet"):
        registry.champion()
    for _ in range(3):
        registry.promote(Promotion("recvae", save().version, why="newer", by="a user"))
    other = save("ease")
    registry.promote(Promotion("ease", other.version, why="a baseline can be champion"))
    assert registry.champion().name == "ease"
    assert [registry.rollback(why="worse").version for _ in range(3)] == [3, 2, 1]
    with pytest.raises(ModelNotFoundError, match="nothing to return to"):
        registry.rollback(why="worse still")
    registry.promote(Promotion("recvae", 3, why="fixed"))
    assert registry.rollback(why="not fixed").version == 1
    moves = registry.aliases.history(PURPOSE, CHAMPION)
    assert [move.revision for move in moves] == list(range(9, 0, -1))
    assert (moves[-1].by, moves[-1].why, moves[-1].action) == ("a user", "newer", "promote")


def test_move_records_who_decided_when_why_and_on_which_evidence(
    save: Save, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "a user")
    models = save(), save()
    began = dt.datetime.now(dt.UTC) - dt.timedelta(milliseconds=1)
    registry.promote(Promotion("recvae", 1, why="first", by="run 7", evidence={"users": 30}))
    registry.promote(Promotion("recvae", 2, why="second"))
    registry.promote(Promotion("recvae", 2, why="the next one", alias="candidate"))
    second, first = registry.aliases.history(PURPOSE, CHAMPION)
    place = {"purpose": PURPOSE, "alias": CHAMPION, "name": "recvae", "version": 1}
    move = {"revision": 1, "action": "promote", "below": None, "by": "run 7", "why": "first", "evidence": {"users": 30}}
    assert first.model_dump(exclude={"time"}) == place | move
    assert (second.revision, second.below, second.by, second.evidence) == (2, 1, "a user", {})
    assert began <= first.time <= second.time <= dt.datetime.now(dt.UTC)
    assert registry.aliases.current(PURPOSE, CHAMPION) == second
    assert registry.alias_holders() == {("recvae", 2): ["candidate", "champion"]}
    back = registry.rollback(why="worse")
    assert (back.action, back.version, back.below, back.by, back.evidence) == ("rollback", 1, None, "a user", {})
    assert registry.aliases.current(PURPOSE, CHAMPION) == back
    assert registry.alias_holders() == {("recvae", 2): ["candidate"], ("recvae", 1): ["champion"]}
    assert [move.version for move in registry.holders()] == [1]
    assert [move.version for move in registry.holders(alias="candidate")] == [2]
    with pytest.raises(ModelNotFoundError, match="There is no champion to predict the weather yet"):
        registry.champion("predict the weather")
    with pytest.raises(ModelNotFoundError, match="There is no other to recommend repositories yet"):
        registry.rollback(why="worse", alias="other")
    assert registry.get("recvae", 1) == models[0], "a move changes no model"


@pytest.mark.parametrize("why", ["", " ", "x" * 2001, {"$ne": ""}])
def test_decision_without_a_reason_is_refused(save: Save, registry: ModelRegistry, why: Any) -> None:
    save(), save()
    registry.promote(Promotion("recvae", 1, why="x" * 2000))
    for decide in (
        lambda: registry.promote(Promotion("recvae", 2, why=why)),
        lambda: registry.rollback(why=why),
        lambda: registry.delete("recvae", 2, why=why),
    ):
        with pytest.raises(InputError, match=r"Give a reason|must be text"):
            decide()
    assert (registry.latest("recvae").version, registry.champion().version) == (2, 1)


def test_promotion_against_a_former_champion_is_refused(save: Save, registry: ModelRegistry) -> None:
    save(), save()
    before = registry.aliases.current(PURPOSE, CHAMPION)
    registry.promote(Promotion("recvae", 1, why="first"), after=before)
    with pytest.raises(ConcurrentWriteError, match=r"was moved to recvae 1 \(first\) in the meantime"):
        registry.promote(Promotion("recvae", 2, why="second"), after=before)
    assert registry.champion().version == 1


def test_model_without_its_object_is_not_promoted(save: Save, registry: ModelRegistry) -> None:
    model = save()
    registry.store.delete(model.object)
    with pytest.raises(StoredDataError, match="is missing or not what was registered"):
        registry.promote(Promotion("recvae", 1, why="try"))
    assert registry.verify(model) == f"{model.uri} is missing"


def test_champion_whose_document_was_deleted_by_other_means_is_passed_over(
    save: Save, registry: ModelRegistry, database: MongoDatabase
) -> None:
    for _ in range(2):
        registry.promote(Promotion("recvae", save().version, why="newer"))
    database["models"].update_one({"version": 2}, {"$set": {"deleted": {"why": "by hand"}}})
    assert registry.champion().version == 1
    with pytest.raises(ModelNotFoundError, match=r"There was no champion before recvae 1: there is nothing"):
        registry.rollback(why="one more")


def test_rollback_names_the_models_it_passes_over(save: Save, registry: ModelRegistry) -> None:
    for _ in range(4):
        registry.promote(Promotion("recvae", save().version, why="newer"))
    registry.delete("recvae", 3, why="it recommended nonsense")
    registry.store.delete(registry.get("recvae", 2).object)
    move = registry.rollback(why="worse")
    assert (move.version, registry.champion().version) == (1, 1)
    deleted, missing = move.evidence["passed_over"]
    assert deleted == "recvae 3 was deleted (it recommended nonsense)"
    assert missing.startswith("recvae 2 cannot be read any more (gs://")
    assert registry.aliases.history(PURPOSE, CHAMPION)[0].evidence == move.evidence
    registry.promote(Promotion("recvae", 4, why="not so bad"))
    registry.delete("recvae", 1, why="old")
    with pytest.raises(ModelNotFoundError) as raised:
        registry.rollback(why="worse after all")
    assert str(raised.value) == (
        "There is nothing to return to: before recvae 4, recvae 1 was deleted (old). Promote another model: gh-assets "
        "models promote NAME VERSION --why TEXT."
    )
    assert registry.champion().version == 4


def test_concurrent_promotions_make_one_history(registry: ModelRegistry, database: MongoDatabase, save: Save) -> None:
    for _ in range(8):
        save()
    results = run_concurrently(database, registry, 8, "promote")
    acknowledged = sorted(entry for entries in results for entry in entries if isinstance(entry, int))
    refused = {entry for entries in results for entry in entries if isinstance(entry, str)}
    assert refused <= {"ConcurrentWriteError"}
    moves = registry.aliases.history(PURPOSE, CHAMPION)
    assert [move.revision for move in moves] == sorted(acknowledged, reverse=True) == list(range(len(moves), 0, -1))
    assert (registry.champion().name, registry.champion().version) == (moves[0].name, moves[0].version)
    assert all(move.below == (move.revision - 1 or None) for move in moves)


def test_threads_that_promote_through_one_registry_make_one_history(registry: ModelRegistry, save: Save) -> None:
    versions = [save().version for _ in range(4)]
    start = threading.Barrier(len(versions))

    def promote(version: int) -> list[int]:
        start.wait(20)
        revisions = []
        for turn in range(5):
            with contextlib.suppress(ConcurrentWriteError):
                revisions.append(registry.promote(Promotion("recvae", version, why=f"turn {turn}")).revision)
        return revisions

    with ThreadPoolExecutor(len(versions)) as threads:
        acknowledged = sorted(itertools.chain(*threads.map(promote, versions)))
    moves = registry.aliases.history(PURPOSE, CHAMPION)
    assert [move.revision for move in reversed(moves)] == acknowledged == list(range(1, len(moves) + 1))
    assert registry.champion().version == moves[0].version


def test_last_decision_is_kept_with_any_names(registry: ModelRegistry) -> None:
    assert registry.decisions.last() is None
    found: dict[str, Any] = {"newest": {"a.b": 1, "$c": 2}, "validation": {"a.b 1": 0.5}}
    found |= {"checks": {"cost": "little"}, "skipped": {"d.e 1": "broken"}}
    for outcome in ("refused", "promoted"):
        decision = Decision(
            outcome=outcome, candidate="a.b 1", champion="$c 2", summary="so it is", by="run 1", **found
        )
        registry.decisions.record(decision)
        assert registry.decisions.last() == decision
        assert the_document(registry.decisions.documents)["words"] == "so it is", "the stored name of the summary"
        assert decision.undecided == (outcome == "refused")
    assert registry.decisions.last("another purpose") is None
