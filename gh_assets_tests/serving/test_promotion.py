"""The promotion gate: the same held-out users, an interval, and checks."""

from __future__ import annotations

import itertools
import re
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

from gh_assets.errors import ModelNotFoundError, StoredDataError
from gh_assets.recommender import EASE, Popularity, Recommender
from gh_assets.recommender.data.interactions import Csr, UserItemMatrix
from gh_assets.recommender.evaluation.evaluation import bootstrap
from gh_assets.recommender.evaluation.metrics import evaluate_users
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.recommender.training.training import result_of, split_of
from gh_assets.registry import CANDIDATE, CHAMPION, PURPOSE, ModelRegistry, Promotion, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.serving.current_model import LoadedModel, current_model, describe_current
from gh_assets.serving.promotion import MIN_TEST_USERS, ModelOnColumns, compare_with_champion, promote_if_better
from gh_assets_tests.conftest import clock_behind
from gh_assets_tests.support.registered_models import DAMAGES, UNREADABLE_DOCUMENT, damage, fitted, matrix_of, register


def test_grown_matrix_holds_out_the_same_users() -> None:
    small, large = matrix_of(600), matrix_of(660)
    before, after = (set(m.user_ids[split_of(m, 0).test_users].tolist()) for m in (small, large))
    assert len(before & after) >= 0.8 * len(before)
    other = set(small.user_ids[split_of(small, 1).test_users].tolist())
    assert len(before & other) < 0.5 * len(before)
    moved = matrix_of(500, first=100)
    moved_users = set(moved.user_ids[split_of(moved, 0).test_users].tolist())
    known = {user for user in before if user in set(moved.user_ids.tolist())}
    assert len(known & moved_users) >= 0.7 * len(known), "their rows in the matrix decided"


def test_first_champion_must_beat_popularity(registry: ModelRegistry, cache: ModelCache) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, Popularity()))
    result, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is None
    assert "popularity 1 is not better than popularity" in result.summary
    with pytest.raises(ModelNotFoundError):
        registry.champion()
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    result, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is not None
    assert (registry.champion().name, move.by, move.why) == ("ease", "a test", result.summary)
    assert move.evidence["users"] == result.users
    assert result.difference is not None
    assert result.difference.low > 0
    result, move = promote_if_better(registry, cache, matrix, by="a test")
    assert (move, result.summary) == (None, "ease 1 is the champion already.")
    assert registry.champion(PURPOSE, CANDIDATE).name == "ease"


def test_only_a_certainly_better_model_replaces_the_champion(registry: ModelRegistry, cache: ModelCache) -> None:
    """A registered score does not count, since it is of other users."""
    old, new = matrix_of(540), matrix_of(600)
    register(registry, old, fitted(old, EASE((10.0,))))
    promote_if_better(registry, cache, old, by="yesterday")
    register(registry, new, fitted(new, EASE((11.0,))))
    registry.documents.update_one({"name": "ease", "version": 2}, {"$set": {"score": 0.999}})
    result, move = promote_if_better(registry, cache, new, by="today")
    assert move is None, result.summary
    assert "not certainly better than ease 1" in result.summary
    assert registry.champion().version == 1
    assert result.users >= 30


def test_better_model_replaces_the_champion_and_rollback_returns(registry: ModelRegistry, cache: ModelCache) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, Popularity()))
    registry.promote(Promotion("popularity", 1, why="by hand"))
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    _, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is not None
    assert current_model(registry).name == "ease"
    registry.rollback(why="it was a try")
    assert current_model(registry).name == "popularity"
    assert [entry.action for entry in registry.aliases.history(PURPOSE, CHAMPION)] == ["rollback", "promote", "promote"]


def loaded(matrix: UserItemMatrix, model: Recommender, **change: object) -> LoadedModel:
    trained = result_of(matrix, split_of(matrix, 0), model, {}).trained
    document = {"name": model.name, "version": 1, "time": "2026-01-01", "bucket": "b", "object": "o", "file_name": "f"}
    return LoadedModel(RegisteredModel.from_document(document), replace(trained, **change))  # type: ignore[arg-type]


def test_model_that_fails_a_check_cannot_become_champion() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    good, bad = loaded(matrix, fitted(matrix, EASE((10.0,)))), loaded(matrix, fitted(matrix, EASE((10.0,))))
    assert isinstance(bad.trained.model, EASE)
    bad.trained.model.B[3, 4] = np.nan
    assert "its weights B are not all finite" in compare_with_champion(bad, good, matrix, split).summary
    foreign = loaded(matrix, fitted(matrix, EASE((10.0,))), repo_ids=np.arange(len(matrix.repo_ids)) + 10_000)
    assert "it knows 0% of the champion's repositories" in compare_with_champion(foreign, good, matrix, split).summary
    unknown = loaded(matrix, fitted(matrix, EASE((10.0,))), data={})
    assert "0 users were held out of both trainings" in compare_with_champion(unknown, good, matrix, split).summary


