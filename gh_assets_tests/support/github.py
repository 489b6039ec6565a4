"""Fake GitHub servers and clocks, and clients of them."""

import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.github.budgets import PersonalToken, Token
from gh_assets.github.client import GitHubClient
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.rate_limits import Observation, Resource
from gh_assets.github.retries import Clock, RetryPolicy
from gh_assets.github.token_pool import TokenPool
from gh_assets_tests.support.paths import CHECKOUT
from gh_assets_tests.support.policies import QUICK
from gh_assets_tests.support.serving import serving

UNPACED = RetryPolicy(points_a_minute={})

SECRET = "ghp_verysecret0123456789wxyz"

Json = dict[str, Any]

Handler = Response | Callable[[Request], Awaitable[Response]]
"""A response, or a function that returns it."""


def in_threads(work: Callable[[], None], count: int, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Do some work in several threads at once, and something else after they were started."""
    workers = [threading.Thread(target=work) for _ in range(count)]
    for worker in workers:
        worker.start()
    meanwhile()
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()


def quota_headers(
    remaining: int, reset: float, *, limit: int = 5000, resource: str = "core", **more: str
) -> dict[str, str]:
    return {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": str(remaining),
        "x-ratelimit-reset": str(int(reset)),
        "x-ratelimit-resource": resource,
    } | more


SECONDARY_LIMIT = Response(b'{"message": "You have exceeded a secondary rate limit."}', 403)


class FakeClock(Clock):
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, cancelled: threading.Event) -> None:
        self.waits.append(seconds)
        self.time += seconds


class QuotaServer:
    """Counts like GitHub: each account's window begins with its first request."""

    def __init__(self, clock: FakeClock, limit: int = 10) -> None:
        self.clock, self.limit = clock, limit
        self.windows: dict[str, tuple[float, int]] = {}
        self.refused = 0
        self.times: list[float] = []

    def window(self, account: str) -> tuple[float, int]:
        """Return the end of an account's window, and the points that were used in it."""
        now = self.clock.now()
        reset, used = self.windows.get(account, (0.0, 0))
        return (now + 3600, 0) if now >= reset else (reset, used)

    def peek(self, account: str) -> Observation:
        """Return what is left, at no cost."""
        reset, used = self.window(account)
        return Observation(self.limit, self.limit - used, float(int(reset)), self.clock.now())

    def respond(self, account: str) -> dict[str, str]:
        reset, used = self.window(account)
        self.refused += used >= self.limit
        used = min(self.limit, used + 1)
        self.windows[account] = (reset, used)
        self.times.append(self.clock.now())
        return quota_headers(self.limit - used, reset, limit=self.limit)


class Pool(TokenPool):
    """A pool whose tokens belong to users of the given names, in a fake time.

    With a limit, their requests go to a `QuotaServer`, which the pool can also probe.
    """

    clock: FakeClock

    def __init__(
        self,
        *names: str,
        limit: int | None = None,
        policy: RetryPolicy = UNPACED,
        ledger: MongoLedger | None = None,
        server: QuotaServer | None = None,
    ) -> None:
        self.names = names
        self.server = server or QuotaServer(FakeClock(), limit or 0)
        self.has_limits = limit is not None or server is not None
        tokens = [PersonalToken(SecretStr(f"token-{n}")) for n, _ in enumerate(names)]
        super().__init__(tokens, self._identify, self._probe, policy, self.server.clock, ledger)
        self.messages: list[str] = []
        self.notify = self.messages.append

    def _identify(self, token: Token) -> None:
        self.directory.identify(token, self.names[self.directory.tokens.index(token)])

    def _probe(self, token: Token) -> None:
        assert token.account is not None
        known = {Resource.REST: self.server.peek(token.account.identity)} if self.has_limits else {}
        self.observe(token.account, known)

    def spend(self, response: Callable[[str], dict[str, str] | None] | None = None, times: int = 1) -> list[str]:
        """Send requests with this response, by default the server's; return the accounts that were charged."""
        charged = []
        for _ in range(times):
            with self.lease(Resource.REST) as lease:
                lease.settle((response or self.server.respond)(lease.account.identity))
                charged.append(lease.account.identity)
        return charged


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


def client_of(url: str, *tokens: str, clock: Clock | None = None, **more: Any) -> GitHubClient:
    """Return a client, by default with short waits; in a fake time, with the default policy."""
    options = {"policy": QUICK if clock is None else RetryPolicy(), "clock": clock} | more
    return GitHubClient(url, [SecretStr(token) for token in tokens or (SECRET,)], **options)


@contextmanager
def answering(
    *responses: Response | Callable[[Request], Response], tokens: Sequence[str] = (), **more: Any
) -> Iterator[GitHubClient]:
    """Yield a client of a server that sends these responses in order, and repeats the last."""
    with serving(scripted(list(responses))) as url, client_of(url, *tokens, **more) as client:
        yield client


@contextmanager
def served(handlers: Mapping[str, Handler], **more: Any) -> Iterator[GitHubClient]:
    """Yield a client of a server with these handlers by path. Others respond with a user, and have no rate limits."""

    async def other(request: Request) -> Response:
        return Response(b'{"id": 7}', 404 if request.url.path == "/rate_limit" else 200)

    routes = dict(handlers)
    routes.setdefault("/{path:path}", other)
    app = Starlette(routes=[Route(path, handler, methods=["GET", "POST"]) for path, handler in routes.items()])
    with serving(app) as url, client_of(url, "token", **more) as client:
        yield client


def stars_page(edges: list[Any] | None, total: int, after: str | None = None) -> Json:
    """Return a page of a list of stars by GraphQL, the last one unless others follow `after` its cursor."""
    return {"totalCount": total, "pageInfo": {"hasNextPage": after is not None, "endCursor": after}, "edges": edges}


def stargazers_page(edges: list[Any] | None, total: int, after: str | None = None) -> Json:
    """Return the response to a query for the stargazers of one repository."""
    return {"data": {"r0": {"stargazers": stars_page(edges, total, after)}}}


@contextmanager
def graphql(answer: Callable[[Json], Json | Response]) -> Iterator[GitHubClient]:
    """Yield a client of a server that answers queries for lists, whose variables it is given."""

    async def respond(request: Request) -> Response:
        variables = (await request.json()).get("variables")
        viewer = {"data": {"viewer": {"databaseId": 7}}}  # of the token identification
        found = answer(variables) if variables else viewer
        return found if isinstance(found, Response) else Response(json.dumps(found))

    with served({"/graphql": respond}) as client:
        yield client


CASES = CHECKOUT / "gh_assets_tests" / "cases" / "responses"


def load_case(name: str) -> Json:
    """Load a response that GitHub once gave."""
    case: Json = json.loads((CASES / f"{name}.json").read_text())
    return case


def rest_case(name: str) -> Response:
    """Return a recorded REST response."""
    case = load_case(name)
    return Response(json.dumps(case["body"]), case["status"], case["headers"])
