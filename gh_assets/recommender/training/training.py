"""Training and comparing models on a user-item matrix."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from gh_assets.errors import InvalidInteractionsError
from gh_assets.recommender.data.interactions import UserItemMatrix, row_numbers
from gh_assets.recommender.data.splits import StrongGeneralizationSplit, strong_generalization_split, temporal_split
from gh_assets.recommender.engine.precision import device_of, name_of, precision
from gh_assets.recommender.engine.progress import TrainingProgress
from gh_assets.recommender.evaluation.evaluation import (
    LENGTH_USERS,
    Evaluation,
    Interval,
    bootstrap,
    evaluate_in_full,
    scores_as_people_have,
)
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, evaluate_users
from gh_assets.recommender.models.autoencoder import Autoencoder, WarmStart
from gh_assets.recommender.models.base import Recommender
from gh_assets.recommender.models.baselines import (
    ALS,
    MAX_EASE_ITEMS,
    ItemKNN,
    Popularity,
    RP3Beta,
    evenly,
    linear_model,
)
from gh_assets.recommender.models.graph_filters import GFCF, SVDAE, GraphFilter
from gh_assets.recommender.models.hybrid import Hybrid, closed_form_parts
from gh_assets.recommender.models.multvae import MultVAE
from gh_assets.recommender.models.recvae import RecVAE, RecVAEConfig
from gh_assets.recommender.models.trained_model import TrainedModel

TRAINING_VERSION = "1.2.0"
"""Part of the training fingerprint. Change it when the same data and configuration would give another model."""

MIN_TIMED_SHARE = 0.5
"""Minimum share of stars with a known time for a temporal split."""

TIMED_USERS = 20_000
"""Users of the comparison in time: of more, a sample. RecVAE is trained once more for it, with all users for as long as
for the model itself."""

StepListener = Callable[[int, int, str], None]
"""Called with the number of steps that are done, their total, and what is done now; during a long step again."""


def ignore_steps(done: int, total: int, text: str) -> None:
    """Be a `StepListener` that does nothing."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained model with its metrics and those of other models on the same split."""

    trained: TrainedModel
    leaderboard: Mapping[str, Mapping[str, float]]
    split_sizes: Mapping[str, int]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


WARM_EPOCHS = 0.24
"""Epochs of a training that begins with the weights of an earlier model, as a share of the others'."""

MIN_KNOWN_ITEMS = 0.8
"""Minimum share of the items that the earlier model has to know."""

MIN_UNSEEN_USERS = 0.5
"""Minimum share of the test users that the earlier model must not have seen."""


def split_of(
    matrix: UserItemMatrix, seed: int, test_start: float = 0.0, unseen: ArrayLike | None = None
) -> StrongGeneralizationSplit:
    """Hold out whole users by their ids: in a later matrix, the same users.

    Parameters
    ----------
    matrix : UserItemMatrix
    seed : int
    test_start : float
        Place of the first test user; see `strong_generalization_split`.
    unseen : array_like of int, optional
        Ids of the only users to test on: those whom the model that a training began with was not trained on, either.
    """
    split = strong_generalization_split(matrix.stars, seed=seed, users=matrix.user_ids, test_start=test_start)
    if unseen is None:
        return split
    test, few, reserve = (
        _unseen(matrix, users, unseen) for users in (split.test_users, split.few_users, split.reserve_users)
    )
    return replace(
        split,
        test_fold_in=split.test_fold_in[np.flatnonzero(test)],
        test_held_out=split.test_held_out[np.flatnonzero(test)],
        test_users=split.test_users[test],
        few_fold_in=split.few_fold_in[np.flatnonzero(few)],
        few_held_out=split.few_held_out[np.flatnonzero(few)],
        few_users=split.few_users[few],
        reserve_users=split.reserve_users[reserve],
    )


def _unseen(matrix: UserItemMatrix, users: NDArray[np.int64], unseen: ArrayLike) -> NDArray[np.bool_]:
    """Return which users, given by their rows, are among those of some ids."""
    return np.isin(matrix.user_ids[users], np.asarray(unseen, np.int64))


