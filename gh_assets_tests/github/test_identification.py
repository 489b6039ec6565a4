"""Accounts of tokens, and tokens that GitHub refuses."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gh_assets.errors import AuthenticationError
from gh_assets.github.ledger import MongoLedger
from gh_assets.github.retries import RetryPolicy
from gh_assets.storage.mongo import MongoDatabase
from gh_assets_tests.conftest import GitHubOf, ServeWorld
from gh_assets_tests.support.github import FakeClock, answering, client_of, fine, rest_case, served
from gh_assets_tests.support.worlds import world_of


def test_account_of_a_token_is_requested_once(serve_world: ServeWorld) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}), tokens=("one", "two"))
    with client_of(url, "one", "two") as client:
        for _ in range(4):
            client.get("/repos/a/b")
        assert sorted(client.pool.directory.accounts) == ["user:1", "user:2"]
    assert standin.served["graphql"] == 2
    assert standin.used("one") + standin.used("two") == 4, "the account costs no REST request"


def test_account_of_a_token_is_stored_for_the_next_process(serve_world: ServeWorld, database: MongoDatabase) -> None:
    standin, url = serve_world(world_of({"a/b": [0]}))
    for _ in range(3):
        with client_of(url, "token", ledger=MongoLedger(database["github_budgets"])) as client:
            client.get("/repos/a/b")
            assert list(client.pool.directory.accounts) == ["user:1"]
    assert standin.served["graphql"] == 1
    assert all("token" not in str(document.get("identity", "")) for document in database["github_budgets"].find())


def test_account_is_requested_by_rest_where_there_is_no_graphql(github_of: GitHubOf) -> None:
    standin, client = github_of(world_of({"a/b": [0]}), graphql=False)
    client.get("/repos/a/b")
    assert (list(client.pool.directory.accounts), standin.served["viewer"]) == (["user:1"], 1)


def test_single_refusal_of_a_good_token_is_retried() -> None:
    with answering(rest_case("bad-credentials-once"), fine()) as client:
        assert client.get("/x").payload == {"fine": True}
        assert client.pool.directory.retired == []


def test_token_is_retired_only_after_a_confirmed_refusal() -> None:
    """Two requests, then the quota twice, with a pause between."""
    seen: list[str] = []

    async def refuse(request: Request) -> Response:
        seen.append(request.url.path)
        known = len(seen) < 3  # identified while it was valid
        return Response(b'{"id": 1}', 200 if known else 401)

    clock = FakeClock()
    refused = pytest.raises(AuthenticationError, match="401 Bad credentials")
    with served({"/{path:path}": refuse}, clock=clock) as client, refused:
        client.get("/x")
    assert seen[2:] == ["/x", "/x", "/rate_limit", "/rate_limit"]
    assert RetryPolicy().confirmation_wait in clock.waits
