"""The error that a client gets in place of a response."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from gh_assets.errors import GhAssetsError


class RequestProblemError(GhAssetsError):
    """A request that cannot be served.

    Parameters
    ----------
    status : int
        HTTP status of the response.
    code : str
        Error code of the API.
    message : str
        What was wrong and what to do.
    headers : mapping of str to str
        Headers of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response of the API."""
        return {"error": {"code": self.code, "message": self.message}}


def wrong_parameter(location: Sequence[str | int], reason: str) -> RequestProblemError:
    """Return the problem that pydantic found at a location within the parameters or the body."""
    place = ".".join(str(part)[:60] for part in location)
    return RequestProblemError(422, "wrong_parameter", (f"{place}: {reason}." if place else f"{reason}.")[:500])