def test_half_of_the_champions_repositories_must_be_known() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    good, other = (loaded(matrix, fitted(matrix, EASE((10.0,)))) for _ in range(2))
    count = len(matrix.repo_ids)
    for known, passed in ((count // 2, True), (count // 2 - 1, False)):
        ids = matrix.repo_ids.copy()
        ids[known:] += 10_000
        champion = replace(other, trained=replace(other.trained, repo_ids=ids))
        check = compare_with_champion(good, champion, matrix, split).checks["overlap"]
        assert check.passed is passed
        assert check.finding == f"it knows {known / count:.0%} of the champion's repositories (at least 50%)"


def test_comparison_is_recorded_as_evidence() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    good, poor = loaded(matrix, fitted(matrix, EASE((10.0,)))), loaded(matrix, fitted(matrix, Popularity()))
    result = compare_with_champion(good, poor, matrix, split)
    by_user = [
        evaluate_users(ModelOnColumns(one.trained, matrix.repo_ids), split.test_fold_in, split.test_held_out)[
            "ndcg@100"
        ]
        for one in (good, poor)
    ]
    assert result.means == {"ease": by_user[0].mean(), "champion": by_user[1].mean()}
    assert result.difference == bootstrap(by_user[0] - by_user[1])
    assert (result.better, result.outcome, result.users) == (True, "promoted", len(split.test_users))
    assert (result.candidate, result.champion) == (good.registered, poor.registered)
    assert result.summary.startswith(f"ease 1 is certainly better than popularity 1 for {result.users} users who were")
    assert f"ndcg@100 {by_user[0].mean():.4f} against {by_user[1].mean():.4f}" in result.summary
    evidence = result.evidence()
    assert evidence["difference"] == [result.difference.mean, result.difference.low, result.difference.high]
    assert (evidence["users"], evidence["metric"], evidence["champion"]) == (result.users, "ndcg@100", "popularity 1")
    assert evidence["means"] == result.means
    assert evidence["checks"].keys() == {"weights", "cost", "overlap", "users"}
    assert evidence["checks"]["weights"] == "all weights are finite"
    first = compare_with_champion(good, None, matrix, split)
    assert first.summary.startswith("ease 1 is better than popularity for ")
    assert first.means == {"ease": result.means["ease"], "popularity": pytest.approx(result.means["champion"])}
    assert (first.champion, first.evidence()["champion"], first.checks.keys()) == (
        None,
        None,
        {"weights", "cost", "users"},
    )
    refused = compare_with_champion(replace(good, trained=replace(good.trained, data={})), None, matrix, split)
    assert refused.summary == ("ease 1 cannot become champion: 0 users were held out of both trainings (at least 1).")
    assert (refused.candidate, refused.outcome, refused.better, refused.users) == (good.registered, "refused", False, 0)
    assert refused.evidence()["difference"] is None


def test_best_model_on_the_validation_users_is_the_candidate(registry: ModelRegistry, cache: ModelCache) -> None:
    matrix = matrix_of()
    for model in (Popularity(), EASE((1e9,)), EASE((10.0,))):
        register(registry, matrix, fitted(matrix, model))
    split = split_of(matrix, 0)
    fold_in, held_out = split.validation
    result, move = promote_if_better(registry, cache, matrix, by="run 1", names=("popularity", "ease"))
    assert result.validation.keys() == {"popularity 1", "ease 2"}, "the newest of each name"
    for model, title in ((Popularity(), "popularity 1"), (EASE((10.0,)), "ease 2")):
        score = evaluate_users(fitted(matrix, model), fold_in, held_out)["ndcg@100"].mean()
        assert result.validation[title] == pytest.approx(score, rel=1e-4)
    assert (move.name, move.version, move.by, move.why, move.evidence) == (
        "ease",
        2,
        "run 1",
        result.summary,
        result.evidence(),
    )
    pointed = registry.aliases.current(PURPOSE, CANDIDATE)
    assert (pointed.name, pointed.version, pointed.by, pointed.why) == (
        "ease",
        2,
        "run 1",
        "best on the validation users",
    )
    decision = registry.decisions.last()
    assert (decision.validation, decision.checks) == (result.validation, result.evidence()["checks"])
    assert decision.summary.startswith(result.summary)
    ahead, other = result.validation["ease 2"], result.validation["popularity 1"]
    assert decision.summary.endswith(
        f" On the validation users ease 2 ({ahead:.4f}) was ahead of popularity 1 ({other:.4f})."
    )
    again, _ = promote_if_better(registry, cache, matrix, by="run 2", names=("ease", "popularity"))
    assert (again.outcome, again.validation) == ("champion already", result.validation)
    assert again.candidate == again.champion == registry.champion()
    assert (again.better, again.skipped) == (False, {})
    assert len(registry.aliases.history(PURPOSE, CANDIDATE)) == 1, "it already points there"


def test_only_models_with_the_tag_compete(registry: ModelRegistry, cache: ModelCache) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    with pytest.raises(ModelNotFoundError, match=r"^None of the newest models \(ease\) was trained on the current"):
        promote_if_better(registry, cache, matrix, by="run 1", names=("ease",), tag="production")
    assert registry.decisions.last().newest == {"ease": 1}
    registry.documents.update_one({"name": "ease"}, {"$set": {"tags": ["production"]}})
    assert promote_if_better(registry, cache, matrix, by="run 2", names=("ease",), tag="production")[1] is not None


class Burning(EASE):
    """A model whose predictions take additional processor time."""

    seconds = 0.01

    def score(self, stars: Csr) -> NDArray[np.float32]:
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass
        return super().score(stars)


class Waiting(EASE):
    """A model whose predictions wait, without using the processor."""

    def score(self, stars: Csr) -> NDArray[np.float32]:
        time.sleep(0.01)
        return super().score(stars)


@contextmanager
def busy_machine() -> Iterator[None]:
    """Compute in other threads and another process for the length of the block."""
    ended = threading.Event()
    block = np.ones((300, 300))

    def compute() -> None:
        while not ended.is_set():
            block @ block

    threads = [threading.Thread(target=compute) for _ in range(4)]
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()
            other.kill()


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse more than three times the champion's cost, whatever popularity's is."""
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO", 3.0)
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO_TO_POPULARITY", 0.0)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_cost_is_relative_processor_time_on_a_busy_machine_too(busy: bool) -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    plain = loaded(matrix, fitted(matrix, EASE((10.0,))))
    with busy_machine() if busy else nullcontext():
        for model, passes in ((EASE((10.0,)), True), (Waiting((10.0,)), True), (Burning((10.0,)), False)):
            result = compare_with_champion(loaded(matrix, fitted(matrix, model)), plain, matrix, split)
            assert result.checks["cost"].passed is passes, (type(model), result.checks["cost"].finding)
            assert result.outcome == ("not better" if passes else "refused")
            assert ("of a processor" in result.summary) is not passes, "only a refusal names the cost"
            cost = re.match(r"a list takes ([\d.]+) ms of a processor", result.checks["cost"].finding)
            assert cost
            assert passes or 10.0 <= float(cost[1]) < 1000.0


@pytest.mark.usefixtures("strict")
def test_wall_clock_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of a wall clock advances it by a minute."""
    matrix = matrix_of()
    minutes = itertools.count(step=60.0)
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(f"gh_assets.serving.promotion.time.{clock}", lambda: next(minutes))
    ease, split = loaded(matrix, fitted(matrix, EASE((10.0,)))), split_of(matrix, 0)
    assert compare_with_champion(ease, ease, matrix, split).checks["cost"].passed
    assert compare_with_champion(ease, None, matrix, split).outcome == "promoted"


@pytest.mark.usefixtures("strict")
def test_first_champion_is_not_refused_for_its_cost() -> None:
    matrix = matrix_of()
    result = compare_with_champion(loaded(matrix, fitted(matrix, Burning((10.0,)))), None, matrix, split_of(matrix, 0))
    assert result.better, result.summary
    assert "times as much as popularity's (the first champion is not refused for that)" in result.checks["cost"].finding


def test_expensive_model_may_replace_a_cheap_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Burning, "seconds", 0.02)
    matrix = matrix_of()
    split = split_of(matrix, 0)
    expensive, cheap = loaded(matrix, fitted(matrix, Burning((10.0,)))), loaded(matrix, fitted(matrix, Popularity()))
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO", 1.5)
    assert compare_with_champion(expensive, cheap, matrix, split).better
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO_TO_POPULARITY", 1.5)
    assert compare_with_champion(expensive, cheap, matrix, split).outcome == "refused"


class Failing(EASE):
    """A model that fails to predict once `failing` is set."""

    failing = False

    def score(self, stars: Csr) -> NDArray[np.float32]:
        if self.failing:
            raise StoredDataError("there is nothing to predict from")
        return super().score(stars)


@pytest.mark.usefixtures("strict")
def test_cost_is_not_compared_with_a_champion_that_cannot_recommend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    expensive, failing = (
        loaded(matrix, fitted(matrix, Burning((10.0,)))),
        loaded(matrix, fitted(matrix, Failing((10.0,)))),
    )
    monkeypatch.setattr(Failing, "failing", True)
    # Without known test users, the comparison ends with the checks.
    check = compare_with_champion(
        replace(expensive, trained=replace(expensive.trained, data={})), failing, matrix, split
    ).checks["cost"]
    assert check.passed
    assert check.finding.endswith(" times as much as popularity's (ease 1 cannot recommend at all)")
    check = compare_with_champion(failing, expensive, matrix, split).checks["cost"]
    assert not check.passed
    assert check.finding == "it cannot recommend: there is nothing to predict from"


def test_undecided_models_are_judged_again(
    registry: ModelRegistry, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, Popularity()))
    registry.promote(Promotion("popularity", 1, why="by hand"))
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    with monkeypatch.context() as patch:
        for limit in ("MAX_COST_RATIO", "MAX_COST_RATIO_TO_POPULARITY"):
            patch.setattr(f"gh_assets.serving.promotion.{limit}", 0.0)
        result, move = promote_if_better(registry, cache, matrix, by="run 1")
        assert (result.outcome, move) == ("refused", None)
        decision = registry.decisions.last()
        assert (decision.outcome, decision.candidate, decision.by) == ("refused", "ease 1", "run 1")
        assert "ease 1 cannot become champion: a list takes" in decision.summary
        assert decision.undecided
    with monkeypatch.context() as patch:

        def unreadable(*_: object) -> TrainedModel:
            raise StoredDataError("the disk is gone")

        patch.setattr("gh_assets.serving.current_model.load_model", unreadable)
        result, move = promote_if_better(registry, cache, matrix, by="run 2")
        assert (result.outcome, move) == ("not judged", None)
        assert registry.decisions.last().skipped.keys() == {"popularity 1", "ease 1"}
    result, move = promote_if_better(registry, cache, matrix, by="run 3")
    assert (result.outcome, registry.champion().title) == ("promoted", "ease 1")
    decision = registry.decisions.last()
    assert (decision.outcome, decision.champion, decision.newest) == (
        "promoted",
        "popularity 1",
        {"ease": 1, "popularity": 1},
    )
    assert "was ahead of popularity 1" in decision.summary


