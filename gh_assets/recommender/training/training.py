"""Training a model on a user-item matrix, and what is kept of it: the model with its item index and its figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gh_assets import __version__
from gh_assets.errors import StoredDataError
from gh_assets.recommender.data.interactions import (
    StrongGeneralizationSplit,
    UserItemMatrix,
    positions_of,
    strong_generalization_split,
    temporal_split,
)
from gh_assets.recommender.evaluation.evaluation import Evaluation, Interval, bootstrap, evaluate_in_full
from gh_assets.recommender.evaluation.metrics import MAIN_METRIC, evaluate_users
from gh_assets.recommender.models.als import ALS
from gh_assets.recommender.models.base import Recommender
from gh_assets.recommender.models.baselines import EASE, ItemKNN, Popularity
from gh_assets.recommender.models.hybrid import Hybrid
from gh_assets.recommender.models.loading import MODELS
from gh_assets.recommender.models.multvae import MultVAE
from gh_assets.recommender.models.recvae import RecVAE, RecVAEConfig

INDEX_FILE = "index.json"

TRAINING_VERSION = "0.1.0"
"""Part of the training fingerprint. Change it when the same data and configuration would give another model."""

EASE_AT_MOST = 12_000
"""Repositories up to which EASE is trained: its dense item-item matrix grows with their square."""

TIMED_SHARE = 0.5
"""Share of stars with a known time from which a temporal split says something."""


@dataclass(frozen=True)
class TrainedModel:
    """A model and the repositories that its items are.

    Attributes
    ----------
    model : Recommender
    repo_ids : ndarray of int64, shape (items,)
    full_names : ndarray of str, shape (items,)
    metrics : dict
        Held-out metrics of the test users.
    data : dict
        What it was trained on: fingerprint and size of the matrix, the stars of each repository (``stars_of``), and the
        ids of the users whom it was tested on and never saw (``test_users``).
    """

    model: Recommender
    repo_ids: NDArray[np.int64]
    full_names: NDArray[np.str_]
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.repo_ids)

    def positions(self, repo_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The items that repositories are, int64 of the same shape; -1 for those that the model does not know."""
        return positions_of(repo_ids, self.repo_ids, self._order)

    def save(self, folder: Path) -> Path:
        """Write everything into a folder; nothing in it is executable."""
        self.model.save(folder)
        index = {
            "model": self.model.name,
            "repo_ids": self.repo_ids.tolist(),
            "full_names": self.full_names.tolist(),
            "metrics": dict(self.metrics),
            "data": dict(self.data),
            "version": __version__,
        }
        (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """Read what `save` wrote.

        Raises
        ------
        StoredDataError
            If it is something else, or the index does not fit the model.
        """
        try:
            index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            kind = MODELS[index["model"]]
            repo_ids = np.array(index["repo_ids"], np.int64)
            full_names = np.array(index["full_names"], np.str_)
            metrics, data = index["metrics"], index["data"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoredDataError(f"{folder} holds no trained model: {error!r}.") from error
        model = kind.load(folder)
        if not model.items == len(repo_ids) == len(full_names):
            raise StoredDataError(
                f"{folder} holds a model of {model.items} items with an index of {len(repo_ids)} repositories."
            )
        return cls(model, repo_ids, full_names, metrics, data)


@dataclass(frozen=True)
class TrainingResult:
    """A trained model beside what it is to be compared with, on the same split."""

    trained: TrainedModel
    leaderboard: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, float]]
    split_sizes: Mapping[str, int]
    intervals: Mapping[str, Interval] = field(default_factory=dict)


def split_of(matrix: UserItemMatrix, seed: int) -> StrongGeneralizationSplit:
    """Users held out whole; of a later matrix, the same people."""
    return strong_generalization_split(matrix.stars, seed=seed, users=matrix.user_ids)


def linear_model(items: int) -> Recommender:
    """EASE, or item neighbours where there are too many items for its dense matrix."""
    return EASE((100.0, 200.0, 300.0, 500.0, 1000.0), (0.0, 0.66)) if items <= EASE_AT_MOST else ItemKNN()


def train_recvae(
    matrix: UserItemMatrix,
    config: RecVAEConfig,
    *,
    split_seed: int = 0,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    checkpoints: Path | None = None,
) -> TrainingResult:
    """Train RecVAE and evaluate it by strong generalization, beside popularity.

    Parameters
    ----------
    matrix : UserItemMatrix
    config : RecVAEConfig
    split_seed : int
        Decides who is held out.
    on_epoch : callable, optional
        Called with the row of history after each epoch.
    checkpoints : Path, optional
        Folder from which an interrupted training goes on.

    Raises
    ------
    InvalidInteractionsError
        If there are too few users with enough stars.
    """
    split = split_of(matrix, split_seed)
    model = RecVAE(config, on_epoch=on_epoch, checkpoints=checkpoints).fit(split.train, split.validation)
    return result_of(matrix, split, model, {Popularity.name: Popularity().fit(split.train)})


