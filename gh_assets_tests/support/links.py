"""The repositories that a text links to, for tests of addresses and of markups."""

from gh_assets.collector.lists.links import repositories_of
from gh_assets.collector.lists.markup import links_in


def linked_repositories(text: str, name: str = "README.md") -> list[str]:
    """Return the repositories that a text in the markup of a file name links to."""
    return repositories_of(links_in(text, name))