def test_better_mean_is_not_enough_to_replace_the_champion(registry: ModelRegistry, cache: ModelCache) -> None:
    """The lower bound of the interval decides."""
    matrix = matrix_of()
    split = split_of(matrix, 0)
    one, other = (fitted(matrix, EASE((weight,))) for weight in (10.0, 12.0))
    result = compare_with_champion(loaded(matrix, one), loaded(matrix, other), matrix, split)
    assert result.difference is not None
    if result.difference.mean < 0:
        one, other = other, one
        result = compare_with_champion(loaded(matrix, one), loaded(matrix, other), matrix, split)
    assert result.difference is not None
    assert result.difference.mean > 0 > result.difference.low, "the models must be nearly equal"
    assert not result.better
    register(registry, matrix, other)
    registry.promote(Promotion("ease", 1, why="it was the first"))
    register(registry, matrix, one)
    assert promote_if_better(registry, cache, matrix, by="a test")[1] is None
    assert registry.champion().version == 1


def test_users_whom_the_champion_was_trained_on_are_left_out() -> None:
    matrix = matrix_of()
    split = split_of(matrix, 0)
    test_users = matrix.user_ids[split.test_users]
    good, poor = fitted(matrix, EASE((10.0,))), fitted(matrix, Popularity())
    held_out = {"test_users": [*test_users[: MIN_TEST_USERS + 5].tolist(), -1]}
    result = compare_with_champion(loaded(matrix, good), loaded(matrix, poor, data=held_out), matrix, split)
    assert result.users == MIN_TEST_USERS + 5
    assert f"for {MIN_TEST_USERS + 5} users who were held out of both trainings" in result.summary
    seen = split_of(matrix, 1)
    others = {"test_users": matrix.user_ids[seen.test_users].tolist()}
    both = len(set(others["test_users"]) & set(test_users.tolist()))
    assert 0 < both < MIN_TEST_USERS, "the seeds must give a small overlap"
    result = compare_with_champion(loaded(matrix, good), loaded(matrix, poor, data=others), matrix, split)
    assert (result.outcome, result.users) == ("refused", both), "too few users are left"
    assert f"{both} users were held out of both trainings (at least {MIN_TEST_USERS})" in result.summary


