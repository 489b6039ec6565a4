"""The gate to champion: the same held-out people, a bound, checks; and models that are kept on this machine."""

from __future__ import annotations

import itertools
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import SecretStr

from gh_assets.cli.documents import serving_json
from gh_assets.embedded import supervision
from gh_assets.errors import ModelNotFoundError, ServiceUnavailableError, StoredDataError
from gh_assets.recommender import EASE, Popularity, Recommender
from gh_assets.recommender.data.interactions import Csr, UserItemMatrix
from gh_assets.recommender.evaluation.evaluation import bootstrap
from gh_assets.recommender.evaluation.metrics import evaluate_users
from gh_assets.recommender.training.training import TrainedModel, result_of, split_of
from gh_assets.registry import CANDIDATE, CHAMPION, PURPOSE, ModelCard, ModelRegistry, Promotion, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.services.connections import model_store, open_mongo
from gh_assets.serving.current_model import (
    best_of,
    current_model,
    load_current_model,
    load_first_usable,
    load_model,
    serving_candidates,
)
from gh_assets.serving.promotion import MIN_TEST_USERS, ModelOnColumns, compare_with_champion, promote_if_better
from gh_assets_tests.conftest import clock_behind
from gh_assets_tests.support.matrices import taste_matrix


def matrix_of(users: int = 600, first: int = 0) -> UserItemMatrix:
    """Users with tastes; of two that begin alike, the larger one has all users of the smaller."""
    stars = taste_matrix(users=900)[first : first + users]
    items = np.arange(stars.shape[1])
    return UserItemMatrix(
        stars,
        np.arange(first, first + users) * 7 + 1000,
        np.char.add("user-", np.arange(first, first + users).astype(str)),
        items + 50,
        np.char.add("o/r", items.astype(str)),
    )


def register(registry: ModelRegistry, folder: Path, matrix: UserItemMatrix, model: Recommender) -> RegisteredModel:
    result = result_of(matrix, split_of(matrix, 0), model, {})
    kept = result.trained.save(folder / "model")
    data = {key: value for key, value in result.trained.data.items() if not isinstance(value, list)}
    return registry.save(
        kept, ModelCard(model.name, result.trained.metrics["ndcg@100"], metric="ndcg@100", data=data), archive="gzip"
    )


@pytest.fixture
def cache(tmp_path: Path) -> ModelCache:
    return ModelCache(tmp_path / "cache")


def fitted(matrix: UserItemMatrix, model: Recommender) -> Recommender:
    return model.fit(split_of(matrix, 0).train)


def test_of_a_grown_matrix_the_same_people_are_held_out() -> None:
    small, large = matrix_of(600), matrix_of(660)
    before, after = (set(m.user_ids[split_of(m, 0).test_users].tolist()) for m in (small, large))
    assert len(before & after) >= 0.8 * len(before)
    other = set(small.user_ids[split_of(small, 1).test_users].tolist())
    assert len(before & other) < 0.5 * len(before)
    moved = matrix_of(500, first=100)
    there = set(moved.user_ids[split_of(moved, 0).test_users].tolist())
    known = {user for user in before if user in set(moved.user_ids.tolist())}
    assert len(known & there) >= 0.7 * len(known), "where they stand in the matrix does not matter"


def test_the_first_champion_must_beat_popularity(registry, cache, tmp_path: Path) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, Popularity()))
    verdict, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is None
    assert "popularity 1 is not better than popularity" in verdict.words
    with pytest.raises(ModelNotFoundError):
        registry.champion()
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    verdict, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is not None
    assert (registry.champion().name, move.by, move.why) == ("ease", "a test", verdict.words)
    assert move.evidence["users"] == verdict.users
    assert verdict.difference is not None
    assert verdict.difference.low > 0
    verdict, move = promote_if_better(registry, cache, matrix, by="a test")
    assert (move, verdict.words) == (None, "ease 1 is the champion already.")
    assert registry.champion(PURPOSE, CANDIDATE).name == "ease"


def test_only_what_is_certainly_better_for_the_same_people_replaces_the_champion(
    registry, cache, tmp_path: Path
) -> None:
    """A stored score counts for nothing: it is of other people."""
    old, new = matrix_of(540), matrix_of(600)
    register(registry, tmp_path, old, fitted(old, EASE((10.0,))))
    promote_if_better(registry, cache, old, by="yesterday")
    register(registry, tmp_path, new, fitted(new, EASE((11.0,))))
    registry.documents.update_one({"name": "ease", "version": 2}, {"$set": {"score": 0.999}})
    verdict, move = promote_if_better(registry, cache, new, by="today")
    assert move is None, verdict.words
    assert "not certainly better than ease 1" in verdict.words
    assert registry.champion().version == 1
    assert verdict.users >= 30


