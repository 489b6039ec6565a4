"""Requests to a stand-in that accepts the token ``token``."""

from collections.abc import Callable
from typing import Any

import requests

from gh_assets.embedded.standin.app import Standin

HEADERS = {"authorization": "Bearer token"}


class StandinClient:
    """A stand-in, and requests to it with its token, which follow no redirections."""

    def __init__(self, standin: Standin, url: str) -> None:
        self.standin, self.url = standin, url

    def get(self, path: str = "/repositories/1", **headers: str) -> requests.Response:
        """Send a GET request, by default for the first repository."""
        return requests.get(self.url + path, headers=HEADERS | headers, allow_redirects=False, timeout=10)

    def post(self, path: str, body: dict[str, Any]) -> requests.Response:
        return requests.post(self.url + path, json=body, headers=HEADERS, timeout=10)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the response to a GraphQL query."""
        response = self.post("/graphql", {"query": query, "variables": variables})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


StandinOf = Callable[..., StandinClient]