def train_hybrid(matrix: UserItemMatrix, recvae: Recommender, *, split_seed: int = 0) -> TrainingResult:
    """Blend a RecVAE that `train_recvae` gave for this matrix and seed with a linear model.

    Parameters
    ----------
    matrix : UserItemMatrix
    recvae : Recommender
        Fitted on the training users of this split; left as it is.
    split_seed : int
        That of the RecVAE.
    """
    split = split_of(matrix, split_seed)
    linear = linear_model(matrix.stars.shape[1]).fit(split.train, split.validation)
    model = Hybrid(recvae, linear).fit(split.train, split.validation)
    return result_of(matrix, split, model, {recvae.name: recvae, linear.name: linear})


def result_of(
    matrix: UserItemMatrix, split: StrongGeneralizationSplit, model: Recommender, others: Mapping[str, Recommender]
) -> TrainingResult:
    """A fitted model with its figures on the test users, beside those of others."""
    rows = {name: evaluate_users(other, *split.test) for name, other in {**others, model.name: model}.items()}
    board = {name: {metric: float(values.mean()) for metric, values in row.items()} for name, row in rows.items()}
    intervals = {metric: bootstrap(values) for metric, values in rows[model.name].items()}
    data = {
        "matrix_sha256": matrix.fingerprint,
        "users": matrix.stars.shape[0],
        "repositories": matrix.stars.shape[1],
        "stars": int(matrix.stars.nnz),
        "test_users": matrix.user_ids[split.test_users].tolist(),
        "stars_of": np.bincount(matrix.stars.indices, minlength=matrix.stars.shape[1]).tolist(),
    }
    sizes = {
        "train users": len(split.train_users),
        "validation users": len(split.validation_users),
        "test users": len(split.test_users),
    }
    trained = TrainedModel(model, matrix.repo_ids, matrix.full_names, board[model.name], data)
    return TrainingResult(trained, board, model.history, sizes, intervals)


def compare(
    matrix: UserItemMatrix,
    trained: Sequence[Recommender] = (),
    *,
    split_seed: int = 0,
    on_model: Callable[[str], None] | None = None,
) -> tuple[list[Evaluation], Mapping[str, Recommender]]:
    """All recommenders on the same held-out users, best first; and the fitted models by name.

    Parameters
    ----------
    matrix : UserItemMatrix
    trained : sequence of Recommender
        Models fitted on this split's training users: they are not fitted again.
    split_seed : int
    on_model : callable, optional
        Called with a model's name before it is fitted.
    """
    split = split_of(matrix, split_seed)
    models = {model.name: model for model in trained}
    for model in trained:
        if isinstance(model, Hybrid):
            models |= {part.name: part for part in (model.first, model.second)}
    baselines: list[Recommender] = [Popularity(), ItemKNN(), ALS(), MultVAE()]
    if matrix.stars.shape[1] <= EASE_AT_MOST:
        baselines.append(linear_model(matrix.stars.shape[1]))
    for model in baselines:
        if model.name not in models:
            if on_model is not None:
                on_model(model.name)
            models[model.name] = model.fit(split.train, split.validation)
    found = [evaluate_in_full(model, *split.test, split.train) for model in models.values()]
    return sorted(found, key=lambda evaluation: -evaluation.means[MAIN_METRIC]), models


def compare_in_time(
    matrix: UserItemMatrix, config: RecVAEConfig, *, split_seed: int = 0
) -> tuple[list[Evaluation], np.datetime64] | None:
    """Popularity, a linear model, RecVAE and their hybrid, trained before a date and tested after it; best first.

    None where too few stars have a time.
    """
    if matrix.starred_at is None or matrix.timed_share < TIMED_SHARE:
        return None
    split, date = temporal_split(matrix.stars, matrix.starred_at, seed=split_seed)
    recvae = RecVAE(config).fit(split.train, split.validation)
    linear = linear_model(matrix.stars.shape[1]).fit(split.train, split.validation)
    hybrid = Hybrid(recvae, linear).fit(split.train, split.validation)
    models: list[Recommender] = [Popularity().fit(split.train), linear, recvae, hybrid]
    found = [evaluate_in_full(model, *split.test, split.train) for model in models]
    return sorted(found, key=lambda evaluation: -evaluation.means[MAIN_METRIC]), date


def training_fingerprint(matrix: UserItemMatrix, config: RecVAEConfig, split_seed: int) -> str:
    """SHA-256 of all that decides what training gives: data, configuration, split and version of the code."""
    decided_by = [matrix.fingerprint, asdict(config), split_seed, "held out by who they are", TRAINING_VERSION]
    return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
