"""Who becomes champion: a candidate that is better than the champion for the same people, neither having seen them.

Scores that were registered do not compare: each is of its own data. Here candidate and champion are asked about the
same users of today's matrix, who were held out of both trainings, and their figures are compared user by user.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from gh_assets.champion import load_model
from gh_assets.errors import GhAssetsError, ModelNotFoundError
from gh_assets.recommender.baselines import Popularity
from gh_assets.recommender.evaluation import Interval, bootstrap
from gh_assets.recommender.inference import Advisor, Question
from gh_assets.recommender.interactions import Csr, StrongGeneralizationSplit, UserItemMatrix, positions_of
from gh_assets.recommender.metrics import MAIN_METRIC, Predictor, evaluate_users
from gh_assets.recommender.models import MODELS
from gh_assets.recommender.training import TrainedModel, split_of
from gh_assets.registry import CANDIDATE, CHAMPION, PURPOSE, ModelRegistry, Move, RegisteredModel
from gh_assets.registry.cache import ModelCache

FEWEST_USERS = 30
"""With fewer held-out users in common, a comparison says nothing."""

LEAST_OVERLAP = 0.5
"""Share of the champion's repositories that a candidate must know, too."""

SLOWEST = 0.25
"""Seconds that one person's list of 20 may take on this machine, at the 95th percentile."""

ASKED = 50
"""People for whom it is measured."""


@dataclass(frozen=True)
class Check:
    """One thing that a candidate must pass."""

    passed: bool
    words: str


@dataclass(frozen=True)
class Verdict:
    """What the comparison of a candidate with the champion gave.

    Attributes
    ----------
    candidate, champion : RegisteredModel or None
    better : bool
    words : str
        The decision in a sentence.
    users : int
        Held-out users of both.
    metric : str
    means : mapping
        Of candidate and champion (or popularity, where there is no champion yet).
    difference : Interval or None
        Candidate less champion, paired by user.
    checks : mapping of Check
    """

    candidate: RegisteredModel
    champion: RegisteredModel | None
    better: bool
    words: str
    users: int = 0
    metric: str = MAIN_METRIC
    means: Mapping[str, float] = field(default_factory=dict)
    difference: Interval | None = None
    checks: Mapping[str, Check] = field(default_factory=dict)

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


class OnMatrix:
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


def judge(
    candidate: tuple[RegisteredModel, TrainedModel],
    champion: tuple[RegisteredModel, TrainedModel] | None,
    matrix: UserItemMatrix,
    split: StrongGeneralizationSplit,
) -> Verdict:
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
    checks = {"weights": _weights(trained), "latency": _latency(trained, matrix)}
    if champion is not None:
        checks["overlap"] = _overlap(trained, champion[1])
    test_ids = matrix.user_ids[split.test_users]
    unseen = np.isin(test_ids, _held_out_of(trained))
    if champion is not None:
        unseen &= np.isin(test_ids, _held_out_of(champion[1]))
    rows = np.flatnonzero(unseen)
    fewest = 1 if champion is None else FEWEST_USERS
    checks["users"] = Check(
        len(rows) >= fewest, f"{len(rows)} users were held out of both trainings (at least {fewest})"
    )
    held = None if champion is None else champion[0]
    failed = [check.words for check in checks.values() if not check.passed]
    if failed:
        words = f"{registered.title} cannot become champion: {'; '.join(failed)}."
        return Verdict(registered, held, False, words, len(rows), checks=checks)
    fold_in, held_out = split.test_fold_in[rows], split.test_held_out[rows]

    def figures(model: Predictor) -> NDArray[np.float64]:
        return evaluate_users(model, fold_in, held_out)[MAIN_METRIC]

    mine = figures(OnMatrix(trained, matrix.repo_ids))
    other: Predictor = Popularity().fit(split.train) if champion is None else OnMatrix(champion[1], matrix.repo_ids)
    theirs = figures(other)
    difference = bootstrap(mine - theirs)
    opponent = "popularity" if held is None else held.title
    better = (difference.mean if champion is None else difference.low) > 0
    certainly = "" if champion is None else "certainly "
    words = (
        f"{registered.title} is {'' if better else 'not '}{certainly}better than {opponent} for {len(rows)} users "
        f"whom neither has seen: {MAIN_METRIC} {mine.mean():.4f} against {theirs.mean():.4f}, difference {difference}."
    )
    means = {registered.name: float(mine.mean()), "popularity" if held is None else "champion": float(theirs.mean())}
    return Verdict(registered, held, better, words, len(rows), MAIN_METRIC, means, difference, checks)


