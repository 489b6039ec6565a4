"""A serving snapshot: the model, the repositories and the users with their stars, as they were at one moment.

A `ServingSnapshot` never changes. The command loads one for each call; the server holds one and replaces it when there
is a newer model or newer data. It completes a `RecommendationRequest` for a user and returns a `RecommendationList`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymongo.errors import PyMongoError

from gh_assets.collector.lists.awesome import is_full_name
from gh_assets.errors import (
    InputError,
    ServiceUnavailableError,
    StoredDataError,
    UnknownRepositoryError,
    UnknownUserError,
)
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import RegisteredModel
from gh_assets.services.connections import asset_store, open_mongo
from gh_assets.serving.catalogue import Catalogue, Description, Neighbour
from gh_assets.serving.current_model import LoadedModel, load_current_model
from gh_assets.serving.ranking import Ranker, Recommendation, Similar
from gh_assets.serving.requests import DEFAULT_REQUEST, MAX_PAGED_RECOMMENDATIONS, RecommendationRequest
from gh_assets.settings import Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import Collections, MongoDatabase

MAX_UNSEEN_BESIDE = 3
"""Repositories beside a list that the model does not know yet."""

COLD_START_STARS = 5
"""With fewer known stars than these a list is a first guess."""

MAX_UNSEEN_NAMED = 3
"""Unknown stars that are spoken of one by one."""

SNAPSHOT_ASSETS = (("repos", "parquet"), ("user_item_matrix", "npz"))
"""The assets that a desk holds beside the model."""


@dataclass(frozen=True)
class User:
    """Somebody whose stars are known.

    Attributes
    ----------
    login : str
        As GitHub writes it.
    stars : sequence of int
        Ids of repositories.
    """

    login: str
    stars: Sequence[int]


class UserIndex:
    """The users of a matrix, found by login or id.

    Parameters
    ----------
    matrix : UserItemMatrix
    """

    def __init__(self, matrix: UserItemMatrix) -> None:
        self._matrix = matrix
        lower = np.char.lower(matrix.logins)
        self._order = np.argsort(lower, kind="stable")
        self._logins = lower[self._order]

    def __len__(self) -> int:
        return len(self._logins)

    @property
    def stars(self) -> int:
        """Number of stars of them all."""
        return int(self._matrix.stars.nnz)

    @property
    def repositories(self) -> int:
        return int(self._matrix.stars.shape[1])

    def by_login(self, login: str) -> User | None:
        """Whoever has a login, in any case."""
        wanted = login.lower()
        place = int(np.searchsorted(self._logins, wanted))
        if place == len(self._logins) or self._logins[place] != wanted:
            return None
        return self._person(int(self._order[place]))

    def by_id(self, user_id: int) -> User | None:
        """Whoever has GitHub's database id, whatever the login is now."""
        ids = self._matrix.user_ids
        row = int(np.searchsorted(ids, user_id))
        return self._person(row) if row < len(ids) and ids[row] == user_id else None

    def _person(self, row: int) -> User:
        stars = self._matrix.stars
        columns = stars.indices[stars.indptr[row] : stars.indptr[row + 1]]
        return User(str(self._matrix.logins[row]), self._matrix.repo_ids[columns].tolist())

    def examples(self, n: int) -> list[str]:
        """Logins of some with middling numbers of stars, the same ones always."""
        counts = np.diff(self._matrix.stars.indptr)
        order = np.argsort(np.abs(counts - np.median(counts)), kind="stable")[:n]
        return [str(login) for login in self._matrix.logins[order]]


@dataclass(frozen=True)
class RecommendationItem:
    """A recommendation with what people want to know of the repository."""

    recommendation: Recommendation
    described: Description | None

    def to_json(self, **more: Any) -> dict[str, Any]:
        entry = self.recommendation
        return {
            "rank": entry.rank,
            "repo_id": entry.repo_id,
            "full_name": entry.full_name,
            "score": entry.score,
            "kind": entry.kind,
            "cold_start": entry.kind != "personal",
            "because": [{"full_name": reason.full_name, "share": reason.share} for reason in entry.because],
            **described_json(self.described),
            **more,
        }


_UNKNOWN = Description("")


def described_json(described: Description | None) -> dict[str, Any]:
    """What is known of a repository, for programs."""
    known = described or _UNKNOWN
    return {
        "description": known.description,
        "language": known.language,
        "topics": list(known.topics),
        "stars": known.stars,
        "archived": known.archived,
        "pushed_at": None if known.pushed_at is None else known.pushed_at.isoformat(),
    }


