"""The interface of every recommender: the same calls, the same checks, the same files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gh_assets.errors import ConfigurationError, GhAssetsError, InvalidInteractionsError, StoredDataError
from gh_assets.recommender.data.files import system_errors
from gh_assets.recommender.data.interactions import Csr, check_interactions
from gh_assets.recommender.evaluation.metrics import rank_items

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"

EXPLAINED_USERS = 128
"""Users explained per batch, which bounds memory."""


class Scores(NamedTuple):
    """Scores of all items, with what `Recommender.explain` can reuse.

    Attributes
    ----------
    values : ndarray of float32, shape (users, items)
    spreads : ndarray of float32, shape (parts, users), optional
        Standard deviation of each user's scores by each part of a hybrid.
    """

    values: NDArray[np.float32]
    spreads: NDArray[np.float32] | None = None

    def rows(self, start: int, stop: int) -> Scores:
        """Return the scores of some users."""
        return Scores(self.values[start:stop], None if self.spreads is None else self.spreads[:, start:stop])


class Recommender(ABC):
    """A recommender of items from implicit feedback.

    A subclass defines `_fit`, `score`, `weights` and `restore`; those with arguments also `to_config`, and those that
    can explain themselves `contributions`.

    Attributes
    ----------
    name : str
        Short name, used in files, the registry and tables.
    items : int
        Number of items that the fitted model knows.
    history : list of dict
        One row per epoch for models that are trained in epochs: seconds, training loss, validation metrics.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.items = 0
        self.history: list[dict[str, float]] = []

    # -- what callers use ----------------------------------------------------------------------------------------

    def fit(self, train: Csr, validation: tuple[Csr, Csr] | None = None) -> Self:
        """Learn from a user-item matrix.

        Parameters
        ----------
        train : scipy.sparse CSR, shape (users, items)
        validation : pair of CSR, optional
            Fold-in and held-out matrices of users that are not in `train`, with the same columns.

        Raises
        ------
        InvalidInteractionsError
            If a matrix is no CSR, empty, of another width, or has values that are negative or not finite.
        """
        stars = check_interactions(train, name="training matrix")
        if stars.nnz == 0:
            raise InvalidInteractionsError("The training matrix holds no stars: there is nothing to learn.")
        checked = None
        if validation is not None:
            width = stars.shape[1]
            checked = (
                check_interactions(validation[0], items=width, name="fold-in matrix"),
                check_interactions(validation[1], items=width, name="held-out matrix"),
            )
        self.items = int(stars.shape[1])
        self._fit(stars, checked)
        return self

    def predict(self, fold_in: Csr) -> NDArray[np.float32]:
        """Score every item for every user.

        Parameters
        ----------
        fold_in : scipy.sparse CSR, shape (users, items)
            Known stars of each user; users need not be those of the training.

        Returns
        -------
        ndarray of float32, shape (users, items)
            Higher is better.
        """
        return self.score(self._checked(fold_in))

    def predict_scores(self, fold_in: Csr) -> Scores:
        """Score every item for every user, and keep what `explain` can reuse; see `predict`."""
        return self.score_with_spreads(self._checked(fold_in))

    def recommend(
        self, fold_in: Csr, n: int = 20, *, batch_size: int = 500
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the n best items that each user does not have.

        Returns
        -------
        items : ndarray of int64, shape (users, n)
            Best first; -1 where fewer than n items are left.
        scores : ndarray of float32, shape (users, n)
        """
        stars = self._checked(fold_in)
        parts = [
            rank_items(self.score(stars[start : start + batch_size]), stars[start : start + batch_size], n)
            for start in range(0, stars.shape[0], batch_size)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def explain(
        self, fold_in: Csr, items: NDArray[np.int64], k: int = 3, *, scores: Scores | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the user's own items that contribute most to the score of each given item.

        Parameters
        ----------
        fold_in : scipy.sparse CSR, shape (users, items)
        items : ndarray of int64, shape (users, n)
            Items to explain, as `recommend` returns them (-1: none).
        k : int
            Maximum number of reasons.
        scores : Scores, optional
            Result of `predict_scores` for the same users, which spares scoring them again.

        Returns
        -------
        reasons : ndarray of int64, shape (users, n, k)
            Strongest first; -1 where no further item contributes.
        shares : ndarray of float32, shape (users, n, k)
            Share of each reason in the sum of all positive contributions; 0 where there is no reason.
        """
        stars = self._checked(fold_in)
        reasons = np.full((*items.shape, k), -1, np.int64)
        shares = np.zeros((*items.shape, k), np.float32)
        if k == 0:
            return reasons, shares
        for start in range(0, stars.shape[0], EXPLAINED_USERS):
            stop = start + EXPLAINED_USERS
            batch = stars if stars.shape[0] <= EXPLAINED_USERS else stars[start:stop]
            explained = items[start:stop]
            reusable = None if scores is None else scores.rows(start, stop)
            contributions = self.contributions(batch, explained.clip(0), reusable)
            if contributions is None or not batch.nnz:
                continue
            filled = np.flatnonzero(np.diff(batch.indptr))
            starts, places = batch.indptr[filled], np.arange(batch.nnz)[:, None]
            owners = np.repeat(np.arange(len(filled)), np.diff(batch.indptr)[filled])
            positive = np.fmax(contributions, 0.0)  # not a number: no reason
            total = np.maximum(np.add.reduceat(positive, starts, axis=0), 1e-12)
            # All users together, a rank at a time: sorting each user's stars takes as long as finding contributions.
            for rank in range(k):
                top = np.maximum.reduceat(positive, starts, axis=0)
                first = np.minimum.reduceat(np.where(positive == top[owners], places, batch.nnz), starts, axis=0)
                found = (top > 0) & (explained[filled] >= 0)
                reasons[start + filled, :, rank] = np.where(found, batch.indices[first], -1)
                shares[start + filled, :, rank] = np.where(found, top / total, 0.0)
                positive[first, np.arange(first.shape[1])] = 0.0
        return reasons, shares

    def save(self, path: Path | str) -> Path:
        """Write the model into a folder: weights as safetensors, the rest as JSON; nothing executable."""
        if not self.items:
            raise GhAssetsError(f"The model {self.name} is not fitted: there is nothing to save.")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: np.ascontiguousarray(value) for key, value in self.weights().items()}
        with system_errors(folder / WEIGHTS_FILE):
            save_file(weights, folder / WEIGHTS_FILE)
        document = {"model": self.name, "items": self.items, "config": self.to_config(), "history": self.history}
        (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2, sort_keys=True), encoding="utf-8")
        return folder

    @staticmethod
    def name_of(path: Path | str) -> str:
        """Return the name of the model that `save` wrote into a folder.

        Raises
        ------
        StoredDataError
            If the folder holds no model.
        """
        try:
            return str(json.loads((Path(path) / CONFIG_FILE).read_text(encoding="utf-8"))["model"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoredDataError(f"{path} holds no readable model: {error}.") from error

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote; no code in the files is run.

        Raises
        ------
        StoredDataError
            If the folder holds no model of this class, or its files don't fit together.
        """
        folder = Path(path)
        try:
            document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
            if document["model"] != cls.name:
                raise StoredDataError(f"{folder} holds a model {document['model']!r}, not {cls.name!r}.")
            model = cls.from_config(document["config"])
            model.items = int(document["items"])
            model.history = document["history"]
            model.restore(load_file(folder / WEIGHTS_FILE))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, ConfigurationError) as error:
            raise StoredDataError(f"{folder} holds no readable model: {error}.") from error
        return model

    def _checked(self, fold_in: Csr) -> Csr:
        if not self.items:
            raise GhAssetsError(f"The model {self.name} is not fitted: call fit first.")
        return check_interactions(fold_in, items=self.items, name="fold-in matrix")

    # -- what a model defines ------------------------------------------------------------------------------------

    @abstractmethod
    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None: ...

    @abstractmethod
    def score(self, stars: Csr) -> NDArray[np.float32]:
        """Return new scores, (users, items), for a matrix that is already checked."""

    def score_with_spreads(self, stars: Csr) -> Scores:
        """Return `score` with what `contributions` can reuse."""
        return Scores(self.score(stars))

    def contributions(
        self, stars: Csr, items: NDArray[np.int64], scores: Scores | None = None
    ) -> NDArray[np.float32] | None:
        """Return what each star of each user adds to the scores of the user's given items.

        Parameters
        ----------
        stars : scipy.sparse CSR, shape (users, items)
        items : ndarray of int64, shape (users, n)
        scores : Scores, optional
            Scores of these users.

        Returns
        -------
        ndarray of float32, shape (stars, n), or None
            None if the model cannot explain its scores.
        """
        return None

    def item_vectors(self) -> NDArray[np.float32] | None:
        """Return a vector per item, (items, dimensions), close for items with the same users; None if it has none."""
        return None

    @abstractmethod
    def weights(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `save` writes, by name."""

    @abstractmethod
    def restore(self, weights: dict[str, NDArray[Any]]) -> None:
        """Take over the arrays that `load` read; `items` is already set."""

    def to_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Create an unfitted model from what `to_config` returned."""
        return cls(**config)
