"""What every recommender of the project can do. Same calls, same checks, same files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gh_assets.errors import GhAssetsError, InvalidInteractionsError, StoredDataError
from gh_assets.recommender.data.files import system_errors
from gh_assets.recommender.data.interactions import Csr, check_interactions
from gh_assets.recommender.evaluation.metrics import rank_items

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "config.json"


class Recommender(ABC):
    """A recommender of items from implicit feedback.

    Attributes
    ----------
    name : str
        Short name, used in files, the registry and tables.
    items : int
        Number of items that the fitted model knows.
    history : list of dict
        One row an epoch for models that are trained in epochs: seconds, training loss, validation metrics.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.items = 0
        self.history: list[dict[str, float]] = []

    def fit(self, train: Csr, validation: tuple[Csr, Csr] | None = None) -> Self:
        """Learn from users × items.

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
            What is known of each user; users need not be those of the training.

        Returns
        -------
        ndarray of float32, shape (users, items)
            Higher is better.
        """
        return self._predict(self._checked(fold_in))

    def recommend(
        self, fold_in: Csr, n: int = 20, *, batch_size: int = 500
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The n best items for each user that the user does not have.

        Returns
        -------
        items : ndarray of int64, shape (users, n)
            Best first; -1 where fewer than n items are left.
        scores : ndarray of float32, shape (users, n)
        """
        stars = self._checked(fold_in)
        parts = [
            rank_items(self._predict(stars[start : start + batch_size]), stars[start : start + batch_size], n)
            for start in range(0, stars.shape[0], batch_size)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def explain(
        self, fold_in: Csr, items: NDArray[np.int64], k: int = 3
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The user's own items that speak most for each given item.

        Parameters
        ----------
        fold_in : scipy.sparse CSR, shape (users, items)
        items : ndarray of int64, shape (users, n)
            Items to explain, as `recommend` gives them (-1: none).
        k : int
            How many reasons at most.

        Returns
        -------
        reasons : ndarray of int64, shape (users, n, k)
            Strongest first; -1 where nothing more speaks for it.
        shares : ndarray of float32, shape (users, n, k)
            Share of each in all that speaks for the item; 0 in these places.
        """
        stars = self._checked(fold_in)
        reasons = np.full((*items.shape, k), -1, np.int64)
        shares = np.zeros((*items.shape, k), np.float32)
        if k == 0:
            return reasons, shares
        for start in range(0, stars.shape[0], 128):
            batch = stars if stars.shape[0] <= 128 else stars[start : start + 128]
            wanted = items[start : start + 128]
            contributions = self._contributions(batch, wanted.clip(0))
            if contributions is None:
                break
            for row in range(batch.shape[0]):
                low, high = batch.indptr[row], batch.indptr[row + 1]
                mine = np.maximum(contributions[low:high], 0.0)
                total = mine.sum(axis=0)
                best = np.argsort(-mine, axis=0, kind="stable")[:k]
                top = np.take_along_axis(mine, best, axis=0) / np.maximum(total, 1e-12)
                found = batch.indices[low:high][best]
                found = np.where((top > 0) & (wanted[row] >= 0), found, -1)
                reasons[start + row, :, : len(best)] = found.T
                shares[start + row, :, : len(best)] = np.where(found >= 0, top, 0.0).T
        return reasons, shares

    def item_vectors(self) -> NDArray[np.float32] | None:
        """A vector an item, (items, dimensions), alike for items that are for the same people; None: no notion."""
        return None

    def save(self, path: Path | str) -> Path:
        """Write the model into a folder: weights by safetensors, the rest as JSON; nothing executable."""
        if not self.items:
            raise GhAssetsError(f"The model {self.name} is not fitted: there is nothing to save.")
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: np.ascontiguousarray(value) for key, value in self._weights().items()}
        with system_errors(folder / WEIGHTS_FILE):
            save_file(weights, folder / WEIGHTS_FILE)
        document = {
            "model": self.name,
            "items": self.items,
            "config": self._config(),
            "history": self.history,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2, sort_keys=True), encoding="utf-8")
        return folder

    @staticmethod
    def name_of(path: Path | str) -> str:
        """Which kind of model `save` wrote into a folder.

        Raises
        ------
        StoredDataError
            If none did.
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
            model = cls._from_config(document["config"])
            model.items = int(document["items"])
            model.history = document["history"]
            model._restore(load_file(folder / WEIGHTS_FILE))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise StoredDataError(f"{folder} holds no readable model: {error}.") from error
        return model

    def _checked(self, fold_in: Csr) -> Csr:
        if not self.items:
            raise GhAssetsError(f"The model {self.name} is not fitted: call fit first.")
        return check_interactions(fold_in, items=self.items, name="fold-in matrix")

    @abstractmethod
    def _fit(self, stars: Csr, validation: tuple[Csr, Csr] | None) -> None: ...

    @abstractmethod
    def _predict(self, stars: Csr) -> NDArray[np.float32]: ...

    def _contributions(self, stars: Csr, items: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """What each star of each user adds to the score of the user's given items: (stars, n); None: no notion."""
        return None

    @abstractmethod
    def _weights(self) -> dict[str, NDArray[Any]]: ...

    @abstractmethod
    def _restore(self, weights: dict[str, NDArray[Any]]) -> None: ...

    def _config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)
