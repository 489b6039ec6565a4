"""Fake GitHub servers and clocks, and clients of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.github.budgets import Token
from gh_assets.github.client import GitHubClient
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.rate_limits import Observation, Resource
from gh_assets.github.retries import RetryPolicy
from gh_assets.github.token_pool import TokenPool
from gh_assets_tests.conftest import QUICK
from gh_assets_tests.support.paths import CHECKOUT

UNPACED = RetryPolicy(points_a_minute={})


def quota_headers(
    remaining: int, reset: float, *, limit: int = 5000, resource: str = "core", **more: str
) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset": str(int(reset)),
        "x-ratelimit-resource": resource,
    } | more


def pool_of(
    *names: str,
    clock: FakeClock,
    policy: RetryPolicy = UNPACED,
    ledger: MongoLedger | None = None,
    server: QuotaServer | None = None,
) -> TokenPool:
    """Return a pool whose tokens belong to users of these names, and that can probe the server."""

    def identify(token: Token) -> None:
        pool.directory.identify(token, names[pool.directory.tokens.index(token)])

    def probe(token: Token) -> None:
        assert server is not None
        assert token.account is not None
        pool.observe(token.account, {Resource.REST: server.peek(token.account.identity)})

    secrets = [SecretStr(f"token-{n}") for n, _ in enumerate(names)]
    pool = TokenPool(secrets, policy, clock, ledger, identify, probe if server is not None else None)
    return pool


def spend(pool: TokenPool, response: Callable[[str], dict[str, str] | None], points: int = 1) -> str:
    """Send one request, and return the account that was charged."""
    with pool.lease(Resource.REST, points) as lease:
        lease.settle(response(lease.account.identity), points)
        return lease.account.identity


class QuotaServer:
    """Counts like GitHub: each account's window begins with its first request."""

    def __init__(self, clock: FakeClock, limit: int = 10, window: float = 3600.0) -> None:
        self.clock, self.limit, self.window = clock, limit, window
        self.windows: dict[str, tuple[float, int]] = {}
        self.refused = 0
        self.times: list[float] = []

    def _window(self, account: str) -> tuple[float, int]:
        """Return the reset and the used points of an account."""
        reset, used = self.windows.get(account, (0.0, 0))
        return (reset, used) if self.clock.now() < reset else (self.clock.now() + self.window, 0)

    def peek(self, account: str) -> Observation:
        """Return what is left, at no cost."""
        reset, used = self._window(account)
        return Observation(self.limit, self.limit - used, float(int(reset)), self.clock.now())

    def respond(self, account: str, cost: int = 1) -> dict[str, str]:
        reset, used = self._window(account)
        self.refused += used + cost > self.limit
        used = min(self.limit, used + cost)
        self.windows[account] = (reset, used)
        self.times.append(self.clock.now())
        return quota_headers(self.limit - used, reset, limit=self.limit)


SECRET = "ghp_verysecret0123456789wxyz"


class FakeClock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        self.waits.append(seconds)
        self.time += seconds


def scripted(responses: list[Response | Callable[[Request], Response]]) -> Starlette:
    """Return a server that sends these responses in order, and repeats the last."""
    remaining = list(responses)

    async def endpoint(request: Request) -> Response:
        if request.url.path == "/rate_limit":
            return Response(b'{"message": "Rate limiting is not enabled."}', 404)
        if request.url.path == "/user":
            user_id = sum(request.headers["authorization"].encode())  # another user for each token
            return Response(b'{"id": %d}' % user_id, media_type="application/json")
        response = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        return response if isinstance(response, Response) else response(request)

    return Starlette(routes=[Route("/{path:path}", endpoint)])


def fine() -> Response:
    return Response(b'{"fine": true}', media_type="application/json")


def client_of(url: str, *tokens: str, policy: RetryPolicy = QUICK, clock: FakeClock | None = None) -> GitHubClient:
    return GitHubClient(url, [SecretStr(token) for token in tokens or (SECRET,)], policy=policy, clock=clock)


CASES = CHECKOUT / "gh_assets_tests" / "cases" / "responses"


def load_case(name: str) -> Any:
    """Load a response that GitHub once gave."""
    return json.loads((CASES / f"{name}.json").read_text())


def rest_case(name: str) -> Response:
    """Return a recorded REST response."""
    case = load_case(name)
    return Response(json.dumps(case["body"]), case["status"], case["headers"])
