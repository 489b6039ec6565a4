"""Lists of stars by GraphQL, newest first: the stargazers of a repository, and the repositories that a user starred."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from gh_assets.github.graphql import LIGHT_PAGE, Listing
from gh_assets.github.limits import PAGE_SIZE
from gh_assets.github.list_reading import Progress, number_of

Task = TypeVar("Task")
Result = TypeVar("Result")

FAILED = "failed entries"
"""Key of a node without the entries that GitHub failed on: their positions."""

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


class NewestFirstListing(Listing[Task, Result]):
    """A list of stars that is read newest first, until a known star is met or the limit is reached.

    Parameters
    ----------
    key : int
    task : Task
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

    def __init__(self, key: int, task: Task, limit: int, expected: int) -> None:
        super().__init__(key, task)
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
        """Whether a node has a complete page: entries, count, and a next cursor that leads to no page before."""
        page = node.get(self.connection) if isinstance(node, Mapping) else None
        if not isinstance(page, Mapping):
            return False
        edges, info, total = page.get("edges"), page.get("pageInfo"), page.get("totalCount")
        if not isinstance(edges, list) or not isinstance(info, Mapping) or isinstance(total, bool):
            return False
        if not isinstance(total, int) or total < 0 or not all(_is_edge(edge, self.name_field) for edge in edges):
            return False
        if info.get("hasNextPage") is False:
            return True
        cursor = info.get("endCursor")
        return (
            info.get("hasNextPage") is True and isinstance(cursor, str) and cursor not in self.cursors and bool(edges)
        )

    def without(self, node: Any, failed: Collection[int]) -> Any | None:
        if not self.is_whole(node):
            return None
        page = node[self.connection]
        edges = page["edges"]
        if not all(place < len(edges) for place in failed) or 2 * len(failed) > len(edges):
            return None  # most of its entries failed
        rest = [None if place in failed else edge for place, edge in enumerate(edges)]
        return {**node, self.connection: {**page, "edges": rest}, FAILED: sorted(failed)}

    def page_of(self, node: Any) -> StarPage:
        """Return the page of a node that is whole."""
        stars = node[self.connection]
        info = stars["pageInfo"]
        # Edges and nodes may be null.
        entries = [((edge or {}).get("node") or {}, (edge or {}).get("starredAt")) for edge in stars["edges"]]
        return StarPage(
            entries, stars["totalCount"], info.get("endCursor"), bool(info["hasNextPage"]), node.get(FAILED, ())
        )


def _is_edge(edge: Any, name: str) -> bool:
    """Whether an entry has the right types; it is null where the account is deleted.

    It is called for each of millions of stars, and the parser of JSON makes dictionaries: other types of mappings and
    unions of types take almost twice as long.
    """
    if edge is None:
        return True
    if not isinstance(edge, dict) or not _is_text_or_null(edge.get("starredAt")):
        return False
    node = edge.get("node")
    if node is None:
        return True
    if not isinstance(node, dict) or not _is_text_or_null(node.get(name)):
        return False
    number = node.get("databaseId")
    return number is None or number_of(number) is not None


def _is_text_or_null(value: object) -> bool:
    return value is None or isinstance(value, str)
