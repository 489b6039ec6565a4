"""Promotion: a candidate becomes champion if it is better for users who were held out of both trainings.

Registered scores are not comparable, since each is of other users. The gate therefore evaluates candidate and champion
on the same users of the current matrix and compares their metrics user by user. Each user counts with histories cut to
1, 2, 3, ... stars, weighted by the share of people who have that many; a model that is certainly worse than popularity
at any of these lengths does not serve.

A champion was chosen on some users, for whom it looks better than it is. The next candidate therefore meets it on
others, whom both have held out: see `unused_test_start`.

The cost of a model is measured in processor time, relative to the champion and to popularity in the same minute, so
that neither a slow nor a busy machine changes a decision.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from gh_assets.errors import GhAssetsError, ModelNotFoundError
from gh_assets.recommender.data.interactions import Csr, UserItemMatrix, positions_of
from gh_assets.recommender.data.splits import StrongGeneralizationSplit, sample_users
from gh_assets.recommender.evaluation.evaluation import (
    Interval,
    as_people_have,
    bootstrap,
    evaluate_lengths,
    length_shares,
    scores_as_people_have,
)
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, Predictor, evaluate_users
from gh_assets.recommender.models.baselines import Popularity
from gh_assets.recommender.models.hybrid import MODELS
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.recommender.training.training import split_of
from gh_assets.registry import CANDIDATE, CHAMPION, PURPOSE, Decision, ModelRegistry, Move, Promotion, RegisteredModel
from gh_assets.registry.aliases import Outcome
from gh_assets.registry.cache import ModelCache
from gh_assets.serving.current_model import LoadedModel, find_usable, report_skipped
from gh_assets.serving.ranking import Ranker
from gh_assets.serving.requests import RecommendationRequest

MIN_TEST_USERS = 30
"""Held-out users that candidate and champion must have in common."""

MIN_ITEM_OVERLAP = 0.5
"""Share of the champion's repositories that a candidate must know."""

MAX_COST_RATIO = 10.0
"""Maximum processor time of a candidate's list, in multiples of the champion's."""

MAX_COST_RATIO_TO_POPULARITY = 500.0
"""Processor time that is allowed in any case, in multiples of popularity's: a neural model may replace a baseline that
takes a hundredth of its time. On a processor of 2026 that is a quarter of a second per list."""

MAX_COMPARED_USERS = 2500
"""Maximum number of users on whom models are compared. On the GitHub stars of 2022, the 95 % interval of a paired
difference in NDCG@100 over as many is ±0.002."""

TIMED_USERS = 20
"""Users for whom the processor time is measured."""

ROUNDS = 3
"""Measurements per user; the smallest counts, since noise only adds."""


@dataclass(frozen=True)
class GateCheck:
    """The result of a check that a candidate must pass."""

    passed: bool
    finding: str


@dataclass(frozen=True)
class ComparisonResult:
    """The result of comparing a candidate with the champion.

    Attributes
    ----------
    candidate, champion : RegisteredModel or None
        No candidate: none could be loaded.
    better : bool
    summary : str
        The decision in one sentence.
    outcome : str
        See `Decision`; ``promoted`` as far as the comparison decides.
    users : int
        Users that were held out of both trainings.
    means : mapping
        Mean main metric of the candidate and the champion; without a champion, of popularity.
    difference : Interval or None
        Candidate minus champion, paired by user.
    test_start : float
        Place of the first of these users.
    checks : mapping of GateCheck
    validation : mapping of float
        Main metric of all candidates on the validation users, by their titles.
    skipped : mapping of str
        Warnings about models that could not be loaded, by their titles.
    """

    candidate: RegisteredModel | None
    champion: RegisteredModel | None
    better: bool
    summary: str
    outcome: Outcome
    users: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    difference: Interval | None = None
    test_start: float = 0.0
    checks: Mapping[str, GateCheck] = field(default_factory=dict)
    validation: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    def evidence(self) -> dict[str, Any]:
        """Return the evidence that the alias's move records."""
        interval = self.difference
        return {
            "users": self.users,
            "test_start": self.test_start,
            "metric": MAIN_METRIC,
            "means": dict(self.means),
            "difference": None if interval is None else [interval.mean, interval.low, interval.high],
            "checks": self.findings(),
            "champion": None if self.champion is None else self.champion.title,
        }

    def findings(self) -> dict[str, str]:
        """Return the findings of the checks by their names."""
        return {name: check.finding for name, check in self.checks.items()}


