"""A serving snapshot: a model, the repositories and the users with their stars, as they were at one moment.

A `ServingSnapshot` never changes. A command loads one per call; the server holds one and replaces it when there is a
newer model or newer data. It completes a `RecommendationRequest` for a user and returns a `RecommendationList`.
"""

import datetime as dt
import logging
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymongo.errors import PyMongoError

from gh_assets.errors import (
    InputError,
    ServiceUnavailableError,
    StoredDataError,
    UnknownRepositoryError,
    UnknownUserError,
)
from gh_assets.github.names import is_full_name
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.registry import RegisteredModel
from gh_assets.services.connections import asset_store, open_mongo
from gh_assets.serving.catalogue import Catalogue, Description, Neighbour
from gh_assets.serving.current_model import LoadedModel, load_current_model, model_identity
from gh_assets.serving.embeddings import read_embeddings
from gh_assets.serving.leaderboard import Standing, read_standings
from gh_assets.serving.ranking import Ranker, Recommendation, Similar
from gh_assets.serving.requests import DEFAULT_REQUEST, MAX_PAGED_RECOMMENDATIONS, RecommendationRequest
from gh_assets.serving.rising import RisingRepository, read_rising
from gh_assets.settings import Settings
from gh_assets.storage.asset_store import AssetStore
from gh_assets.storage.mongo import Collections, MongoDatabase

MAX_UNSEEN_BESIDE = 3
"""Repositories that the model does not know, listed beside the recommendations."""

COLD_START_STARS = 5
"""Number of used stars below which a list carries a warning."""

MAX_UNSEEN_NAMED = 3
"""Stars unknown to the model that get a warning each; more get one in common."""

MAX_NAMES = 8
"""Repositories that a title or message names."""

SNAPSHOT_ASSETS = (("repos", "parquet"), ("user_item_matrix", "npz"))
"""Assets that a snapshot contains beside the model."""

OPTIONAL_ASSETS = (("repo_embeddings", "parquet"), ("leaderboard", "parquet"), ("star_trends", "parquet"))
"""Assets that it contains if they are there."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class User:
    """A user whose stars are known.

    Attributes
    ----------
    login : str
        Login with GitHub's capitalization.
    stars : sequence of int
        Ids of the starred repositories.
    """

    login: str
    stars: Sequence[int]


class UserIndex:
    """Users of a matrix, by login or id.

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
        """Number of stars of all users."""
        return int(self._matrix.stars.nnz)

    def by_login(self, login: str) -> User | None:
        """Find a user by login (case-insensitive)."""
        lower = login.lower()
        place = bisect_left(self._logins, lower)  # without arrays, see `Ranker.substitutes`
        if place == len(self._logins) or self._logins[place] != lower:
            return None
        return self._user(int(self._order[place]))

    def by_id(self, user_id: int) -> User | None:
        """Find a user by GitHub's database id, which survives a change of the login."""
        ids = self._matrix.user_ids
        row = int(np.searchsorted(ids, user_id))
        return self._user(row) if row < len(ids) and ids[row] == user_id else None

    def _user(self, row: int) -> User:
        stars = self._matrix.stars
        columns = stars.indices[stars.indptr[row] : stars.indptr[row + 1]]
        return User(str(self._matrix.logins[row]), self._matrix.repo_ids[columns].tolist())

    def examples(self, n: int) -> list[str]:
        """Return logins of users with about the median number of stars; the same ones every time."""
        counts = np.diff(self._matrix.stars.indptr)
        order = np.argsort(np.abs(counts - np.median(counts)), kind="stable")[:n]
        return [str(login) for login in self._matrix.logins[order]]


@dataclass(frozen=True)
class RecommendationItem:
    """A recommendation with the description of its repository."""

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
    """Return the JSON fields that describe a repository."""
    return (described or _UNKNOWN).as_json