def warm_start_of(
    earlier: TrainedModel, matrix: UserItemMatrix, config: RecVAEConfig, split: StrongGeneralizationSplit
) -> WarmStart | None:
    """Return the weights of an earlier RecVAE for a training on a matrix.

    None if it has other sizes, knows less than `MIN_KNOWN_ITEMS` of the repositories, or was trained on more than half
    of the users on whom this split tests.
    """
    start = WarmStart(earlier.model.weights(), earlier.positions(matrix.repo_ids))
    unseen = _unseen(matrix, split.test_users, earlier.data.get("test_users", ()))
    model = RecVAE(config)
    model.build(1)
    agrees = start.fits(model.tensors()) and (start.rows >= 0).mean() >= MIN_KNOWN_ITEMS
    return start if agrees and unseen.mean() >= MIN_UNSEEN_USERS else None


def train_recvae(
    matrix: UserItemMatrix,
    config: RecVAEConfig,
    *,
    split_seed: int = 0,
    test_start: float = 0.0,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    checkpoints: Path | None = None,
    earlier: TrainedModel | None = None,
) -> TrainingResult:
    """Train RecVAE and evaluate it by strong generalization, beside popularity.

    Parameters
    ----------
    matrix : UserItemMatrix
    config : RecVAEConfig
    split_seed : int
        Seed for the choice of held-out users.
    test_start : float
        Place of the first test user; see `strong_generalization_split`.
    on_epoch : callable, optional
        Called with the row of history after each epoch.
    on_progress : callable, optional
        Called within an epoch.
    checkpoints : Path, optional
        Folder from which an interrupted training goes on.
    earlier : TrainedModel, optional
        A RecVAE with whose weights the training begins if they fit (see `warm_start_of`): it needs `WARM_EPOCHS` of the
        epochs. The result is tested on users that neither was trained on, and ``warm_starts`` of its data counts the
        trainings in a row that began so.

    Raises
    ------
    InvalidInteractionsError
        If there are too few users with enough stars.
    """
    split = split_of(matrix, split_seed, test_start)
    start = None if earlier is None else warm_start_of(earlier, matrix, config, split)
    unseen, data = None, {}
    if earlier is not None and start is not None:
        epochs = config.settled(split.train).final_epoch
        config = replace(config, epochs=max(1, round(WARM_EPOCHS * epochs)))
        unseen, data = earlier.data["test_users"], {"warm_starts": int(earlier.data.get("warm_starts", 0)) + 1}
    split = split_of(matrix, split_seed, test_start, unseen)
    model = RecVAE(config, on_epoch=on_epoch, checkpoints=checkpoints, on_progress=on_progress, start=start)
    model.fit(split.train, split.validation)
    result = result_of(matrix, split, model, {Popularity.name: Popularity().fit(split.train)})
    return replace(result, trained=replace(result.trained, data={**result.trained.data, **data}))


def train_hybrid(
    matrix: UserItemMatrix,
    recvae: Recommender,
    *,
    split_seed: int = 0,
    test_start: float = 0.0,
    unseen: ArrayLike | None = None,
    on_step: StepListener = ignore_steps,
) -> TrainingResult:
    """Blend a RecVAE trained by `train_recvae` on this matrix and seed with models in closed form.

    Parameters
    ----------
    matrix : UserItemMatrix
    recvae : Recommender
        Fitted on the training users of this split; not trained further.
    split_seed, test_start : int, float
        Those of the RecVAE's split.
    unseen : array_like of int, optional
        See `split_of`.
    on_step : callable, optional
    """
    split = split_of(matrix, split_seed, test_start, unseen)
    parts = closed_form_parts(matrix.stars.shape[1])
    steps = len(parts) + 2
    model = _blended(recvae, parts, split, 0, steps, on_step)
    on_step(steps - 1, steps, "evaluating the hybrid and its parts")
    return result_of(matrix, split, model, {part.name: part for part in model.parts})


