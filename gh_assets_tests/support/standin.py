"""Requests to a stand-in that accepts the token ``token``."""

from __future__ import annotations

import requests

HEADERS = {"authorization": "Bearer token"}


def get(url: str, path: str = "/repositories/1") -> requests.Response:
    """Send a GET request, by default for the first repository."""
    return requests.get(url + path, headers=HEADERS, timeout=5)
