"""Who becomes champion: a candidate that is better than the champion for the same people, neither having seen them.

Scores that were registered do not compare: each is of its own data. Here candidate and champion are asked about the
same users of today's matrix, who were held out of both trainings, and their figures are compared user by user.

What a model costs is measured in processor time, against the champion and popularity in the same minute: neither a slow
machine nor one that is busy with something else changes a decision.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from gh_assets.errors import GhAssetsError, ModelNotFoundError
from gh_assets.recommender.data.interactions import Csr, StrongGeneralizationSplit, UserItemMatrix, positions_of
from gh_assets.recommender.evaluation.evaluation import Interval, bootstrap
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, evaluate_users
from gh_assets.recommender.models.baselines import Popularity
from gh_assets.recommender.models.loading import MODELS
from gh_assets.recommender.training.training import TrainedModel, split_of
from gh_assets.registry import CANDIDATE, CHAMPION, PURPOSE, Decision, ModelRegistry, Move, Promotion, RegisteredModel
from gh_assets.registry.cache import ModelCache
from gh_assets.registry.decisions import Outcome
from gh_assets.serving.current_model import UNLOADABLE, load_model, skipped
from gh_assets.serving.ranking import Ranker
from gh_assets.serving.requests import RecommendationRequest

MIN_TEST_USERS = 30
"""With fewer held-out users in common, a comparison says nothing."""

MIN_ITEM_OVERLAP = 0.5
"""Share of the champion's repositories that a candidate must know, too."""

MAX_COST_RATIO = 10.0
"""How many times as much processor time as the champion's a candidate's lists may take."""

MAX_COST_RATIO_TO_POPULARITY = 500.0
"""How many times as much as popularity's they may take in any case: a neural model may replace a baseline that takes a
hundredth of its time. On a processor of 2026 that is a quarter of a second a list."""

TIMED_USERS = 20
"""People for whom it is measured."""

ROUNDS = 3
"""How often each of them is asked for; the least time counts, since noise only adds."""


@dataclass(frozen=True)
class GateCheck:
    """One thing that a candidate must pass."""

    passed: bool
    words: str


@dataclass(frozen=True)
class ComparisonResult:
    """What the comparison of a candidate with the champion gave.

    Attributes
    ----------
    candidate, champion : RegisteredModel or None
        No candidate: none that could compete could be loaded.
    better : bool
    words : str
        The decision in a sentence.
    outcome : str
        See `Decision`; ``promoted`` as far as the comparison decides.
    users : int
        Held-out users of both.
    metric : str
    means : mapping
        Of candidate and champion (or popularity, where there is no champion yet).
    difference : Interval or None
        Candidate less champion, paired by user.
    checks : mapping of Check
    validation : mapping of float
        The main metric of all who competed on the validation users, by their titles.
    skipped : mapping of str
        What is said of models that could not be loaded, by their titles.
    """

    candidate: RegisteredModel | None
    champion: RegisteredModel | None
    better: bool
    words: str
    outcome: Outcome
    users: int = 0
    metric: str = MAIN_METRIC
    means: Mapping[str, float] = field(default_factory=dict)
    difference: Interval | None = None
    checks: Mapping[str, GateCheck] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def evidence(self) -> dict[str, Any]:
        """As the move of the alias keeps it."""
        return {
            "users": self.users,
            "metric": self.metric,
            "means": dict(self.means),
            "difference": None
            if self.difference is None
            else [self.difference.mean, self.difference.low, self.difference.high],
            "checks": {name: check.words for name, check in self.checks.items()},
            "champion": None if self.champion is None else self.champion.title,
        }


class ModelOnColumns:
    """A trained model behind the columns of another matrix: what it does not know, it does not recommend.

    Parameters
    ----------
    trained : TrainedModel
    repo_ids : ndarray of int64, shape (columns,)
    """

    def __init__(self, trained: TrainedModel, repo_ids: NDArray[np.int64]) -> None:
        self.model = trained.model
        self.places = trained.positions(repo_ids)

    def predict(self, fold_in: Csr) -> NDArray[np.float32]:
        """Scores, (users, columns); -inf for unknown repositories."""
        known = np.flatnonzero(self.places >= 0)
        chosen = fold_in[:, known].tocoo()
        given: Csr = sp.csr_array(
            (chosen.data, (chosen.row, self.places[known][chosen.col])), shape=(fold_in.shape[0], self.model.items)
        )
        scores = np.full(fold_in.shape, -np.inf, np.float32)
        scores[:, known] = self.model.predict(given)[:, self.places[known]]
        return scores