class ModelOnColumns:
    """A trained model on the columns of another matrix; it does not recommend repositories that it does not know.

    Parameters
    ----------
    trained : TrainedModel
    repo_ids : ndarray of int64, shape (columns,)
    """

    def __init__(self, trained: TrainedModel, repo_ids: NDArray[np.int64]) -> None:
        self.model = trained.model
        self.places = trained.positions(repo_ids)

    def predict(self, fold_in: Csr) -> NDArray[np.float32]:
        """Return scores, shape (users, columns); -inf for unknown repositories."""
        known = np.flatnonzero(self.places >= 0)
        chosen = fold_in[:, known].tocoo()
        given: Csr = sp.csr_array(
            (chosen.data, (chosen.row, self.places[known][chosen.col])), shape=(fold_in.shape[0], self.model.items)
        )
        scores = np.full(fold_in.shape, -np.inf, np.float32)
        scores[:, known] = self.model.predict(given)[:, self.places[known]]
        return scores


def own_test_start(model: LoadedModel) -> float:
    """Return the place of the first test user of a model; see `strong_generalization_split`."""
    return float(model.trained.data.get("test_start") or 0.0)  # models of earlier versions do not have one


def next_test_start(registry: ModelRegistry, cache: ModelCache, matrix: UserItemMatrix) -> float:
    """Return the place of the first test user of the next training on a matrix.

    It begins with users on whom the champion was not chosen, and whom it has never seen, so that a candidate meets it
    on users who are new to both. Trainings on the champion's own matrix have its split, and can be reused. The place
    follows from champion and matrix alone.
    """
    champion, _ = find_usable(registry, registry.holders(), cache)
    if champion is None:
        return 0.0
    if champion.trained.data.get("matrix_sha256") == matrix.fingerprint:
        return own_test_start(champion)
    return unused_test_start(champion, registry.aliases.current(PURPOSE, CHAMPION))


def unused_test_start(champion: LoadedModel, move: Move | None) -> float:
    """Return the place of the first of the users whom the champion has held out, and on whom it was not chosen.

    Parameters
    ----------
    champion : LoadedModel
    move : Move or None
        The newest one of the alias; it says on which users the champion was chosen, if it is that model's.
    """
    own, reserve = own_test_start(champion), champion.trained.data.get("next_test_start")
    recorded = move.evidence.get("test_start") if move is not None and move.key == champion.registered.key else None
    return own if reserve is None or recorded == reserve else float(reserve)


# -- comparison --------------------------------------------------------------------------------------------------------


def compare_with_champion(
    candidate: LoadedModel, champion: LoadedModel | None, matrix: UserItemMatrix, split: StrongGeneralizationSplit
) -> ComparisonResult:
    """Compare a candidate with the champion, and check that it can serve.

    Parameters
    ----------
    candidate : LoadedModel
    champion : LoadedModel or None
        Without a champion, the candidate only has to beat popularity in the mean.
    matrix : UserItemMatrix
        The current matrix.
    split : StrongGeneralizationSplit
        Its test users decide, as far as neither model was trained on them.
    """
    title, incumbent = candidate.registered.title, None if champion is None else champion.registered
    compared = [candidate] if champion is None else [candidate, champion]
    rows = _rows_held_out(matrix.user_ids[split.test_users], compared)
    checks = _gate_checks(candidate, champion, matrix, len(rows))
    failed = [check.finding for check in checks.values() if not check.passed]
    if failed:
        summary = f"{title} cannot become champion: {'; '.join(failed)}."
        return ComparisonResult(candidate.registered, incumbent, False, summary, "refused", len(rows), checks=checks)
    models: list[Predictor] = [ModelOnColumns(model.trained, matrix.repo_ids) for model in compared]
    rows = rows[sample_users(split.test_held_out[rows], MAX_COMPARED_USERS)]
    fold_in, held_out = split.test_fold_in[rows], split.test_held_out[rows]
    models.append(Popularity().fit(split.train))
    by_length = [evaluate_lengths(model, fold_in, held_out) for model in models]
    few = _rows_held_out(matrix.user_ids[split.few_users], [candidate])
    few = few[sample_users(split.few_held_out[few], MAX_COMPARED_USERS)]
    differences = {
        f"with {length or 'all'} known stars": own - by_length[-1][length] for length, own in by_length[0].items()
    }
    if len(few):
        own, popular = (
            evaluate_users(model, split.few_fold_in[few], split.few_held_out[few])[MAIN_METRIC]
            for model in (models[0], models[-1])
        )
        differences["for people who have 2 to 4 stars"] = own - popular
    checks["popularity"] = _check_popularity(differences)
    if not checks["popularity"].passed:
        summary = f"{title} cannot become champion: {checks['popularity'].finding}."
        return ComparisonResult(candidate.registered, incumbent, False, summary, "refused", len(rows), checks=checks)
    shares = length_shares(split.train)
    own, other = (as_people_have(lengths, shares) for lengths in by_length[:2])
    difference = bootstrap(own - other)
    better = (difference.mean if champion is None else difference.low) > 0
    verdict = f"{'' if better else 'not '}{'' if champion is None else 'certainly '}better"
    summary = (
        f"{title} is {verdict} than {'popularity' if incumbent is None else incumbent.title} for {len(rows)} users who "
        f"were held out of both trainings, with as many known stars as people have: {MAIN_METRIC} {own.mean():.4f} "
        f"against {other.mean():.4f}, difference {difference}."
    )
    opponent = "popularity" if incumbent is None else "champion"
    means = {candidate.registered.name: float(own.mean()), opponent: float(other.mean())}
    outcome: Outcome = "promoted" if better else "not better"
    return ComparisonResult(
        candidate.registered,
        incumbent,
        better,
        summary,
        outcome,
        len(rows),
        means,
        difference,
        split.test_start,
        checks,
    )


