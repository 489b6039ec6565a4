"""Asking for recommendations: for a login among the collected users, or for a list of repositories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gh_assets.asset_store import AssetStore
from gh_assets.champion import Serving, serving
from gh_assets.collector.awesome import is_full_name
from gh_assets.errors import InputError, UnknownRepositoryError, UnknownUserError
from gh_assets.recommender.catalogue import Catalogue
from gh_assets.recommender.inference import (
    STAND_INS,
    Recommendation,
    Unwanted,
    new_to_the_model,
    recommend_to,
)
from gh_assets.recommender.training import TrainedModel
from gh_assets.registry import RegisteredModel
from gh_assets.services import asset_store, open_mongo
from gh_assets.settings import Settings, split_words

NEW = 3
"""Repositories beside a list that the model does not know yet."""


@dataclass(frozen=True)
class Wishes:
    """What somebody wants to see, too.

    Attributes
    ----------
    own : bool
        What the person owns.
    forks : bool
        Forks of what the person starred, and what those are forks of.
    archived : bool
        What its owner made read-only.
    new : bool
        Beside the list, repositories that the model does not know yet.
    """

    own: bool = False
    forks: bool = False
    archived: bool = False
    new: bool = True


WISHES = Wishes()


@dataclass(frozen=True)
class Answer:
    """Recommendations, and what one should know about them.

    `new` are repositories that the model does not know yet, placed by what they are about.
    """

    title: str
    model: RegisteredModel
    recommendations: Sequence[Recommendation]
    known_stars: int
    warnings: Sequence[str] = field(default_factory=list)
    new: Sequence[Recommendation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "for": self.title,
            "model": {
                "name": self.model.name,
                "version": self.model.version,
                "score": self.model.score,
                "metric": self.model.metric,
            },
            "known_stars": self.known_stars,
            "warnings": list(self.warnings),
            "recommendations": [asdict(entry) for entry in self.recommendations],
            "new": [asdict(entry) for entry in self.new],
        }


def recommend_for_login(settings: Settings, login: str, n: int, wishes: Wishes = WISHES) -> Answer:
    """Recommendations for a collected user.

    Raises
    ------
    UnknownUserError
        If the login is not among the users of the matrix.
    """
    served = serving(settings)
    store = asset_store(settings)
    matrix = store.read_matrix("user_item_matrix")
    rows = np.flatnonzero(np.char.lower(matrix.logins) == login.lower())
    if len(rows) == 0:
        raise UnknownUserError(
            f"The user {login!r} is not among the {len(matrix.logins):,} collected users: nobody by that login starred "
            "a collected repository. Try --repos with some that the person likes, or --popular."
        )
    row = int(rows[0])
    columns = matrix.stars.indices[matrix.stars.indptr[row] : matrix.stars.indptr[row + 1]]
    stars = [int(repo_id) for repo_id in matrix.repo_ids[columns]]
    title = f"{matrix.logins[row]} ({len(stars)} known stars)"
    return _answer(title, served, store, str(matrix.logins[row]), stars, n, wishes)


def recommend_for_repositories(settings: Settings, repositories: str, n: int, wishes: Wishes = WISHES) -> Answer:
    """Recommendations for somebody who likes the named repositories (``a/b,c/d``).

    Those that the model does not know count as those that it knows and that are about the same.

    Raises
    ------
    InputError
        If a name is not of the form owner/name.
    UnknownRepositoryError
        If neither the model nor the collected metadata know any of them.
    """
    names = split_words(repositories)
    malformed = [name for name in names if not is_full_name(name)]
    if malformed or not names:
        raise InputError(
            f"{(malformed or [repositories])[0]!r} is no repository: give owner/name, separated by commas."
        )
    served = serving(settings)
    ids = _repository_ids(settings, served.trained, names)
    if not ids:
        raise UnknownRepositoryError(
            f"The model knows none of {', '.join(names)}: it was trained on "
            f"{len(served.trained.repo_ids):,} repositories."
        )
    unknown = [name for name in names if name.lower() not in ids]
    warnings = [f"Not known, ignored: {', '.join(unknown)}."] if unknown else []
    store = asset_store(settings)
    stars = list(ids.values())
    return _answer(", ".join(names), served, store, None, stars, n, wishes, warnings)


def recommend_to_anybody(settings: Settings, n: int, wishes: Wishes = WISHES) -> Answer:
    """What is popular, of all kinds, for somebody of whom nothing is known."""
    served = serving(settings)
    store = asset_store(settings)
    return _answer("anybody", served, store, None, [], n, wishes)


def _answer(
    title: str,
    served: Serving,
    store: AssetStore,
    login: str | None,
    stars: Sequence[int],
    n: int,
    wishes: Wishes,
    warnings: Sequence[str] = (),
) -> Answer:
    registered, trained = served.registered, served.trained
    catalogue = Catalogue(store.read_table("repos"))
    without = Unwanted(catalogue, not wishes.own, not wishes.forks, not wishes.archived).ids(login, stars)
    found = recommend_to(trained, stars, n, without=without, catalogue=catalogue)
    said = [*served.warnings, *warnings]
    own = np.array(stars, np.int64)
    names = dict(zip(catalogue.repo_ids.tolist(), catalogue.full_names, strict=True))
    strange = own[trained.positions(own) < 0].tolist()
    for star, alike in zip(strange, catalogue.neighbours_of(strange, trained.repo_ids, STAND_INS), strict=True):
        said.append(
            f"The model does not know {names.get(star, star)}: "
            + (
                f"it counts as {', '.join(one.full_name for one in alike)}, which are about the same."
                if alike
                else "nothing that it knows is about the same, so it says nothing."
            )
        )
    if found and found[0].kind == "popular":
        said.append("No star that says anything is known: this is what many starred, of all kinds.")
    new = new_to_the_model(trained, stars, NEW, catalogue, without=without) if wishes.new else []
    return Answer(title, registered, found, len(stars), said, new)


def _repository_ids(settings: Settings, trained: TrainedModel, names: Sequence[str]) -> dict[str, int]:
    """Ids of the named repositories that the model or the collected metadata know; former names count, too."""
    wanted = {name.lower() for name in names}
    ids = {
        str(name).lower(): int(repo_id)
        for name, repo_id in zip(trained.full_names, trained.repo_ids, strict=True)
        if str(name).lower() in wanted
    }
    rest = sorted(wanted - ids.keys())
    if rest:
        with open_mongo(settings) as database:
            for document in database["repos"].find({"names": {"$in": rest}}):
                if document["repo_id"] is not None:
                    ids |= {name: document["repo_id"] for name in document["names"] if name in rest}
    return ids
