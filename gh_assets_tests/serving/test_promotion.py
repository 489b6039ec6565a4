"""The promotion gate: the same held-out users, an interval, and checks."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.errors import ModelNotFoundError, StoredDataError
from gh_assets.recommender import EASE, Popularity, Recommender
from gh_assets.recommender.data.interactions import Csr
from gh_assets.recommender.data.splits import cut_histories
from gh_assets.recommender.evaluation.evaluation import bootstrap
from gh_assets.recommender.evaluation.metrics import Predictor, evaluate_users
from gh_assets.recommender.training.training import TrainingResult, result_of, split_of
from gh_assets.registry import CANDIDATE, CHAMPION, PURPOSE, RegisteredModel, training
from gh_assets.serving.current_model import LoadedModel
from gh_assets.serving.promotion import (
    MIN_TEST_USERS,
    ComparisonResult,
    ModelOnColumns,
    compare_with_champion,
    next_test_start,
)
from gh_assets_tests.conftest import clock_behind
from gh_assets_tests.support.matrices import taste_matrix, with_ids
from gh_assets_tests.support.registered_models import (
    DAMAGES,
    UNREADABLE_DOCUMENT,
    RegisteredModels,
    damage,
    fitted,
    matrix_of,
)


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


def test_first_champion_must_beat_popularity(models: RegisteredModels) -> None:
    models.register(Popularity())
    result, move = models.judge()
    assert move is None
    assert "popularity 1 is not better than popularity" in result.summary
    with pytest.raises(ModelNotFoundError):
        models.registry.champion()
    models.register(EASE((10.0,)))
    result, move = models.judge()
    assert move is not None
    assert (models.registry.champion().name, move.by, move.why) == ("ease", "a test", result.summary)
    assert move.evidence["users"] == result.users
    assert result.difference
    assert result.difference.low > 0
    result, move = models.judge()
    assert (move, result.summary) == (None, "ease 1 is the champion already.")
    assert models.registry.champion(PURPOSE, CANDIDATE).name == "ease"


def test_only_a_certainly_better_model_replaces_the_champion(models: RegisteredModels) -> None:
    """A registered score does not count, since it is of other users."""
    old = matrix_of(540)
    models.register(EASE((10.0,)), matrix=old)
    models.judge("yesterday", matrix=old)
    models.register(EASE((11.0,)))
    models.registry.documents.update_one({"name": "ease", "version": 2}, {"$set": {"score": 0.999}})
    result, move = models.judge("today")
    assert move is None, result.summary
    assert "not certainly better than ease 1" in result.summary
    assert models.registry.champion().version == 1
    assert result.users >= 30


MATRIX = matrix_of()
SPLIT = split_of(MATRIX, 0)
REGISTERED = RegisteredModel.from_document(
    {"name": "ease", "version": 1, "time": "2026-01-01", "bucket": "b", "object": "o", "file_name": "f"}
)


def loaded(model: Recommender, **change: Any) -> LoadedModel:
    """Fit a model, and load it with changes."""
    trained = result_of(MATRIX, SPLIT, fitted(MATRIX, model), {}).trained
    return LoadedModel(REGISTERED.model_copy(update={"name": model.name}), replace(trained, **change))


def compare(candidate: LoadedModel, champion: LoadedModel | None) -> ComparisonResult:
    return compare_with_champion(candidate, champion, MATRIX, SPLIT)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"repo_ids": np.arange(len(MATRIX.repo_ids)) + 10_000}, "it knows 0% of the champion's repositories"),
        ({"data": {}}, "0 users were held out of both trainings"),
        ({}, "its weights B are not all finite"),
    ],
)
def test_model_that_fails_a_check_cannot_become_champion(change: dict[str, Any], problem: str) -> None:
    bad = loaded(EASE((10.0,)), **change)
    if not change:
        assert isinstance(bad.trained.model, EASE)
        bad.trained.model.B[3, 4] = np.nan
    assert problem in compare(bad, loaded(EASE((10.0,)))).summary


@pytest.mark.parametrize(("missing", "passed"), [(0, True), (1, False)])
def test_half_of_the_champions_repositories_must_be_known(missing: int, passed: bool) -> None:
    count = len(MATRIX.repo_ids)
    known = count // 2 - missing
    ids = MATRIX.repo_ids.copy()
    ids[known:] += 10_000
    check = compare(loaded(EASE((10.0,))), loaded(EASE((10.0,)), repo_ids=ids)).checks["overlap"]
    assert check.passed is passed
    assert check.finding == f"it knows {known / count:.0%} of the champion's repositories (at least 50%)"


def weighted_ndcg(model: Predictor, fold_in: Csr, held_out: Csr) -> NDArray[np.float64]:
    """NDCG@100 of each user with cut histories, weighted by the share of training users with that many stars."""
    counts = np.diff(SPLIT.train.indptr)
    total = np.zeros(fold_in.shape[0])
    for low, high in pairwise([1, 2, 3, 5, 10, 20, np.inf]):  # histories of 20 and more are not cut
        cut = cut_histories(fold_in, None if low == 20 else int(low))
        share = ((counts >= low) & (counts < high)).mean()
        total += share * evaluate_users(model, cut, held_out)["ndcg@100"]
    return total


def test_comparison_is_recorded_as_evidence() -> None:
    good, poor = loaded(EASE((10.0,))), loaded(Popularity())
    result = compare(good, poor)
    own, other = (weighted_ndcg(ModelOnColumns(model.trained, MATRIX.repo_ids), *SPLIT.test) for model in (good, poor))
    difference = bootstrap(own - other)
    assert result.means == pytest.approx({"ease": own.mean(), "champion": other.mean()})
    assert result.difference is not None
    assert vars(result.difference) == pytest.approx(vars(difference))
    assert (result.better, result.outcome, result.users) == (True, "promoted", len(SPLIT.test_users))
    assert (result.candidate, result.champion) == (good.registered, poor.registered)
    assert result.summary.startswith(f"ease 1 is certainly better than popularity 1 for {result.users} users who were")
    assert f"ndcg@100 {own.mean():.4f} against {other.mean():.4f}" in result.summary
    evidence = result.evidence()
    assert evidence["difference"] == pytest.approx([difference.mean, difference.low, difference.high])
    assert (evidence["users"], evidence["metric"], evidence["champion"]) == (result.users, "ndcg@100", "popularity 1")
    assert evidence["means"] == result.means
    assert evidence["checks"].keys() == {"weights", "cost", "overlap", "users", "popularity"}
    assert evidence["checks"]["weights"] == "all weights are finite"
    first = compare(good, None)
    assert first.summary.startswith("ease 1 is better than popularity for ")
    assert first.means == {"ease": own.mean(), "popularity": pytest.approx(other.mean())}
    assert (first.champion, first.evidence()["champion"]) == (None, None)
    assert first.checks.keys() == {"weights", "cost", "users", "popularity"}
    refused = compare(loaded(EASE((10.0,)), data={}), None)
    assert refused.summary == ("ease 1 cannot become champion: 0 users were held out of both trainings (at least 1).")
    assert (refused.candidate, refused.outcome, refused.better, refused.users) == (good.registered, "refused", False, 0)
    assert refused.evidence()["difference"] is None


def test_best_model_on_the_validation_users_is_the_candidate(models: RegisteredModels) -> None:
    models.register(Popularity(), EASE((1e9,)), EASE((10.0,)))
    result, move = models.judge("run 1", names=("popularity", "ease"))
    assert result.validation.keys() == {"popularity 1", "ease 2"}, "the newest of each name"
    for model, title in ((Popularity(), "popularity 1"), (EASE((10.0,)), "ease 2")):
        score = weighted_ndcg(fitted(MATRIX, model), *SPLIT.validation).mean()
        assert result.validation[title] == pytest.approx(score, rel=1e-4)
    pointed = models.registry.aliases.current(PURPOSE, CANDIDATE)
    assert move is not None
    assert pointed is not None
    assert (move.title, move.by, move.why, move.evidence) == ("ease 2", "run 1", result.summary, result.evidence())
    assert (pointed.title, pointed.by, pointed.why) == ("ease 2", "run 1", "best on the validation users")
    decision = models.last_decision()
    assert (decision.validation, decision.checks) == (result.validation, result.evidence()["checks"])
    assert decision.summary.startswith(result.summary)
    ahead, other = result.validation["ease 2"], result.validation["popularity 1"]
    assert decision.summary.endswith(
        f" On the validation users ease 2 ({ahead:.4f}) was ahead of popularity 1 ({other:.4f})."
    )
    again, _ = models.judge("run 2", names=("ease", "popularity"))
    assert (again.outcome, again.validation) == ("champion already", result.validation)
    assert again.candidate == again.champion == models.registry.champion()
    assert (again.better, again.skipped) == (False, {})
    assert len(models.registry.aliases.history(PURPOSE, CANDIDATE)) == 1, "it already points there"


def test_only_models_with_the_tag_compete(models: RegisteredModels) -> None:
    models.register(EASE((10.0,)))
    with pytest.raises(ModelNotFoundError, match=r"^None of the newest models \(ease\) was trained on the current"):
        models.judge(names=("ease",), tag="production")
    assert models.last_decision().newest == {"ease": 1}
    models.registry.documents.update_one({"name": "ease"}, {"$set": {"tags": ["production"]}})
    assert models.judge(names=("ease",), tag="production")[1] is not None


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

    threads = [threading.Thread(target=compute) for _ in range(min(4, os.cpu_count() or 1))]
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
    plain = loaded(EASE((10.0,)))
    with busy_machine() if busy else nullcontext():
        for model, passes in ((EASE((10.0,)), True), (Waiting((10.0,)), True), (Burning((10.0,)), False)):
            result = compare(loaded(model), plain)
            assert result.checks["cost"].passed is passes, (type(model), result.checks["cost"].finding)
            assert result.outcome == ("not better" if passes else "refused")
            assert ("of a processor" in result.summary) is not passes, "only a refusal names the cost"
            cost = re.match(r"a list takes ([\d.]+) ms of a processor", result.checks["cost"].finding)
            assert cost
            assert passes or 10.0 <= float(cost[1]) < 1000.0


@pytest.mark.usefixtures("strict")
def test_first_champion_is_not_refused_for_its_cost() -> None:
    result = compare(loaded(Burning((10.0,))), None)
    assert result.better, result.summary
    assert "times as much as popularity's (the first champion is not refused for that)" in result.checks["cost"].finding


def test_expensive_model_may_replace_a_cheap_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Burning, "seconds", 0.02)
    expensive, cheap = loaded(Burning((10.0,))), loaded(Popularity())
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO", 1.5)
    assert compare(expensive, cheap).better
    monkeypatch.setattr("gh_assets.serving.promotion.MAX_COST_RATIO_TO_POPULARITY", 1.5)
    assert compare(expensive, cheap).outcome == "refused"


class Failing(EASE):
    """A model that fails to predict once `failing` is set."""

    failing = False

    def score(self, stars: Csr) -> NDArray[np.float32]:
        if self.failing:
            raise StoredDataError("there is nothing to predict from")
        return super().score(stars)


@pytest.mark.usefixtures("strict")
def test_cost_is_not_compared_with_a_champion_that_cannot_recommend(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without known test users, the comparison ends with the checks.
    expensive, failing = loaded(Burning((10.0,)), data={}), loaded(Failing((10.0,)))
    monkeypatch.setattr(Failing, "failing", True)
    check = compare(expensive, failing).checks["cost"]
    assert check.passed
    assert check.finding.endswith(" times as much as popularity's (ease 1 cannot recommend at all)")
    check = compare(failing, expensive).checks["cost"]
    assert not check.passed
    assert check.finding == "it cannot recommend: there is nothing to predict from"


def test_undecided_models_are_judged_again(models: RegisteredModels, monkeypatch: pytest.MonkeyPatch) -> None:
    models.register(Popularity(), EASE((10.0,)))
    models.promote("popularity 1")
    with monkeypatch.context() as patch:
        for limit in ("MAX_COST_RATIO", "MAX_COST_RATIO_TO_POPULARITY"):
            patch.setattr(f"gh_assets.serving.promotion.{limit}", 0.0)
        result, move = models.judge("run 1")
        assert (result.outcome, move) == ("refused", None)
        decision = models.last_decision()
        assert (decision.outcome, decision.candidate, decision.by) == ("refused", "ease 1", "run 1")
        assert "ease 1 cannot become champion: a list takes" in decision.summary
        assert decision.undecided
    with monkeypatch.context() as patch:
        unreadable = Mock(side_effect=StoredDataError("the disk is gone"))
        patch.setattr("gh_assets.serving.current_model.load_model", unreadable)
        result, move = models.judge()
        assert (result.outcome, move) == ("not judged", None)
        assert models.last_decision().skipped.keys() == {"popularity 1", "ease 1"}
    assert models.judge()[0].outcome == "promoted"
    assert models.registry.champion().title == "ease 1"
    decision = models.last_decision()
    assert (decision.outcome, decision.champion) == ("promoted", "popularity 1")
    assert decision.newest == {"ease": 1, "popularity": 1}
    assert "was ahead of popularity 1" in decision.summary


def test_better_mean_is_not_enough_to_replace_the_champion() -> None:
    """The lower bound of the interval decides."""
    weights = [10.0, 12.0]
    for _ in range(2):
        one, other = (EASE((weight,)) for weight in weights)
        result = compare(loaded(one), loaded(other))
        assert result.difference is not None
        if result.difference.mean > 0:
            break
        weights.reverse()
    assert result.difference is not None
    assert result.difference.mean > 0 > result.difference.low, "the models must be nearly equal"
    assert not result.better


class BadForFew(EASE):
    """A model that is right only for users with more than two known stars."""

    def score(self, stars: Csr) -> NDArray[np.float32]:
        few = (np.diff(stars.indptr) <= 2)[:, None]
        scores: NDArray[np.float32] = np.where(few, -super().score(stars), super().score(stars))
        return scores


@pytest.mark.parametrize("champion", [None, EASE((10.0,))], ids=["the first", "another"])
def test_model_that_is_worse_than_popularity_for_few_known_stars_is_refused(champion: Recommender | None) -> None:
    result = compare(loaded(BadForFew((10.0,))), None if champion is None else loaded(champion))
    assert (result.better, result.outcome) == (False, "refused")
    assert re.search(
        r"cannot become champion: with [12] known stars it is worse than popularity by -0\.", result.summary
    )
    assert compare(loaded(EASE((10.0,))), None).better


def test_each_champion_is_followed_by_fresh_test_users(models: RegisteredModels) -> None:
    """Judged again and again on the same users, the champion would be the one that was lucky with them."""
    stars = taste_matrix(users=2700)
    champion_ids: list[set[int]] = []

    def judge(users: int, forgotten: int = 0) -> tuple[set[int], ComparisonResult, float]:
        """Train on the stars of some users but for some items, and return the users whom the gate compares on."""
        matrix = with_ids(stars[:users], np.arange(users) * 7 + 1000)
        start = next_test_start(models.registry, models.cache, matrix)
        split = split_of(matrix, 0, start)
        model = EASE((30.0,)).fit(split.train)
        model.B[:, :forgotten] = 0
        result = result_of(matrix, split, model, {})
        training.register(models.registry, result, tag="")
        comparison, move = models.judge(matrix=matrix, names=(model.name,))
        judged = set(matrix.user_ids[split.test_users].tolist())
        if champion_ids:
            judged &= champion_ids[-1]
        if move is not None:
            champion_ids.append(set(result.trained.data["test_users"]))
            assert next_test_start(models.registry, models.cache, matrix) == start, (
                "the same data are not trained again"
            )
        assert comparison.users == len(judged)
        return judged, comparison, start

    first, result, start = judge(2400, forgotten=15)
    assert (result.outcome, start, len(first)) == ("promoted", 0.0, 240)
    second, result, start = judge(2500)
    assert (result.outcome, len(second)) == ("promoted", 120), result.summary
    assert not first & second
    third, result, start = judge(2600, forgotten=15)
    assert (result.outcome, len(third)) == ("not better", 125)
    assert not third & (first | second)
    again, result, same = judge(2700, forgotten=15)
    assert (same, again) == (start, third), "nothing was chosen on these users"


def test_models_of_the_champions_matrix_meet_it_on_users_that_did_not_choose_it(models: RegisteredModels) -> None:
    matrix = with_ids(taste_matrix(users=2700)[:2400], np.arange(2400) * 7 + 1000)
    split = split_of(matrix, 0)
    assert split.next_test_start is not None

    def judge(forgotten: int) -> ComparisonResult:
        model = EASE((30.0,)).fit(split.train)
        model.B[:, :forgotten] = 0
        training.register(models.registry, result_of(matrix, split, model, {}), tag="")
        return models.judge(matrix=matrix, names=(model.name,))[0]

    def chosen_on() -> Any:
        move = models.registry.aliases.current(PURPOSE, CHAMPION)
        return None if move is None else move.evidence["test_start"]

    grown = with_ids(taste_matrix(users=2700), np.arange(2700) * 7 + 1000)
    assert (judge(forgotten=30).users, chosen_on()) == (len(split.test_users), 0.0)
    assert next_test_start(models.registry, models.cache, grown) == split.next_test_start
    assert judge(forgotten=40).outcome == "not better"
    assert chosen_on() == 0.0
    result = judge(forgotten=15)
    assert (result.outcome, result.users) == ("promoted", len(split.reserve_users)), result.summary
    assert chosen_on() == split.next_test_start
    assert next_test_start(models.registry, models.cache, grown) == 0.0, "the reserve has chosen it"
    result = judge(forgotten=0)
    assert (result.outcome, result.users) == ("promoted", len(split.test_users)), result.summary
    assert chosen_on() == 0.0


def test_models_of_earlier_versions_have_the_first_test_users(models: RegisteredModels) -> None:
    assert next_test_start(models.registry, models.cache, MATRIX) == 0.0, "there is no champion"
    trained = loaded(EASE((10.0,))).trained
    former = {name: value for name, value in trained.data.items() if "test_start" not in name}
    result = TrainingResult(replace(trained, data=former), {"ease": trained.metrics}, {})
    training.register(models.registry, result, tag="")
    models.promote("ease 1")
    assert next_test_start(models.registry, models.cache, matrix_of(540)) == 0.0


class BadForNiche(EASE):
    """A model that is wrong for users who starred nothing but the last items."""

    def score(self, stars: Csr) -> NDArray[np.float32]:
        niche = (stars[:, :52].sum(axis=1) == 0)[:, None]
        scores: NDArray[np.float32] = np.where(niche, -super().score(stars), super().score(stars))
        return scores


def test_model_that_is_worse_than_popularity_for_people_with_few_stars_is_refused() -> None:
    rng = np.random.default_rng(0)
    short = np.zeros((400, 60), np.float32)
    for row in short:
        row[rng.choice(np.arange(52, 60), rng.integers(2, 5), replace=False)] = 1
    matrix = with_ids(sp.csr_array(sp.vstack([MATRIX.stars, sp.csr_array(short)])))
    split = split_of(matrix, 0)
    assert len(split.few_users) >= MIN_TEST_USERS

    def judged(model: Recommender, **data: Any) -> ComparisonResult:
        result = result_of(matrix, split, model.fit(split.train), {})
        trained = replace(result.trained, data=dict(result.trained.data) | data)
        return compare_with_champion(LoadedModel(REGISTERED, trained), None, matrix, split)

    refused = judged(BadForNiche((10.0,)))
    assert (refused.better, refused.outcome) == (False, "refused")
    assert "for people who have 2 to 4 stars it is worse than popularity by -0." in refused.summary
    assert judged(EASE((10.0,))).better
    former = judged(BadForNiche((10.0,)), test_users=matrix.user_ids[split.test_users].tolist())
    assert former.better, "a model of an earlier version was trained on them"


def test_users_whom_the_champion_was_trained_on_are_left_out() -> None:
    test_users = MATRIX.user_ids[SPLIT.test_users].tolist()
    enough = MIN_TEST_USERS + 5
    result = compare(loaded(EASE((10.0,))), loaded(Popularity(), data={"test_users": [*test_users[:enough], -1]}))
    assert result.users == enough
    assert f"for {enough} users who were held out of both trainings" in result.summary
    others = MATRIX.user_ids[split_of(MATRIX, 1).test_users].tolist()
    both = len(set(others) & set(test_users))
    assert 0 < both < MIN_TEST_USERS, "the seeds must give a small overlap"
    result = compare(loaded(EASE((10.0,))), loaded(Popularity(), data={"test_users": others}))
    assert (result.outcome, result.users) == ("refused", both), "too few users are left"
    assert f"{both} users were held out of both trainings (at least {MIN_TEST_USERS})" in result.summary


@pytest.mark.parametrize("recorded", [True, False], ids=["in its document", "in the model only"])
def test_model_of_another_matrix_does_not_compete(models: RegisteredModels, recorded: bool) -> None:
    """Documents of earlier versions do not contain the hash of the matrix, but the model does."""
    models.register(EASE((10.0,)), matrix=matrix_of(540))
    if not recorded:
        models.registry.documents.update_one({"name": "ease"}, {"$unset": {"data.matrix_sha256": 1}})
    with pytest.raises(ModelNotFoundError, match="was trained on the current user-item matrix"):
        models.judge()
    assert models.registry.aliases.current(PURPOSE, CANDIDATE) is None
    assert models.last_decision().outcome == "not judged"


def test_model_registered_with_a_clock_behind_is_judged(
    models: RegisteredModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.register(Popularity(), EASE((1e9,)))
    models.promote("popularity 1")
    with clock_behind(monkeypatch):
        newest = models.register(EASE((10.0,)))
    assert [model.title for model in models.registry.list()] == ["ease 2", "ease 1", "popularity 1"]
    assert models.judge()[0].candidate == newest
    assert models.current()["newest"] == "ease 2"
    assert models.last_decision().newest == {"ease": 2, "popularity": 1}


@pytest.mark.parametrize("kind", DAMAGES)
def test_candidate_that_cannot_be_loaded_is_skipped_and_named(
    models: RegisteredModels, tmp_path: Path, kind: str
) -> None:
    damage(models.registry, tmp_path, models.register(EASE((10.0,)), EASE((11.0,))), kind)
    result, move = models.judge()
    assert move is not None
    assert models.registry.champion().version == 1, "the next model of its name is the candidate"
    if kind != UNREADABLE_DOCUMENT:
        assert "ease 2 cannot be loaded and is skipped" in result.skipped["ease 2"]
        assert "None" not in result.skipped["ease 2"], "the reason is missing"
        assert result.skipped == models.last_decision().skipped
        assert models.current()["skipped"] == list(result.skipped.values())


def test_champion_stays_if_no_candidate_can_be_loaded(models: RegisteredModels, tmp_path: Path) -> None:
    incumbent = models.register(EASE((10.0,)), matrix=matrix_of(540))
    models.promote("ease 1")
    damage(models.registry, tmp_path, models.register(EASE((11.0,))), "missing")
    result, move = models.judge()
    assert (result.outcome, result.better, result.candidate, move) == ("not judged", False, None, None)
    assert result.champion == incumbent
    assert models.last_decision().champion == "ease 1"
    assert result.summary == f"No candidate could be judged. {result.skipped['ease 2']}"


def test_model_is_scored_on_the_columns_of_another_matrix() -> None:
    trained = loaded(EASE((10.0,))).trained
    order = np.random.default_rng(0).permutation(len(MATRIX.repo_ids))
    ids = np.append(MATRIX.repo_ids[order], 999_999)
    stars = sp.csr_array(sp.hstack([MATRIX.stars[:5][:, order], sp.csr_array((5, 1), dtype=np.float32)]))
    scores = ModelOnColumns(trained, ids).predict(stars)
    np.testing.assert_allclose(scores[:, :-1], trained.model.predict(MATRIX.stars[:5])[:, order], rtol=1e-5, atol=1e-6)
    assert np.isneginf(scores[:, -1]).all()
    assert scores.dtype == np.float32
