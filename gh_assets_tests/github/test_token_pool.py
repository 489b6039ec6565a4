"""Budgets: whose they are, how they are read, paced, shared and waited for."""

from __future__ import annotations

import datetime as dt
import threading
import time
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

from gh_assets.embedded.standin.limits import Limits
from gh_assets.errors import (
    AuthenticationError,
    BudgetSpentError,
    CancelledError,
    ConfigurationError,
    RateLimitedError,
)
from gh_assets.github.client import AppCredentials, GitHubClient
from gh_assets.github.ledger import LEASE_SECONDS, MongoLedger
from gh_assets.github.rate_limits import (
    LONGEST_WINDOW,
    Observation,
    Resource,
    RetryPolicy,
    Token,
    TokenPool,
    observation_of,
    skew_of,
)
from gh_assets_tests.conftest import QUICK, serving
from gh_assets_tests.github.test_client import FakeClock, client_of, fine, scripted
from gh_assets_tests.support.worlds import world_of

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
    ask(pool, lambda _: {})
    assert pool.remaining() == 47, "an answer that tells nothing is counted, too"


def test_without_limits_nobody_waits() -> None:
    clock = FakeClock()
    pool = TokenPool([SecretStr("one")], RetryPolicy(points_a_minute={Resource.REST: 1}), clock)
    for _ in range(50):
        ask(pool, lambda _: {})
    with pool.lease(Resource.REST) as (lease, settle):
        assert pool.has_points(lease)
        settle({})
    assert clock.waits == []
    assert pool.remaining() is None


def test_a_new_window_begins_whole_and_is_counted_until_its_first_answer() -> None:
    clock = FakeClock()
    pool = pool_of("user:1", clock=clock)
    ask(pool, lambda _: headers(3, clock.now() + 100, limit=50))
    clock.time += 100.5
    assert pool.remaining() == 3, "resets are given in whole seconds"
    clock.time += 0.5
    assert pool.remaining() == 50
    ask(pool, lambda _: {})
    ask(pool, lambda _: headers(50, clock.now() + 3600, limit=50))
    assert pool.remaining() == 49, "an answer that was overtaken raises nothing"
    ask(pool, lambda _: headers(44, clock.now() + 3600, limit=50))
    assert (pool.remaining(), pool.next_reset()) == (44, clock.now() + 3600)


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
@given(turns=st.lists(st.integers(0, 2), min_size=10, max_size=18), limit=st.integers(1, 18))
def test_processes_that_share_a_ledger_overspend_nothing(home, turns: list[int], limit: int) -> None:
    from gh_assets.services.connections import open_mongo
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
    [(1000, 0), (1030, 0), (998, 0), (1032, 0), (1033, 3), (1100, 70), (997, -3), (400, -600)],
    ids=["at once", "slow", "whole seconds", "whole seconds", "just ahead", "ahead", "just behind", "behind"],
)
def test_an_answer_that_took_half_a_minute_is_no_sign_of_a_wrong_clock(written: int, skew: float) -> None:
    """Else its reset would be taken for half a minute later, and quota be slept over."""
    headers = {"date": formatdate(written, usegmt=True)}
    assert skew_of(headers, 1000.0, 1030.0) == skew


# -- what is known of budgets, and what is said of them ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "skew", "expected"),
    [
        (("5000", "4999", "1060"), 0.0, (5000, 4999, 1060.0)),
        ((60, 60, 1060), 50.0, (60, 60, 1010.0)),
        ((60, 61, 1060), 0.0, (60, 60, 1060.0)),
        ((1, 0, 996), 0.0, (1, 0, 996.0)),
        ((1, 1, 995), 0.0, (1, 1, 995.0)),
        ((1, 1, 1000 + LONGEST_WINDOW), 0.0, (1, 1, 1000 + LONGEST_WINDOW)),
        ((1, 0, 995), 0.0, None),
        ((0, 0, 1060), 0.0, None),
        ((1, -1, 1060), 0.0, None),
        ((1, 1, 1001 + LONGEST_WINDOW), 0.0, None),
        ((1, 1, float("nan")), 0.0, None),
        (("many", 1, 1060), 0.0, None),
        ((1, None, 1060), 0.0, None),
    ],
)
def test_figures_that_cannot_be_true_are_not_believed(
    told: tuple[object, object, object], skew: float, expected: tuple[int, int, float] | None
) -> None:
    seen = observation_of(*told, 1000.0, skew)
    assert seen == (None if expected is None else Observation(*expected, at=1000.0))


