"""The error that a client gets in place of a response."""

from __future__ import annotations

from gh_assets.errors import GhAssetsError


class RequestProblemError(GhAssetsError):
    """A request that cannot be served, with the HTTP status, the error code of the API, and a message for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def error_json(code: str, message: str) -> dict[str, dict[str, str]]:
    """The body of all errors of the API."""
    return {"error": {"code": code, "message": message}}