def _rows_held_out(user_ids: NDArray[np.int64], models: Sequence[LoadedModel]) -> NDArray[np.int64]:
    """Return the places of the users who were held out of all trainings."""
    # A model that does not record its test users has none.
    held_out = [np.array(model.trained.data.get("test_users", []), np.int64) for model in models]
    return np.flatnonzero(np.all([np.isin(user_ids, ids) for ids in held_out], axis=0))


# -- checks ------------------------------------------------------------------------------------------------------------


def _gate_checks(
    candidate: LoadedModel, champion: LoadedModel | None, matrix: UserItemMatrix, users: int
) -> dict[str, GateCheck]:
    checks = {"weights": _check_weights(candidate.trained), "cost": _check_cost(candidate.trained, champion, matrix)}
    if champion is not None:
        checks["overlap"] = _check_overlap(candidate.trained, champion.trained)
    minimum = 1 if champion is None else MIN_TEST_USERS
    checks["users"] = GateCheck(users >= minimum, f"{users} users were held out of both trainings (at least {minimum})")
    return checks


def _check_weights(trained: TrainedModel) -> GateCheck:
    for name, array in trained.model.weights().items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return GateCheck(False, f"its weights {name} are not all finite")
    return GateCheck(True, "all weights are finite")


def _check_popularity(differences: Mapping[str, NDArray[np.float64]]) -> GateCheck:
    """Check that a model is not certainly worse than popularity for users with few or many known stars.

    Parameters
    ----------
    differences : mapping of ndarray
        The candidate's metric minus popularity's, by user, in each group of users.
    """
    large = {group: values for group, values in differences.items() if len(values) >= MIN_TEST_USERS}
    if not large:
        return GateCheck(True, f"fewer than {MIN_TEST_USERS} users are too few to compare it with popularity")
    for group, values in large.items():
        # Together, the intervals of all groups are right in 95 % of cases (Bonferroni).
        difference = bootstrap(values, level=1 - 0.05 / len(large))
        if difference.high < 0:
            return GateCheck(False, f"{group} it is worse than popularity by {difference}")
    return GateCheck(True, "it is nowhere certainly worse than popularity")


def _check_overlap(candidate: TrainedModel, champion: TrainedModel) -> GateCheck:
    known = positions_of(champion.repo_ids, candidate.repo_ids, np.argsort(candidate.repo_ids)) >= 0
    return GateCheck(
        bool(known.mean() >= MIN_ITEM_OVERLAP),
        f"it knows {known.mean():.0%} of the champion's repositories (at least {MIN_ITEM_OVERLAP:.0%})",
    )