def _blended(
    recvae: Recommender,
    parts: Sequence[Recommender],
    split: StrongGeneralizationSplit,
    done: int,
    steps: int,
    on_step: StepListener,
) -> Hybrid:
    """Fit parts, and their blend with a RecVAE that is fitted already; one step each."""
    for number, part in enumerate(parts, done):
        on_step(number, steps, f"fitting {part.name}")
        part.fit(split.train, split.validation)
    on_step(done + len(parts), steps, "choosing the weights of the hybrid")
    return Hybrid(recvae, *parts).fit(split.train, split.validation)


def result_of(
    matrix: UserItemMatrix, split: StrongGeneralizationSplit, model: Recommender, others: Mapping[str, Recommender]
) -> TrainingResult:
    """Evaluate a fitted model and others on the test users."""
    rows = {name: evaluate_users(other, *split.test) for name, other in {**others, model.name: model}.items()}
    board = {name: {metric: float(values.mean()) for metric, values in row.items()} for name, row in rows.items()}
    intervals = {metric: bootstrap(values) for metric, values in rows[model.name].items()}
    data = {
        "matrix_sha256": matrix.fingerprint,
        "users": matrix.stars.shape[0],
        "repositories": matrix.stars.shape[1],
        "stars": int(matrix.stars.nnz),
        "test_users": matrix.user_ids[split.held_out_users].tolist(),
        "test_start": split.test_start,
        "next_test_start": split.next_test_start,
        "stars_of": np.bincount(matrix.stars.indices, minlength=matrix.stars.shape[1]).tolist(),
    }
    if isinstance(model, Autoencoder):
        data |= {"device": model.device.type, "threads": torch.get_num_threads()}
    sizes = {
        "train users": len(split.train_users),
        "validation users": len(split.validation_users),
        "test users": len(split.test_users),
    }
    trained = TrainedModel(model, matrix.repo_ids, matrix.full_names, board[model.name], data)
    return TrainingResult(trained, board, sizes, intervals)


def compare(
    matrix: UserItemMatrix,
    trained: Sequence[Recommender] = (),
    *,
    split_seed: int = 0,
    test_start: float = 0.0,
    unseen: ArrayLike | None = None,
    on_step: StepListener = ignore_steps,
) -> tuple[list[Evaluation], Mapping[str, Recommender]]:
    """Evaluate all recommenders on the same held-out users.

    Parameters
    ----------
    matrix : UserItemMatrix
    trained : sequence of Recommender
        Models fitted on this split's training users; they are not fitted again.
    split_seed, test_start : int, float
        Those of the split of these models.
    unseen : array_like of int, optional
        See `split_of`.
    on_step : callable, optional

    Returns
    -------
    evaluations : list of Evaluation
        Best first.
    models : mapping of str to Recommender
        The fitted models by name.
    """
    split = split_of(matrix, split_seed, test_start, unseen)
    models = {model.name: model for model in trained}
    for model in trained:
        if isinstance(model, Hybrid):
            models |= {part.name: part for part in model.parts}
    baselines: list[Recommender] = [
        Popularity(),
        ItemKNN(),
        RP3Beta(),
        GraphFilter(),
        GFCF(),
        SVDAE(),
        ALS(),
        MultVAE(),
    ]
    if matrix.stars.shape[1] <= MAX_EASE_ITEMS:
        baselines.append(linear_model(matrix.stars.shape[1]))
    waiting = [model for model in baselines if model.name not in models]
    steps = len(models) + 2 * len(waiting)
    for number, model in enumerate(waiting):
        models[model.name] = _fitted(model, split, number, steps, on_step)
    return _evaluated(models.values(), split, steps, on_step), models


def _fitted(
    model: Recommender, split: StrongGeneralizationSplit, done: int, steps: int, on_step: StepListener
) -> Recommender:
    text = f"fitting {model.name}"
    on_step(done, steps, text)
    if isinstance(model, Autoencoder):
        model.on_progress = lambda state: on_step(done, steps, f"{text}: {state}")
    return model.fit(split.train, split.validation)