def test_a_better_one_replaces_a_bad_champion_and_rollback_returns(registry, cache, tmp_path: Path) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, Popularity()))
    registry.promote(Promotion("popularity", 1, why="by hand, to begin with"))
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    _, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is not None
    assert current_model(registry).name == "ease"
    registry.rollback(why="it was a try")
    assert current_model(registry).name == "popularity"
    assert [entry.action for entry in registry.aliases.history(PURPOSE, CHAMPION)] == ["rollback", "promote", "promote"]


def loaded(matrix: UserItemMatrix, model: Recommender, **change: object) -> tuple[RegisteredModel, TrainedModel]:
    trained = result_of(matrix, split_of(matrix, 0), model, {}).trained
    now = {"name": model.name, "version": 1, "time": "2026-01-01", "bucket": "b", "object": "o", "file_name": "f"}
    return RegisteredModel.from_document(now), replace(trained, **change)  # type: ignore[arg-type]


def test_what_cannot_serve_cannot_become_champion() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    good, bad = loaded(matrix, fitted(matrix, EASE((10.0,)))), loaded(matrix, fitted(matrix, EASE((10.0,))))
    assert isinstance(bad[1].model, EASE)
    bad[1].model.B[3, 4] = np.nan
    assert "its weights B are not all finite" in compare_with_champion(bad, good, matrix, split).words
    stranger = loaded(matrix, fitted(matrix, EASE((10.0,))), repo_ids=np.arange(len(matrix.repo_ids)) + 10_000)
    assert "it knows 0% of the champion's repositories" in compare_with_champion(stranger, good, matrix, split).words
    unknown = loaded(matrix, fitted(matrix, EASE((10.0,))), data={})
    assert "0 users were held out of both trainings" in compare_with_champion(unknown, good, matrix, split).words


