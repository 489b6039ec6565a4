"""Tests of the private parts of Google's client that the project depends on.

If one fails after an upgrade of google-cloud-storage, its session has moved: find where `storage.Client` keeps it, or
drop `configure_session`, which only makes requests faster.
"""

import pytest
import requests

from gh_assets.storage.objects import make_client


def test_client_has_a_session_of_requests_whose_pool_has_the_given_size() -> None:
    session = make_client(endpoint="http://127.0.0.1:9", connections=7)._http
    assert isinstance(session, requests.Session)
    assert session.get_adapter("https://storage.googleapis.com")._pool_maxsize == 7  # type: ignore[attr-defined]


def test_client_resolves_the_environment_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/authorities.pem")
    session = make_client(endpoint="https://storage.example")._http
    monkeypatch.delenv("HTTPS_PROXY")
    assert session.proxies["https"] == "http://proxy.example:3128"
    assert (session.verify, session.trust_env) == ("/authorities.pem", False)
