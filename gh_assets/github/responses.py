"""Meaning of GitHub's responses: a result, a request to be sent again, or an error. Sends nothing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import orjson
import requests

from gh_assets.errors import (
    GhAssetsError,
    GitHubError,
    GraphQLUnavailableError,
    QueryTooHeavyError,
    ResourceLimitsError,
)
from gh_assets.github.limits import RESOURCE_LIMITS
from gh_assets.github.rate_limits import names_a_limit, retry_after
from gh_assets.github.retries import Retry, RetryCause

JSON = "application/vnd.github+json"
STAR_JSON = "application/vnd.github.star+json"
RAW = "application/vnd.github.raw+json"
HTML = "application/vnd.github.html+json"

TOO_HEAVY = frozenset({408, 413, 502, 504})
"""Status of a query that took GitHub too long, or is too large for a proxy."""

TRANSIENT = frozenset({500, 502, 503, 504})

ENDLESS_LIMITS = "rate limits without end"

_MEANINGFUL = frozenset({200, 301, 302, 304, 307, 404, 406, 409, 410, 415, 422, 451})

Result = TypeVar("Result")


@dataclass(frozen=True)
class GitHubResponse:
    """A response with a documented status: 200, 301, 302, 304, 307, 403, 404, 406, 409, 410, 415, 422 or 451.

    Attributes
    ----------
    headers : mapping
        By name in any case.
    payload : object
        The parsed content; None where it is not JSON.
    moved : bool
        Whether a redirect was followed to it.
    sent : float
        When it was requested, in seconds since 1970; 0 if that was not recorded.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    payload: Any
    sent: float = 0.0
    moved: bool = False

    @property
    def etag(self) -> str | None:
        return self.headers.get("etag")

    @property
    def has_next_page(self) -> bool:
        """Whether the ``Link`` header names a next page."""
        return re.search(r'rel="?next"?', self.headers.get("link", "")) is not None

    @property
    def last_page(self) -> int | None:
        """Number of the list's last page by the ``Link`` header; None on the last page itself."""
        match = re.search(r'[?&]page=(\d+)[^>]*>;\s*rel="?last"?', self.headers.get("link", ""))
        return int(match[1]) if match is not None else None

    @property
    def document(self) -> dict[str, Any]:
        """The payload if it is an object, else an empty one."""
        return self.payload if isinstance(self.payload, dict) else {}

    @property
    def message(self) -> str:
        """GitHub's description of an error."""
        return str(self.document.get("message", ""))


@dataclass(frozen=True)
class GraphQLResponse:
    """The result of a query, which may have both partial data and errors.

    Attributes
    ----------
    data : mapping
    errors : sequence of mapping
        GitHub's, each with ``type``, ``path`` and ``message`` where it gave them.
    """

    data: Mapping[str, Any]
    errors: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Reply(Generic[Result]):
    """What a response means, and what it says about the quota.

    Attributes
    ----------
    outcome : Result or Retry or GhAssetsError
        An error is to be raised.
    cost : int
        Points that the request cost.
    rate_limit : mapping or None
        The field ``rateLimit`` of a GraphQL response.
    """

    outcome: Result | Retry | GhAssetsError
    cost: int
    rate_limit: Mapping[str, Any] | None = None


def retry_or_error(response: requests.Response, now: float, *, graphql: bool) -> Retry | GitHubError | None:
    """Return why a response's content is not of interest; None if it is to be read.

    Parameters
    ----------
    response : requests.Response
        Of any status but 401, which concerns the token.
    now : float
        Seconds since 1970.
    graphql : bool
        Whether it answers a query. Then more kinds of status are left to the caller: a smaller query may succeed, or
        the server has no GraphQL.
    """
    status = response.status_code
    if status in _MEANINGFUL:
        return None
    if status in (403, 429):
        return _limit_of(response, now, graphql=graphql)
    if graphql and (status in TOO_HEAVY or 400 <= status < 500 or status == 501):
        return None
    if status in TRANSIENT:
        return Retry(f"status {status}")
    return GitHubError(f"GitHub answered {urlsplit(response.url).path} with the unexpected status {status}.")


