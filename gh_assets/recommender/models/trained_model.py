"""A trained model as it is stored: the recommender with its item index, metrics and lineage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gh_assets import __version__
from gh_assets.errors import StoredDataError
from gh_assets.recommender.data.interactions import positions_of
from gh_assets.recommender.models.base import Recommender
from gh_assets.recommender.models.hybrid import MODELS

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class TrainedModel:
    """A model with the repositories of its items, its metrics and its lineage.

    Attributes
    ----------
    model : Recommender
    repo_ids : ndarray of int64, shape (items,)
    full_names : ndarray of str, shape (items,)
    metrics : dict
        Held-out metrics of the test users.
    data : dict
        Training data: fingerprint and size of the matrix, the stars of each repository (``stars_of``), and the ids of
        the users whom the model never saw (``test_users``): those of the test and those in reserve for the next one,
        which begins at ``next_test_start``. Of a model trained in epochs also the kind of device and the number of
        threads that trained it; the precision is in its configuration.
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
        """Return the items of repositories, int64 of the same shape; -1 for those that the model does not know."""
        return positions_of(repo_ids, self.repo_ids, self._order)

    def save(self, folder: Path) -> Path:
        """Write model and index into a folder; nothing in it is executable."""
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
            If the folder holds no trained model, or the index does not fit the model.
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