def test_of_the_champions_repositories_half_must_be_known() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    good, other = (loaded(matrix, fitted(matrix, EASE((10.0,)))) for _ in range(2))
    count = len(matrix.repo_ids)
    for known, passed in ((count // 2, True), (count // 2 - 1, False)):
        ids = matrix.repo_ids.copy()
        ids[known:] += 10_000
        check = compare_with_champion(good, (other[0], replace(other[1], repo_ids=ids)), matrix, split).checks[
            "overlap"
        ]
        assert check.passed is passed
        assert check.words == f"it knows {known / count:.0%} of the champion's repositories (at least 50%)"


def test_what_the_comparison_found_is_kept_as_evidence() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    good, poor = loaded(matrix, fitted(matrix, EASE((10.0,)))), loaded(matrix, fitted(matrix, Popularity()))
    verdict = compare_with_champion(good, poor, matrix, split)
    by_user = [
        evaluate_users(ModelOnColumns(one[1], matrix.repo_ids), split.test_fold_in, split.test_held_out)["ndcg@100"]
        for one in (good, poor)
    ]
    assert verdict.means == {"ease": by_user[0].mean(), "champion": by_user[1].mean()}
    assert verdict.difference == bootstrap(by_user[0] - by_user[1])
    assert (verdict.better, verdict.outcome, verdict.users) == (True, "promoted", len(split.test_users))
    assert (verdict.candidate, verdict.champion) == (good[0], poor[0])
    assert verdict.words.startswith(f"ease 1 is certainly better than popularity 1 for {verdict.users} users whom")
    assert f"ndcg@100 {by_user[0].mean():.4f} against {by_user[1].mean():.4f}" in verdict.words
    evidence = verdict.evidence()
    assert evidence["difference"] == [verdict.difference.mean, verdict.difference.low, verdict.difference.high]
    assert (evidence["users"], evidence["metric"], evidence["champion"]) == (verdict.users, "ndcg@100", "popularity 1")
    assert evidence["means"] == verdict.means
    assert evidence["checks"].keys() == {"weights", "cost", "overlap", "users"}
    assert evidence["checks"]["weights"] == "all weights are finite"
    first = compare_with_champion(good, None, matrix, split)
    assert first.words.startswith("ease 1 is better than popularity for ")
    assert first.means == {"ease": verdict.means["ease"], "popularity": pytest.approx(verdict.means["champion"])}
    assert (first.champion, first.evidence()["champion"], first.checks.keys()) == (
        None,
        None,
        {"weights", "cost", "users"},
    )
    refused = compare_with_champion((good[0], replace(good[1], data={})), None, matrix, split)
    assert refused.words == ("ease 1 cannot become champion: 0 users were held out of both trainings (at least 1).")
    assert (refused.candidate, refused.outcome, refused.better, refused.users) == (good[0], "refused", False, 0)
    assert refused.evidence()["difference"] is None


def test_the_best_on_the_validation_users_is_the_candidate(registry, cache, tmp_path: Path) -> None:
    matrix = matrix_of()
    for model in (Popularity(), EASE((1e9,)), EASE((10.0,))):
        register(registry, tmp_path, matrix, fitted(matrix, model))
    split = split_of(matrix, 0)
    fold_in, held_out = split.validation
    verdict, move = promote_if_better(registry, cache, matrix, by="run 1", names=("popularity", "ease"))
    assert verdict.validation.keys() == {"popularity 1", "ease 2"}, "of each name the newest"
    for model, title in ((Popularity(), "popularity 1"), (EASE((10.0,)), "ease 2")):
        score = evaluate_users(fitted(matrix, model), fold_in, held_out)["ndcg@100"].mean()
        assert verdict.validation[title] == pytest.approx(score, rel=1e-4)
    assert (move.name, move.version, move.by, move.why, move.evidence) == (
        "ease",
        2,
        "run 1",
        verdict.words,
        verdict.evidence(),
    )
    pointed = registry.aliases.current(PURPOSE, CANDIDATE)
    assert (pointed.name, pointed.version, pointed.by, pointed.why) == (
        "ease",
        2,
        "run 1",
        "best on the validation users",
    )
    decision = registry.decisions.last()
    assert (decision.validation, decision.checks) == (verdict.validation, verdict.evidence()["checks"])
    assert decision.words.startswith(verdict.words)
    ahead, other = verdict.validation["ease 2"], verdict.validation["popularity 1"]
    assert decision.words.endswith(
        f" On the validation users ease 2 ({ahead:.4f}) was ahead of popularity 1 ({other:.4f})."
    )
    again, _ = promote_if_better(registry, cache, matrix, by="run 2", names=("ease", "popularity"))
    assert (again.outcome, again.validation) == ("champion already", verdict.validation)
    assert again.candidate == again.champion == registry.champion()
    assert (again.better, again.skipped) == (False, {})
    assert len(registry.aliases.history(PURPOSE, CANDIDATE)) == 1, "it points there already"


def test_only_models_with_the_tag_compete(registry, cache, tmp_path: Path) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    with pytest.raises(ModelNotFoundError, match=r"^None of the newest models \(ease\) was trained on the present"):
        promote_if_better(registry, cache, matrix, by="run 1", names=("ease",), tag="production")
    assert registry.decisions.last().newest == {"ease": 1}
    registry.documents.update_one({"name": "ease"}, {"$set": {"tags": ["production"]}})
    assert promote_if_better(registry, cache, matrix, by="run 2", names=("ease",), tag="production")[1] is not None


# -- what a model may cost ---------------------------------------------------------------------------------------------


class Burning(EASE):
    """Takes so much processor time more for a prediction."""

    seconds = 0.01

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return super()._predict(stars)


class Waiting(EASE):
    """Takes its time, and no processor."""

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        time.sleep(0.01)
        return super()._predict(stars)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Threads of this process and another process that compute for as long as the block takes."""
    over = threading.Event()
    block = np.ones((300, 300))

    def compute() -> None:
        while not over.is_set():
            block @ block

    threads = [threading.Thread(target=compute) for _ in range(4)]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
            other.kill()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three times the champion's cost is too much, and popularity's excuses nothing."""
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO", 3.0)
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO_TO_POPULARITY", 0.0)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_cost_is_processor_time_against_the_champions_however_busy_the_machine(busy: bool) -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    plain = loaded(matrix, fitted(matrix, EASE((10.0,))))
    with busy_machine() if busy else nullcontext():
        for model, passes in ((EASE((10.0,)), True), (Waiting((10.0,)), True), (Burning((10.0,)), False)):
            verdict = compare_with_champion(loaded(matrix, fitted(matrix, model)), plain, matrix, split)
            assert verdict.checks["cost"].passed is passes, (type(model), verdict.checks["cost"].words)
            assert verdict.outcome == ("not better" if passes else "refused")
            assert ("of a processor" in verdict.words) is not passes, "what is refused says why"
            took = re.match(r"a list takes ([\d.]+) ms of a processor", verdict.checks["cost"].words)
            assert took
            assert passes or 10.0 <= float(took[1]) < 1000.0


@pytest.mark.usefixtures("strict")
def test_a_wall_clock_that_runs_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if each list took a minute."""
    matrix = matrix_of()
    minutes = itertools.count(step=60.0)
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(f"gh_assets.serving.promotion.time.{clock}", lambda: next(minutes))
    ease, split = loaded(matrix, fitted(matrix, EASE((10.0,)))), split_of(matrix, 0)
    assert compare_with_champion(ease, ease, matrix, split).checks["cost"].passed
    assert compare_with_champion(ease, None, matrix, split).outcome == "promoted"


@pytest.mark.usefixtures("strict")
def test_the_first_champion_is_not_refused_for_its_cost() -> None:
    matrix = matrix_of()
    verdict = compare_with_champion(loaded(matrix, fitted(matrix, Burning((10.0,)))), None, matrix, split_of(matrix, 0))
    assert verdict.better, verdict.words
    assert "times as much as popularity's (the first champion is not refused for that)" in verdict.checks["cost"].words


def test_a_dear_model_may_replace_a_cheap_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Burning, "seconds", 0.02)
    matrix = matrix_of()
    split = split_of(matrix, 0)
    dear, cheap = loaded(matrix, fitted(matrix, Burning((10.0,)))), loaded(matrix, fitted(matrix, Popularity()))
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO", 1.5)
    assert compare_with_champion(dear, cheap, matrix, split).better
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO_TO_POPULARITY", 1.5)
    assert compare_with_champion(dear, cheap, matrix, split).outcome == "refused"


class Failing(EASE):
    """Can be trained, and some time later recommends nothing."""

    failing = False

    def _predict(self, stars: Csr) -> NDArray[np.float32]:
        if self.failing:
            raise StoredDataError("there is nothing to predict from")
        return super()._predict(stars)


@pytest.mark.usefixtures("strict")
def test_a_champion_that_cannot_recommend_excuses_any_cost_and_a_candidate_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    dear, failing = loaded(matrix, fitted(matrix, Burning((10.0,)))), loaded(matrix, fitted(matrix, Failing((10.0,))))
    monkeypatch.setattr(Failing, "failing", True)
    # Of no known test users, so that it ends with the checks.
    check = compare_with_champion((dear[0], replace(dear[1], data={})), failing, matrix, split).checks["cost"]
    assert check.passed
    assert check.words.endswith(" times as much as popularity's (ease 1 cannot recommend at all)")
    check = compare_with_champion(failing, dear, matrix, split).checks["cost"]
    assert not check.passed
    assert check.words == "it cannot recommend: there is nothing to predict from"


def test_who_was_refused_or_not_judged_is_judged_again_though_nothing_was_trained(
    registry, cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, Popularity()))
    registry.promote(Promotion("popularity", 1, why="by hand, to begin with"))
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    with monkeypatch.context() as patch:
        for limit in ("MAX_COST_RATIO", "MAX_COST_RATIO_TO_POPULARITY"):
            patch.setattr(f"gh_assets.serving.promotion.{limit}", 0.0)
        verdict, move = promote_if_better(registry, cache, matrix, by="run 1")
        assert (verdict.outcome, move) == ("refused", None)
        decision = registry.decisions.last()
        assert (decision.outcome, decision.candidate, decision.by) == ("refused", "ease 1", "run 1")
        assert "ease 1 cannot become champion: a list takes" in decision.words
        assert decision.undecided
    with monkeypatch.context() as patch:

        def unreadable(*_: object) -> TrainedModel:
            raise StoredDataError("the disk is gone")

        patch.setattr("gh_assets.serving.promotion.load_model", unreadable)
        verdict, move = promote_if_better(registry, cache, matrix, by="run 2")
        assert (verdict.outcome, move) == ("not judged", None)
        assert registry.decisions.last().skipped.keys() == {"popularity 1", "ease 1"}
    verdict, move = promote_if_better(registry, cache, matrix, by="run 3")
    assert (verdict.outcome, registry.champion().title) == ("promoted", "ease 1")
    decision = registry.decisions.last()
    assert (decision.outcome, decision.champion, decision.newest) == (
        "promoted",
        "popularity 1",
        {"ease": 1, "popularity": 1},
    )
    assert "was ahead of popularity 1" in decision.words


# -- whom it is compared for -------------------------------------------------------------------------------------------


def test_a_better_mean_is_not_enough_to_replace_a_champion(registry, cache, tmp_path: Path) -> None:
    """The lower end of the interval decides."""
    matrix = matrix_of()
    split = split_of(matrix, 0)
    one, other = (fitted(matrix, EASE((weight,))) for weight in (10.0, 12.0))
    verdict = compare_with_champion(loaded(matrix, one), loaded(matrix, other), matrix, split)
    assert verdict.difference is not None
    if verdict.difference.mean < 0:
        one, other = other, one
        verdict = compare_with_champion(loaded(matrix, one), loaded(matrix, other), matrix, split)
    assert verdict.difference is not None
    assert verdict.difference.mean > 0 > verdict.difference.low, "the models of this test must be so"
    assert not verdict.better
    register(registry, tmp_path, matrix, other)
    registry.promote(Promotion("ease", 1, why="it was the first"))
    register(registry, tmp_path, matrix, one)
    assert promote_if_better(registry, cache, matrix, by="a test")[1] is None
    assert registry.champion().version == 1


def test_users_whom_the_champion_was_trained_on_are_left_out() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    test_users = matrix.user_ids[split.test_users]
    good, poor = fitted(matrix, EASE((10.0,))), fitted(matrix, Popularity())
    held_out = {"test_users": [*test_users[: MIN_TEST_USERS + 5].tolist(), -1]}
    verdict = compare_with_champion(loaded(matrix, good), loaded(matrix, poor, data=held_out), matrix, split)
    assert verdict.users == MIN_TEST_USERS + 5
    assert f"for {MIN_TEST_USERS + 5} users whom neither has seen" in verdict.words
    seen = split_of(matrix, 1)
    others = {"test_users": matrix.user_ids[seen.test_users].tolist()}
    both = len(set(others["test_users"]) & set(test_users.tolist()))
    assert 0 < both < MIN_TEST_USERS, "the seeds of this test must be so"
    verdict = compare_with_champion(loaded(matrix, good), loaded(matrix, poor, data=others), matrix, split)
    assert (verdict.outcome, verdict.users) == ("refused", both), "too few are left to say anything"
    assert f"{both} users were held out of both trainings (at least {MIN_TEST_USERS})" in verdict.words


def test_a_model_of_another_matrix_does_not_compete_though_its_document_does_not_say_so(
    registry, cache, tmp_path: Path
) -> None:
    """Documents of earlier versions do not name the matrix; the model itself does."""
    old, new = matrix_of(540), matrix_of(600)
    register(registry, tmp_path, old, fitted(old, EASE((10.0,))))
    registry.documents.update_one({"name": "ease"}, {"$unset": {"data.matrix_sha256": 1}})
    with pytest.raises(ModelNotFoundError, match="was trained on the present user-item matrix"):
        promote_if_better(registry, cache, new, by="a test")
    assert registry.aliases.current(PURPOSE, CANDIDATE) is None
    assert registry.decisions.last().outcome == "not judged"


# -- clocks, and models that cannot be loaded --------------------------------------------------------------------------


def test_a_model_that_a_clock_behind_registered_is_judged(
    registry, cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, Popularity()))
    registry.promote(Promotion("popularity", 1, why="by hand, to begin with"))
    register(registry, tmp_path, matrix, fitted(matrix, EASE((1e9,))))
    with clock_behind(monkeypatch):
        register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    assert [model.title for model in registry.list()] == ["ease 2", "ease 1", "popularity 1"]
    assert promote_if_better(registry, cache, matrix, by="a test")[0].candidate.version == 2
    assert serving_json(registry)["newest"] == "ease 2"
    assert registry.decisions.last().newest == {"ease": 2, "popularity": 1}


def damage(registry: ModelRegistry, folder: Path, model: RegisteredModel, how: str) -> None:
    """Let a model be one that cannot be loaded."""
    place = {"name": model.name, "version": model.version}
    if how == "missing":
        registry.store.delete(model.object)
    elif how == "damaged":
        registry.store.write(model.object, b"something else")
    elif how == "another format":
        (folder / "strange").mkdir()
        (folder / "strange" / "index.json").write_text('{"model": "transformer", "repo_ids": []}')
        other = registry.save(folder / "strange", ModelCard("strange", None), archive="gzip", file_name=model.file_name)
        changes = other.to_document() | place | {"serial": model.serial, "score": model.score, "data": model.data}
        registry.documents.delete_one({"name": "strange"})
        registry.documents.update_one(place, {"$set": changes})
    else:
        registry.documents.update_one(place, {"$set": {"time": "never"}})


HOW = ("missing", "damaged", "another format", "a document that is none")


@pytest.mark.parametrize("how", HOW)
def test_a_candidate_that_cannot_be_loaded_is_skipped_and_named(registry, cache, tmp_path: Path, how: str) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    damage(registry, tmp_path, register(registry, tmp_path, matrix, fitted(matrix, EASE((11.0,)))), how)
    verdict, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is not None
    assert registry.champion().version == 1, "the next of its name stands in for it"
    if how != HOW[-1]:
        assert "ease 2 cannot be loaded and is skipped" in verdict.skipped["ease 2"]
        assert "None" not in verdict.skipped["ease 2"], "it says why"
        assert registry.decisions.last().skipped == verdict.skipped
        assert serving_json(registry)["skipped"] == list(verdict.skipped.values())


@pytest.mark.parametrize("how", HOW)
def test_a_champion_that_cannot_be_loaded_gives_way_to_the_one_before(
    registry, cache, tmp_path: Path, how: str
) -> None:
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    broken = register(registry, tmp_path, matrix, fitted(matrix, EASE((11.0,))))
    for version in (1, 2):
        registry.promote(Promotion("ease", version, why=f"version {version}"))
    damage(registry, tmp_path, broken, how)
    found = load_first_usable(registry, serving_candidates(registry), cache)
    assert found.registered.version == 1
    assert [words.startswith("ease 2 cannot be loaded and is skipped") for words in found.warnings] == (
        [] if how == HOW[-1] else [True]
    )
    verdict, move = promote_if_better(registry, cache, matrix, by="a test")
    assert (verdict.outcome, move) == ("champion already", None)
    told = serving_json(registry)
    assert (told["model"], told["champion"]) == ("ease 1", True)
    assert told["why"] == "The champion cannot be loaded, and this was champion before it."
    better = register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    assert promote_if_better(registry, cache, matrix, by="a test")[0].champion.version == 1
    registry.promote(Promotion("ease", better.version, why="by hand"))
    assert load_first_usable(registry, serving_candidates(registry), cache).warnings == ()


def test_a_champion_stays_where_no_candidate_can_be_loaded(registry, cache, tmp_path: Path) -> None:
    old, new = matrix_of(540), matrix_of(600)
    incumbent = register(registry, tmp_path, old, fitted(old, EASE((10.0,))))
    registry.promote(Promotion("ease", 1, why="the first"))
    damage(registry, tmp_path, register(registry, tmp_path, new, fitted(new, EASE((11.0,)))), "missing")
    verdict, move = promote_if_better(registry, cache, new, by="a test")
    assert (verdict.outcome, verdict.better, verdict.candidate, verdict.champion, move) == (
        "not judged",
        False,
        None,
        incumbent,
        None,
    )
    assert registry.decisions.last().champion == "ease 1"
    assert verdict.words == f"No candidate could be judged. {verdict.skipped['ease 2']}"


def test_where_nothing_can_be_loaded_that_is_said(registry, cache, tmp_path: Path) -> None:
    matrix = matrix_of()
    only = register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    registry.promote(Promotion("ease", 1, why="the first"))
    damage(registry, tmp_path, only, "damaged")
    verdict, move = promote_if_better(registry, cache, matrix, by="a test")
    assert (verdict.outcome, verdict.candidate, move) == ("not judged", None, None)
    with pytest.raises(StoredDataError, match=r"No model can be loaded\. ease 1 cannot be loaded"):
        load_first_usable(registry, serving_candidates(registry), cache)
    told = serving_json(registry)
    assert (told["model"], told["why"], told["outcome"]) == (None, "None can be loaded.", "not judged")
    assert "judges again" in told["decision"]


def test_status_says_what_serves_and_why_the_newest_does_not(registry, cache, tmp_path: Path) -> None:
    assert serving_json(registry) is None
    matrix = matrix_of()
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    assert serving_json(registry)["decision"] == (
        "ease 1 has not been judged yet: the next run, or the asset champion, does."
    )
    promote_if_better(registry, cache, matrix, by="run 1")
    register(registry, tmp_path, matrix, fitted(matrix, EASE((10.5,))))
    assert serving_json(registry)["decision"].endswith(
        "ease 2 was registered after that and has not been judged yet: the next run does."
    )
    promote_if_better(registry, cache, matrix, by="run 2")
    told = serving_json(registry)
    assert (told["model"], told["newest"], told["outcome"], told["by"]) == ("ease 1", "ease 2", "not better", "run 2")
    assert told["decision"].startswith("ease 2 is not certainly better than ease 1 for ")
    registry.promote(Promotion("ease", 2, why="I like it", by="somebody"))
    told = serving_json(registry)
    assert (told["model"], told["why"]) == ("ease 2", "I like it")
    assert told["decision"].endswith("Since then somebody made ease 2 champion (promote): I like it")


def test_a_model_is_scored_on_the_columns_of_another_matrix() -> None:
    matrix = matrix_of()
    trained = loaded(matrix, fitted(matrix, EASE((10.0,))))[1]
    order = np.random.default_rng(0).permutation(len(matrix.repo_ids))
    ids = np.append(matrix.repo_ids[order], 999_999)
    import scipy.sparse as sp

    stars = sp.csr_array(sp.hstack([matrix.stars[:5][:, order], sp.csr_array((5, 1), dtype=np.float32)]))
    scores = ModelOnColumns(trained, ids).predict(stars)
    np.testing.assert_allclose(scores[:, :-1], trained.model.predict(matrix.stars[:5])[:, order], rtol=1e-5, atol=1e-6)
    assert np.isneginf(scores[:, -1]).all()
    assert scores.dtype == np.float32


def test_nothing_of_this_matrix_is_one_error(registry, cache, tmp_path: Path) -> None:
    old = matrix_of(540)
    register(registry, tmp_path, old, fitted(old, EASE((10.0,))))
    with pytest.raises(ModelNotFoundError, match="was trained on the present user-item matrix"):
        promote_if_better(registry, cache, matrix_of(600), by="a test")


def test_the_best_of_several_names(registry, file: Path) -> None:
    for name, score in (("a", 0.3), ("b", 0.5), ("c", 0.5), ("d", None)):
        registry.save(file, ModelCard(name, score))
    assert best_of(registry, ("a", "b", "c", "d")).name == "b", "of equal ones the first"
    with pytest.raises(ModelNotFoundError, match="No scored model 'd'"):
        best_of(registry, ("d",))


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_many_at_once_fetch_a_model_once(registry, cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrix_of()
    model = register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
    fetched = []
    real = registry.store.read_to

    def counted(*arguments: object, **more: object) -> str:
        fetched.append(arguments)
        return str(real(*arguments, **more))

    monkeypatch.setattr(registry.store, "read_to", counted)
    begin, errors = threading.Barrier(8), []

    def load() -> None:
        begin.wait()
        try:
            assert load_model(registry, model, cache).model.name == "ease"
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(fetched) == 1


def test_with_the_services_away_the_last_model_serves_and_says_so(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test_{secrets.token_hex(6)}"
    own = settings.model_copy(
        update={"mongo_database": name, "gcs_model_bucket": name.replace("_", "-"), "home": tmp_path / "home"}
    )
    away = own.model_copy(update={"mongo_uri": SecretStr("mongodb://somebody:secret@127.0.0.1:1/")})
    monkeypatch.setattr("gh_assets.services.connections.MONGO_SECONDS", 0.2)
    with pytest.raises(ServiceUnavailableError):
        load_current_model(away)
    matrix = matrix_of()
    with open_mongo(own) as database:
        registry = ModelRegistry(model_store(own), database["models"])
        register(registry, tmp_path, matrix, fitted(matrix, EASE((10.0,))))
        registry.promote(Promotion("ease", 1, why="the first"))
        assert load_current_model(own).warnings == ()
        found = load_current_model(away)
        assert (found.registered.name, found.registered.version, found.trained.model.name) == ("ease", 1, "ease")
        (warning,) = found.warnings
        assert "does not answer" in warning
        assert "This is by ease 1, the last model that was used here" in warning
        assert "secret" not in warning
        database.client.drop_database(name)
    supervision.release("mongo", own.home_path)
    supervision.release("bucket", own.home_path)
