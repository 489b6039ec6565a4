"""The API, version 1, which serves its description as OpenAPI; docs/reference/http-api.md shows it in use."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from gh_assets.serving.live_lookups import Lookup
from gh_assets.serving.snapshot import RecommendationList, ServingSnapshot, described_json, model_title_json
from gh_assets.web.feedback import Verdict
from gh_assets.web.parameters import (
    MAX_MATCHES,
    MAX_REPOSITORIES,
    MAX_URL_REPOSITORIES,
    PageParameters,
    RepositoryName,
    openapi_query,
    read_query,
    write_cursor,
)
from gh_assets.web.queries import Query, store_feedback
from gh_assets.web.state import AppState, app_state

PREFIX = "/api/v1"


class ErrorBody(BaseModel):
    code: str = Field(examples=["unknown_user"])
    message: str


class ErrorOut(BaseModel):
    error: ErrorBody


ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorOut, "description": "The user or the repository is unknown"},
    422: {"model": ErrorOut, "description": "A parameter is not valid; the message names it"},
    429: {"model": ErrorOut, "description": "Too many requests: try again after the seconds in `Retry-After`"},
    503: {"model": ErrorOut, "description": "The server is not ready or too busy"},
}

router = APIRouter(prefix=PREFIX, responses=ERRORS)

VisitorId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]

PERSON = "Id under which feedback is stored, see `/feedback`. Choose one that is hard to guess."

MAX_WAIT = 60.0
DEFAULT_WAIT = 15.0


class ApiParameters(PageParameters):
    """Parameters of all lists."""

    person: VisitorId | None = Field(None, description=PERSON)


class LoginParameters(ApiParameters):
    """Parameters of the recommendations for a login."""

    wait: float = Field(DEFAULT_WAIT, ge=0, le=MAX_WAIT, allow_inf_nan=False)
    """Seconds to wait while the stars of an uncollected user are read from GitHub; after that, the status is 202."""


class ListParameters(ApiParameters):
    """Parameters of the recommendations for repositories in the URL."""

    repo: tuple[RepositoryName, ...] = Field((), max_length=MAX_URL_REPOSITORIES)
    """Repository that the user likes, as owner/name. Repeatable. Without any, popular repositories are recommended."""


# -- response bodies: they describe the API; responses are serialized without them -------------------------------------


class ReasonOut(BaseModel):
    full_name: str = Field(examples=["vuejs/vue"])
    share: float = Field(description="Share of the score that this star contributes (0 to 1)", examples=[0.62])


class RepositoryOut(BaseModel):
    repo_id: int = Field(description="GitHub's database id", examples=[11730342])
    full_name: str = Field(examples=["vuejs/core"])
    url: str | None = Field(description="Page on GitHub; null for synthetic repositories")
    description: str | None
    language: str | None
    topics: list[str]
    stars: int | None = Field(description="Star count on GitHub")
    archived: bool
    pushed_at: str | None = Field(description="ISO 8601, UTC")


class RisingOut(RepositoryOut):
    stars_last_30_days: int = Field(description="Stars of the last 30 whole days, by GitHub's own count")
    usual_30_days: float = Field(description="Median of the stars of the months before")
    ratio: float = Field(description="How many times as many as usual; both numbers are damped by 5 stars")


class RecommendationOut(RepositoryOut):
    rank: int = Field(description="1 is the best; continues over pages")
    score: float = Field(description="Higher is better; comparable within one list only")
    kind: Literal["personal", "popular", "new"]
    cold_start: bool = Field(description="Whether the recommendation is not based on the user's stars")
    because: list[ReasonOut] = Field(description="The user's stars that contribute most to the score, largest first")


class ModelTitleOut(BaseModel):
    name: str = Field(examples=["hybrid"])
    version: int = Field(examples=[3])
    score: float | None = Field(examples=[0.259])
    metric: str = Field(examples=["ndcg@100"])


class RecommendationsOut(BaseModel):
    for_: str = Field(alias="for", description="The user or the repositories that the list is for")
    model: ModelTitleOut
    known_stars: int = Field(description="Number of the user's known stars")
    used_stars: int = Field(description="Number of those that contribute to the scores")
    cold_start: bool = Field(description="Whether no star of the user is known")
    warnings: list[str]
    recommendations: list[RecommendationOut]
    new: list[RecommendationOut] = Field(description="Repositories unknown to the model, ranked by content")
    next: str | None = Field(description="`cursor` of the next page; null on the last one")


class ProgressOut(BaseModel):
    login: str
    found: Literal["reading"]
    pages: int = Field(description="Number of pages of 100 stars that have been read")
    stars: int


class SimilarOut(RepositoryOut):
    likeness: float = Field(description="Cosine similarity, at most 1")
    kind: Literal["stars", "content"] = Field(description="Starred by the same users, or similar in content")
    shared: list[str] = Field(description="Topics, words and language that both have")


class SimilarsOut(BaseModel):
    repository: RepositoryOut
    collected: bool = Field(description="Whether it was collected; otherwise it was looked up on GitHub")
    model: ModelTitleOut
    similar: list[SimilarOut]


class ModelOut(ModelTitleOut):
    interval: list[float] | None = Field(description="95 % confidence interval of the score over held-out users")
    trained: str = Field(description="Time of registration (ISO 8601, UTC)")
    champion_since: str | None
    why: str | None = Field(description="Reason for its promotion to champion")
    data_time: str | None = Field(description="Time of the user-item matrix (ISO 8601, UTC)")
    users: int
    repositories: int
    stars: int
    loaded: str
    missing: list[str] = Field(description="Services that cannot be reached at the moment")


class SearchIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    q: str = Field(min_length=1, max_length=100, description="Part of the name.", examples=["vue"])
    n: int = Field(default=10, ge=1, le=MAX_MATCHES, description="Maximum number of repositories.")


class RisingIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n: int = Field(default=10, ge=1, le=MAX_MATCHES, description="Maximum number of repositories.")


class FeedbackIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    person: VisitorId = Field(description=PERSON)
    repo: RepositoryName = Field(description="owner/name", examples=["vuejs/core"])
    verdict: Verdict = Field(description="`none` withdraws an earlier verdict")


class ListIn(ApiParameters):
    repositories: tuple[RepositoryName, ...] = Field(
        (), max_length=MAX_REPOSITORIES, examples=[["vuejs/vue", "vitejs/vite"]]
    )
    """Repositories that the user likes, as owner/name. Without any, popular ones are recommended."""


# -- endpoints ---------------------------------------------------------------------------------------------------------


@router.get(
    "/users/{login}/recommendations",
    response_model=RecommendationsOut,
    responses={202: {"model": ProgressOut, "description": "Stars are being read from GitHub: try again"}},
    summary="Recommendations for a login",
    tags=["recommendations"],
    openapi_extra=openapi_query(LoginParameters),
)
async def for_login(
    request: Request,
    login: Annotated[str, Path(max_length=100, description="GitHub login (case-insensitive).", examples=["octocat"])],
) -> Response:
    """Uses the stars that were collected, or reads them from GitHub now, within the server's request budget."""
    parameters = read_query(LoginParameters, request.query_params.multi_items())
    query = await Query.start(app_state(request), parameters, parameters.person)
    result = await query.for_login(login, parameters.wait)
    if isinstance(result, Lookup):
        body = {"login": result.login, "found": result.outcome.value, "pages": result.pages, "stars": result.stars_read}
        return as_json(body, 202, {"retry-after": "1"})
    return as_json(list_json(query.state, result))