def compare_with_champion(
    candidate: tuple[RegisteredModel, TrainedModel],
    champion: tuple[RegisteredModel, TrainedModel] | None,
    matrix: UserItemMatrix,
    split: StrongGeneralizationSplit,
) -> ComparisonResult:
    """Compare a candidate with the champion, and check that it can serve.

    Parameters
    ----------
    candidate, champion : pair of RegisteredModel and TrainedModel
        Without a champion, it is enough to beat popularity in the mean: people need some model.
    matrix : UserItemMatrix
        Of today.
    split : StrongGeneralizationSplit
        Of it: the one that the candidate was trained on.
    """
    registered, trained = candidate
    checks = {"weights": _weights(trained), "cost": _cost(trained, champion, matrix)}
    if champion is not None:
        checks["overlap"] = _overlap(trained, champion[1])
    test_ids = matrix.user_ids[split.test_users]
    unseen = np.isin(test_ids, _held_out_of(trained))
    if champion is not None:
        unseen &= np.isin(test_ids, _held_out_of(champion[1]))
    rows = np.flatnonzero(unseen)
    fewest = 1 if champion is None else MIN_TEST_USERS
    checks["users"] = GateCheck(
        len(rows) >= fewest, f"{len(rows)} users were held out of both trainings (at least {fewest})"
    )
    incumbent = None if champion is None else champion[0]
    failed = [check.words for check in checks.values() if not check.passed]
    if failed:
        words = f"{registered.title} cannot become champion: {'; '.join(failed)}."
        return ComparisonResult(registered, incumbent, False, words, "refused", len(rows), checks=checks)
    fold_in, held_out = split.test_fold_in[rows], split.test_held_out[rows]

    def figures(model: Predictor) -> NDArray[np.float64]:
        return evaluate_users(model, fold_in, held_out)[MAIN_METRIC]

    mine = figures(ModelOnColumns(trained, matrix.repo_ids))
    other: Predictor = (
        Popularity().fit(split.train) if champion is None else ModelOnColumns(champion[1], matrix.repo_ids)
    )
    theirs = figures(other)
    difference = bootstrap(mine - theirs)
    opponent = "popularity" if incumbent is None else incumbent.title
    better = (difference.mean if champion is None else difference.low) > 0
    certainly = "" if champion is None else "certainly "
    words = (
        f"{registered.title} is {'' if better else 'not '}{certainly}better than {opponent} for {len(rows)} users "
        f"whom neither has seen: {MAIN_METRIC} {mine.mean():.4f} against {theirs.mean():.4f}, difference {difference}."
    )
    means = {
        registered.name: float(mine.mean()),
        "popularity" if incumbent is None else "champion": float(theirs.mean()),
    }
    outcome: Outcome = "promoted" if better else "not better"
    return ComparisonResult(
        registered, incumbent, better, words, outcome, len(rows), MAIN_METRIC, means, difference, checks
    )


