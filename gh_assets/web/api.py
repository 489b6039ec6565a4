"""The API, version 1. Its description is served as OpenAPI; docs/reference/http-api.md shows it in use."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from gh_assets.errors import InputError
from gh_assets.registry import RegisteredModel
from gh_assets.serving.live_lookups import Lookup
from gh_assets.serving.requests import RecommendationRequest
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot, described_json, model_title_json
from gh_assets.web.cursors import read_cursor, write_cursor
from gh_assets.web.feedback import JournalError
from gh_assets.web.queries import (
    MAX_REPOSITORIES,
    AppState,
    Name,
    PageParameters,
    RequestProblemError,
    answer,
    described_query,
    hidden_of,
    read_query,
    request_for_login,
    request_for_repositories,
    similar,
)

PREFIX = "/api/v1"

router = APIRouter(prefix=PREFIX)

PersonId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

WHOSE = "Whoever the verdicts of `/feedback` are kept under: an id of your own choice, hard to guess."


class ApiParameters(PageParameters):
    """`RecommendationParameters`, and whose verdicts count."""

    person: Annotated[PersonId | None, Field(description=WHOSE)] = None


class LoginParameters(ApiParameters):
    """`ApiParameters`, and how long one is ready to wait for GitHub."""

    wait: Annotated[
        float,
        Field(
            ge=0,
            le=60,
            allow_inf_nan=False,
            description="Seconds to wait while somebody who was not collected is looked up on GitHub; then 202.",
        ),
    ] = 15.0


class ListParameters(ApiParameters):
    """`ApiParameters`, and what somebody likes."""

    repo: Annotated[
        tuple[Name, ...],
        Field(max_length=100, description="What somebody likes, as owner/name; repeatable. None: what is popular."),
    ] = ()


# -- what is answered: for the description; answers are written without them ------------------------------------------


class ReasonOut(BaseModel):
    full_name: str = Field(examples=["vuejs/vue"])
    share: float = Field(description="Its share in all that speaks for the recommendation", examples=[0.62])


class RepositoryOut(BaseModel):
    repo_id: int = Field(description="GitHub's database id", examples=[11730342])
    full_name: str = Field(examples=["vuejs/core"])
    url: str | None = Field(description="Its page; null in a made-up world")
    description: str | None
    language: str | None
    topics: list[str]
    stars: int | None = Field(description="By GitHub's own count")
    archived: bool
    pushed_at: str | None = Field(description="ISO 8601, UTC")


class RecommendationOut(RepositoryOut):
    rank: int = Field(description="1 is the best; goes on over pages")
    score: float = Field(description="Higher is better, comparable within one list")
    kind: Literal["personal", "popular", "new"]
    cold_start: bool = Field(description="Whether it rests on something else than the person's own stars")
    because: list[ReasonOut] = Field(description="The person's own stars that explain it most, strongest first")


class ModelTitleOut(BaseModel):
    name: str = Field(examples=["hybrid"])
    version: int = Field(examples=[3])
    score: float | None = Field(examples=[0.259])
    metric: str = Field(examples=["ndcg@100"])


class RecommendationsOut(BaseModel):
    for_: str = Field(alias="for", description="Whom it is for")
    model: ModelTitleOut
    known_stars: int = Field(description="The person's stars that are known")
    used_stars: int = Field(description="Those among them that say something")
    cold_start: bool = Field(description="Whether nothing is known of the person")
    warnings: list[str]
    recommendations: list[RecommendationOut]
    new: list[RecommendationOut] = Field(description="What the model does not know yet, placed by what it is about")
    next: str | None = Field(description="`cursor` of the next page; null: this is the last one")


class ProgressOut(BaseModel):
    login: str
    found: Literal["reading"]
    pages: int = Field(description="Pages of 100 stars read so far")
    stars: int


class SimilarOut(RepositoryOut):
    likeness: float = Field(description="Cosine, at most 1")
    kind: Literal["stars", "content"] = Field(description="Starred by the same people, or about the same")
    shared: list[str] = Field(description="Topics, words and the language that both have")


class SimilarsOut(BaseModel):
    repository: RepositoryOut
    collected: bool = Field(description="Whether it was; else GitHub was asked what it is about")
    model: ModelTitleOut
    similar: list[SimilarOut]


class ModelOut(ModelTitleOut):
    interval: list[float] | None = Field(description="95 % interval of the score over held-out users")
    trained: str = Field(description="When it was registered (ISO 8601, UTC)")
    champion_since: str | None
    why: str | None = Field(description="Why it was made the champion")
    data_time: str | None = Field(description="When the stars were put together (ISO 8601, UTC)")
    users: int
    repositories: int
    stars: int
    loaded: str
    missing: list[str] = Field(description="Services that do not answer at the moment")


class SearchIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    q: str = Field(min_length=1, max_length=100, description="A part of the name.", examples=["vue"])
    n: int = Field(default=10, ge=1, le=50, description="How many.")


class FeedbackIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    person: PersonId = Field(description=WHOSE)
    repo: Name = Field(description="owner/name", examples=["vuejs/core"])
    verdict: Literal["not_interested", "known", "none"] = Field(description="`none` takes back what was said before")


class ListIn(ApiParameters):
    repositories: tuple[Name, ...] = Field(
        default=(),
        max_length=MAX_REPOSITORIES,
        description="What somebody likes, as owner/name. None: what is popular, of all kinds.",
        examples=[["vuejs/vue", "vitejs/vite"]],
    )


class ErrorBody(BaseModel):
    code: str = Field(examples=["unknown_user"])
    message: str


class ErrorOut(BaseModel):
    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorOut, "description": "Nobody, or no repository, is known by that name"},
    422: {"model": ErrorOut, "description": "A parameter is wrong; the message names it"},
    429: {"model": ErrorOut, "description": "Too many requests: `Retry-After` says when to come back"},
    503: {"model": ErrorOut, "description": "Nothing is loaded, or too much is asked for at once"},
}


# -- endpoints ---------------------------------------------------------------------------------------------------------


@router.get(
    "/users/{login}/recommendations",
    response_model=RecommendationsOut,
    responses={**ERRORS, 202: {"model": ProgressOut, "description": "GitHub is still being asked: come back"}},
    summary="Recommendations for a login",
    tags=["recommendations"],
    openapi_extra=described_query(LoginParameters),
)
async def for_login(
    request: Request,
    login: Annotated[str, Path(max_length=100, examples=["octocat"])],
) -> Response:
    """For somebody whose stars were collected, or are read from GitHub now (within the server's own small budget)."""
    parameters = read_query(LoginParameters, request.query_params.multi_items())
    state = app_state(request)
    snapshot = state.snapshot()
    wanted = await request_of(state, parameters, parameters.person)
    prepared = await request_for_login(state, snapshot, login, wanted, parameters.wait)
    if isinstance(prepared, Lookup):
        progress = {
            "login": prepared.login,
            "found": prepared.found.value,
            "pages": prepared.pages,
            "stars": prepared.stars_read,
        }
        return as_json(progress, 202, {"retry-after": "1"})
    return as_json(list_json(state, await answer(state, snapshot, prepared)))


@router.get(
    "/recommendations",
    response_model=RecommendationsOut,
    responses=ERRORS,
    summary="Recommendations for a few repositories",
    tags=["recommendations"],
    openapi_extra=described_query(ListParameters),
)
async def for_repositories(request: Request) -> Response:
    """For somebody who likes the given repositories; nobody's account is needed."""
    parameters = read_query(ListParameters, request.query_params.multi_items())
    return await _for_list(request, parameters.repo, parameters)


@router.post(
    "/recommendations",
    response_model=RecommendationsOut,
    responses={**ERRORS, 413: {"model": ErrorOut, "description": "The body is too large"}},
    summary="Recommendations for many repositories",
    tags=["recommendations"],
)
async def for_many_repositories(request: Request, wanted: ListIn) -> Response:
    """As the same by GET, for lists that do not fit into an address."""
    return await _for_list(request, wanted.repositories, wanted)


async def _for_list(request: Request, names: Sequence[str], parameters: ApiParameters) -> Response:
    state = app_state(request)
    snapshot = state.snapshot()
    wanted = await request_of(state, parameters, parameters.person)
    prepared = request_for_repositories(snapshot, names, wanted) if names else snapshot.for_new_user(wanted)
    return as_json(list_json(state, await answer(state, snapshot, prepared)))


@router.get(
    "/repositories/{owner}/{name}/similar",
    response_model=SimilarsOut,
    responses=ERRORS,
    summary="Repositories like one",
    tags=["repositories"],
    openapi_extra=described_query(ApiParameters),
)
async def similar_repositories(
    request: Request,
    owner: Annotated[str, Path(max_length=100, examples=["vuejs"])],
    name: Annotated[str, Path(max_length=100, examples=["vue"])],
) -> Response:
    """By who stars them; where the model does not know the repository, by what it is about."""
    parameters = read_query(ApiParameters, request.query_params.multi_items())
    state = app_state(request)
    snapshot = state.snapshot()
    found = await similar(state, snapshot, f"{owner}/{name}", await request_of(state, parameters, parameters.person))
    repository = {
        "repo_id": found.repo_id,
        "full_name": found.name,
        "url": state.url(found.name),
    } | described_json(found.described)
    entries = [
        {
            "repo_id": entry.repo_id,
            "full_name": entry.full_name,
            "url": state.url(entry.full_name),
            "likeness": entry.likeness,
            "kind": entry.kind,
            "shared": list(entry.shared),
        }
        | described_json(described)
        for entry, described in found.found
    ]
    return as_json(
        {
            "repository": repository,
            "collected": found.collected,
            "model": model_title_json(snapshot.model),
            "similar": entries,
        }
    )


@router.get(
    "/repositories",
    response_model=list[RepositoryOut],
    responses=ERRORS,
    summary="Repositories by a part of their name",
    tags=["repositories"],
    openapi_extra=described_query(SearchIn),
)
async def complete(request: Request) -> Response:
    """For completion: those whose name begins with it first, by stars."""
    wanted = read_query(SearchIn, request.query_params.multi_items())
    state = app_state(request)
    snapshot = state.snapshot()
    found = await state.batcher.run(lambda: snapshot.catalogue.search(wanted.q, wanted.n))
    return as_json([repository_json(state, snapshot, repo_id) for repo_id in found])


@router.get("/model", response_model=ModelOut, responses=ERRORS, summary="The model that serves", tags=["model"])
async def model(request: Request) -> Response:
    """Which one it is, how good it was on held-out users, and what it was trained on."""
    state = app_state(request)
    return as_json(model_json(state, state.snapshot()))


@router.post(
    "/feedback",
    status_code=204,
    response_class=Response,
    responses=ERRORS,
    summary="Say what somebody thinks of a recommendation",
    tags=["feedback"],
)
async def feedback(request: Request, said: FeedbackIn) -> Response:
    """From now on the repository is left out for this `person`; 204 means that it is written down."""
    state = app_state(request)
    snapshot = state.snapshot()
    repo_id = snapshot.repo_id(said.repo)
    if repo_id is None:
        raise RequestProblemError(404, "unknown_repository", f"{said.repo} was not collected.")
    await record(state, said.person, repo_id, snapshot.full_name(repo_id) or said.repo, said.verdict)
    return Response(status_code=204)


# -- shared with the page ----------------------------------------------------------------------------------------------


def app_state(request: Request) -> AppState:
    """The server's own."""
    state: AppState = request.app.state.state
    return state


async def request_of(state: AppState, parameters: PageParameters, person: str | None) -> RecommendationRequest:
    """What is asked for, without what the person hid.

    Raises
    ------
    ProblemError
        If the cursor is none.
    """
    try:
        return parameters.request(hidden=await hidden_of(state, person), shown=read_cursor(parameters.cursor))
    except InputError as error:
        raise RequestProblemError(422, "no_cursor", str(error)) from None


async def record(
    state: AppState, person: str, repo_id: int, full_name: str, verdict: Literal["not_interested", "known", "none"]
) -> None:
    """Write a verdict down.

    Raises
    ------
    ProblemError
        If that fails.
    """
    try:
        await asyncio.to_thread(state.feedback.say, person, repo_id, full_name, verdict)
    except JournalError as error:
        raise RequestProblemError(503, "not_written", str(error)) from None
    state.metrics.feedback.labels(verdict).inc()


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def list_json(state: AppState, found: RecommendationList) -> dict[str, Any]:
    """An answer for programs."""
    document = found.to_json(state.url)
    document["warnings"] = [*state.notices(), *document["warnings"]]
    document["next"] = write_cursor(found.shown) if found.shown else None
    return document


def repository_json(state: AppState, snapshot: ServingSnapshot, repo_id: int) -> dict[str, Any]:
    name = snapshot.full_name(repo_id) or ""
    return {"repo_id": repo_id, "full_name": name, "url": state.url(name)} | described_json(
        snapshot.catalogue.describe(repo_id)
    )


def interval_of(model: RegisteredModel) -> tuple[float, float] | None:
    """The 95 % interval of a model's score."""
    return model.intervals.get(model.metric)


def model_json(state: AppState, snapshot: ServingSnapshot) -> dict[str, Any]:
    """What is known of the model that serves."""
    registered = snapshot.model
    move = next(iter(state.refresher.models.moves), None)
    is_champion = move is not None and (move.name, move.version) == (registered.name, registered.version)
    interval = interval_of(registered)
    return model_title_json(registered) | {
        "interval": None if interval is None else list(interval),
        "trained": registered.time.isoformat(),
        "champion_since": move.time.isoformat() if move is not None and is_champion else None,
        "why": move.why if move is not None and is_champion else None,
        "data_time": None if snapshot.data_time is None else snapshot.data_time.isoformat(),
        "users": len(snapshot.people),
        "repositories": len(snapshot.served.trained.repo_ids),
        "stars": snapshot.people.stars,
        "loaded": snapshot.loaded_at.isoformat(),
        "missing": state.refresher.missing(),
    }