@dataclass(frozen=True)
class RecommendationList:
    """The response to a `RecommendationRequest`.

    Attributes
    ----------
    request : RecommendationRequest
    model : RegisteredModel
        Model that made the recommendations.
    items : sequence of RecommendationItem
    warnings : sequence of str
        Those of the request, and those about the model and the list.
    new : sequence of RecommendationItem
        Repositories that the model does not know, ranked by similarity in content.
    shown : sequence of int
        Ids on this page and earlier ones; empty if the list ends here.
    """

    request: RecommendationRequest
    model: RegisteredModel
    items: Sequence[RecommendationItem]
    warnings: Sequence[str]
    new: Sequence[RecommendationItem]
    shown: Sequence[int]

    def to_json(self, url: Callable[[str], str | None] | None = None) -> dict[str, Any]:
        """Return the JSON document.

        Parameters
        ----------
        url : callable, optional
            Returns the page of a repository by its full name, which is then part of each item.
        """

        def item_json(item: RecommendationItem) -> dict[str, Any]:
            return item.to_json() if url is None else item.to_json(url=url(item.recommendation.full_name))

        return {
            "for": self.request.title,
            "model": model_title_json(self.model),
            "known_stars": self.request.known_stars,
            "used_stars": self.request.used_stars,
            "cold_start": bool(self.items) and self.items[0].recommendation.kind != "personal",
            "warnings": list(self.warnings),
            "recommendations": [item_json(item) for item in self.items],
            "new": [item_json(item) for item in self.new],
        }


def model_title_json(model: RegisteredModel) -> dict[str, Any]:
    """Return the JSON fields that identify a model."""
    return {"name": model.name, "version": model.version, "score": model.score, "metric": model.metric}


@dataclass(frozen=True)
class SnapshotVersion:
    """The model and the generations of the data that a snapshot consists of."""

    model: tuple[str, int, str | None]
    generations: tuple[int, ...]


