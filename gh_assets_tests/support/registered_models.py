"""Registered models of a small matrix, and ways in which they cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gh_assets.recommender import Recommender
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.training.training import result_of, split_of
from gh_assets.registry import ModelCard, ModelRegistry, RegisteredModel, training
from gh_assets_tests.support.matrices import taste_matrix

UNREADABLE_DOCUMENT = "unreadable document"
DAMAGES = ("missing", "damaged", "another format", UNREADABLE_DOCUMENT)


def matrix_of(users: int = 600, first: int = 0) -> UserItemMatrix:
    """Return a matrix of users with tastes; of two with the same first user, the larger contains the smaller."""
    stars = taste_matrix(users=900)[first : first + users]
    items = np.arange(stars.shape[1])
    return UserItemMatrix(
        stars,
        np.arange(first, first + users) * 7 + 1000,
        np.char.add("user-", np.arange(first, first + users).astype(str)),
        items + 50,
        np.char.add("o/r", items.astype(str)),
    )


def register(registry: ModelRegistry, matrix: UserItemMatrix, model: Recommender) -> RegisteredModel:
    """Register a fitted model with the metrics of the held-out users."""
    return training.register(registry, result_of(matrix, split_of(matrix, 0), model, {}), tag="", config={})


def fitted(matrix: UserItemMatrix, model: Recommender) -> Recommender:
    return model.fit(split_of(matrix, 0).train)


def damage(registry: ModelRegistry, folder: Path, model: RegisteredModel, kind: str) -> None:
    """Make a registered model unusable; see `DAMAGES`."""
    place = {"name": model.name, "version": model.version}
    if kind == "missing":
        registry.store.delete(model.object)
    elif kind == "damaged":
        registry.store.write(model.object, b"something else")
    elif kind == "another format":
        (folder / "other").mkdir()
        (folder / "other" / "index.json").write_text('{"model": "transformer", "repo_ids": []}')
        other = registry.save(folder / "other", ModelCard("other", None), archive="gzip", file_name=model.file_name)
        changes = other.to_document() | place | {"serial": model.serial, "score": model.score, "data": model.data}
        registry.documents.delete_one({"name": "other"})
        registry.documents.update_one(place, {"$set": changes})
    else:
        registry.documents.update_one(place, {"$set": {"time": "never"}})