def best_on_validation(
    models: Iterable[Recommender], split: StrongGeneralizationSplit, *, preferred: Collection[str] = ()
) -> Recommender:
    """Return the model that is best for the validation users, with as many known stars as people have.

    Parameters
    ----------
    models : iterable of Recommender
    split : StrongGeneralizationSplit
    preferred : collection of str
        Names of models that yield to another one only if it is certainly better than the best of them: if the 95 %
        interval of the paired difference lies above zero.
    """
    scored = [
        (model, scores_as_people_have(model, *split.validation, split.train, most=LENGTH_USERS)) for model in models
    ]
    leader, scores = max(scored, key=_mean)
    incumbent, own = max((row for row in scored if row[0].name in preferred), key=_mean, default=(leader, scores))
    return leader if bootstrap(scores - own).low > 0 else incumbent


def _mean(scored: tuple[Recommender, NDArray[np.float64]]) -> float:
    return float(scored[1].mean())


def compare_in_time(
    matrix: UserItemMatrix, config: RecVAEConfig, *, on_step: StepListener = ignore_steps
) -> tuple[list[Evaluation], np.datetime64]:
    """Train popularity, a hybrid and its parts on early stars, validate on later and test on the latest ones.

    All of them know up to `TIMED_USERS`.

    Returns
    -------
    evaluations, date : list of Evaluation, datetime64
        Best first.

    Raises
    ------
    InvalidInteractionsError
        If too few stars have a time, or no user can be tested.
    """
    if matrix.starred_at is None or matrix.timed_share < MIN_TIMED_SHARE:
        raise InvalidInteractionsError(f"Only {matrix.timed_share:.0%} of the stars have a time.")
    users = evenly(matrix.stars.shape[0], TIMED_USERS)
    if len(users) < matrix.stars.shape[0]:
        config = replace(config, epochs=None)  # a number for all users were too few for a sample
    times = matrix.starred_at[np.isin(row_numbers(matrix.stars), users)]
    split, date = temporal_split(matrix.stars[users], times)
    parts = closed_form_parts(matrix.stars.shape[1])
    steps = 2 * len(parts) + 5  # RecVAE is fitted, the parts, and the weights; they are evaluated, and popularity
    recvae = _fitted(RecVAE(config), split, 0, steps, on_step)
    hybrid = _blended(recvae, parts, split, 1, steps, on_step)
    return _evaluated([Popularity().fit(split.train), *hybrid.parts, hybrid], split, steps, on_step), date


def _evaluated(
    models: Collection[Recommender], split: StrongGeneralizationSplit, steps: int, on_step: StepListener
) -> list[Evaluation]:
    """Evaluate models on the test users, best first; these are the last steps."""
    evaluations = []
    for number, model in enumerate(models, steps - len(models)):
        on_step(number, steps, f"evaluating {model.name}")
        evaluations.append(evaluate_in_full(model, *split.test, split.train, split.few))
    return sorted(evaluations, key=lambda evaluation: -evaluation.means[MAIN_METRIC])


def training_fingerprint(
    matrix: UserItemMatrix, config: RecVAEConfig, split_seed: int, test_start: float = 0.0, *, warm: bool = False
) -> str:
    """Return the SHA-256 of everything that determines a training.

    That is the data, the configuration, the split, the version, and how this machine computes: the kind of its device
    and the precision of its products. A training that begins with the weights of an earlier model (`warm`) has another
    one, whichever model that is: its result is as good, but not reproducible from data and seed alone.
    """
    device = device_of(config.device)
    computed = {"device": device.type, "precision": name_of(precision(config.precision, device))}
    determined_by = [matrix.fingerprint, asdict(config) | computed, split_seed, test_start, TRAINING_VERSION]
    if warm:
        determined_by.append("warm start")
    return hashlib.sha256(json.dumps(determined_by, sort_keys=True).encode()).hexdigest()