def _check_cost(trained: TrainedModel, champion: LoadedModel | None, matrix: UserItemMatrix) -> GateCheck:
    """Check that a list takes no more processor time than allowed; for the first champion it is only reported."""
    requests = _timed_requests(matrix)
    rankers = [Ranker(trained), Ranker(_popularity_model(matrix))]
    if champion is not None:
        rankers.append(Ranker(champion.trained))
    for place, ranker in enumerate(rankers):
        try:
            ranker.recommend_batch(requests)
        except GhAssetsError as error:
            if place == 0:
                return GateCheck(False, f"it cannot recommend: {error}")
            del rankers[place]  # a champion that cannot recommend is no standard
    # A thread of its own does not distribute its matrix products, so that other threads do not count.
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as executor:
        own, popularity, *champions = executor.submit(processor_times, rankers, requests).result()
    finding = f"a list takes {1000 * own:.1f} ms of a processor, {own / popularity:.1f} times as much as popularity's"
    if champion is None:
        return GateCheck(True, f"{finding} (the first champion is not refused for that)")
    if not champions:
        return GateCheck(True, f"{finding} ({champion.registered.title} cannot recommend at all)")
    maximum = max(MAX_COST_RATIO * champions[0], MAX_COST_RATIO_TO_POPULARITY * popularity)
    finding += (
        f" and {own / champions[0]:.1f} times as much as that of {champion.registered.title} "
        f"(at most {1000 * maximum:.1f} ms)"
    )
    return GateCheck(own <= maximum, finding)


def _timed_requests(matrix: UserItemMatrix) -> list[RecommendationRequest]:
    stars = matrix.stars
    rows = np.linspace(0, stars.shape[0] - 1, min(TIMED_USERS, stars.shape[0])).astype(int)
    columns = [stars.indices[stars.indptr[row] : stars.indptr[row + 1]] for row in rows]
    return [RecommendationRequest(stars=matrix.repo_ids[starred].tolist()) for starred in columns]


def _popularity_model(matrix: UserItemMatrix) -> TrainedModel:
    counts = np.bincount(matrix.stars.indices, minlength=matrix.stars.shape[1]).tolist()
    model = Popularity().fit(matrix.stars)
    return TrainedModel(model, matrix.repo_ids, matrix.full_names, data={"stars_of": counts})


