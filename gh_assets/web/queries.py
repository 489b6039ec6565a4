"""From a request to an answer, for the page and the API alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from gh_assets.collector.lists.awesome import is_full_name
from gh_assets.embedded.servers import read_world
from gh_assets.errors import GhAssetsError, InputError, UnknownRepositoryError
from gh_assets.serving.catalogue import Description
from gh_assets.serving.live_lookups import LiveLookups, Lookup, LookupOutcome, is_login
from gh_assets.serving.ranking import Similar
from gh_assets.serving.refresher import SnapshotRefresher
from gh_assets.serving.requests import (
    DEFAULT_COUNT,
    MAX_COUNT_PER_PAGE,
    RecommendationParameters,
    RecommendationRequest,
)
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot, User
from gh_assets.settings import GITHUB_COM_API, Settings
from gh_assets.web.batching import Batcher, BusyError
from gh_assets.web.cursors import LONGEST
from gh_assets.web.feedback import Feedback
from gh_assets.web.metrics import Metrics
from gh_assets.web.visitors import Visitors

MAX_REPOSITORIES = 1000
"""Repositories in one question."""

POLL_SECONDS = 0.03

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class RequestProblemError(GhAssetsError):
    """What a client gets told in place of an answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class PageParameters(RecommendationParameters):
    """Parameters of one page of recommendations."""

    n: Annotated[int, Field(ge=1, le=MAX_COUNT_PER_PAGE, description="Number of recommendations.")] = DEFAULT_COUNT
    cursor: Annotated[
        str, Field(max_length=LONGEST, description="`next` of the previous page: continues with what was not shown.")
    ] = ""


Model = TypeVar("Model", bound=BaseModel)


def read_query(model: type[Model], pairs: Iterable[tuple[str, str]], *, lenient: bool = False) -> Model:
    """What an address says, as a model; fields of several values may be repeated.

    Parameters
    ----------
    model : type
        Of pydantic.
    pairs : iterable of (str, str)
        Names and values.
    lenient : bool
        What is empty, or has an unknown name, is nothing: forms send all their fields.

    Raises
    ------
    ProblemError
        If a value is none that can be; the message names it.
    """
    fields: dict[str, Any] = {}
    for name, value in pairs:
        known = model.model_fields.get(name)
        if lenient and (known is None or not value.strip()):
            continue
        if known is not None and isinstance(known.default, tuple):
            fields.setdefault(name, []).append(value)
        else:
            fields[name] = value
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"])
        raise RequestProblemError(422, "wrong_parameter", f"{place}: {first['msg']}.") from None


def described_query(model: type[BaseModel]) -> dict[str, Any]:
    """The same for OpenAPI."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    parameters = []
    for name, described in schema["properties"].items():
        words = described.pop("description", "")
        described.pop("title", None)
        parameters.append(
            {"name": name, "in": "query", "required": name in required, "description": words, "schema": described}
        )
    return {"parameters": parameters}


@dataclass
class AppState:
    """Everything that a server has."""

    settings: Settings
    metrics: Metrics
    refresher: SnapshotRefresher
    batcher: Batcher
    live: LiveLookups | None
    feedback: Feedback
    visitors: Visitors
    home_page: str | None

    def snapshot(self) -> ServingSnapshot:
        """What serves now: to be asked once a request, so that an answer is of one moment.

        Raises
        ------
        ProblemError
            If nothing is loaded.
        """
        snapshot = self.refresher.snapshot
        if snapshot is None:
            missing = self.refresher.missing()
            reason = f"{' and '.join(missing)} cannot be reached." if missing else "There is no model yet."
            raise RequestProblemError(503, "not_ready", f"Nothing is loaded: {reason} Try again in a minute.")
        return snapshot

    def url(self, full_name: str) -> str | None:
        """The repository's own page; None where it is made up."""
        return None if self.home_page is None else f"{self.home_page}/{quote(full_name)}"

    def notices(self) -> list[str]:
        """What is to be said of the services, without telling where they are."""
        missing = self.refresher.missing()
        if not missing:
            return []
        return [f"{' and '.join(missing)} cannot be reached at the moment: this is the last that was loaded."]


def home_page_of(settings: Settings) -> str | None:
    """Where people look at repositories; None in a made-up world."""
    if settings.uses_standin:
        world = read_world(settings.home_path)
        return "https://github.com" if world.stars is not None or world.archive else None
    if settings.github_api_url.rstrip("/") == GITHUB_COM_API:
        return "https://github.com"
    # An Enterprise server's pages are beside its API; what else there is has none.
    base, api, _ = settings.github_api_url.rstrip("/").partition("/api/v3")
    return base if api else None


async def hidden_of(state: AppState, person: str | None) -> frozenset[int]:
    """What somebody does not want to see, or knows."""
    if person is None:
        return frozenset()
    return frozenset(await asyncio.to_thread(state.feedback.of, person))


async def answer(state: AppState, snapshot: ServingSnapshot, prepared: RecommendationRequest) -> RecommendationList:
    """Have a case answered, together with others that wait.

    Raises
    ------
    ProblemError
        If there are too many.
    """
    try:
        found = await state.batcher.answer(snapshot, prepared)
    except BusyError as error:
        raise RequestProblemError(503, "busy", str(error)) from None
    kind = found.items[0].recommendation.kind if found.items else "none"
    state.metrics.answers.labels(kind).inc()
    return found