def test_model_of_another_matrix_does_not_compete_even_if_its_document_lacks_the_matrix(
    registry: ModelRegistry, cache: ModelCache
) -> None:
    """Documents of earlier versions do not contain the hash of the matrix, but the model does."""
    old, new = matrix_of(540), matrix_of(600)
    register(registry, old, fitted(old, EASE((10.0,))))
    registry.documents.update_one({"name": "ease"}, {"$unset": {"data.matrix_sha256": 1}})
    with pytest.raises(ModelNotFoundError, match="was trained on the current user-item matrix"):
        promote_if_better(registry, cache, new, by="a test")
    assert registry.aliases.current(PURPOSE, CANDIDATE) is None
    assert registry.decisions.last().outcome == "not judged"


def test_model_registered_with_a_clock_behind_is_judged(
    registry: ModelRegistry, cache: ModelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, Popularity()))
    registry.promote(Promotion("popularity", 1, why="by hand"))
    register(registry, matrix, fitted(matrix, EASE((1e9,))))
    with clock_behind(monkeypatch):
        register(registry, matrix, fitted(matrix, EASE((10.0,))))
    assert [model.title for model in registry.list()] == ["ease 2", "ease 1", "popularity 1"]
    assert promote_if_better(registry, cache, matrix, by="a test")[0].candidate.version == 2
    assert describe_current(registry).newest.title == "ease 2"
    assert registry.decisions.last().newest == {"ease": 2, "popularity": 1}