def _limit_of(response: requests.Response, now: float, *, graphql: bool) -> Retry | None:
    """Return which rate limit a 403 or 429 response is about; None if it is about permissions."""
    headers = response.headers
    if graphql and headers.get("x-ratelimit-limit") == "0":
        return None  # the token has no GraphQL
    if retry_after(headers, now) is not None:
        return Retry(ENDLESS_LIMITS, RetryCause.SECONDARY_LIMIT)
    if headers.get("x-ratelimit-remaining") == "0":
        return Retry(ENDLESS_LIMITS, RetryCause.QUOTA_SPENT)
    if response.status_code == 429 or names_a_limit(response.content):
        return Retry(ENDLESS_LIMITS, RetryCause.SECONDARY_LIMIT)
    return None


def read_rest(response: requests.Response, accept: str) -> GitHubResponse | Retry:
    """Parse a REST response; `RAW` and `HTML` are left as they are."""
    payload = None
    if response.content and accept not in (RAW, HTML) and response.status_code != 304:
        try:
            payload = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            if response.status_code == 200:
                return Retry("a response that is not JSON")
    return GitHubResponse(response.status_code, response.headers, response.content, payload)


def read_graphql(content: bytes, points: int, server: str) -> Reply[GraphQLResponse]:
    """Parse a GraphQL response of status 200.

    Parameters
    ----------
    content : bytes
    points : int
        Cost of the query where the response does not state it.
    server : str
        Address of the API, for messages.
    """
    try:
        payload = orjson.loads(content)
    except orjson.JSONDecodeError:
        return Reply(Retry("a response that is not JSON"), points)
    if not isinstance(payload, dict) or not ("data" in payload or "errors" in payload):
        return Reply(Retry("a response without data"), points)
    data = payload["data"] if isinstance(payload.get("data"), dict) else {}
    listed = payload.get("errors") or []
    errors = [
        error if isinstance(error, dict) else {"message": str(error)}
        for error in (listed if isinstance(listed, list) else [listed])
    ]
    rate_limit = data.get("rateLimit") if isinstance(data.get("rateLimit"), dict) else None
    cost = rate_limit["cost"] if rate_limit is not None and isinstance(rate_limit.get("cost"), int) else points
    values = {name: value for name, value in data.items() if name != "rateLimit"}
    outcome = _limit_among(errors)
    if outcome is None and errors and not any(value is not None for value in values.values()):
        outcome = _query_error(errors, server)
    return Reply(outcome or GraphQLResponse(values, errors), cost, rate_limit)


def _limit_among(errors: Sequence[Mapping[str, Any]]) -> Retry | GhAssetsError | None:
    """Return the rate limit that the first such error is about."""
    for error in errors:
        if error.get("type") in ("RATE_LIMITED", "RATE_LIMIT"):
            return Retry(ENDLESS_LIMITS, RetryCause.QUOTA_SPENT)
        if names_a_limit(str(error.get("message", "")).encode()):
            return Retry(ENDLESS_LIMITS, RetryCause.SECONDARY_LIMIT)
    return None


def _query_error(errors: Sequence[Mapping[str, Any]], server: str) -> GhAssetsError | None:
    """Return what errors without any data mean for the query as a whole; None if they are about its parts."""
    extensions = [error["extensions"] for error in errors if isinstance(error.get("extensions"), dict)]
    if any(extension.get("code") == "undefinedField" for extension in extensions):
        return GraphQLUnavailableError(
            f"GitHub at {server} is an older server whose GraphQL lacks a field. Use a source that reads by REST."
        )
    if any(error.get("type") == RESOURCE_LIMITS for error in errors):
        return ResourceLimitsError("GitHub's resource limits were exceeded by a query.")
    if any(not error.get("path") for error in errors):
        return QueryTooHeavyError("GitHub failed on a query without saying why.")
    return None
