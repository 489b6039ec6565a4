"""Budgets: whose they are, how they are read, paced, shared and waited for."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.collector.client import AppCredentials, GitHubClient
from gh_assets.collector.ledger import LEASE_SECONDS, MongoLedger
from gh_assets.collector.limits import Observation, Resource, RetryPolicy, Token, TokenPool, skew_of
from gh_assets.embedded.standin.limits import Limits
from gh_assets.errors import (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    ConfigurationError,
    RateLimitedError,
)
from gh_assets_tests.collector.test_client import FakeClock, client_of, fine, scripted
from gh_assets_tests.conftest import QUICK, serving
from gh_assets_tests.worlds import world_of

UNPACED = RetryPolicy(points_a_minute={})


def headers(remaining: int, reset: float, *, limit: int = 5000, resource: str = "core", **more: str) -> dict[str, str]:
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
    server: Server | None = None,
) -> TokenPool:
    """A pool whose tokens belong to the users of these names, and that can ask the server what is left."""

    def identify(token: Token) -> None:
        pool.identify(token, names[pool.tokens.index(token)])

    def probe(token: Token) -> None:
        assert server is not None
        assert token.account is not None
        pool.observe(token.account, {Resource.REST: server.peek(token.account.identity)})

    secrets = [SecretStr(f"token-{n}") for n, _ in enumerate(names)]
    pool = TokenPool(secrets, policy, clock, ledger, identify, probe if server is not None else None)
    return pool


def ask(pool: TokenPool, answer: Callable[[str], dict[str, str] | None], points: int = 1) -> str:
    """One request; gives the account that was charged."""
    with pool.lease(Resource.REST, points) as (lease, settle):
        settle(answer(lease.account.identity), points)
        return lease.account.identity


class Server:
    """Counts as GitHub does: a window an account that begins with its first request."""

    def __init__(self, clock: FakeClock, limit: int = 10, window: float = 3600.0) -> None:
        self.clock, self.limit, self.window = clock, limit, window
        self.windows: dict[str, tuple[float, int]] = {}
        self.refused = 0
        self.times: list[float] = []

    def peek(self, account: str) -> Observation:
        """What is left, for nothing."""
        now = self.clock.now()
        reset, used = self.windows.get(account, (0.0, 0))
        if now >= reset:
            reset, used = now + self.window, 0
        return Observation(self.limit, self.limit - used, float(int(reset)), now)

    def answer(self, account: str, cost: int = 1) -> dict[str, str]:
        now = self.clock.now()
        reset, used = self.windows.get(account, (0.0, 0))
        if now >= reset:
            reset, used = now + self.window, 0
        self.refused += used + cost > self.limit
        used = min(self.limit, used + cost)
        self.windows[account] = (reset, used)
        self.times.append(now)
        return headers(self.limit - used, reset, limit=self.limit)


def test_two_tokens_of_one_user_share_one_budget(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    server = Server(clock, limit=10)
    pool = pool_of("user:1", "user:1", clock=clock, server=server)
    for _ in range(10):
        ask(pool, server.answer)
    assert clock.waits == []
    ask(pool, server.answer)
    assert sum(clock.waits) >= 3600, "a second token of the same user brings no second quota"
    assert server.refused == 0
    assert "share a quota" in caplog.text
    assert "token-1" not in caplog.text


def test_the_user_of_a_token_is_asked_for_once(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one", "two"))
    with client_of(url, "one", "two") as client:
        for _ in range(4):
            client.get("/repos/a/b")
        assert sorted(client.pool.accounts) == ["user:1", "user:2"]
    assert standin.served["graphql"] == 2
    assert standin.used("one") + standin.used("two") == 4, "it costs no request of REST's"


def test_the_user_of_a_token_is_remembered_for_the_next_process(serve_world, database) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}))
    for _ in range(3):
        ledger = MongoLedger(database["github_budgets"])
        with GitHubClient(url, [SecretStr("token")], policy=QUICK, ledger=ledger) as client:
            client.get("/repos/a/b")
            assert list(client.pool.accounts) == ["user:1"]
    assert standin.served["graphql"] == 1
    assert all("token" not in str(document.get("identity", "")) for document in database["github_budgets"].find())


def test_a_server_without_graphql_tells_whose_a_token_is_by_rest(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), graphql=False)
    with client_of(url, "token") as client:
        client.get("/repos/a/b")
        assert list(client.pool.accounts) == ["user:1"]
    assert standin.served["viewer"] == 1


@hypothesis_settings(deadline=None)
@given(
    accounts=st.integers(1, 5),
    limit=st.integers(1, 12),
    requests=st.integers(1, 60),
)
def test_no_limit_is_overrun_and_no_quota_slept_over(accounts: int, limit: int, requests: int) -> None:
    clock = FakeClock()
    server = Server(clock, limit=limit)
    pool = pool_of(*(f"user:{n}" for n in range(accounts)), clock=clock, server=server)
    for _ in range(requests):
        ask(pool, server.answer)
    assert server.refused == 0
    windows = -(-requests // (accounts * limit))
    assert sum(clock.waits) <= (windows - 1) * (3600 + 2), "slept while a token had quota"


def test_the_pace_keeps_an_account_under_its_points_a_minute() -> None:
    clock = FakeClock()
    server = Server(clock, limit=5000)
    pool = pool_of("user:1", clock=clock, policy=RetryPolicy(points_a_minute={Resource.REST: 60}), server=server)
    for _ in range(200):
        ask(pool, server.answer)
    for start in server.times:
        assert sum(start <= time < start + 60 for time in server.times) <= 60 + 11
    assert sum(clock.waits) <= 200, "slower than the pace"


def test_answers_that_overtake_each_other_do_not_raise_what_is_left() -> None:
    clock = FakeClock()
    pool = pool_of("user:1", clock=clock)
    reset = clock.now() + 1000
    for remaining in (7, 9, 8):
        ask(pool, lambda _, left=remaining: headers(left, reset))
    assert pool.remaining() == 7
    ask(pool, lambda _: headers(4999, reset - 5000))
    assert pool.remaining() == 7, "an answer of an old window"
    ask(pool, lambda _: headers(4000, reset + 3600))
    assert pool.remaining() == 4000


def test_a_server_whose_clock_is_wrong_is_understood() -> None:
    clock = FakeClock()
    pool = pool_of("user:1", clock=clock)
    there = clock.now() + 7200  # two hours ahead of us
    ask(pool, lambda _: headers(0, there + 100, date=formatdate(there, usegmt=True)))
    ask(pool, lambda _: headers(5, there + 3700, date=formatdate(there + 101, usegmt=True)))
    assert 100 <= sum(clock.waits) <= 102


def test_other_resources_leave_the_budget_alone() -> None:
    clock = FakeClock()
    pool = pool_of("user:1", clock=clock)
    ask(pool, lambda _: headers(50, clock.now() + 1000))
    ask(pool, lambda _: headers(3, clock.now() + 10, resource="search"))
    assert pool.remaining() == 49, "counted by ourselves"
    ask(pool, lambda _: headers(100, clock.now() + 1000, resource="graphql"))
    assert (pool.remaining(), pool.remaining(Resource.GRAPHQL)) == (48, 100)


def test_without_limits_nobody_waits() -> None:
    clock = FakeClock()
    pool = TokenPool([SecretStr("one")], RetryPolicy(points_a_minute={Resource.REST: 1}), clock)
    for _ in range(50):
        ask(pool, lambda _: {})
    assert clock.waits == []
    assert pool.remaining() is None


def test_secondary_limits_are_waited_for_longer_each_time() -> None:
    clock = FakeClock()
    limited = Response(b'{"message": "You have exceeded a secondary rate limit."}', 403)
    with (
        serving(scripted([limited, limited, limited, fine()])) as url,
        client_of(url, "one", "two", policy=RetryPolicy(), clock=clock) as client,
    ):
        client.get("/x")
    assert 60 + 120 + 240 <= sum(clock.waits) <= 1.1 * (60 + 120 + 240) + 1


def test_the_cap_on_requests_is_never_passed(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}))
    client = GitHubClient(url, [SecretStr("token")], policy=QUICK, max_requests=7)
    spent = []

    def work() -> None:
        try:
            for _ in range(5):
                client.get("/repos/a/b")
        except BudgetSpentError as error:
            spent.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    client.close()
    assert sum(standin.served.values()) == 7
    assert len(spent) == 4
    assert "reached: 7 were sent" in spent[0]


# -- shared between processes ------------------------------------------------------------------------------------


@pytest.fixture
def ledgers(database) -> Callable[[], MongoLedger]:
    return lambda: MongoLedger(database["github_budgets"])


@hypothesis_settings(max_examples=6, deadline=None)
@given(turns=st.lists(st.integers(0, 2), min_size=15, max_size=30), limit=st.integers(1, 30))
def test_processes_that_share_a_ledger_overspend_nothing(home, turns: list[int], limit: int) -> None:
    from gh_assets.services import open_mongo
    from gh_assets.settings import load_settings

    with open_mongo(load_settings()) as database:
        database["ledger_test"].drop()
        clock = FakeClock()
        server = Server(clock, limit=limit)
        pools = [
            pool_of("user:1", clock=clock, ledger=MongoLedger(database["ledger_test"]), server=server) for _ in range(3)
        ]
        for turn in turns:
            ask(pools[turn], server.answer)
        assert server.refused == 0
        # What another process holds unused is not lost: it is told within seconds, or its hold ends.
        assert sum(clock.waits) <= (len(turns) // limit + 1) * (3600 + LEASE_SECONDS + 10)


def test_what_a_process_holds_another_cannot_use(ledgers) -> None:
    first, second = ledgers(), ledgers()
    seen = Observation(100, 60, 2000.0, 1000.0)
    assert first.claim("user:1", Resource.REST, seen, 0, 50, 1000.0).points == 50
    grant = second.claim("user:1", Resource.REST, None, 0, 50, 1001.0)
    assert (grant.points, grant.observation, grant.processes) == (10, replace(seen, at=0.0), 2)
    assert second.claim("user:2", Resource.REST, seen, 0, 50, 1001.0).points == 50, "another account"
    first.give_back({("user:1", Resource.REST): 45})
    grant = second.claim("user:1", Resource.REST, None, 5, 50, 1002.0)
    assert (grant.points, grant.processes) == (45, 1)


def test_what_a_killed_process_held_comes_back_after_one_request_has_found_out(ledgers) -> None:
    dead, alive = ledgers(), ledgers()
    seen = Observation(100, 60, 9000.0, 1000.0)
    dead.claim("user:1", Resource.REST, seen, 0, 60, 1000.0)
    assert alive.claim("user:1", Resource.REST, None, 0, 50, 1001.0).points == 0
    later = 1001.0 + LEASE_SECONDS
    unsure = alive.claim("user:1", Resource.REST, seen, 0, 50, later)
    assert (unsure.points, unsure.observation) == (0, None), "nobody knows what the dead one spent"
    assert alive.claim("user:1", Resource.REST, seen, 0, 50, later).points == 0, "what was seen before is no news"
    found = Observation(100, 37, 9000.0, later)
    assert alive.claim("user:1", Resource.REST, found, 0, 50, later + 1).points == 37


def test_a_pause_reaches_the_other_process(ledgers) -> None:
    clock = FakeClock()
    server = Server(clock)
    first, second = (pool_of("user:1", clock=clock, ledger=ledgers(), server=server) for _ in range(2))
    ask(second, server.answer)
    first.pause(40.0)
    clock.time += 6.0  # the time within which claims are renewed
    ask(second, server.answer)
    assert server.times[-1] >= server.times[0] + 40


def test_the_pace_is_shared(ledgers) -> None:
    clock = FakeClock()
    server = Server(clock, limit=5000)
    policy = RetryPolicy(points_a_minute={Resource.REST: 60})
    pools = [pool_of("user:1", clock=clock, policy=policy, ledger=ledgers(), server=server) for _ in range(2)]
    for _ in range(150):
        for pool in pools:
            ask(pool, server.answer)
    late = [time for time in server.times if time > server.times[0] + 60]
    for start in late:
        assert sum(start <= time < start + 60 for time in late) <= 66


# -- installations of apps -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> Iterator[rsa.RSAPrivateKey]:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> SecretStr:
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    return SecretStr(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode())


class AppServer:
    """Gives tokens to an app that signs well, and takes each only until its end."""

    def __init__(self, key: rsa.RSAPrivateKey, clock: FakeClock) -> None:
        self.public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.clock = clock
        self.given: dict[str, float] = {}
        self.revoked: set[str] = set()

    def app(self) -> Starlette:
        async def access_tokens(request: Request) -> Response:
            claims = jwt.decode(request.headers["authorization"].removeprefix("Bearer "), verify=False)
            jwt.decode(  # raises if the signature is wrong
                request.headers["authorization"].removeprefix("Bearer "),
                certs=self.public,
                clock_skew_in_seconds=10**10,
            )
            if claims["iss"] != "app-1" or claims["exp"] - claims["iat"] > 600:
                return Response(b"{}", 401)
            text = f"ghs_{len(self.given)}_of_{request.path_params['number']}"
            self.given[text] = self.clock.now() + 3600
            ends = dt.datetime.fromtimestamp(self.given[text], dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            return Response(b'{"token": "%s", "expires_at": "%s"}' % (text.encode(), ends.encode()), 201)

        async def any_page(request: Request) -> Response:
            text = request.headers["authorization"].removeprefix("Bearer ")
            if text in self.revoked or self.clock.now() >= self.given.get(text, 0.0):
                return Response(b'{"message": "Bad credentials"}', 401)
            return fine()

        return Starlette(
            routes=[
                Route("/app/installations/{number}/access_tokens", access_tokens, methods=["POST"]),
                Route("/{path:path}", any_page),
            ]
        )


def test_installation_tokens_are_fetched_renewed_and_replaced_when_revoked(key: rsa.RSAPrivateKey) -> None:
    clock = FakeClock()
    server = AppServer(key, clock)
    with (
        serving(server.app()) as url,
        GitHubClient(url, [], apps=[AppCredentials("app-1", ["77"], pem(key))], policy=QUICK, clock=clock) as client,
    ):
        for _ in range(3):
            assert client.get("/x").status == 200
        assert len(server.given) == 1
        clock.time += 3400  # not over yet, but about to be
        assert client.get("/x").status == 200
        assert len(server.given) == 2
        server.revoked.update(server.given)
        assert client.get("/x").status == 200
        assert len(server.given) == 3
        assert list(client.pool.accounts) == ["installation:77"]
        server.revoked.update(f"ghs_{n}_of_77" for n in range(99))
        with pytest.raises(AuthenticationError) as caught:
            client.get("/x")
        assert "ghs_" not in str(caught.value)


def test_an_app_that_github_does_not_know_is_one_clear_error(key: rsa.RSAPrivateKey) -> None:
    clock = FakeClock()
    with (
        serving(AppServer(key, clock).app()) as url,
        GitHubClient(url, [], apps=[AppCredentials("other", ["77"], pem(key))], policy=QUICK, clock=clock) as client,
        pytest.raises(
            AuthenticationError, match=r"no token to app installation 77 \(status 401\): check GITHUB_APP_ID"
        ),
    ):
        client.get("/x")


def test_a_key_that_is_none_is_named() -> None:
    with pytest.raises(ConfigurationError, match="GITHUB_APP_PRIVATE_KEY_FILE holds no RSA private key"):
        GitHubClient("http://127.0.0.1:9", [], apps=[AppCredentials("1", ["2"], SecretStr("nonsense"))])


# -- cancelling ----------------------------------------------------------------------------------------------------


def test_cancelling_reaches_those_who_wait_for_a_place() -> None:
    pool = TokenPool([SecretStr("one")], RetryPolicy(in_flight=1, points_a_minute={}))
    entered, ended = threading.Event(), threading.Event()

    def work() -> None:
        with pytest.raises(CancelledError), pool.lease(Resource.REST):
            pass
        ended.set()

    with pool.lease(Resource.REST) as (_, settle):
        settle({})  # no limits are told
        entered.set()
    with pool.lease(Resource.REST):
        worker = threading.Thread(target=work)
        worker.start()
        pool.cancel()
        assert ended.wait(5)
    worker.join()


def test_a_spent_token_is_found_out_about_without_being_asked_again(serve_world) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one", "two"), limits=Limits(requests=3))
    with client_of(url, "one", "two") as client:
        for _ in range(6):
            client.get("/repos/a/b")
    with (
        client_of(url, "two", "one", policy=RetryPolicy(longest_quota_wait=1.0)) as client,
        pytest.raises(RateLimitedError, match=r"another 6[01] minutes"),
    ):
        client.get("/repos/a/b")
    assert standin.served["limited"] == 0, "asking what is left costs nothing"


@pytest.mark.parametrize(
    ("written", "skew"),
    [(1000, 0), (1030, 0), (999, 0), (1032, 0), (1100, 70), (400, -600)],
    ids=["at once", "slow", "whole seconds", "whole seconds", "ahead", "behind"],
)
def test_an_answer_that_took_half_a_minute_is_no_sign_of_a_wrong_clock(written: int, skew: float) -> None:
    """Else its reset would be taken for half a minute later, and quota be slept over."""
    headers = {"date": formatdate(written, usegmt=True)}
    assert skew_of(headers, 1000.0, 1030.0) == skew