@dataclass(frozen=True)
class RecommendationList:
    """Recommendations, and what one should know about them.

    Attributes
    ----------
    title : str
    model : RegisteredModel
        By which it is.
    cards : sequence of RecommendationItem
    known_stars, used_stars : int
        See `RecommendationRequest`.
    warnings : sequence of str
    new : sequence of RecommendationItem
        Repositories that the model does not know yet, placed by what they are about.
    shown : sequence of int
        Ids of all that was shown so far, this list included; empty where the list ends here.
    """

    title: str
    model: RegisteredModel
    items: Sequence[RecommendationItem]
    known_stars: int
    used_stars: int
    warnings: Sequence[str] = field(default_factory=list)
    new: Sequence[RecommendationItem] = field(default_factory=list)
    shown: Sequence[int] = ()

    def to_json(self, url: Callable[[str], str | None] | None = None) -> dict[str, Any]:
        """For programs; `url` gives the page of a repository."""

        def told(item: RecommendationItem) -> dict[str, Any]:
            return item.to_json() if url is None else item.to_json(url=url(item.recommendation.full_name))

        return {
            "for": self.title,
            "model": model_title_json(self.model),
            "known_stars": self.known_stars,
            "used_stars": self.used_stars,
            "cold_start": bool(self.items) and self.items[0].recommendation.kind != "personal",
            "warnings": list(self.warnings),
            "recommendations": [told(item) for item in self.items],
            "new": [told(item) for item in self.new],
        }


def model_title_json(model: RegisteredModel) -> dict[str, Any]:
    """Which model it was, for programs."""
    return {"name": model.name, "version": model.version, "score": model.score, "metric": model.metric}


@dataclass(frozen=True)
class SnapshotVersion:
    """What a desk was made of: another one is needed when that changes."""

    model: tuple[str, int, str | None]
    generations: tuple[int, ...]