class ServingSnapshot:
    """A model, repositories and users, as they were at one moment.

    Parameters
    ----------
    served : LoadedModel
    catalogue : Catalogue
    users : UserIndex
    former_names : mapping of str to int
        Ids by lower-case names that repositories once had.
    generations : sequence of int
        Generations of the objects of `SNAPSHOT_ASSETS` and `OPTIONAL_ASSETS`.
    data_time : datetime or None
        When the matrix was written (UTC).
    standings : sequence of Standing
        The leaderboard; empty if there is none.
    rising : sequence of RisingRepository
        Repositories with more stars than usual; empty if there are no star histories.
    """

    def __init__(
        self,
        served: LoadedModel,
        catalogue: Catalogue,
        users: UserIndex,
        former_names: Mapping[str, int],
        generations: Sequence[int] = (),
        data_time: dt.datetime | None = None,
        standings: Sequence[Standing] = (),
        rising: Sequence[RisingRepository] = (),
    ) -> None:
        self.served = served
        self.catalogue = catalogue
        self.users = users
        self.data_time = data_time
        self.standings = standings
        self._rising = rising
        self.loaded_at = dt.datetime.now(dt.UTC)
        self.ranker = Ranker(served.trained, catalogue)
        self._ids = {
            **former_names,
            **_by_lower_name(served.trained.full_names.tolist(), served.trained.repo_ids),
            **_by_lower_name(catalogue.full_names, catalogue.repo_ids),
        }
        self.version = SnapshotVersion(model_identity(served.registered), tuple(generations))

    def rising(self, n: int) -> list[tuple[RisingRepository, Description]]:
        """Return at most `n` rising repositories of the catalogue that are not archived, with their descriptions."""
        described = self.catalogue.describe_all([one.repo_id for one in self._rising])
        known = ((one, about) for one, about in zip(self._rising, described, strict=True) if about is not None)
        return list(islice(((one, about) for one, about in known if not about.archived), n))

    @property
    def model(self) -> RegisteredModel:
        return self.served.registered

    def repo_id(self, name: str) -> int | None:
        """Return the id of a repository by its current or a former name (case-insensitive)."""
        return self._ids.get(name.lower())

    def full_name(self, repo_id: int) -> str | None:
        """Return the name of a repository that the catalogue or the model knows."""
        described = self.catalogue.describe(repo_id)
        if described is not None:
            return described.full_name
        trained = self.served.trained
        place = int(trained.positions(np.array([repo_id]))[0])
        return None if place < 0 else str(trained.full_names[place])

    # -- requests ----------------------------------------------------------------------------------------------------

    def for_login(self, login: str, request: RecommendationRequest = DEFAULT_REQUEST) -> RecommendationRequest:
        """Complete a request for a collected user.

        Raises
        ------
        UnknownUserError
            If the login is not among the users of the matrix.
        """
        user = self.users.by_login(login)
        if user is None:
            raise UnknownUserError(
                f"The user {login!r} is not among the {len(self.users):,} collected users, who starred at least one "
                "collected repository. Try --repos with repositories that the user likes, or --popular."
            )
        return self.for_user(user, request)

    def for_user(self, user: User, request: RecommendationRequest = DEFAULT_REQUEST) -> RecommendationRequest:
        """Complete a request for a user whose stars are known."""
        stars, login = list(user.stars), user.login
        title = f"{login} ({len(stars):,} known stars)"
        completed = self._with_stars(replace(request, login=login, title=title), stars)
        used = completed.used_stars
        warnings = []
        if stars and used == 0:
            warnings.append(f"None of the {len(stars):,} repositories that {login} starred is known.")
        elif 0 < used < COLD_START_STARS:
            subject = "star contributes" if used == 1 else "stars contribute"
            warnings.append(f"Only {used} {subject} to the scores of {login}'s list: it is a first guess.")
        return replace(completed, warnings=[*warnings, *completed.warnings])

    def for_repositories(
        self, repositories: Sequence[str], request: RecommendationRequest = DEFAULT_REQUEST
    ) -> RecommendationRequest:
        """Complete a request for an anonymous user who likes the named repositories.

        Repositories that the model does not know are substituted by similar ones that it knows.

        Raises
        ------
        InputError
            If a name is not of the form owner/name.
        UnknownRepositoryError
            If neither the model nor the catalogue knows any of them.
        """
        names = list(dict.fromkeys(name.strip() for name in repositories if name.strip()))
        malformed = [name for name in names if not is_full_name(name)]
        if malformed or not names:
            raise InputError(
                f"{(malformed or ['' if not repositories else repositories[0]])[0][:100]!r} is no repository: give "
                "owner/name, separated by commas."
            )
        ids = {name: repo_id for name in names if (repo_id := self.repo_id(name)) is not None}
        unknown = [name for name in names if name not in ids]
        if not ids:
            raise UnknownRepositoryError(
                f"The model knows none of {_abbreviate(names)}: it was trained on "
                f"{len(self.served.trained.repo_ids):,} repositories."
            )
        completed = self._with_stars(replace(request, title=_abbreviate(names)), list(dict.fromkeys(ids.values())))
        warnings = [f"Unknown repositories were ignored: {_abbreviate(unknown)}."] if unknown else []
        return replace(completed, warnings=[*warnings, *completed.warnings])

    def _with_stars(self, request: RecommendationRequest, stars: Sequence[int]) -> RecommendationRequest:
        """Add stars to a request, how many contribute, and warnings about those that the model does not know."""
        substitutes = self.ranker.substitutes(stars)
        return replace(
            request,
            stars=stars,
            known_stars=len(stars),
            used_stars=len(stars) - sum(not neighbours for neighbours in substitutes.values()),
            warnings=self._unseen_warnings(stars, substitutes),
        )

    def for_new_user(self, request: RecommendationRequest = DEFAULT_REQUEST) -> RecommendationRequest:
        """Complete a request for a user without known stars, who gets popular repositories of all kinds."""
        return replace(request, title="a new user")

    def _unseen_warnings(self, stars: Sequence[int], substitutes: Mapping[int, Sequence[Neighbour]]) -> list[str]:
        """Return warnings about stars that the model does not know."""
        if len(substitutes) > MAX_UNSEEN_NAMED:
            counted = sum(bool(neighbours) for neighbours in substitutes.values())
            return [
                f"The model does not know {len(substitutes):,} of the {len(stars):,} starred repositories: {counted:,} "
                "of them count as similar ones that it knows, and the others are ignored."
            ]
        warnings = []
        for star, neighbours in substitutes.items():
            treatment = "it is ignored, because the model knows nothing similar."
            if neighbours:
                treatment = f"it counts as the similar {', '.join(neighbour.full_name for neighbour in neighbours)}."
            warnings.append(f"The model does not know {self.full_name(star) or f'repository {star}'}: {treatment}")
        return warnings

    # -- recommendations ---------------------------------------------------------------------------------------------

    def recommend(self, request: RecommendationRequest) -> RecommendationList:
        """Return the list for one request."""
        return self.recommend_batch([request])[0]

    def recommend_batch(self, requests: Sequence[RecommendationRequest]) -> list[RecommendationList]:
        """Return the lists for several requests, scored together."""
        ranked = self.ranker.recommend_batch_with_unseen(requests, MAX_UNSEEN_BESIDE)
        return [self._list(request, *entries) for request, entries in zip(requests, ranked, strict=True)]

    def _list(
        self, request: RecommendationRequest, ranked: Sequence[Recommendation], unseen: Sequence[Recommendation]
    ) -> RecommendationList:
        warnings = [*self.served.warnings, *request.warnings]
        if ranked and ranked[0].kind == "popular":
            warnings.append("We don't know your taste yet, so here are popular repositories.")
        shown = [*request.shown, *(entry.repo_id for entry in ranked)]
        if len(ranked) < request.n or len(shown) >= MAX_PAGED_RECOMMENDATIONS:
            shown = []
        return RecommendationList(request, self.model, self._items(ranked), warnings, self._items(unseen), shown)

    def _items(self, ranked: Sequence[Recommendation]) -> list[RecommendationItem]:
        described = self.catalogue.describe_all([entry.repo_id for entry in ranked])
        return [RecommendationItem(*pair) for pair in zip(ranked, described, strict=True)]

    def similar(
        self, repository: int | Description, request: RecommendationRequest = DEFAULT_REQUEST
    ) -> list[tuple[Similar, Description | None]]:
        """Return repositories similar to one, with their descriptions; see `Ranker.similar`."""
        entries = self.ranker.similar(repository, request.n, request.filters, request.hidden)
        described = self.catalogue.describe_all([entry.repo_id for entry in entries])
        return list(zip(entries, described, strict=True))