async def request_for_login(
    state: AppState, snapshot: ServingSnapshot, login: str, wanted: RecommendationRequest, wait: float
) -> RecommendationRequest | Lookup:
    """Somebody's case; or how far the looking up is, if that takes longer than `wait` seconds.

    Raises
    ------
    ProblemError
        If there is nobody by that login, or nobody who could star something.
    """
    if not is_login(login):
        raise RequestProblemError(422, "no_login", f"{login[:100]!r} is no GitHub login: letters, digits and '-'.")
    person = snapshot.people.by_login(login)
    if person is not None:
        return snapshot.for_user(person, wanted)
    if state.live is None:
        raise RequestProblemError(
            404, "unknown_user", f"{login} is not among the {len(snapshot.people):,} people whose stars were collected."
        )
    lookup = state.live.look_up(login)
    if not lookup.done.is_set():
        deadline = time.monotonic() + wait
        while not lookup.done.is_set() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        if not lookup.done.is_set():
            return lookup
        state.metrics.lookups.labels(lookup.found.value).inc()
    return _request_of_lookup(snapshot, lookup, wanted)


def _request_of_lookup(
    snapshot: ServingSnapshot, lookup: Lookup, wanted: RecommendationRequest
) -> RecommendationRequest:
    login = lookup.login
    if lookup.found is LookupOutcome.NOT_FOUND:
        raise RequestProblemError(
            404, "unknown_user", f"GitHub knows nobody by the login {login}: renamed, or mistyped?"
        )
    if lookup.found is LookupOutcome.ORGANIZATION:
        raise RequestProblemError(
            404, "organization", f"{login} is an organization: it stars nothing. Give a person, or some repositories."
        )
    if lookup.found is LookupOutcome.BLOCKED:
        raise RequestProblemError(404, "blocked", f"GitHub does not show the stars of {login}.")
    if lookup.found is LookupOutcome.BUDGET_SPENT:
        raise RequestProblemError(
            503,
            "budget_spent",
            f"{login} was not collected, and what may be asked of GitHub for visitors is used up for now. Try again in "
            "a few minutes, or give some repositories.",
        )
    if lookup.found is not LookupOutcome.OK and lookup.found is not LookupOutcome.STARLESS:
        raise RequestProblemError(
            503, "github_away", f"{login} was not collected, and GitHub cannot be asked at the moment. Try again later."
        )
    if lookup.found is LookupOutcome.STARLESS:
        prepared = snapshot.for_new_user(wanted)
        starless = f"{login} has no public stars, so nothing is known of what {login} likes."
        return replace(prepared, title=f"{login} (no public stars)", warnings=[starless])
    prepared = snapshot.for_user(User(login, lookup.stars), wanted)
    said: list[str] = []
    known = None if lookup.user_id is None else snapshot.people.by_id(lookup.user_id)
    if known is not None and known.login.lower() != login.lower():
        said.append(f"{login} was collected as {known.login}.")
    if not lookup.complete:
        said.append(f"Only the newest {len(lookup.stars):,} stars of {login} were read.")
    return replace(prepared, warnings=[*said, *prepared.warnings])


def request_for_repositories(
    snapshot: ServingSnapshot, names: Sequence[str], wanted: RecommendationRequest
) -> RecommendationRequest:
    """The case of somebody who likes these.

    Raises
    ------
    ProblemError
        If there are too many, none is known, or one is none.
    """
    if len(names) > MAX_REPOSITORIES:
        raise RequestProblemError(
            422, "too_many_repositories", f"{len(names):,} repositories are more than {MAX_REPOSITORIES:,}."
        )
    try:
        return snapshot.for_repositories(names, wanted)
    except UnknownRepositoryError as error:
        raise RequestProblemError(404, "unknown_repository", str(error)) from None
    except InputError as error:
        raise RequestProblemError(422, "no_repository", str(error)) from None


@dataclass(frozen=True)
class SimilarRepositories:
    """Repositories like one.

    Attributes
    ----------
    name : str
        The one.
    repo_id : int or None
    described : Description or None
    collected : bool
        Whether it was; else GitHub was asked.
    found : sequence of (Similar, Description or None)
    """

    name: str
    repo_id: int | None
    described: Description | None
    collected: bool
    found: Sequence[tuple[Similar, Description | None]]


async def similar(
    state: AppState, snapshot: ServingSnapshot, full_name: str, wanted: RecommendationRequest
) -> SimilarRepositories:
    """Repositories like one, whether it was collected or not.

    Raises
    ------
    ProblemError
        If nobody knows it.
    """
    if not is_full_name(full_name):
        raise RequestProblemError(422, "no_repository", f"{full_name[:100]!r} is no repository: give owner/name.")
    repo_id = snapshot.repo_id(full_name)
    if repo_id is not None:
        name = snapshot.full_name(repo_id) or full_name
        found = await state.batcher.run(lambda: snapshot.similar(repo_id, wanted))
        return SimilarRepositories(name, repo_id, snapshot.catalogue.describe(repo_id), True, found)
    if state.live is None:
        raise RequestProblemError(404, "unknown_repository", f"{full_name} was not collected.")
    known = await asyncio.to_thread(state.live.describe, full_name)
    if isinstance(known, LookupOutcome):
        if known is LookupOutcome.BUDGET_SPENT:
            words = "what may be asked of GitHub for visitors is used up for now. Try again in a few minutes."
            raise RequestProblemError(503, "budget_spent", f"{full_name} was not collected, and {words}")
        if known is LookupOutcome.UNAVAILABLE:
            words = "GitHub cannot be asked at the moment. Try again later."
            raise RequestProblemError(503, "github_away", f"{full_name} was not collected, and {words}")
        raise RequestProblemError(404, "unknown_repository", f"GitHub shows no repository {full_name}.")
    there, described = known
    if snapshot.full_name(there) is not None:  # renamed since it was collected
        found = await state.batcher.run(lambda: snapshot.similar(there, wanted))
        return SimilarRepositories(described.full_name, there, described, True, found)
    found = await state.batcher.run(lambda: snapshot.similar(described, wanted))
    return SimilarRepositories(described.full_name, there, described, False, found)
