"""Requests about tokens: whose quota they use, what is left of it, and whether GitHub accepts them."""

import hashlib
from dataclasses import replace
from typing import Any

import orjson
import requests

from gh_assets.github.budgets import Token
from gh_assets.github.list_reading import number_of
from gh_assets.github.rate_limits import Observation, Resource, names_a_limit, observation_of, retry_after, skew_of
from gh_assets.github.responses import JSON, TRANSIENT, GitHubResponse
from gh_assets.github.retries import Retry, RetryCause, RetryLoop
from gh_assets.github.token_pool import TokenPool
from gh_assets.github.transport import Request, Transport

_VIEWER = orjson.dumps({"query": "{ viewer { databaseId } rateLimit { cost limit remaining resetAt } }"})


class TokenIdentification:
    """Finds out about the tokens of a pool, by requests with the token in question.

    Parameters
    ----------
    transport : Transport
    pool : TokenPool
    loop : RetryLoop
    """

    def __init__(self, transport: Transport, pool: TokenPool, loop: RetryLoop) -> None:
        self._transport = transport
        self._pool = pool
        self._loop = loop

    def identify(self, token: Token) -> None:
        """Attach a token to its account: tokens of one user share a quota."""
        directory = self._pool.directory
        if token.credential.identity is not None:
            directory.identify(token, token.credential.identity)
            return
        # First the request that costs nothing: a token without quota must not send others.
        limits = self._request(token, "/rate_limit")
        if limits is None:
            return
        budgets = _budgets_in(limits, self._pool.clock.now())
        if budgets and all(budget.remaining < 1 for budget in budgets.values()):
            directory.postpone(token, min(budget.reset for budget in budgets.values()))
            return
        # Tokens of app installations have no user. A digest identifies them without revealing them.
        secret = token.credential.secret(self._pool.clock.now()).get_secret_value()
        digest = hashlib.sha256(secret.encode()).hexdigest()[:24]
        ledger = self._pool.ledger
        identity = ledger.identity_of(digest) if ledger is not None else None
        if identity is None:
            user_id = self._request_user_id(token, budgets)
            if user_id is None:
                return
            identity = f"user:{user_id}" if user_id > 0 else f"token:{digest}"
            if ledger is not None and user_id > 0:  # a missing user may be a passing fault
                ledger.remember_identity(digest, identity)
        directory.identify(token, identity)
        assert token.account is not None
        self._pool.observe(token.account, budgets)

    def probe(self, token: Token) -> None:
        """Request what is left of a token's budgets, which costs nothing."""
        limits = self._request(token, "/rate_limit")
        if limits is not None and token.account is not None:
            # An Enterprise server without limits responds with 404.
            self._pool.observe(token.account, _budgets_in(limits, self._pool.clock.now()))

    def handle_unauthorized(self, token: Token) -> Retry:
        """Handle a 401 response. Good tokens get it, too: a refusal is confirmed before the token is retired."""
        with token.confirming:
            if not token.retired:
                if token.credential.on_unauthorized():
                    return Retry("status 401", RetryCause.TOKEN_RENEWED)
                token.refusals += 1
                if token.refusals > 1 and self._is_refused(token, at_once=True):
                    self._pool.directory.retire(token)
        return Retry("status 401")

    def _is_refused(self, token: Token, *, at_once: bool) -> bool:
        """Whether a request that costs no quota is refused, too: after a pause, and before it if `at_once`."""
        for waits in (False, True) if at_once else (True,):
            if waits:
                self._pool.wait(self._pool.policy.confirmation_wait)
            try:
                response = self._send(token, "/rate_limit")
            except requests.RequestException:
                return False  # not known: the token stays in use
            if response.status_code != 401:
                token.refusals = 0
                return False
        return True

    def _request_user_id(self, token: Token, budgets: dict[Resource, Observation]) -> int | None:
        """Return the id of a token's user, or 0 if it has none; None if it has to be requested later, or never.

        A GraphQL point is spent if there is one, since REST requests are the scarcer resource.
        """
        points = budgets.get(Resource.GRAPHQL)
        spent = Resource.GRAPHQL if points is not None and points.remaining >= 1 else Resource.REST
        response = self._request(token, "/graphql", _VIEWER) if spent is Resource.GRAPHQL else None
        if response is None or response.status != 200:
            spent, response = Resource.REST, self._request(token, "/user")
        if response is None:
            return None
        user: Any = response.payload if response.status == 200 else None
        for name in ("data", "viewer") if spent is Resource.GRAPHQL else ():
            user = user.get(name) if isinstance(user, dict) else None
        key = "databaseId" if spent is Resource.GRAPHQL else "id"
        user_id = number_of(user.get(key)) if isinstance(user, dict) else None
        if spent in budgets:
            budgets[spent] = replace(budgets[spent], remaining=budgets[spent].remaining - 1)
        return user_id or 0

    def _request(self, token: Token, path: str, body: bytes | None = None) -> GitHubResponse | None:
        """Send a request with a given token; None if it has to be sent later, or never."""
        return self._loop.run(path, lambda: self._attempt(token, path, body))

    def _attempt(self, token: Token, path: str, body: bytes | None) -> GitHubResponse | Retry | None:
        sent = self._pool.clock.now()
        response = self._send(token, path, body)
        status = response.status_code
        if status == 200:
            try:
                payload = orjson.loads(response.content)
            except orjson.JSONDecodeError as error:
                return Retry(type(error).__name__)
            return GitHubResponse(status, response.headers, response.content, payload, sent)
        if status == 401 and path == "/rate_limit":
            if token.credential.on_unauthorized():
                return Retry("status 401", RetryCause.TOKEN_RENEWED)
            if not self._is_refused(token, at_once=False):
                return Retry("status 401")
            self._pool.directory.retire(token)
            return None
        now = self._pool.clock.now()
        seconds = retry_after(response.headers, now)
        if seconds is not None or status == 429 or names_a_limit(response.content):
            self._pool.pause(seconds)
            return None
        if status == 403 and response.headers.get("x-ratelimit-remaining") == "0":
            self._pool.directory.postpone(token, now + self._pool.policy.secondary_wait)
            return None
        if status in TRANSIENT:
            return Retry(f"status {status}")
        return GitHubResponse(status, response.headers, response.content, None, sent)

    def _send(self, token: Token, path: str, body: bytes | None = None) -> requests.Response:
        url = self._transport.graphql_url if path == "/graphql" else self._transport.api_url + path
        secret = token.credential.secret(self._pool.clock.now())
        return self._transport.send(
            Request("GET" if body is None else "POST", url, {"accept": JSON}, body=body), secret
        )


def _budgets_in(response: GitHubResponse, now: float) -> dict[Resource, Observation]:
    """Return the budgets in a response to ``/rate_limit``; none where the server has no limits."""
    listed = response.document.get("resources")
    skew = skew_of(response.headers, response.sent, now)
    budgets = {}
    for resource in Resource:
        figures = listed.get(resource.value) if isinstance(listed, dict) else None
        if isinstance(figures, dict):
            seen = observation_of(figures.get("limit"), figures.get("remaining"), figures.get("reset"), now, skew)
            if seen is not None:
                budgets[resource] = seen
    return budgets