# -- loading -----------------------------------------------------------------------------------------------------------


def data_generations(store: AssetStore) -> tuple[tuple[int, ...], dt.datetime | None]:
    """Return the generations of the objects of all assets of a snapshot, and when the matrix was written.

    The generation of an optional object that does not exist is 0.

    Raises
    ------
    StoredDataError
        If an object is missing.
    """
    objects = []
    for asset, suffix in SNAPSHOT_ASSETS:
        described = store.describe(asset, suffix)
        if described is None:
            raise StoredDataError(f"There is no {asset} yet: run gh-assets run, or materialize it.")
        objects.append(described)
    optional = [store.describe(asset, suffix) for asset, suffix in OPTIONAL_ASSETS]
    generations = [0 if described is None else described.generation for described in (*objects, *optional)]
    return tuple(generations), objects[-1].created


def load_snapshot(
    model: LoadedModel, store: AssetStore, names: Mapping[str, int], previous: ServingSnapshot | None = None
) -> ServingSnapshot:
    """Load the current data into a snapshot.

    Parameters
    ----------
    model : LoadedModel
    store : AssetStore
    names : mapping of str to int
        Ids by former names; see `former_names`.
    previous : ServingSnapshot, optional
        Snapshot whose repositories and users are reused if the data have not changed.

    Raises
    ------
    StoredDataError, ServiceUnavailableError
    """
    generations, data_time = data_generations(store)
    data = len(SNAPSHOT_ASSETS) + 1  # with the embeddings, which the catalogue contains
    if previous is not None and previous.version.generations[:data] == generations[:data]:
        catalogue, users = previous.catalogue, previous.users
    else:
        catalogue = Catalogue(store.read_table("repos"), read_embeddings(store))
        users = UserIndex(store.read_matrix("user_item_matrix"))
    return ServingSnapshot(
        model, catalogue, users, names, generations, data_time, read_standings(store), read_rising(store)
    )


def load_current_snapshot(settings: Settings) -> ServingSnapshot:
    """Load the model that serves and the current data; see `load_current_model` and `load_snapshot`.

    Former names are left out while Mongo is unavailable.
    """
    model, store = load_current_model(settings), asset_store(settings)
    names: Mapping[str, int] = {}
    try:
        with open_mongo(settings) as database:
            names = former_names(database)
    except (ServiceUnavailableError, PyMongoError) as error:
        log.info("former names are unavailable", extra={"fields": {"error": type(error).__name__}})
    return load_snapshot(model, store, names)


def former_names(database: MongoDatabase) -> dict[str, int]:
    """Return ids by all lower-case names under which repositories were ever requested."""
    documents = database[Collections.REPOS].find({"repo_id": {"$ne": None}}, {"names": 1, "repo_id": 1})
    return {name: document["repo_id"] for document in documents for name in document.get("names", ())}


def _by_lower_name(names: Sequence[str], repo_ids: NDArray[np.int64]) -> dict[str, int]:
    return {str(name).lower(): int(repo_id) for name, repo_id in zip(names, repo_ids, strict=True)}


def _abbreviate(names: Collection[str]) -> str:
    """Join names; a long list is cut off after `MAX_NAMES`."""
    listed = [name[:100] for name in names]
    if len(listed) <= MAX_NAMES:
        return ", ".join(listed)
    return f"{', '.join(listed[:MAX_NAMES])} and {len(listed) - MAX_NAMES:,} more"