def promote_if_better(
    registry: ModelRegistry,
    cache: ModelCache,
    matrix: UserItemMatrix,
    *,
    names: Sequence[str] = (),
    tag: str = "",
    seed: int = 0,
    by: str,
) -> tuple[ComparisonResult, Move | None]:
    """Let the newest model of each name compete, and make the best of them champion if it is better than the present.

    Which of them competes is decided on the validation users; against the champion it stands on the test users. Nothing
    of earlier decisions is remembered: whoever was refused is judged again. The registry keeps the last `Decision`.

    Parameters
    ----------
    names : sequence of str
        By default all kinds of recommenders.
    tag : str
        Only models with this tag.
    by : str
        Who decides: the id of a run.

    Returns
    -------
    verdict : ComparisonResult
        Names the models that could not be loaded: the next of their name, or the champion before, stand in for them.
    move : Move or None
        None: the champion stays.

    Raises
    ------
    ModelNotFoundError
        If none of the models was trained on this matrix.
    ConcurrentWriteError
        If somebody else moved the alias meanwhile.
    """
    names = names or tuple(MODELS)
    newest = {name: model.version for name in reversed(names) for model in registry.list(name)[:1]}

    def record(verdict: ComparisonResult) -> None:
        registry.decisions.record(_decision(verdict, newest, by))

    split = split_of(matrix, seed)
    incumbent = registry.aliases.current(PURPOSE, CHAMPION)
    problems: dict[str, str] = {}
    champion = _champion(registry, cache, problems)
    candidate, validation = _best_candidate(registry, cache, matrix, split, names, tag, problems)
    if candidate is None:
        words = (
            f"None of the newest models ({', '.join(names)}) was trained on the present user-item matrix: materialize "
            "recvae_model first."
        )
        if problems:
            words = f"No candidate could be judged. {' '.join(problems.values())}"
        present = None if champion is None else champion[0]
        verdict = ComparisonResult(None, present, False, words, "not judged", skipped=problems)
        record(verdict)
        if problems:
            return verdict, None
        raise ModelNotFoundError(words)
    pointed = registry.aliases.current(PURPOSE, CANDIDATE)
    if pointed is None or not _same(pointed, candidate[0]):
        registry.promote(
            Promotion(
                candidate[0].name, candidate[0].version, why="best on the validation users", by=by, alias=CANDIDATE
            ),
            after=pointed,
        )
    if champion is not None and _same(candidate[0], champion[0]):
        words = f"{candidate[0].title} is the champion already."
        verdict = ComparisonResult(candidate[0], champion[0], False, words, "champion already")
        verdict = replace(verdict, validation=validation, skipped=problems)
        record(verdict)
        return verdict, None
    verdict = compare_with_champion(candidate, champion, matrix, split)
    verdict = replace(verdict, validation=validation, skipped=problems)
    move = None
    if verdict.better:
        move = registry.promote(
            Promotion(candidate[0].name, candidate[0].version, why=verdict.words, by=by, evidence=verdict.evidence()),
            after=incumbent,
        )
    record(verdict)
    return verdict, move


def _champion(
    registry: ModelRegistry, cache: ModelCache, problems: dict[str, str]
) -> tuple[RegisteredModel, TrainedModel] | None:
    """The champion, or the first before it that can be loaded: what serves people; None, if none was promoted."""
    for registered in registry.holders():
        try:
            return registered, load_model(registry, registered, cache)
        except UNLOADABLE as error:
            problems[registered.title] = skipped(registered, str(error))
    return None


def _best_candidate(
    registry: ModelRegistry,
    cache: ModelCache,
    matrix: UserItemMatrix,
    split: StrongGeneralizationSplit,
    names: Sequence[str],
    tag: str,
    problems: dict[str, str],
) -> tuple[tuple[RegisteredModel, TrainedModel] | None, dict[str, float]]:
    """The best on the validation users, and how all did there, by their titles.

    Of each name the newest model that can be loaded competes, if it was trained on this matrix.
    """
    fold_in, held_out = split.validation
    best: tuple[RegisteredModel, TrainedModel] | None = None
    scores: dict[str, float] = {}
    for name in names:
        for registered in registry.list(name, tag or None):
            if registered.data.get("matrix_sha256") not in (None, matrix.fingerprint):
                break
            try:
                trained = load_model(registry, registered, cache)
            except UNLOADABLE as error:
                problems[registered.title] = skipped(registered, str(error))
                continue
            problem = registry.problem(registered)  # a copy on this machine outlives an object that is gone
            if problem is not None:
                problems[registered.title] = skipped(registered, problem)
                continue
            if trained.data.get("matrix_sha256") != matrix.fingerprint:
                break
            score = float(
                evaluate_users(ModelOnColumns(trained, matrix.repo_ids), fold_in, held_out)[MAIN_METRIC].mean()
            )
            if best is None or score > max(scores.values()):
                best = registered, trained
            scores[registered.title] = score
            break
    return best, scores