class ServingSnapshot:
    """A model, repositories and people, as they were at one moment.

    Parameters
    ----------
    served : LoadedModel
    catalogue : Catalogue
    people : UserIndex
    former_names : mapping of str to int
        Ids by lower-case names that repositories had.
    generations : sequence of int
        Of the objects of `SNAPSHOT_ASSETS`.
    data_time : datetime or None
        When the stars were put together (UTC).
    """

    def __init__(
        self,
        served: LoadedModel,
        catalogue: Catalogue,
        people: UserIndex,
        former_names: Mapping[str, int],
        generations: Sequence[int] = (),
        data_time: dt.datetime | None = None,
    ) -> None:
        self.served = served
        self.catalogue = catalogue
        self.people = people
        self.data_time = data_time
        self.loaded_at = dt.datetime.now(dt.UTC)
        self.ranker = Ranker(served.trained, catalogue)
        names = dict(former_names)
        names |= _by_lower_name(served.trained.full_names.tolist(), served.trained.repo_ids)
        names |= _by_lower_name(catalogue.full_names, catalogue.repo_ids)
        self._ids = names
        self.version = SnapshotVersion(model_identity(served.registered), tuple(generations))

    @property
    def model(self) -> RegisteredModel:
        return self.served.registered

    def repo_id(self, name: str) -> int | None:
        """Id of a repository by its name, in any case; former names count, too."""
        return self._ids.get(name.lower())

    def full_name(self, repo_id: int) -> str | None:
        """Name of a repository that the catalogue or the model knows."""
        described = self.catalogue.describe(repo_id)
        if described is not None:
            return described.full_name
        trained = self.served.trained
        place = int(trained.positions(np.array([repo_id]))[0])
        return None if place < 0 else str(trained.full_names[place])

    # -- requests ----------------------------------------------------------------------------------------------------

    def for_login(self, login: str, request: RecommendationRequest = DEFAULT_REQUEST) -> RecommendationRequest:
        """For a collected user.

        Raises
        ------
        UnknownUserError
            If the login is not among the users of the matrix.
        """
        person = self.people.by_login(login)
        if person is None:
            raise UnknownUserError(
                f"The user {login!r} is not among the {len(self.people):,} collected users: nobody by that login "
                "starred a collected repository. Try --repos with some that the person likes, or --popular."
            )
        return self.for_user(person, request)

    def for_user(self, person: User, request: RecommendationRequest = DEFAULT_REQUEST) -> RecommendationRequest:
        """For somebody whose stars are known."""
        stars = list(person.stars)
        title = f"{person.login} ({len(stars):,} known stars)"
        alike = self.ranker.substitutes(stars)
        used = _used(stars, alike)
        warnings = []
        if stars and used == 0:
            warnings.append(f"None of the {len(stars):,} stars of {person.login} is of a repository that is known.")
        elif 0 < used < COLD_START_STARS:
            warnings.append(
                f"Only {used} star{'s' * (used > 1)} of {person.login} {'say' if used > 1 else 'says'} anything to the "
                "model: take this as a first guess."
            )
        return replace(
            request,
            stars=stars,
            login=person.login,
            title=title,
            known_stars=len(stars),
            used_stars=used,
            warnings=[*warnings, *self._unseen_warnings(stars, alike)],
        )

    def for_repositories(
        self, repositories: Sequence[str], request: RecommendationRequest = DEFAULT_REQUEST
    ) -> RecommendationRequest:
        """For somebody who likes the named repositories.

        Those that the model does not know count as those that it knows and that are about the same.

        Raises
        ------
        InputError
            If a name is not of the form owner/name.
        UnknownRepositoryError
            If neither the model nor the collected metadata know any of them.
        """
        names = list(dict.fromkeys(name.strip() for name in repositories if name.strip()))
        malformed = [name for name in names if not is_full_name(name)]
        if malformed or not names:
            raise InputError(
                f"{(malformed or ['' if not repositories else repositories[0]])[0][:100]!r} is no repository: give "
                "owner/name, separated by commas."
            )
        ids = {name: found for name in names if (found := self.repo_id(name)) is not None}
        unknown = [name for name in names if name not in ids]
        if not ids:
            raise UnknownRepositoryError(
                f"The model knows none of {_some(names)}: it was trained on "
                f"{len(self.served.trained.repo_ids):,} repositories."
            )
        warnings = [f"Not known, ignored: {_some(unknown)}."] if unknown else []
        stars = list(dict.fromkeys(ids.values()))
        alike = self.ranker.substitutes(stars)
        return replace(
            request,
            stars=stars,
            title=_some(names),
            known_stars=len(stars),
            used_stars=_used(stars, alike),
            warnings=[*warnings, *self._unseen_warnings(stars, alike)],
        )

    def for_new_user(self, request: RecommendationRequest = DEFAULT_REQUEST) -> RecommendationRequest:
        """For somebody of whom nothing is known: what is popular, of all kinds."""
        return replace(request, title="anybody")

    def _unseen_warnings(self, stars: Sequence[int], alike: Mapping[int, Sequence[Neighbour]]) -> list[str]:
        """What is to be said of stars that the model does not know."""
        if len(alike) > MAX_UNSEEN_NAMED:
            counted = sum(bool(found) for found in alike.values())
            return [
                f"The model does not know {len(alike):,} of the {len(stars):,} stars: {counted:,} of them count as "
                "what it knows that is about the same, the others say nothing."
            ]
        said = []
        for star, found in alike.items():
            like = ", ".join(one.full_name for one in found)
            rest = (
                f"it counts as {like}, which are about the same."
                if found
                else "nothing that it knows is about the same, so it says nothing."
            )
            said.append(f"The model does not know {self.full_name(star) or f'the repository {star}'}: {rest}")
        return said

    # -- recommendations ---------------------------------------------------------------------------------------------

    def recommend(self, request: RecommendationRequest) -> RecommendationList:
        """Return the list for one request."""
        return self.recommend_batch([request])[0]

    def recommend_batch(self, requests: Sequence[RecommendationRequest]) -> list[RecommendationList]:
        """Return the lists for several requests, scored together."""
        ranked = self.ranker.recommend_batch(requests)
        return [self._list(request, entries) for request, entries in zip(requests, ranked, strict=True)]

    def _list(self, request: RecommendationRequest, ranked: Sequence[Recommendation]) -> RecommendationList:
        warnings = [*self.served.warnings, *request.warnings]
        if ranked and ranked[0].kind == "popular":
            warnings.append("No star that says anything is known: this is what many starred, of all kinds.")
        new = []
        if request.new and not request.shown:
            new = self.ranker.unseen_recommendations(replace(request, n=MAX_UNSEEN_BESIDE))
        shown = [*request.shown, *(entry.repo_id for entry in ranked)]
        ended = len(ranked) < request.n or len(shown) >= MAX_PAGED_RECOMMENDATIONS
        return RecommendationList(
            request.title,
            self.model,
            self._items(ranked),
            request.known_stars,
            request.used_stars,
            warnings,
            self._items(new),
            () if ended else shown,
        )

    def _items(self, found: Sequence[Recommendation]) -> list[RecommendationItem]:
        described = self.catalogue.describe_all([entry.repo_id for entry in found])
        return [RecommendationItem(entry, about) for entry, about in zip(found, described, strict=True)]

    def similar(
        self, repository: int | Description, request: RecommendationRequest = DEFAULT_REQUEST
    ) -> list[tuple[Similar, Description | None]]:
        """Repositories like one, with what is known of them; see `Ranker.similar`."""
        found = self.ranker.similar(repository, request.n, request.filters, request.hidden)
        described = self.catalogue.describe_all([entry.repo_id for entry in found])
        return list(zip(found, described, strict=True))


