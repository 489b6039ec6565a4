"""Tests of the network settings, behind a corporate proxy that decrypts TLS with a certificate authority of its own."""

import contextlib
import datetime as dt
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.responses import JSONResponse

from gh_assets.embedded.bucket.app import BucketServer
from gh_assets.embedded.bucket.files import Files
from gh_assets.embedded.standin.app import Standin
from gh_assets.errors import ConfigurationError
from gh_assets.local.network import prepare_network
from gh_assets_tests.conftest import SETTINGS
from gh_assets_tests.support.dagster_dev import ROOT
from gh_assets_tests.support.serving import serving
from gh_assets_tests.support.tcp import TcpListener, forward
from gh_assets_tests.support.worlds import world_of

BUCKET, OAUTH = "storage.googleapis.com", "oauth2.googleapis.com"
GITHUB, HOOKS = "github.company.example", "hooks.company.example"

CHILD = """
import sys
from pathlib import Path
from pydantic import SecretStr
from gh_assets.local.network import prepare_network
prepare_network()

from gh_assets.services.connections import connect_gcs, connect_github, data_store
from gh_assets.settings import load_settings

settings = load_settings()
store = data_store(settings)
store.write("folder/x", b"content", metadata={"k": "v"})
assert store.read("folder/x") == b"content"
store.read_to("folder/x", Path("x"))
(Path("large")).write_bytes(b"1234567" * 5_000_000)
store.write("large", Path("large"))
store.copy(store.describe("large"), "copy")
assert len(store.read("copy")) == 35_000_000
assert sorted(store.names("")) == ["copy", "folder/x", "large"]
with connect_github(settings) as client:
    assert client.get("/user").status == 200
import requests
assert requests.post("https://hooks.company.example/alert", json={"text": "hello"}, timeout=10).ok
"""


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, *hosts: str
) -> bytes:
    """Return a certificate for hosts, or for an authority if there are none."""
    subject, signed_by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts or (name,)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signed_by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
        .add_extension(x509.BasicConstraints(ca=not hosts, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)


class CorporateNetwork(TcpListener):
    """A network whose only connection to other servers is a proxy.

    Attributes
    ----------
    proxy : str
        Address of the proxy.
    authority : Path
        File with the authority of its certificates.
    connected : list of str
        Methods and targets of the connections.
    requested : list of str
        Methods and hosts of the requests.
    """

    def __init__(self, folder: Path) -> None:
        self.connected: list[str] = []
        self.requested: list[str] = []
        own, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.authority = folder / "authority.pem"
        self.authority.write_bytes(_certificate("company", own, "company", own))
        pair = folder / "proxy.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pair.write_bytes(private + _certificate("proxy", key, "company", own, BUCKET, OAUTH, GITHUB, HOOKS))
        self.files = Files(folder / "files")
        self.files.create_bucket("company-data")
        self.bucket = BucketServer(self.files, "oauth-token")
        self.github = Standin(world_of({"a/b": [1]}), ["token"]).app()
        self.stack = contextlib.ExitStack()
        url = self.stack.enter_context(serving(self.answer, interface="asgi3", ssl_certfile=str(pair)))
        self.address = "127.0.0.1", int(url.rpartition(":")[2])
        super().__init__()
        self.proxy = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        super().close()
        self.stack.close()
        self.files.close()

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode().split(":")[0]
        self.requested.append(f"{scope['method']} {host}")
        inside = [(name, value) for name, value in scope["headers"] if name != b"host"]
        if host == BUCKET:
            # Addresses in responses have the requested host, as Google's have.
            async def outside(message: Any) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [
                        (name, re.sub(rb"^http://127\.0\.0\.1", f"https://{BUCKET}".encode(), value))
                        for name, value in message["headers"]
                    ]
                await send(message)

            await self.bucket({**scope, "headers": [*inside, (b"host", b"127.0.0.1")]}, receive, outside)
        elif host == OAUTH:
            await Request(scope, receive).body()
            token = {"access_token": "oauth-token", "expires_in": 3600, "token_type": "Bearer"}
            await JSONResponse(token)(scope, receive, send)
        elif host == GITHUB:
            path = scope["path"].removeprefix("/api/v3")
            await self.github({**scope, "path": path, "raw_path": path.encode()}, receive, send)
        else:
            await JSONResponse({})(scope, receive, send)

    def serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, IndexError):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            self.connected.append(f"{method} {target}")
            with client, socket.create_connection(self.address) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                forward(client, server)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[CorporateNetwork]:
    made = CorporateNetwork(tmp_path)
    yield made
    made.close()


def run_in(network: CorporateNetwork, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the network, with the settings and credentials of the company and no others."""
    key = rsa.generate_private_key(65537, 2048)
    account = {
        "type": "service_account",
        "project_id": "company",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "robot@company.iam.gserviceaccount.com",
        "token_uri": f"https://{OAUTH}/token",
    }
    credentials = Path("account.json").resolve()
    credentials.write_text(json.dumps(account))
    pattern = re.compile("proxy|ca_bundle|ssl_cert", re.IGNORECASE)
    own = {name: value for name, value in os.environ.items() if name not in SETTINGS and not pattern.search(name)}
    environment = own | more
    environment |= {
        "HTTPS_PROXY": network.proxy,
        "GOOGLE_APPLICATION_CREDENTIALS": str(credentials),
        "GCS_BUCKET": "company-data",
        "GITHUB_API_URL": f"https://{GITHUB}/api/v3",
        "GITHUB_TOKENS": "token",
        "GH_ASSETS_HOME": str(home),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_clients_use_the_proxy_and_trust_its_authority(network: CorporateNetwork, home: Path, variable: str) -> None:
    # The other proxy is unreachable: local servers must be reached directly.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", variable: str(network.authority)}
    done = run_in(network, home, "-c", CHILD, **proxies)
    assert done.returncode == 0, done.stderr
    assert set(network.connected) >= {f"CONNECT {host}:443" for host in (BUCKET, OAUTH, GITHUB, HOOKS)}
    assert {requested.partition(" ")[2] for requested in network.requested} == {BUCKET, OAUTH, GITHUB, HOOKS}


def test_proxy_is_not_trusted_without_its_authority(network: CorporateNetwork, home: Path) -> None:
    done = run_in(network, home, "-m", "gh_assets", "doctor", "--json")
    assert done.returncode == 1
    assert network.requested == []
    assert "Traceback" not in done.stderr
    found = {finding["service"]: finding for finding in json.loads(done.stdout)}
    for service in ("Cloud Storage", "GitHub"):
        assert not found[service]["ok"]
        assert "REQUESTS_CA_BUNDLE" in found[service]["words"], "the advice"


def test_missing_file_of_authorities_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE names .*missing\.pem, which does not exist"):
        prepare_network()


def test_local_servers_are_never_reached_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    monkeypatch.setenv("no_proxy", "*")
    prepare_network()
    assert os.environ["NO_PROXY"] == "intranet.example,127.0.0.1,localhost,::1"
    assert os.environ["no_proxy"] == "*"