def _decision(verdict: ComparisonResult, newest: Mapping[str, int], by: str) -> Decision:
    """What is kept of a verdict for those who ask why the newest model does not serve."""
    candidate, champion = verdict.candidate, verdict.champion
    words = verdict.words
    others = {title: score for title, score in verdict.validation.items() if candidate and title != candidate.title}
    if candidate is not None and others:
        ahead = ", ".join(f"{title} ({score:.4f})" for title, score in others.items())
        words += f" On the validation users {candidate.title} ({verdict.validation[candidate.title]:.4f}) was ahead of "
        words += f"{ahead}."
    return Decision(
        outcome=verdict.outcome,
        candidate=None if candidate is None else candidate.title,
        champion=None if champion is None else champion.title,
        summary=words,
        newest=newest,
        validation=verdict.validation,
        checks={name: check.words for name, check in verdict.checks.items()},
        skipped=verdict.skipped,
        by=by,
    )


def _same(one: RegisteredModel | Move, other: RegisteredModel) -> bool:
    return (one.name, one.version) == (other.name, other.version)


def _held_out_of(trained: TrainedModel) -> NDArray[np.int64]:
    """Users whom a model was tested on and never saw. Of one that does not say, nobody is known to be."""
    return np.array(trained.data.get("test_users", []), np.int64)


def _weights(trained: TrainedModel) -> GateCheck:
    for name, array in trained.model._weights().items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return GateCheck(False, f"its weights {name} are not all finite")
    return GateCheck(True, "all weights are finite")


def _cost(
    trained: TrainedModel, champion: tuple[RegisteredModel, TrainedModel] | None, matrix: UserItemMatrix
) -> GateCheck:
    """Whether a list takes not too many times the processor time of the champion's; the first champion is only told."""
    stars = matrix.stars
    people = np.linspace(0, stars.shape[0] - 1, min(TIMED_USERS, stars.shape[0])).astype(int)
    requests = [
        RecommendationRequest(
            stars=matrix.repo_ids[stars.indices[stars.indptr[person] : stars.indptr[person + 1]]].tolist()
        )
        for person in people
    ]
    counts = np.bincount(stars.indices, minlength=stars.shape[1]).tolist()
    plain = TrainedModel(Popularity().fit(stars), matrix.repo_ids, matrix.full_names, data={"stars_of": counts})
    rankers = [Ranker(trained), Ranker(plain)]
    if champion is not None:
        rankers.append(Ranker(champion[1]))
    for place, ranker in enumerate(rankers):
        try:
            ranker.recommend_batch(requests)
        except GhAssetsError as error:
            if place == 0:
                return GateCheck(False, f"it cannot recommend: {error}")
            del rankers[place]  # a champion that cannot is no measure of anything
    # On a thread of its own, whose products are not shared out: what other threads do is not counted as the model's.
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as alone:
        own, plainest, *champions = alone.submit(processor_times, rankers, requests).result()
    words = f"a list takes {1000 * own:.1f} ms of a processor, {own / plainest:.1f} times as much as popularity's"
    if champion is None:
        return GateCheck(True, f"{words} (the first champion is not refused for that)")
    if not champions:
        return GateCheck(True, f"{words} ({champion[0].title} cannot recommend at all)")
    most = max(MAX_COST_RATIO * champions[0], MAX_COST_RATIO_TO_POPULARITY * plainest)
    words += f" and {own / champions[0]:.1f} times as much as {champion[0].title}'s (at most {1000 * most:.1f} ms)"
    return GateCheck(own <= most, words)


def processor_times(rankers: Sequence[Ranker], requests: Sequence[RecommendationRequest]) -> list[float]:
    """Seconds of this thread's processor time that a list by each takes in the mean.

    All are asked in turn, so that what slows the machine down hits them alike, and of each the least of several times
    counts.
    """
    seconds = np.full((len(rankers), len(requests)), np.inf)
    for turn in range(ROUNDS):
        for column, request in enumerate(requests):
            for place in range(len(rankers)):
                row = (place + turn) % len(rankers)
                started = time.thread_time()
                rankers[row].recommend(request)
                seconds[row, column] = min(seconds[row, column], time.thread_time() - started)
    return [max(float(row.mean()), 1e-9) for row in seconds]


def _overlap(candidate: TrainedModel, champion: TrainedModel) -> GateCheck:
    known = positions_of(champion.repo_ids, candidate.repo_ids, np.argsort(candidate.repo_ids)) >= 0
    return GateCheck(
        bool(known.mean() >= MIN_ITEM_OVERLAP),
        f"it knows {known.mean():.0%} of the champion's repositories (at least {MIN_ITEM_OVERLAP:.0%})",
    )