def promote_if_better(
    registry: ModelRegistry,
    cache: ModelCache,
    matrix: UserItemMatrix,
    *,
    names: Sequence[str] = (),
    tag: str = "",
    seed: int = 0,
    by: str,
) -> tuple[Verdict, Move | None]:
    """Let the newest model of each name compete, and make the best of them champion if it is better than the present.

    Which of them competes is decided on the validation users; against the champion it stands on the test users.

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
    verdict : Verdict
    move : Move or None
        None: the champion stays.

    Raises
    ------
    ModelNotFoundError
        If none of the models was trained on this matrix.
    ConcurrentWriteError
        If somebody else moved the alias meanwhile.
    """
    split = split_of(matrix, seed)
    held = registry.aliases.current(PURPOSE, CHAMPION)
    champion = None
    try:
        registered = registry.champion()
        champion = (registered, load_model(registry, registered, cache))
    except ModelNotFoundError:
        pass
    candidate = _best_candidate(registry, cache, matrix, split, names or tuple(MODELS), tag)
    pointed = registry.aliases.current(PURPOSE, CANDIDATE)
    if pointed is None or not _same(pointed, candidate[0]):
        registry.promote(
            candidate[0].name,
            candidate[0].version,
            why="best on the validation users",
            by=by,
            alias=CANDIDATE,
            after=pointed,
        )
    if champion is not None and _same(candidate[0], champion[0]):
        return Verdict(candidate[0], champion[0], False, f"{candidate[0].title} is the champion already."), None
    verdict = judge(candidate, champion, matrix, split)
    if not verdict.better:
        return verdict, None
    move = registry.promote(
        candidate[0].name, candidate[0].version, why=verdict.words, by=by, evidence=verdict.evidence(), after=held
    )
    return verdict, move


def _best_candidate(
    registry: ModelRegistry,
    cache: ModelCache,
    matrix: UserItemMatrix,
    split: StrongGeneralizationSplit,
    names: Sequence[str],
    tag: str,
) -> tuple[RegisteredModel, TrainedModel]:
    fold_in, held_out = split.validation
    best: tuple[float, RegisteredModel, TrainedModel] | None = None
    for name in names:
        try:
            registered = registry.latest(name, tag)
        except ModelNotFoundError:
            continue
        if registered.data.get("matrix_sha256") not in (None, matrix.fingerprint):
            continue
        trained = load_model(registry, registered, cache)
        if trained.data.get("matrix_sha256") != matrix.fingerprint:
            continue
        score = float(evaluate_users(OnMatrix(trained, matrix.repo_ids), fold_in, held_out)[MAIN_METRIC].mean())
        if best is None or score > best[0]:
            best = (score, registered, trained)
    if best is None:
        raise ModelNotFoundError(
            f"None of the newest models ({', '.join(names)}) was trained on the present user-item matrix: materialize "
            "recvae_model first."
        )
    return best[1], best[2]


def _same(one: RegisteredModel | Move, other: RegisteredModel) -> bool:
    return (one.name, one.version) == (other.name, other.version)


def _held_out_of(trained: TrainedModel) -> NDArray[np.int64]:
    """Users whom a model was tested on and never saw. Of one that does not say, nobody is known to be."""
    return np.array(trained.data.get("test_users", []), np.int64)


def _weights(trained: TrainedModel) -> Check:
    for name, array in trained.model._weights().items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            return Check(False, f"its weights {name} are not all finite")
    return Check(True, "all weights are finite")


def _latency(trained: TrainedModel, matrix: UserItemMatrix) -> Check:
    stars = matrix.stars
    people = np.linspace(0, stars.shape[0] - 1, min(ASKED, stars.shape[0])).astype(int)
    seconds = []
    advisor = Advisor(trained)
    for person in people:
        own = matrix.repo_ids[stars.indices[stars.indptr[person] : stars.indptr[person + 1]]]
        started = time.perf_counter()
        try:
            advisor.recommend(Question(stars=own.tolist()))
        except GhAssetsError as error:
            return Check(False, f"it cannot recommend: {error}")
        seconds.append(time.perf_counter() - started)
    slow = float(np.percentile(seconds, 95))
    return Check(
        slow <= SLOWEST, f"a list takes {1000 * slow:.0f} ms at the 95th percentile (at most {1000 * SLOWEST:.0f})"
    )


def _overlap(candidate: TrainedModel, champion: TrainedModel) -> Check:
    known = positions_of(champion.repo_ids, candidate.repo_ids, np.argsort(candidate.repo_ids)) >= 0
    return Check(
        bool(known.mean() >= LEAST_OVERLAP),
        f"it knows {known.mean():.0%} of the champion's repositories (at least {LEAST_OVERLAP:.0%})",
    )
