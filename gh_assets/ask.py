"""Asking for recommendations: for a login among the collected users, or for a list of repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gh_assets.asset_store import AssetStore
from gh_assets.assets.recommendations import SERVED
from gh_assets.collector.awesome import is_full_name
from gh_assets.errors import InputError, UnknownRepositoryError, UnknownUserError
from gh_assets.model_cache import load_best
from gh_assets.recommender.inference import Recommendation, recommend_to
from gh_assets.recommender.training import TrainedModel
from gh_assets.registry import ModelRegistry, RegisteredModel
from gh_assets.services import connect_gcs, data_store, model_store, open_mongo
from gh_assets.settings import Settings, split_words


@dataclass(frozen=True)
class Answer:
    """Recommendations, and what one should know about them."""

    title: str
    model: RegisteredModel
    recommendations: Sequence[Recommendation]
    known_stars: int
    warnings: Sequence[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "for": self.title,
            "model": {"name": self.model.name, "score": self.model.score, "metric": self.model.metric},
            "known_stars": self.known_stars,
            "warnings": list(self.warnings),
            "recommendations": [asdict(entry) for entry in self.recommendations],
        }


def recommend_for_login(settings: Settings, login: str, n: int) -> Answer:
    """Recommendations for a collected user.

    Raises
    ------
    UnknownUserError
        If the login is not among the users of the matrix.
    """
    registered, trained = _best_model(settings)
    matrix = AssetStore(data_store(settings, connect_gcs(settings))).read_matrix("user_item_matrix")
    rows = np.flatnonzero(np.char.lower(matrix.logins) == login.lower())
    if len(rows) == 0:
        raise UnknownUserError(
            f"The user {login!r} is not among the {len(matrix.logins):,} collected users: nobody by that login starred "
            "a collected repository. Try --repos with some that the person likes."
        )
    row = int(rows[0])
    columns = matrix.stars.indices[matrix.stars.indptr[row] : matrix.stars.indptr[row + 1]]
    stars = [int(repo_id) for repo_id in matrix.repo_ids[columns]]
    return Answer(
        f"{matrix.logins[row]} ({len(stars)} known stars)",
        registered,
        recommend_to(trained, stars, n),
        len(stars),
    )


def recommend_for_repositories(settings: Settings, repositories: str, n: int) -> Answer:
    """Recommendations for somebody who likes the named repositories (``a/b,c/d``).

    Raises
    ------
    InputError
        If a name is not of the form owner/name.
    UnknownRepositoryError
        If the model knows none of them.
    """
    names = split_words(repositories)
    malformed = [name for name in names if not is_full_name(name)]
    if malformed or not names:
        raise InputError(
            f"{(malformed or [repositories])[0]!r} is no repository: give owner/name, separated by commas."
        )
    registered, trained = _best_model(settings)
    ids = _repository_ids(settings, trained, names)
    unknown = [name for name in names if name.lower() not in ids]
    if not ids:
        raise UnknownRepositoryError(
            f"The model knows none of {', '.join(names)}: it was trained on {len(trained.repo_ids):,} repositories."
        )
    warnings = [f"Not known to the model, ignored: {', '.join(unknown)}."] if unknown else []
    return Answer(", ".join(names), registered, recommend_to(trained, list(ids.values()), n), len(ids), warnings)


def _best_model(settings: Settings) -> tuple[RegisteredModel, TrainedModel]:
    with open_mongo(settings) as database:
        registry = ModelRegistry(model_store(settings), database["models"])
        return load_best(registry, SERVED, settings.home_path / "cache" / "models")


def _repository_ids(settings: Settings, trained: TrainedModel, names: Sequence[str]) -> dict[str, int]:
    """Ids of the named repositories that the model knows; former names count, too."""
    wanted = {name.lower() for name in names}
    known = {int(repo_id) for repo_id in trained.repo_ids}
    ids = {
        str(name).lower(): int(repo_id)
        for name, repo_id in zip(trained.full_names, trained.repo_ids, strict=True)
        if str(name).lower() in wanted
    }
    rest = sorted(wanted - ids.keys())
    if rest:
        with open_mongo(settings) as database:
            for document in database["repos"].find({"names": {"$in": rest}}):
                if document["repo_id"] in known:
                    ids |= {name: document["repo_id"] for name in document["names"] if name in rest}
    return ids