@router.get(
    "/recommendations",
    response_model=RecommendationsOut,
    summary="Recommendations for a few repositories",
    tags=["recommendations"],
    openapi_extra=openapi_query(ListParameters),
)
async def for_repositories(request: Request) -> Response:
    """For a user who likes the given repositories. No GitHub account is needed."""
    parameters = read_query(ListParameters, request.query_params.multi_items())
    return await _for_list(request, parameters.repo, parameters)


@router.post(
    "/recommendations",
    response_model=RecommendationsOut,
    responses={413: {"model": ErrorOut, "description": "The body is too large"}},
    summary="Recommendations for many repositories",
    tags=["recommendations"],
)
async def for_many_repositories(request: Request, body: ListIn) -> Response:
    """The same as the GET request, for lists that are too long for a URL."""
    return await _for_list(request, body.repositories, body)


async def _for_list(request: Request, names: Sequence[str], parameters: ApiParameters) -> Response:
    query = await Query.start(app_state(request), parameters, parameters.person)
    result = await (query.for_repositories(names) if names else query.popular())
    return as_json(list_json(query.state, result))


@router.get(
    "/repositories/{owner}/{name}/similar",
    response_model=SimilarsOut,
    summary="Similar repositories",
    tags=["repositories"],
    openapi_extra=openapi_query(ApiParameters),
)
async def similar_repositories(
    request: Request,
    owner: Annotated[str, Path(max_length=100, description="Owner of the repository.", examples=["vuejs"])],
    name: Annotated[str, Path(max_length=100, description="Name of the repository.", examples=["vue"])],
) -> Response:
    """They are starred by the same users or, if the model does not know the repository, similar in content."""
    parameters = read_query(ApiParameters, request.query_params.multi_items())
    query = await Query.start(app_state(request), parameters, parameters.person)
    similar = await query.similar_to(f"{owner}/{name}")
    url = query.state.url
    own = {"repo_id": similar.repo_id, "full_name": similar.full_name, "url": url(similar.full_name)}
    entries = [vars(one) | {"url": url(one.full_name)} | described_json(details) for one, details in similar.entries]
    repository, model = own | described_json(similar.description), model_title_json(query.snapshot.model)
    return as_json({"repository": repository, "collected": similar.collected, "model": model, "similar": entries})