def processor_times(rankers: Sequence[Ranker], requests: Sequence[RecommendationRequest]) -> list[float]:
    """Return the mean processor seconds of this thread per list, for each ranker.

    The rankers take turns, so that what slows the machine down affects all of them; the smallest of several
    measurements counts.
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


# -- the gate ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromotionGate:
    """Chooses a candidate among the newest models and decides whether it becomes champion.

    Parameters
    ----------
    registry : ModelRegistry
    cache : ModelCache
    matrix : UserItemMatrix
    names : sequence of str
        Names of the models that compete; by default all kinds of recommenders.
    tag : str
        Only models with this tag.
    seed : int
        Seed of the split that the models were trained on.
    """

    registry: ModelRegistry
    cache: ModelCache
    matrix: UserItemMatrix
    names: Sequence[str] = tuple(MODELS)
    tag: str = ""
    seed: int = 0

    @cached_property
    def _splits(self) -> dict[float, StrongGeneralizationSplit]:
        return {}

    def split_of(self, start: float) -> StrongGeneralizationSplit:
        """Return the split of the matrix whose first test user has a place."""
        if start not in self._splits:
            self._splits[start] = split_of(self.matrix, self.seed, start)
        return self._splits[start]

    def decide(self, by: str) -> tuple[ComparisonResult, Move | None]:
        """Promote the best of the newest models to champion if it is better than the current one.

        The validation users decide which model is the candidate, and the test users whether it replaces the champion.
        Earlier decisions do not count: a model that was refused is judged again. The registry keeps the last
        `Decision`.

        Parameters
        ----------
        by : str
            Who decides: the id of a run.

        Returns
        -------
        result : ComparisonResult
        move : Move or None
            None: the champion stays.

        Raises
        ------
        ModelNotFoundError
            If none of the models was trained on this matrix.
        ConcurrentWriteError
            If the alias has moved in the meantime.
        """
        newest = {name: model.version for name in reversed(self.names) for model in self.registry.list(name)[:1]}
        incumbent = self.registry.aliases.current(PURPOSE, CHAMPION)
        champion, skipped = find_usable(self.registry, self.registry.holders(), self.cache)
        candidate, validation = self._best_candidate(skipped)
        if candidate is not None:
            self._point_candidate(candidate.registered, by)
        result = self._compare(candidate, champion, incumbent, skipped)
        result = replace(result, validation=validation, skipped=skipped)
        move = None
        if result.candidate is not None and result.better:
            name, version = result.candidate.key
            promotion = Promotion(name, version, why=result.summary, by=by, evidence=result.evidence())
            move = self.registry.promote(promotion, after=incumbent)
        self.registry.decisions.record(_decision(result, newest, by))
        if candidate is None and not skipped:
            raise ModelNotFoundError(result.summary)
        return result, move

    def _best_candidate(self, skipped: dict[str, str]) -> tuple[LoadedModel | None, dict[str, float]]:
        """Return the best model on the validation users, and the metrics of all candidates by their titles.

        At most two candidates are in memory. Warnings about models that cannot be loaded are added to `skipped`.
        """
        best: LoadedModel | None = None
        validation: dict[str, float] = {}
        for name in self.names:
            model = self._newest_usable(name, skipped)
            if model is None:
                continue
            score = self._validate(model)
            if best is None or score > max(validation.values()):
                best = model
            validation[model.registered.title] = score
        return best, validation

    def _newest_usable(self, name: str, skipped: dict[str, str]) -> LoadedModel | None:
        """Load the newest usable model of a name, if it was trained on the matrix."""
        for registered in self.registry.list(name, self.tag or None):
            if registered.data.get("matrix_sha256") not in (None, self.matrix.fingerprint):
                return None
            model, unloadable = find_usable(self.registry, [registered], self.cache)
            skipped |= unloadable
            if model is None:
                continue
            problem = self.registry.problem(registered)  # a cached model may have lost its object
            if problem is None:
                return model if model.trained.data.get("matrix_sha256") == self.matrix.fingerprint else None
            skipped[registered.title] = report_skipped(registered, problem)
        return None

    def _validate(self, model: LoadedModel) -> float:
        """Return the mean of the main metric on the validation users, with as many known stars as people have."""
        on_columns = ModelOnColumns(model.trained, self.matrix.repo_ids)
        split = self.split_of(own_test_start(model))
        scores = scores_as_people_have(on_columns, *split.validation, split.train, most=MAX_COMPARED_USERS)
        return float(scores.mean())

    def _compare(
        self, candidate: LoadedModel | None, champion: LoadedModel | None, move: Move | None, skipped: Mapping[str, str]
    ) -> ComparisonResult:
        incumbent = None if champion is None else champion.registered
        if candidate is None:
            summary = (
                f"None of the newest models ({', '.join(self.names)}) was trained on the current user-item matrix: "
                "materialize recvae_model first."
            )
            if skipped:
                summary = f"No candidate could be judged. {' '.join(skipped.values())}"
            return ComparisonResult(None, incumbent, False, summary, "not judged")
        if incumbent is not None and candidate.registered.key == incumbent.key:
            summary = f"{candidate.registered.title} is the champion already."
            return ComparisonResult(candidate.registered, incumbent, False, summary, "champion already")
        split = self.split_of(own_test_start(candidate))
        if champion is not None and own_test_start(champion) == split.test_start:
            # Both have held out the same users, on some of whom the champion was chosen. Those with few stars are only
            # compared with popularity.
            few = {name: value for name, value in vars(split).items() if name.startswith("few_")}
            split = replace(self.split_of(unused_test_start(champion, move)), **few)
        return compare_with_champion(candidate, champion, self.matrix, split)

    def _point_candidate(self, model: RegisteredModel, by: str) -> None:
        current = self.registry.aliases.current(PURPOSE, CANDIDATE)
        if current is None or current.key != model.key:
            why = "best on the validation users"
            promotion = Promotion(model.name, model.version, why=why, by=by, alias=CANDIDATE)
            self.registry.promote(promotion, after=current)


def _decision(result: ComparisonResult, newest: Mapping[str, int], by: str) -> Decision:
    candidate, champion, summary = result.candidate, result.champion, result.summary
    others = {title: score for title, score in result.validation.items() if candidate and title != candidate.title}
    if candidate is not None and others:
        behind = ", ".join(f"{title} ({score:.4f})" for title, score in others.items())
        own = result.validation[candidate.title]
        summary += f" On the validation users {candidate.title} ({own:.4f}) was ahead of {behind}."
    return Decision(
        outcome=result.outcome,
        candidate=None if candidate is None else candidate.title,
        champion=None if champion is None else champion.title,
        summary=summary,
        newest=newest,
        validation=result.validation,
        checks=result.findings(),
        skipped=result.skipped,
        by=by,
    )
