"""Asking GitHub's REST and GraphQL APIs: kept-alive sessions, quota, retries, conditional requests.

Source: docs.github.com/rest and docs.github.com/graphql.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
import requests
from pydantic import SecretStr

from gh_assets import __version__
from gh_assets.errors import (
    BudgetSpentError,
    ConfigurationError,
    GhAssetsError,
    GitHubError,
    GraphQLUnavailableError,
    OutageError,
    QueryTooHeavyError,
    ServiceUnavailableError,
)
from gh_assets.github.apps import AppInstallation, refused_installation
from gh_assets.github.list_reading import number_of
from gh_assets.github.rate_limits import (
    LONGEST_WINDOW,
    Account,
    Clock,
    Credential,
    Lease,
    Ledger,
    Observation,
    PersonalToken,
    Resource,
    RetryPolicy,
    Token,
    TokenPool,
    observation_of,
    skew_of,
)
from gh_assets.local.network import UNTRUSTED_HELP, is_untrusted

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0

OUTAGE_AFTER = 20
"""After so many requests without an answer, each tried several times, nobody is asked any more."""

MAX_LIMIT_RETRIES = 50
"""A request that met a limit so often in a row is given up: whatever it waited for did not come."""

JSON = "application/vnd.github+json"
STAR_JSON = "application/vnd.github.star+json"
RAW = "application/vnd.github.raw+json"
HTML = "application/vnd.github.html+json"

Result = TypeVar("Result")

_RETRIED = frozenset({500, 502, 503, 504})
_TOO_HEAVY = frozenset({408, 413, 502, 504})
"""Answers to a query that took GitHub too long, or is too large for what stands before it."""

_LIMIT_PHRASES = (b"secondary rate limit", b"abuse detection", b"rate limit exceeded", b"secondary-rate-limit",
                b"abuse-rate-limit")  # fmt: skip
"""What GitHub has called its limits over the years, in messages and in the pages that these name."""

_MEANINGFUL = frozenset({200, 301, 302, 304, 307, 404, 406, 409, 410, 415, 422, 451})


@dataclass(frozen=True)
class GitHubResponse:
    """An answer of GitHub that means something: 200, 301, 302, 304, 307, 403, 404, 406, 409, 410, 415, 422 or 451."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    payload: Any
    url: str
    sent: float = 0.0

    @property
    def etag(self) -> str | None:
        return self.headers.get("etag")

    @property
    def has_next_page(self) -> bool:
        """Whether the ``Link`` header names a next page."""
        return re.search(r'rel="?next"?', self.headers.get("link", "")) is not None

    @property
    def last_page(self) -> int | None:
        """The number of the list's last page, as the ``Link`` header tells it; the last page itself names none."""
        found = re.search(r'[?&]page=(\d+)[^>]*>;\s*rel="?last"?', self.headers.get("link", ""))
        return int(found[1]) if found is not None else None

    @property
    def message(self) -> str:
        """GitHub's own words for what is wrong."""
        if isinstance(self.payload, dict):
            return str(self.payload.get("message", ""))
        return ""


@dataclass(frozen=True)
class GraphQLResponse:
    """What a query brought: partial data and errors can come together.

    Attributes
    ----------
    data : dict
    errors : list of dict
        GitHub's, each with ``type``, ``path`` and ``message`` where it gave them.
    cost : int
        Points.
    """

    data: Mapping[str, Any]
    errors: Sequence[Mapping[str, Any]]
    cost: int


@dataclass
class AppCredentials:
    """A GitHub App and its installations.

    Parameters
    ----------
    app_id : str
    installations : sequence of str
    private_key : SecretStr
        PEM.
    """

    app_id: str
    installations: Sequence[str]
    private_key: SecretStr


@dataclass
class Usage:
    """What was asked so far."""

    requests: int = 0
    graphql_points: int = 0
    not_modified: int = 0
    retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, requests: int = 0, points: int = 0, not_modified: int = 0, retries: int = 0) -> None:
        with self._lock:
            self.requests += requests
            self.graphql_points += points
            self.not_modified += not_modified
            self.retries += retries