@pytest.mark.parametrize("kind", DAMAGES)
def test_candidate_that_cannot_be_loaded_is_skipped_and_named(
    registry: ModelRegistry, cache: ModelCache, tmp_path: Path, kind: str
) -> None:
    matrix = matrix_of()
    register(registry, matrix, fitted(matrix, EASE((10.0,))))
    damage(registry, tmp_path, register(registry, matrix, fitted(matrix, EASE((11.0,)))), kind)
    result, move = promote_if_better(registry, cache, matrix, by="a test")
    assert move is not None
    assert registry.champion().version == 1, "the next model of its name is the candidate"
    if kind != UNREADABLE_DOCUMENT:
        assert "ease 2 cannot be loaded and is skipped" in result.skipped["ease 2"]
        assert "None" not in result.skipped["ease 2"], "the reason is missing"
        assert registry.decisions.last().skipped == result.skipped
        assert describe_current(registry).skipped == result.skipped


def test_champion_stays_if_no_candidate_can_be_loaded(
    registry: ModelRegistry, cache: ModelCache, tmp_path: Path
) -> None:
    old, new = matrix_of(540), matrix_of(600)
    incumbent = register(registry, old, fitted(old, EASE((10.0,))))
    registry.promote(Promotion("ease", 1, why="the first"))
    damage(registry, tmp_path, register(registry, new, fitted(new, EASE((11.0,)))), "missing")
    result, move = promote_if_better(registry, cache, new, by="a test")
    assert (result.outcome, result.better, result.candidate, result.champion, move) == (
        "not judged",
        False,
        None,
        incumbent,
        None,
    )
    assert registry.decisions.last().champion == "ease 1"
    assert result.summary == f"No candidate could be judged. {result.skipped['ease 2']}"


def test_model_is_scored_on_the_columns_of_another_matrix() -> None:
    matrix = matrix_of()
    trained = loaded(matrix, fitted(matrix, EASE((10.0,)))).trained
    order = np.random.default_rng(0).permutation(len(matrix.repo_ids))
    ids = np.append(matrix.repo_ids[order], 999_999)
    import scipy.sparse as sp

    stars = sp.csr_array(sp.hstack([matrix.stars[:5][:, order], sp.csr_array((5, 1), dtype=np.float32)]))
    scores = ModelOnColumns(trained, ids).predict(stars)
    np.testing.assert_allclose(scores[:, :-1], trained.model.predict(matrix.stars[:5])[:, order], rtol=1e-5, atol=1e-6)
    assert np.isneginf(scores[:, -1]).all()
    assert scores.dtype == np.float32


def test_no_model_of_the_matrix_is_an_error(registry: ModelRegistry, cache: ModelCache) -> None:
    old = matrix_of(540)
    register(registry, old, fitted(old, EASE((10.0,))))
    with pytest.raises(ModelNotFoundError, match="was trained on the current user-item matrix"):
        promote_if_better(registry, cache, matrix_of(600), by="a test")
