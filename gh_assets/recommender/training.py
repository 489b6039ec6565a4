"""Training a model on a user-item matrix, and what is kept of it: the model with its item index and its figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gh_assets import __version__
from gh_assets.errors import StoredDataError
from gh_assets.recommender.base import Recommender
from gh_assets.recommender.baselines import EASE, Popularity
from gh_assets.recommender.interactions import UserItemMatrix, strong_generalization_split
from gh_assets.recommender.metrics import NDCG_AT, evaluate
from gh_assets.recommender.recvae import RecVAE, RecVAEConfig

MAIN_METRIC = f"ndcg@{NDCG_AT}"

INDEX_FILE = "index.json"

EASE_AT_MOST = 12_000
"""Repositories up to which the EASE baseline is trained: its dense item-item matrix grows with their square."""

_MODELS: Mapping[str, type[Recommender]] = {model.name: model for model in (RecVAE, EASE, Popularity)}


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
        What it was trained on: fingerprint and size of the matrix.
    """

    model: Recommender
    repo_ids: NDArray[np.int64]
    full_names: NDArray[np.str_]
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

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
            kind = _MODELS[index["model"]]
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
    """A trained RecVAE beside the baselines on the same split."""

    trained: TrainedModel
    leaderboard: Mapping[str, Mapping[str, float]]
    history: Sequence[Mapping[str, float]]
    split_sizes: Mapping[str, int]


def train_recvae(
    matrix: UserItemMatrix,
    config: RecVAEConfig,
    *,
    split_seed: int = 0,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train RecVAE and evaluate it by strong generalization, beside popularity and EASE.

    Parameters
    ----------
    matrix : UserItemMatrix
    config : RecVAEConfig
    split_seed : int
        Decides who is held out.
    on_epoch : callable, optional
        Called with the row of history after each epoch.

    Raises
    ------
    InvalidInteractionsError
        If there are too few users with enough stars.
    """
    split = strong_generalization_split(matrix.stars, seed=split_seed)
    validation = (split.validation_fold_in, split.validation_held_out)
    test = (split.test_fold_in, split.test_held_out)
    baselines: list[Recommender] = [Popularity()]
    if matrix.stars.shape[1] <= EASE_AT_MOST:
        baselines.append(EASE())
    leaderboard = {baseline.name: evaluate(baseline.fit(split.train, validation), *test) for baseline in baselines}
    model = RecVAE(config, on_epoch=on_epoch).fit(split.train, validation)
    leaderboard[model.name] = evaluate(model, *test)
    data = {
        "matrix_sha256": matrix.fingerprint,
        "users": matrix.stars.shape[0],
        "repositories": matrix.stars.shape[1],
        "stars": int(matrix.stars.nnz),
    }
    sizes = {
        "train users": len(split.train_users),
        "validation users": len(split.validation_users),
        "test users": len(split.test_users),
    }
    trained = TrainedModel(model, matrix.repo_ids, matrix.full_names, leaderboard[model.name], data)
    return TrainingResult(trained, leaderboard, model.history, sizes)


def training_fingerprint(matrix: UserItemMatrix, config: RecVAEConfig, split_seed: int) -> str:
    """SHA-256 of all that decides what training gives: data, configuration, split and version of the code."""
    decided_by = [matrix.fingerprint, asdict(config), split_seed, __version__]
    return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()