@given(st.integers(1, 40))
def test_waits_double_with_jitter_as_far_as_the_policy_goes(attempt: int) -> None:
    policy = RetryPolicy(first_wait=0.5, longest_wait=30.0, secondary_wait=60.0, longest_secondary_wait=960.0)
    ceiling = min(30.0, 0.5 * 2 ** (attempt - 1))
    assert ceiling / 2 <= policy.wait_before(attempt) <= ceiling
    least = min(960.0, 60.0 * 2 ** (attempt - 1))
    assert least <= policy.secondary_wait_before(attempt) <= 1.1 * least


def test_the_usual_policy_stays_below_what_github_allows() -> None:
    usual = RetryPolicy()
    assert usual.points_a_minute[Resource.REST] < 900
    assert usual.points_a_minute[Resource.GRAPHQL] < 2000
    assert usual.in_flight < 100
    assert usual.secondary_wait >= 60
    assert usual.longest_quota_wait > 3600, "a window is waited for"


def test_sums_are_over_the_accounts_in_use() -> None:
    clock = FakeClock()
    pool = pool_of("user:1", "user:1", "user:2", "user:3", clock=clock)
    assert (pool.remaining(), pool.limit(), pool.next_reset(), pool.retired) == (None, None, None, [])
    resets = {"user:1": clock.now() + 900, "user:2": clock.now() + 800, "user:3": clock.now() + 700}
    asked = [ask(pool, lambda account: headers(40, resets[account], limit=50)) for _ in range(3)]
    assert sorted(asked) == ["user:1", "user:2", "user:3"], "none is idle while another one is used"
    assert (pool.remaining(), pool.limit(), pool.next_reset()) == (120, 150, clock.now() + 700)
    unknown = Resource.GRAPHQL
    assert (pool.remaining(unknown), pool.limit(unknown), pool.next_reset(unknown)) == (None, None, None)
    pool.retire(pool.tokens[3])
    assert pool.retired == ["…en-3"]
    assert (pool.remaining(), pool.limit(), pool.next_reset()) == (80, 100, clock.now() + 800)
    clock.time += 801
    assert pool.remaining() == 90, "a window that is over begins anew"
    assert pool.next_reset() == resets["user:1"], "when the new one ends, its first answer tells"


def test_an_account_is_kept_as_long_as_it_has_quota() -> None:
    clock = FakeClock()
    server = Server(clock, limit=5)
    pool = pool_of("user:1", "user:2", clock=clock, server=server)
    ask(pool, server.answer), ask(pool, server.answer)
    kept, charged = pool.accounts["user:2"], []
    for _ in range(5):
        with pool.lease(Resource.REST, keep=kept) as (lease, settle):
            settle(server.answer(lease.account.identity))
            charged.append(lease.account.identity)
    assert charged == ["user:2"] * 4 + ["user:1"]
    assert clock.waits == []
    with pool.lease(Resource.REST, 3) as (lease, settle):
        assert pool.has_points(lease) is False, "all that is left is for this request"
        settle(None, 0)
    assert pool.has_points(lease)


