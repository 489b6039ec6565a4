"""Registered models of a small matrix, and ways in which they cannot be loaded."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from gh_assets.recommender import Recommender
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.training.training import result_of, split_of
from gh_assets.registry import Decision, ModelCard, ModelRegistry, Move, Promotion, RegisteredModel, training
from gh_assets.registry.cache import ModelCache
from gh_assets.serving.current_model import describe_current
from gh_assets.serving.promotion import ComparisonResult, PromotionGate
from gh_assets_tests.support.matrices import taste_matrix, with_ids

UNREADABLE_DOCUMENT = "unreadable document"
DAMAGES = ("missing", "damaged", "another format", UNREADABLE_DOCUMENT)


@cache
def _all_users() -> sp.csr_array:
    return taste_matrix(users=900)


def matrix_of(users: int = 600, first: int = 0) -> UserItemMatrix:
    """Return a matrix of users with tastes; of two with the same first user, the larger contains the smaller."""
    stars = _all_users()[first : first + users]
    return with_ids(stars, np.arange(first, first + users) * 7 + 1000, np.arange(stars.shape[1]) + 50)


@dataclass(frozen=True)
class RegisteredModels:
    """A registry and the gate that decides about its models; by default they are of the same matrix."""

    registry: ModelRegistry
    cache: ModelCache
    matrix: UserItemMatrix = field(default_factory=matrix_of)

    def register(self, *models: Recommender, matrix: UserItemMatrix | None = None) -> RegisteredModel:
        """Fit models and register them with the metrics of the held-out users; return the last one."""
        matrix = matrix or self.matrix
        split = split_of(matrix, 0)
        results = [result_of(matrix, split, fitted(matrix, model), {}) for model in models]
        return [training.register(self.registry, result, tag="") for result in results][-1]

    def judge(
        self, by: str = "a test", *, matrix: UserItemMatrix | None = None, **options: Any
    ) -> tuple[ComparisonResult, Move | None]:
        return PromotionGate(self.registry, self.cache, matrix or self.matrix, **options).decide(by)

    def promote(self, *titles: str, why: str = "by hand", by: str | None = None) -> None:
        """Promote models one after another."""
        for title in titles:
            name, version = title.split()
            self.registry.promote(Promotion(name, int(version), why=why, by=by))

    def current(self) -> dict[str, Any]:
        current = describe_current(self.registry)
        assert current is not None
        return current

    def last_decision(self) -> Decision:
        decision = self.registry.decisions.last()
        assert decision is not None
        return decision


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
