"""Tokens of app installations."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gh_assets.errors import AuthenticationError, ConfigurationError
from gh_assets.github.client import AppCredentials, GitHubClient
from gh_assets_tests.support.github import FakeClock, Json, fine
from gh_assets_tests.support.policies import QUICK
from gh_assets_tests.support.serving import serving


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> SecretStr:
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    return SecretStr(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()).decode())


class AppServer:
    """Gives tokens to an app with a valid signature, and accepts each until it expires."""

    def __init__(self, key: rsa.RSAPrivateKey, clock: FakeClock) -> None:
        self.public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.clock = clock
        self.given: dict[str, float] = {}
        self.revoked: set[str] = set()

    def app(self) -> Starlette:
        async def access_tokens(request: Request) -> Response:
            signed = request.headers["authorization"].removeprefix("Bearer ")
            # Raises if the signature is wrong.
            claims: Json = jwt.decode(signed, certs=self.public, clock_skew_in_seconds=10**10)  # type: ignore[no-untyped-call]
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

        routes = {"/app/installations/{number}/access_tokens": access_tokens, "/{path:path}": any_page}
        return Starlette(routes=[Route(path, handler, methods=["GET", "POST"]) for path, handler in routes.items()])


@contextmanager
def app_client(key: rsa.RSAPrivateKey, app: str) -> Iterator[tuple[AppServer, GitHubClient]]:
    """Yield a server of apps, and a client with the credentials of an app, in a fake time."""
    clock = FakeClock()
    server, apps = AppServer(key, clock), [AppCredentials(app, ["77"], pem(key))]
    with serving(server.app()) as url, GitHubClient(url, [], apps=apps, policy=QUICK, clock=clock) as client:
        yield server, client


def test_installation_tokens_are_requested_renewed_and_replaced_after_revocation(key: rsa.RSAPrivateKey) -> None:
    with app_client(key, "app-1") as (server, client):
        for _ in range(3):
            assert client.get("/x").status == 200
        assert len(server.given) == 1
        server.clock.time += 3400  # not over yet, but about to be
        assert client.get("/x").status == 200
        assert len(server.given) == 2
        server.revoked.update(server.given)
        assert client.get("/x").status == 200
        assert len(server.given) == 3
        assert list(client.pool.directory.accounts) == ["installation:77"]
        server.revoked.update(f"ghs_{n}_of_77" for n in range(99))
        with pytest.raises(AuthenticationError) as caught:
            client.get("/x")
        assert "ghs_" not in str(caught.value)


def test_unknown_app_is_one_clear_error(key: rsa.RSAPrivateKey) -> None:
    refused = r"no token to app installation 77 \(status 401\): check GITHUB_APP_ID"
    with app_client(key, "other") as (_, client), pytest.raises(AuthenticationError, match=refused):
        client.get("/x")


def test_error_names_the_file_of_an_invalid_key() -> None:
    with pytest.raises(ConfigurationError, match="GITHUB_APP_PRIVATE_KEY_FILE holds no RSA private key"):
        GitHubClient("http://127.0.0.1:9", [], apps=[AppCredentials("1", ["2"], SecretStr("nonsense"))])
