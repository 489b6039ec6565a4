"""What the REST lists of stars share: their pages, and entries with or without a time."""

from dataclasses import dataclass
from typing import Any

from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.responses import STAR_JSON, GitHubResponse


@dataclass(frozen=True)
class RestPages:
    """The pages of one list, numbered from 1.

    Parameters
    ----------
    client : GitHubClient
    path : str
        Path of the list in the API.
    """

    client: GitHubClient
    path: str

    def get(self, number: int, etag: str | None = None) -> GitHubResponse:
        """Request a page, with its time for each star; one whose ETag is still `etag` has the status 304."""
        parameters: dict[str, str | int] = {"per_page": PAGE_SIZE, "page": number}
        return self.client.get(self.path, parameters=parameters, accept=STAR_JSON, etag=etag)

    def has_changed(self, number: int, etag: str | None, content: bytes | None) -> bool:
        """Return whether a page is no longer what it was; if it is, the request costs no quota.

        Parameters
        ----------
        number : int
        etag : str or None
        content : bytes or None
            Its content, which servers without ETags send again.
        """
        response = self.get(number, etag)
        return response.status != 304 and (response.status != 200 or response.content != content)


def subject_and_time(entry: Any, key: str) -> tuple[Any, Any]:
    """Return the user or repository of an entry, and when the star was given.

    Servers that ignore the media type send bare users or repositories, without a time.
    """
    if isinstance(entry, dict) and key in entry:
        return entry[key], entry.get("starred_at")
    return entry, None