@dataclass
class _Reply:
    """What an answer's body tells about limits."""

    cost: int
    rate_limit: Mapping[str, Any] | None = None
    limited: bool = False
    secondary: bool = False
    spent: bool = False


_RETRY = "again"

_VIEWER = orjson.dumps({"query": "{ viewer { databaseId } rateLimit { cost limit remaining resetAt } }"})


class GitHubClient:
    """A client of GitHub's APIs that many threads may share.

    Parameters
    ----------
    api_url : str
        ``https://api.github.com``, a GitHub Enterprise's ``…/api/v3``, or the stand-in's address.
    tokens : sequence of SecretStr
        The operator's own distinct users or apps.
    apps : sequence of AppCredentials, optional
        At least one token or installation in all.
    policy : RetryPolicy, optional
    clock : Clock, optional
    ledger : Ledger, optional
        Shares the quota with other processes.
    max_requests : int, optional
        Raise `BudgetSpentError` instead of sending more requests than this (304s count, too).
    """

    def __init__(
        self,
        api_url: str,
        tokens: Sequence[SecretStr],
        *,
        apps: Sequence[AppCredentials] = (),
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
        ledger: Ledger | None = None,
        max_requests: int | None = None,
    ) -> None:
        self.api_url = api_url.rstrip("/")
        credentials: list[Credential] = [PersonalToken(token) for token in tokens]
        for app in apps:
            credentials += [AppInstallation(app.app_id, n, app.private_key, self._exchange) for n in app.installations]
        self.pool = TokenPool(credentials, policy, clock, ledger, self._identify, self._probe)
        self.policy = self.pool.policy
        self.usage = Usage()
        self.max_requests = max_requests
        self._lock = threading.Lock()
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._unanswered = 0
        self._has_graphql = False
        self._headers = {
            "user-agent": f"gh_assets/{__version__}",
            "x-github-api-version": "2022-11-28",
            "accept-encoding": "gzip, deflate",
            "connection": "keep-alive",
        }

    def __enter__(self) -> GitHubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sessions and let waiting workers go."""
        self.pool.close()
        with self._lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()

    def cancel(self) -> None:
        """Make every worker stop: those who wait at once, those in a request after it."""
        self.pool.cancel()

    def refresh_budgets(self) -> None:
        """Learn whose the tokens are and what is left of their quota, without spending any of it.

        Raises
        ------
        AuthenticationError
            If GitHub refuses every token.
        """
        for resource in Resource:
            self.pool.refresh_budgets(resource)

    @property
    def graphql_url(self) -> str:
        """``…/graphql``; on an Enterprise server ``…/api/graphql`` beside ``…/api/v3``."""
        return self.api_url.removesuffix("/v3") + "/graphql"

    def get(
        self,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        accept: str = JSON,
        etag: str | None = None,
    ) -> GitHubResponse:
        """Ask for one resource.

        Parameters
        ----------
        path : str
            Path below the API's address (``/repos/o/r``), or a full address below it (from ``Location``).
        parameters : mapping, optional
            Query parameters.
        accept : str
            Media type; answers to `RAW` and `HTML` are not parsed.
        etag : str, optional
            Makes the request conditional: 304 costs no quota.

        Returns
        -------
        Answer
            Redirects are not followed: the caller has to know of them.

        Raises
        ------
        AuthenticationError
            If GitHub refuses every token.
        RateLimitedError, BudgetSpentError
            If no quota is to be had within the policy's longest wait, or the caller's own cap is reached.
        CancelledError
            If the client was cancelled.
        ServiceUnavailableError
            If GitHub cannot be reached or keeps answering with errors.
        OutageError
            If it was so for the last `OUTAGE_AFTER` requests, too.
        GitHubError
            If an answer is none that GitHub documents.
        """
        url = self._url_of(path)
        headers = {"accept": accept}
        if etag is not None:
            headers["if-none-match"] = etag

        def send(authorized: dict[str, str]) -> requests.Response:
            return self._send("GET", url, authorized, parameters=parameters)

        def understand(response: requests.Response, _reply: _Reply) -> GitHubResponse | str:
            payload = None
            if response.content and accept not in (RAW, HTML) and response.status_code != 304:
                try:
                    payload = orjson.loads(response.content)
                except orjson.JSONDecodeError:
                    if response.status_code == 200:
                        return "an answer that is not JSON"
            return GitHubResponse(response.status_code, response.headers, response.content, payload, url)

        return self._request(Resource.REST, url, headers, send, understand, 1)

    def graphql(self, query: str, variables: Mapping[str, Any], *, points: int = 1) -> GraphQLResponse:
        """Ask a GraphQL query. It should ask for ``rateLimit { cost limit remaining resetAt }``.

        Parameters
        ----------
        query : str
        variables : mapping
        points : int
            What it is expected to cost, reserved until the answer tells.

        Raises
        ------
        QueryTooHeavyError
            If GitHub gave up on the query (502 or 504, or no data for want of resources): a smaller one may succeed.
        GraphQLUnavailableError
            If the server or the token has no GraphQL.
        AuthenticationError, RateLimitedError, BudgetSpentError, CancelledError, ServiceUnavailableError, GitHubError
            As `get`.
        """
        body = orjson.dumps({"query": query, "variables": variables})
        headers = {"accept": JSON, "content-type": "application/json"}
        refusals = 0

        def send(authorized: dict[str, str]) -> requests.Response:
            return self._send("POST", self.graphql_url, authorized, body=body)

        def understand(response: requests.Response, reply: _Reply) -> GraphQLResponse | str:
            nonlocal refusals
            status = response.status_code
            if status in _TOO_HEAVY:
                raise QueryTooHeavyError(f"GitHub gave up on a query (status {status}).")
            if status != 200:
                refusals += 1
                # A proxy may have a bad moment; a server that has answered queries does have GraphQL.
                if refusals < (self.policy.attempts if self._has_graphql else 2):
                    return f"status {status}"
                raise GraphQLUnavailableError(
                    f"GitHub at {self.api_url} answers no GraphQL to this token (status {status}). "
                    "Use a source that asks by REST."
                )
            try:
                payload = orjson.loads(response.content)
            except orjson.JSONDecodeError:
                return "an answer that is not JSON"
            if not isinstance(payload, dict) or not ("data" in payload or "errors" in payload):
                return "an answer without data"
            data = payload["data"] if isinstance(payload.get("data"), dict) else {}
            found = payload.get("errors") or []
            found = found if isinstance(found, list) else [found]
            errors = [error if isinstance(error, dict) else {"message": str(error)} for error in found]
            limits = data.get("rateLimit")
            if isinstance(limits, dict):
                reply.cost = limits["cost"] if isinstance(limits.get("cost"), int) else points
                reply.rate_limit = limits
            for error in errors:
                message = str(error.get("message", "")).encode()
                if error.get("type") in ("RATE_LIMITED", "RATE_LIMIT"):
                    reply.limited = True
                    return _RETRY
                if _names_a_limit(message):
                    reply.secondary = True
                    return _RETRY
            answered = {name: value for name, value in data.items() if name != "rateLimit"}
            if errors and not any(value is not None for value in answered.values()):
                self._check_refused_query(errors)
            self._has_graphql = True
            return GraphQLResponse(answered, errors, reply.cost)

        return self._request(Resource.GRAPHQL, self.graphql_url, headers, send, understand, points)

    def _check_refused_query(self, errors: Sequence[Mapping[str, Any]]) -> None:
        """Understand errors beside no data at all.

        Raises
        ------
        GraphQLUnavailableError
            If the server does not know what is asked for: an older one.
        QueryTooHeavyError
            If GitHub failed on the query as a whole: by its limits, or without saying why.
        """
        extensions = [error["extensions"] for error in errors if isinstance(error.get("extensions"), dict)]
        if any(extension.get("code") == "undefinedField" for extension in extensions):
            raise GraphQLUnavailableError(
                f"GitHub at {self.api_url} does not know a field that is asked for by GraphQL. Use a source that asks "
                "by REST."
            )
        if any(error.get("type") == "RESOURCE_LIMITS_EXCEEDED" for error in errors):
            raise QueryTooHeavyError("GitHub's resource limits were exceeded by a query.")
        if any(not error.get("path") for error in errors):
            raise QueryTooHeavyError("GitHub failed on a query without saying why.")

    # -- one request and its repetitions -------------------------------------------------------------------------

    def _request(
        self,
        resource: Resource,
        url: str,
        headers: Mapping[str, str],
        send: Callable[[dict[str, str]], requests.Response],
        understand: Callable[[requests.Response, _Reply], Result | str],
        points: int,
    ) -> Result:
        failures = limited = 0
        problem = ""
        keep: Account | None = None
        while failures < self.policy.attempts:
            if failures:
                self.pool.clock.wait(self.policy.wait_before(failures), self.pool.cancelled)
            with self.pool.lease(resource, points, keep) as (lease, settle):
                secret = lease.token.credential.secret(self.pool.clock.now()).get_secret_value()
                self._count_request()
                try:
                    response = send({**headers, "authorization": f"Bearer {secret}"})
                except requests.RequestException as error:
                    # Only the kind of fault is told: the full text of the library repeats addresses and more.
                    problem = type(error).__name__
                    failures += 1
                    self.usage.add(retries=1)
                    continue
                reply = _Reply(points)
                try:
                    verdict = self._classify(response, lease, reply)
                    result = understand(response, reply) if verdict is None else verdict
                finally:
                    self._settle(settle, response, reply)
            if reply.secondary:
                self.pool.pause(_retry_after(response, self.pool.clock.now()))
            elif (reply.limited or reply.spent) and self.pool.has_points(lease):
                self.pool.pause()  # what GitHub says of the budget cannot be used: the pool would ask at once
            # A refused token is not asked again before the others; a limit is waited for, not gone around.
            keep = lease.account if response.status_code != 401 else None
            if isinstance(result, str):
                limited = limited + 1 if result == _RETRY else 0
                if result != _RETRY or limited >= MAX_LIMIT_RETRIES:
                    problem = "limits without end" if result == _RETRY else result
                    failures += 1
                self.usage.add(retries=1)
                continue
            lease.token.refusals = 0
            self.pool.answered()
            self._unanswered = 0
            return result
        raise self._unanswered_error(urlsplit(url).path, problem)

    def _unanswered_error(self, path: str, problem: str) -> GhAssetsError:
        """What to say of a request that was not answered: it may be this one, or all."""
        if path == urlsplit(self.graphql_url).path and problem == "status 401":
            return GraphQLUnavailableError(
                f"GitHub at {self.api_url} refuses GraphQL to a token that it takes otherwise. Use a source that asks "
                "by REST."
            )
        with self._lock:
            self._unanswered += 1
            outage = self._unanswered >= OUTAGE_AFTER
        advice = "Check GITHUB_API_URL and the network, then run again: what was collected is kept."
        if outage:
            # Trying each of ten thousand repositories in vain would take a day.
            return OutageError(
                f"GitHub at {self.api_url} has not answered {OUTAGE_AFTER} requests in a row ({problem}). {advice}"
            )
        return ServiceUnavailableError(
            f"GitHub at {self.api_url} did not answer {path} in {self.policy.attempts} tries ({problem}). {advice}"
        )

    def _count_request(self) -> None:
        with self._lock:
            if self.max_requests is not None and self.usage.requests >= self.max_requests:
                raise BudgetSpentError(
                    f"The cap on requests is reached: {self.max_requests:,} were sent. What was collected is kept; run "
                    "again to go on."
                )
            self.usage.add(requests=1)

    def _settle(self, settle: Callable[..., None], response: requests.Response, reply: _Reply) -> None:
        headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}
        if reply.rate_limit is not None and (reset := _seconds_of(reply.rate_limit.get("resetAt"))) is not None:
            headers |= {
                "x-ratelimit-limit": str(reply.rate_limit.get("limit", headers.get("x-ratelimit-limit", 0))),
                "x-ratelimit-remaining": str(reply.rate_limit.get("remaining")),
                "x-ratelimit-reset": str(int(reset)),
                "x-ratelimit-resource": Resource.GRAPHQL.value,
            }
        cost = 0 if response.status_code == 304 else reply.cost
        if response.url.startswith(self.graphql_url):
            self.usage.add(points=cost)
        self.usage.add(not_modified=int(response.status_code == 304))
        # A gateway's error page tells nothing of the quota, and does not mean that there is none.
        useful = "x-ratelimit-limit" in headers or response.status_code < 400
        settle(headers if useful else None, cost)

    def _classify(self, response: requests.Response, lease: Lease, reply: _Reply) -> str | None:
        """None for an answer to use, `_RETRY` for one more try that counts as no failure, else the failure."""
        status = response.status_code
        graphql = response.url.startswith(self.graphql_url)
        if status in _MEANINGFUL:
            return None
        if status == 401:
            return _RETRY if self._refused(lease.token) else "status 401"
        if status in (403, 429):
            if graphql and response.headers.get("x-ratelimit-limit") == "0":
                return None  # a budget of nothing: GraphQL is not to be had
            after = _retry_after(response, self.pool.clock.now())
            if after is not None:
                self.pool.pause(after)
                return _RETRY
            if response.headers.get("x-ratelimit-remaining") == "0":
                reply.spent = True  # the pool reads the headers, and rotates or waits for the reset
                return _RETRY
            if status == 429 or _names_a_limit(response.content):
                self.pool.pause()
                return _RETRY
            return None
        if graphql and (status in _TOO_HEAVY or 400 <= status < 500 or status == 501):
            return None  # the caller has to know: a smaller query may succeed, or there is no GraphQL
        if status in _RETRIED:
            return f"status {status}"
        raise GitHubError(f"GitHub answered {urlsplit(response.url).path} with the unexpected status {status}.")

    def _refused(self, token: Token) -> bool:
        """Handle a 401; gives whether the token is a new one now.

        Now and then GitHub refuses a good token: it is retired only when that is confirmed.
        """
        with token.confirming:
            if token.retired:
                return False
            if token.credential.refused():
                return True
            token.refusals += 1
            if token.refusals > 1 and self._is_refused(token):
                self.pool.retire(token)
        return False

    def _is_refused(self, token: Token, *, asked: bool = False) -> bool:
        """Ask for what costs no quota, at once (unless that was `asked`) and after a pause, whether a token is good."""
        for waits in (True,) if asked else (False, True):
            if waits:
                self.pool.clock.wait(self.policy.confirmation_wait, self.pool.cancelled)
            secret = token.credential.secret(self.pool.clock.now()).get_secret_value()
            self._count_request()
            try:
                response = self._send("GET", self.api_url + "/rate_limit", {"authorization": f"Bearer {secret}"})
            except requests.RequestException:
                return False  # unknown: it stays in use
            if response.status_code != 401:
                token.refusals = 0
                return False
        return True

    # -- whose token it is ---------------------------------------------------------------------------------------

    def _identify(self, token: Token) -> None:
        """Find out whose budget a token uses: tokens of one user share one."""
        if token.credential.identity is not None:
            self.pool.identify(token, token.credential.identity)
            return
        # First what costs nothing: a token without quota must not be asked more.
        limits = self._request_with_token(token, "/rate_limit")
        if limits is None:
            return
        budgets = _budgets(limits, self.pool.clock.now())
        if budgets and all(budget.remaining < 1 for budget in budgets.values()):
            self.pool.postpone(token, min(budget.reset for budget in budgets.values()))
            return
        # Tokens of app installations have no user. A digest tells them apart without repeating them.
        secret = token.credential.secret(self.pool.clock.now()).get_secret_value()
        digest = hashlib.sha256(secret.encode()).hexdigest()[:24]
        ledger = self.pool.ledger
        identity = ledger.identity_of(digest) if ledger is not None else None
        if identity is None:
            told = self._request_identity(token, budgets)
            if told is None:
                return
            identity = f"user:{told}" if told > 0 else f"token:{digest}"
            if ledger is not None and told > 0:  # that none was found may be a bad moment
                ledger.remember_identity(digest, identity)
        self.pool.identify(token, identity)
        assert token.account is not None
        self.pool.observe(token.account, budgets)

    def _request_identity(self, token: Token, budgets: dict[Resource, Observation]) -> int | None:
        """Id of a token's user, 0 if it has none; None if that has to be asked again later, or never.

        Where there is GraphQL a point of that is spent: requests of REST are what runs are short of.
        """
        points = budgets.get(Resource.GRAPHQL)
        spent = Resource.GRAPHQL if points is not None and points.remaining >= 1 else Resource.REST
        user = self._request_with_token(token, "/graphql", _VIEWER) if spent is Resource.GRAPHQL else None
        if user is None or user.status != 200:
            spent, user = Resource.REST, self._request_with_token(token, "/user")
        if user is None:
            return None
        found: Any = user.payload if user.status == 200 else None
        for field_name in ("data", "viewer") if spent is Resource.GRAPHQL else ():
            found = found.get(field_name) if isinstance(found, dict) else None
        key = "databaseId" if spent is Resource.GRAPHQL else "id"
        number = number_of(found.get(key)) if isinstance(found, dict) else None
        if spent in budgets:
            budgets[spent] = replace(budgets[spent], remaining=budgets[spent].remaining - 1)
        return number or 0

    def _probe(self, token: Token) -> None:
        """Find out what is left of a token's budgets, which costs nothing."""
        limits = self._request_with_token(token, "/rate_limit")
        if limits is not None and token.account is not None:
            # An Enterprise server without limits answers 404.
            self.pool.observe(token.account, _budgets(limits, self.pool.clock.now()))

    def _request_with_token(self, token: Token, path: str, body: bytes | None = None) -> GitHubResponse | None:
        """Ask with this very token; None if that has to be done again later, or never."""
        url = self.graphql_url if path == "/graphql" else self.api_url + path
        failures = 0
        problem = ""
        while failures < self.policy.attempts:
            if failures:
                self.pool.clock.wait(self.policy.wait_before(failures), self.pool.cancelled)
            secret = token.credential.secret(self.pool.clock.now()).get_secret_value()
            self._count_request()
            sent = self.pool.clock.now()
            try:
                headers = {"accept": JSON, "authorization": f"Bearer {secret}"}
                response = self._send("GET" if body is None else "POST", url, headers, body=body)
                # An error page need not be JSON; what is used has to be.
                payload = orjson.loads(response.content) if response.status_code == 200 else None
            except (requests.RequestException, orjson.JSONDecodeError) as error:
                problem, failures = type(error).__name__, failures + 1
                continue
            status = response.status_code
            if status == 401 and path == "/rate_limit":
                if token.credential.refused():
                    continue
                if self._is_refused(token, asked=True):
                    self.pool.retire(token)
                    return None
                problem, failures = "status 401", failures + 1
                continue
            after = _retry_after(response, self.pool.clock.now())
            if status != 200 and (after is not None or status == 429 or _names_a_limit(response.content)):
                self.pool.pause(after)
                return None
            if status == 403 and response.headers.get("x-ratelimit-remaining") == "0":
                self.pool.postpone(token, self.pool.clock.now() + self.policy.secondary_wait)
                return None
            if status in _RETRIED:
                problem, failures = f"status {status}", failures + 1
                continue
            return GitHubResponse(status, response.headers, response.content, payload, response.url, sent)
        raise self._unanswered_error(path, problem)

    def _exchange(self, installation: str, signed: str) -> tuple[str, str]:
        """A token for an app's installation, and when it ends."""
        self._count_request()
        try:
            url = f"{self.api_url}/app/installations/{installation}/access_tokens"
            headers = {"accept": JSON, "authorization": f"Bearer {signed}"}
            response = self._send("POST", url, headers, body=b"")
            payload = orjson.loads(response.content) if response.status_code == 201 else None
        except (requests.RequestException, orjson.JSONDecodeError) as error:
            raise ServiceUnavailableError(
                f"GitHub at {self.api_url} gave no token to app installation {installation} ({type(error).__name__}). "
                "Check GITHUB_API_URL and the network, then run again."
            ) from None
        if payload is None:
            raise refused_installation(installation, response.status_code)
        return str(payload["token"]), str(payload["expires_at"])

    def _url_of(self, path: str) -> str:
        if path.startswith("/"):
            return self.api_url + path
        # A redirect may only lead to the same server: the token goes along.
        if urlsplit(path)[:2] != urlsplit(self.api_url)[:2]:
            raise GitHubError(f"GitHub redirected to another server, {urlsplit(path).netloc}: not followed.")
        return path

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        parameters: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
    ) -> requests.Response:
        """One request over this thread's kept-alive session; redirects are not followed.

        By the session's adapter, without what `Session.request` does around it (cookies, history, hooks, the
        environment): that takes as long as the rest, and nothing of it is wanted here.
        """
        session = self._session()
        request = requests.PreparedRequest()
        request.prepare_method(method)
        request.prepare_url(url, parameters)
        request.headers = requests.structures.CaseInsensitiveDict(self._headers | dict(headers))
        if body is not None:
            request.prepare_body(body, None)
        try:
            response = session.get_adapter(url).send(
                request,
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or True,
                proxies=session.proxies,
            )
        except requests.exceptions.SSLError as error:
            if not is_untrusted(error):
                raise
            raise ConfigurationError(
                f"The certificate of GitHub at {self.api_url} is signed by no known authority. {UNTRUSTED_HELP}"
            ) from None
        _ = response.content  # read now: the connection is free for the next request
        return response

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False  # a .netrc entry for the host would replace our token
            session.proxies = requests.utils.get_environ_proxies(self.api_url)
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session