def test_what_is_asked_at_once_is_counted_before_the_answers() -> None:
    clock = FakeClock()
    server = Server(clock, limit=3)
    pool = pool_of("user:1", "user:2", clock=clock, server=server)
    with (
        pool.lease(Resource.REST, 2) as (first, _),
        pool.lease(Resource.REST, 2) as (second, _),
        pool.lease(Resource.REST, 1) as (third, _),
        pool.lease(Resource.REST, 1) as (fourth, _),
    ):
        assert pool.in_flight == 4
        assert {lease.account.identity for lease in (first, second)} == {"user:1", "user:2"}
        assert {lease.account.identity for lease in (third, fourth)} == {"user:1", "user:2"}
    assert clock.waits == []
    assert pool.in_flight == 0
    assert pool.remaining() == 0, "of what was not answered, nobody knows whether it was counted"


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose time is not UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_a_long_wait_is_announced_once_and_a_short_one_not() -> None:
    clock = FakeClock()
    server = Server(clock, limit=2)
    pool = pool_of("user:1", clock=clock, server=server)
    told: list[str] = []
    pool.notify = told.append
    pool.pause(4.0)
    ask(pool, server.answer)
    assert (told, clock.waits) == ([], [4.0])
    ask(pool, server.answer)
    ask(pool, server.answer)
    (only,) = told
    until = dt.datetime.fromtimestamp(clock.now(), dt.UTC)
    assert only == f"The quota of all tokens is spent: waiting 3601 s, until {until:%H:%M:%S} UTC."
    assert max(clock.waits) <= 60, "in steps: a token may become free meanwhile"


def test_a_secondary_limit_stops_all_and_ends_in_an_error_where_it_does_not_end() -> None:
    clock = FakeClock()
    pool = pool_of("user:1", "user:2", clock=clock, policy=replace(UNPACED, longest_quota_wait=500.0))
    told: list[str] = []
    pool.notify = told.append
    began = clock.now()
    pool.pause(100.0)
    pool.pause(20.0)  # of several that are in flight, the longest holds
    ask(pool, lambda _: {})
    assert clock.now() == began + 100
    assert [words.split(":")[0] for words in told] == ["GitHub's secondary rate limit was reached"]
    pool.pause(450.0)
    ask(pool, lambda _: {})
    with pytest.raises(RateLimitedError, match="nothing but its secondary rate limit for 10 minutes"):
        pool.pause(1.0)
    pool.answered()
    pool.pause(1.0)
    ask(pool, lambda _: {})
    assert clock.now() == began + 551


def test_no_more_are_in_flight_than_the_policy_allows() -> None:
    pool = TokenPool([SecretStr("one")], RetryPolicy(in_flight=2, points_a_minute={}))
    pair = threading.Barrier(2)
    peaks: list[int] = []

    def work() -> None:
        for _ in range(4):
            with pool.lease(Resource.REST) as (_, settle):
                pair.wait(10)
                peaks.append(pool.in_flight)
                pair.wait(10)
                settle({})

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert peaks == [2] * 24
    assert pool.in_flight == 0


def test_what_was_claimed_and_not_used_is_given_back(ledgers) -> None:
    clock = FakeClock()
    server = Server(clock, limit=100)
    first, second = (pool_of("user:1", clock=clock, ledger=ledgers(), server=server) for _ in range(2))
    for _ in range(5):
        ask(first, server.answer)
    first.close()
    with pytest.raises(CancelledError):
        ask(first, server.answer)
    for _ in range(95):
        ask(second, server.answer)
    assert sum(clock.waits) < LEASE_SECONDS, "waited until what the first one held was over"
    assert server.refused == 0


def test_without_any_valid_token_all_are_named() -> None:
    pool = pool_of("user:1", "user:2", clock=FakeClock())
    for token in pool.tokens:
        pool.retire(token)
    with pytest.raises(AuthenticationError, match=r"refused the tokens ending in …en-0, …en-1 \(401"):
        ask(pool, lambda _: {})


def test_a_token_whose_user_cannot_be_found_out_yet_is_waited_for() -> None:
    clock = FakeClock()
    later = clock.now() + 100

    def identify(token: Token) -> None:
        if clock.now() < later:
            pool.postpone(token, later)
        else:
            pool.identify(token, "user:1")

    pool = TokenPool([SecretStr("one")], UNPACED, clock, identifier=identify)
    assert ask(pool, lambda _: {}) == "user:1"
    assert 100 <= sum(clock.waits) <= 102