@router.get(
    "/repositories",
    response_model=list[RepositoryOut],
    summary="Repositories by part of their name",
    tags=["repositories"],
    openapi_extra=openapi_query(SearchIn),
)
async def complete(request: Request) -> Response:
    """Names that begin with the text come first, ordered by number of stars."""
    search = read_query(SearchIn, request.query_params.multi_items())
    state = app_state(request)
    snapshot = state.snapshot()
    matches = await state.batcher.run(lambda: snapshot.catalogue.search(search.q, search.n))
    return as_json(
        [
            {"repo_id": repo_id, "full_name": one.full_name, "url": state.url(one.full_name)} | described_json(one)
            for repo_id, one in matches
        ]
    )


@router.get(
    "/rising",
    response_model=list[RisingOut],
    summary="Repositories that get more stars than usual",
    tags=["repositories"],
    openapi_extra=openapi_query(RisingIn),
)
async def rising(request: Request) -> Response:
    """Those with at least 10 stars in the last 30 days, and 1.5 times as many as in a usual month, largest ratio first.

    Empty without star histories (the asset `star_history`), which GitHub Enterprise does not have.
    """
    parameters = read_query(RisingIn, request.query_params.multi_items())
    state = app_state(request)
    return as_json(
        [
            {"repo_id": one.repo_id, "full_name": about.full_name, "url": state.url(about.full_name)}
            | described_json(about)
            | {"stars_last_30_days": one.trend.recent, "usual_30_days": one.trend.usual, "ratio": one.trend.ratio}
            for one, about in state.snapshot().rising(parameters.n)
        ]
    )


@router.get("/model", response_model=ModelOut, summary="The model that is served", tags=["model"])
async def model(request: Request) -> Response:
    """Includes its score on held-out users and the amount of data that it was trained on."""
    state = app_state(request)
    return as_json(model_json(state, state.snapshot()))


@router.post(
    "/feedback",
    status_code=204,
    response_class=Response,
    summary="Store feedback on a recommendation",
    tags=["feedback"],
)
async def feedback(request: Request, body: FeedbackIn) -> Response:
    """The repository is no longer recommended to this `person`. Status 204: the feedback is stored durably."""
    await store_feedback(app_state(request), body.person, body.repo, body.verdict)
    return Response(status_code=204)


# -- JSON documents ----------------------------------------------------------------------------------------------------


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def list_json(state: AppState, result: RecommendationList) -> dict[str, Any]:
    document = result.to_json(state.url)
    document["warnings"] = [*state.notices(), *document["warnings"]]
    document["next"] = write_cursor(result.shown) if result.shown else None
    return document


def model_json(state: AppState, snapshot: ServingSnapshot) -> dict[str, Any]:
    registered = snapshot.model
    move = next((move for move in state.refresher.watcher.view.moves[:1] if move.key == registered.key), None)
    interval = registered.intervals.get(registered.metric)
    return model_title_json(registered) | {
        "interval": None if interval is None else list(interval),
        "trained": registered.time.isoformat(),
        "champion_since": None if move is None else move.time.isoformat(),
        "why": None if move is None else move.why,
        "data_time": None if snapshot.data_time is None else snapshot.data_time.isoformat(),
        "users": len(snapshot.users),
        "repositories": len(snapshot.served.trained.repo_ids),
        "stars": snapshot.users.stars,
        "loaded": snapshot.loaded_at.isoformat(),
        "missing": state.refresher.monitor.unavailable(),
    }