def _used(stars: Sequence[int], alike: Mapping[int, Sequence[Neighbour]]) -> int:
    """How many stars say something; those that the model does not know only if something is like them."""
    return len(stars) - sum(not found for found in alike.values())


def model_identity(model: RegisteredModel) -> tuple[str, int, str | None]:
    """What tells one registered model from another."""
    return model.name, model.version, model.sha256


def data_generations(store: AssetStore) -> tuple[tuple[int, ...], dt.datetime | None]:
    """Generations of the objects of `SNAPSHOT_ASSETS`, and when the last of them, the stars, was written.

    Raises
    ------
    StoredDataError
        If one is missing.
    """
    found = []
    for asset, suffix in SNAPSHOT_ASSETS:
        described = store.describe(asset, suffix)
        if described is None:
            raise StoredDataError(f"There is no {asset} yet: run gh-assets run, or materialize it.")
        found.append(described)
    return tuple(described.generation for described in found), found[-1].created


def load_snapshot(
    settings: Settings,
    served: LoadedModel | None = None,
    store: AssetStore | None = None,
    names: Mapping[str, int] | None = None,
    before: ServingSnapshot | None = None,
) -> ServingSnapshot:
    """All that is needed, as it is now.

    Parameters
    ----------
    settings : Settings
    served : LoadedModel, optional
        The model, if it is loaded.
    store : AssetStore, optional
        Where the data are.
    names : mapping of str to int, optional
        Ids by former names, if they are known; else Mongo is asked, if it answers.
    before : ServingSnapshot, optional
        One whose repositories and people are taken over if they are still the newest.

    Raises
    ------
    ModelNotFoundError, StoredDataError
        If there is no model, or no data.
    ServiceUnavailableError
        If the services are away; see `champion.load_current_model` for what is on this machine.
    """
    served = served or load_current_model(settings)
    store = store or asset_store(settings)
    generations, data_time = data_generations(store)
    if before is not None and before.version.generations == generations:
        catalogue, people = before.catalogue, before.people
    else:
        catalogue = Catalogue(store.read_table("repos"))
        people = UserIndex(store.read_matrix("user_item_matrix"))
    return ServingSnapshot(
        served, catalogue, people, _names_of(settings) if names is None else names, generations, data_time
    )


def former_names(database: MongoDatabase) -> dict[str, int]:
    """Ids by the lower-case names under which repositories were ever asked for."""
    found = database[Collections.REPOS].find({"repo_id": {"$ne": None}}, {"names": 1, "repo_id": 1})
    return {name: document["repo_id"] for document in found for name in document.get("names", ())}


def _names_of(settings: Settings) -> dict[str, int]:
    """Former names; without Mongo the present ones have to do."""
    try:
        with open_mongo(settings) as database:
            return former_names(database)
    except (ServiceUnavailableError, PyMongoError):
        return {}


def _by_lower_name(names: Sequence[str], repo_ids: NDArray[np.int64]) -> dict[str, int]:
    return {str(name).lower(): int(repo_id) for name, repo_id in zip(names, repo_ids, strict=True)}


def _some(names: Collection[str]) -> str:
    """Names for people: not all of ten thousand."""
    listed = [name[:100] for name in names]
    return ", ".join(listed) if len(listed) <= 8 else f"{', '.join(listed[:8])} and {len(listed) - 8:,} more"
