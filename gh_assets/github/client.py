"""Client of GitHub's REST and GraphQL APIs: quota, retries, conditional requests.

Source: docs.github.com/rest and docs.github.com/graphql.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
import requests
from pydantic import SecretStr

from gh_assets.errors import GhAssetsError, GitHubError, GraphQLUnavailableError, QueryTooHeavyError
from gh_assets.github.apps import AppInstallation
from gh_assets.github.budgets import Account, Credential, PersonalToken
from gh_assets.github.identification import TokenIdentification
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.rate_limits import Resource, graphql_limit_headers, retry_after
from gh_assets.github.responses import (
    JSON,
    TOO_HEAVY,
    GitHubResponse,
    GraphQLResponse,
    Reply,
    read_graphql,
    read_rest,
    retry_or_error,
)
from gh_assets.github.retries import Clock, Retry, RetryCause, RetryLoop, RetryPolicy
from gh_assets.github.token_pool import Lease, TokenPool
from gh_assets.github.transport import Request, Transport

Result = TypeVar("Result")


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


class GitHubClient:
    """A client that many threads may share.

    Parameters
    ----------
    api_url : str
        ``https://api.github.com``, ``…/api/v3`` of GitHub Enterprise, or the stand-in's address.
    tokens : sequence of SecretStr
        Tokens of the operator's own distinct users or apps.
    apps : sequence of AppCredentials, optional
        At least one token or installation in all.
    policy : RetryPolicy, optional
    clock : Clock, optional
    ledger : MongoLedger, optional
        Shares the quota with other processes.
    max_requests : int, optional
        Cap on the number of requests, including those with status 304; beyond it `BudgetSpentError` is raised.

    Attributes
    ----------
    pool : TokenPool
    usage : Usage
        Counts of what was sent.
    """

    def __init__(
        self,
        api_url: str,
        tokens: Sequence[SecretStr],
        *,
        apps: Sequence[AppCredentials] = (),
        policy: RetryPolicy | None = None,
        clock: Clock | None = None,
        ledger: MongoLedger | None = None,
        max_requests: int | None = None,
    ) -> None:
        self.transport = Transport(api_url, max_requests)
        credentials: list[Credential] = [PersonalToken(token) for token in tokens]
        for app in apps:
            credentials += [AppInstallation(app.app_id, n, app.private_key, self.transport) for n in app.installations]
        self.policy = policy or RetryPolicy()
        self.pool = TokenPool(
            credentials,
            lambda token: self._identification.identify(token),
            lambda token: self._identification.probe(token),
            self.policy,
            clock or Clock(),
            ledger,
        )
        self.api_url = self.transport.api_url
        self.usage = self.transport.usage
        self._loop = RetryLoop(self.transport, self.policy, self.pool.wait)
        self._identification = TokenIdentification(self.transport, self.pool, self._loop)
        self._has_graphql = False

    def __enter__(self) -> GitHubClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sessions, and stop all workers: those that wait at once, the others after their request."""
        self.pool.close()
        self.transport.close()

    def refresh_budgets(self) -> None:
        """Request the accounts of the tokens and what is left of their quota, which costs none of it.

        Raises
        ------
        AuthenticationError
            If GitHub refuses every token.
        """
        for resource in Resource:
            self.pool.refresh_budgets(resource)

    def get(
        self,
        path: str,
        *,
        parameters: Mapping[str, str | int] | None = None,
        accept: str = JSON,
        etag: str | None = None,
        redirects: int = 0,
        version: str | None = None,
    ) -> GitHubResponse:
        """Request one resource by REST.

        Parameters
        ----------
        path : str
            Path below the API's address (``/repos/o/r``), or a complete address below it (from ``Location``).
        parameters : mapping, optional
            Query parameters.
        accept : str
            Media type; responses of type `RAW` and `HTML` are not parsed.
        etag : str, optional
            Makes the request conditional: a response with status 304 costs no quota.
        redirects : int
            Maximum number of redirects that are followed, a request each; `GitHubResponse.moved` reports them.
        version : str, optional
            Version of the API that has the path, such as ``2026-03-10``; by default `transport.API_VERSION`.

        Raises
        ------
        AuthenticationError
            If GitHub refuses every token.
        RateLimitedError, BudgetSpentError
            If no quota becomes available within the policy's longest wait, or the cap on requests is reached.
        CancelledError
            If the client was cancelled.
        ServiceUnavailableError
            If GitHub cannot be reached or keeps responding with errors.
        OutageError
            If that was the case for the last `OUTAGE_AFTER` requests.
        GitHubError
            If the response is not one that GitHub documents.
        """
        headers = {"accept": accept} | ({} if etag is None else {"if-none-match": etag})
        headers |= {} if version is None else {"x-github-api-version": version}
        request = Request("GET", self._url_of(path), headers, parameters)
        response = self._request(request, lambda response: Reply(read_rest(response, accept), request.points))
        target = response.headers.get("location") if response.status in (301, 302, 307) else None
        if not target or not redirects:
            return response
        followed = self.get(target, accept=accept, etag=etag, redirects=redirects - 1, version=version)
        return replace(followed, moved=True)

    def graphql(self, query: str, variables: Mapping[str, Any], *, points: int = 1) -> GraphQLResponse:
        """Send a GraphQL query, which should request ``rateLimit { cost limit remaining resetAt }``.

        Parameters
        ----------
        query : str
        variables : mapping
        points : int
            Expected cost, which is reserved until the response states it.

        Raises
        ------
        QueryTooHeavyError
            If GitHub gave up on the query (502 or 504, or no data for lack of resources): a smaller one may succeed.
        GraphQLUnavailableError
            If the server or the token has no GraphQL.
        AuthenticationError, RateLimitedError, BudgetSpentError, CancelledError, ServiceUnavailableError, GitHubError
            As `get`.
        """
        body = orjson.dumps({"query": query, "variables": variables})
        headers = {"accept": JSON, "content-type": "application/json"}
        request = Request("POST", self.transport.graphql_url, headers, None, body, Resource.GRAPHQL, points)
        refusals = count(1)

        def read(response: requests.Response) -> Reply[GraphQLResponse]:
            if response.status_code != 200:
                return Reply(self._graphql_refusal(response.status_code, refusals), points)
            return read_graphql(response.content, points, self.api_url)

        response = self._request(request, read)
        self._has_graphql = True
        return response

    def _graphql_refusal(self, status: int, refusals: count[int]) -> Retry | GhAssetsError:
        if status in TOO_HEAVY:
            return QueryTooHeavyError(f"GitHub gave up on a query (status {status}).")
        # A proxy may have a passing fault; a server that has answered queries does have GraphQL.
        if next(refusals) < (self.policy.attempts if self._has_graphql else 2):
            return Retry(f"status {status}")
        return GraphQLUnavailableError(
            f"GitHub at {self.api_url} offers no GraphQL to this token (status {status}). Use a source that reads by "
            "REST."
        )

    # -- one request and its retries -----------------------------------------------------------------------------

    def _request(self, request: Request, read: Callable[[requests.Response], Reply[Result]]) -> Result:
        """Send a request until `read` returns its result."""
        keep: Account | None = None

        def attempt() -> Result | Retry:
            nonlocal keep
            with self.pool.lease(request.resource, request.points, keep) as lease:
                secret = lease.token.credential.secret(self.pool.clock.now())
                response = self.transport.send(request, secret)
                reply = self._reply_of(request, response, read)
                self._settle(lease, response, reply)
            # After a refusal other tokens come first; a limit is waited for, not evaded.
            keep = lease.account if response.status_code != 401 else None
            return self._outcome(lease, response, reply)

        return self._loop.run(urlsplit(request.url).path, attempt)

    def _reply_of(
        self, request: Request, response: requests.Response, read: Callable[[requests.Response], Reply[Result]]
    ) -> Reply[Result]:
        if response.status_code == 401:
            return Reply(Retry("status 401"), request.points)
        refusal = retry_or_error(response, self.pool.clock.now(), graphql=request.resource is Resource.GRAPHQL)
        return read(response) if refusal is None else Reply(refusal, request.points)

    def _settle(self, lease: Lease, response: requests.Response, reply: Reply[Result]) -> None:
        """Charge a request to the lease's account."""
        headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}
        if reply.rate_limit is not None:
            headers |= graphql_limit_headers(reply.rate_limit, headers)
        not_modified = response.status_code == 304
        cost = 0 if not_modified else reply.cost
        points = cost if lease.resource is Resource.GRAPHQL else 0
        self.usage.add(points=points, not_modified=int(not_modified))
        # The error page of a gateway says nothing about the quota, which does not mean that there is none.
        has_limits = "x-ratelimit-limit" in headers or response.status_code < 400
        lease.settle(headers if has_limits else None, cost)

    def _outcome(self, lease: Lease, response: requests.Response, reply: Reply[Result]) -> Result | Retry:
        """Return a result or a reason to retry, after the pause that a limit requires; raise an error."""
        outcome = reply.outcome
        if response.status_code == 401:
            return self._identification.handle_unauthorized(lease.token)
        if isinstance(outcome, GhAssetsError):
            raise outcome
        if not isinstance(outcome, Retry):
            lease.token.refusals = 0
            self.pool.answered()
        elif outcome.cause is RetryCause.SECONDARY_LIMIT:
            self.pool.pause(retry_after(response.headers, self.pool.clock.now()))
        elif outcome.cause is RetryCause.QUOTA_SPENT and self.pool.has_points(lease):
            self.pool.pause()  # GitHub's figures contradict each other: the pool would send the next request at once
        return outcome

    def _url_of(self, path: str) -> str:
        if path.startswith("/"):
            return self.api_url + path
        # A redirect may only lead to the same server, since the token is sent along.
        if urlsplit(path)[:2] != urlsplit(self.api_url)[:2]:
            raise GitHubError(f"GitHub redirected to another server, {urlsplit(path).netloc}: not followed.")
        return path
