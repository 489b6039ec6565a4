"""Lists of stars by GraphQL, newest first: the stargazers of a repository, and the repositories that a user starred."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from gh_assets.github.graphql import FAILED, LIGHT_PAGE, Listing, is_page, page_without
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import Progress

Result = TypeVar("Result")

PAGE_VARIABLES = {"c": "String", "f": "Int!"}
"""Variables of `connection_field` and their types: the cursor to continue from, and the size of the page."""


def connection_field(connection: str, name_field: str, *, more: str = "") -> str:
    """Return the selection of a page of stars.

    Parameters
    ----------
    connection : str
        Field of the list, such as ``stargazers``.
    name_field : str
        Field with the name of a node, such as ``login``.
    more : str
        Other fields of the list.
    """
    return (
        f"{connection}(first: $f, after: $c, orderBy: {{field: STARRED_AT, direction: DESC}}) {{ "
        f"{more}totalCount pageInfo {{ hasNextPage endCursor }} "
        f"edges {{ starredAt node {{ databaseId {name_field} }} }} }}"
    )


@dataclass(frozen=True)
class StarPage:
    """A page of stars.

    Attributes
    ----------
    entries : sequence of tuple
        Node and time of each entry; the node is empty if GitHub gave none.
    total : int
        GitHub's count of the whole list.
    end_cursor : str or None
    has_more : bool
        Whether other pages follow.
    failed : sequence of int
        Positions of entries that GitHub could not return.
    """

    entries: Sequence[tuple[Mapping[str, Any], Any]]
    total: int
    end_cursor: str | None
    has_more: bool
    failed: Sequence[int]


class NewestFirstListing(Listing[Result]):
    """A list of stars that is read newest first, until a known star is met or the limit is reached.

    Parameters
    ----------
    key : int
    limit : int
        Maximum number of entries.

    Attributes
    ----------
    connection, name_field : str
        See `connection_field`.
    progress : Progress
        The entries that were read.
    cursors : list of str
        End cursors of the pages that were read.
    expected : int
        Expected number of entries of the whole list.
    """

    connection: ClassVar[str]
    name_field: ClassVar[str]

    def __init__(self, key: int, limit: int, expected: int) -> None:
        super().__init__(key)
        self.limit = limit
        self.expected = expected
        self.page_size = PAGE_SIZE
        self.restart(Progress(limit))

    def restart(self, progress: Progress) -> None:
        """Continue from the newest star."""
        self.progress = progress
        self.cursors: list[str] = []

    @abstractmethod
    def subject(self) -> str:
        """Return the id or login of the list's owner, for the variable ``i``."""

    def pages_left(self) -> int:
        return -(-(min(self.limit, self.expected) - self.progress.entries) // self.page_size)

    def variables(self) -> Mapping[str, Any]:
        size = max(1, min(self.page_size, self.limit - self.progress.entries))
        return {"i": self.subject(), "c": self.cursors[-1] if self.cursors else None, "f": size}

    def shrink_page(self) -> bool:
        can_shrink, self.page_size = self.page_size > LIGHT_PAGE, min(self.page_size, LIGHT_PAGE)
        return can_shrink

    def is_whole(self, node: Any) -> bool:
        return is_page(node, self.connection, self.name_field, self.cursors)

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        return page_without(node, self.connection, self.name_field, failed, self.cursors)

    def page_of(self, node: Any) -> StarPage:
        """Return the page of a node that is whole."""
        stars = node[self.connection]
        info = stars["pageInfo"]
        # Edges and nodes may be null.
        entries = [((edge or {}).get("node") or {}, (edge or {}).get("starredAt")) for edge in stars["edges"]]
        return StarPage(
            entries, stars["totalCount"], info.get("endCursor"), bool(info["hasNextPage"]), node.get(FAILED, ())
        )