def _budgets(response: GitHubResponse, now: float) -> dict[Resource, Observation]:
    """The budgets in an answer of ``/rate_limit``; none where the server has no limits."""
    found = response.payload.get("resources") if isinstance(response.payload, dict) else None
    skew = skew_of(response.headers, response.sent, now)
    budgets = {}
    for resource in Resource:
        figures = found.get(resource.value) if isinstance(found, dict) else None
        if isinstance(figures, dict):
            seen = observation_of(figures.get("limit"), figures.get("remaining"), figures.get("reset"), now, skew)
            if seen is not None:
                budgets[resource] = seen
    return budgets


def _retry_after(response: requests.Response, now: float) -> float | None:
    """Seconds that an answer asks to wait, given as such or as a date; None if it does not."""
    text = response.headers.get("retry-after", "").strip()
    try:
        digits = text.isascii() and text.isdigit()
        seconds = float(text) if digits else parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    # Nothing of GitHub's lasts longer than its windows.
    return min(max(0.0, seconds), LONGEST_WINDOW)


def _seconds_of(text: object) -> float | None:
    """A time of GraphQL's in seconds since 1970; None if it is none."""
    try:
        return dt.datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def _names_a_limit(content: bytes) -> bool:
    """Whether a refusal is a rate limit's, by its words."""
    text = content[:10_000].lower()
    return any(words in text for words in _LIMIT_PHRASES)
