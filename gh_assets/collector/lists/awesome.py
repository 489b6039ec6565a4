"""Which GitHub repositories an address or a text links to. Where lists are read from is in `list_sources`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from gh_assets.collector.lists.markup import links_in

RESERVED_OWNERS = frozenset(
    [
        "about",
        "account",
        "apps",
        "codespaces",
        "collections",
        "contact",
        "customer-stories",
        "dashboard",
        "discussions",
        "education",
        "enterprise",
        "events",
        "explore",
        "features",
        "gist",
        "issues",
        "join",
        "login",
        "logout",
        "marketplace",
        "notifications",
        "orgs",
        "organizations",
        "pricing",
        "pulls",
        "readme",
        "resources",
        "search",
        "security",
        "sessions",
        "settings",
        "signup",
        "site",
        "solutions",
        "sponsors",
        "stars",
        "topics",
        "trending",
        "users",
    ]
)
"""First path segments of github.com that are pages of GitHub itself, not owners of repositories.

Only sure ones: a page taken for a repository costs one request and ends as "gone"; a repository taken for a page would
be lost.
"""

_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,60})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_FULL_NAME = re.compile(rf"{_OWNER.pattern}/{_NAME.pattern}")


def is_full_name(text: str) -> bool:
    """Whether the text has the form ``owner/name``."""
    return _FULL_NAME.fullmatch(text) is not None


def repository_of(url: str) -> str | None:
    """The repository that an address points into, as ``owner/name``; None if it points to none.

    Sub-paths, anchors, queries, ``.git``, trailing slashes and ``www.`` don't matter. Gists, people,
    organisations, topics and GitHub's own pages are no repositories.
    """
    url = url.strip()
    if url.startswith("git@github.com:"):
        url = "https://github.com/" + url.removeprefix("git@github.com:")
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    if parts.scheme not in ("http", "https", "git", "ssh", "git+https", "") or host not in (
        "github.com",
        "www.github.com",
    ):
        return None
    segments = [unquote(segment).strip() for segment in parts.path.split("/")]
    segments = [segment for segment in segments if segment]
    if len(segments) < 2 or segments[0].lower() in RESERVED_OWNERS:
        return None
    owner, name = segments[0], re.sub(r"\.git$", "", segments[1], flags=re.IGNORECASE)
    if not _OWNER.fullmatch(owner) or not _NAME.fullmatch(name) or name in (".", ".."):
        return None
    return f"{owner}/{name}"


def repositories_of(urls: Iterable[str]) -> list[str]:
    """The repositories that addresses point into, in order, without repetitions.

    Names that differ only in case are one repository: the first spelling stays.
    """
    found: dict[str, str] = {}
    for url in urls:
        name = repository_of(url)
        if name is not None:
            found.setdefault(name.lower(), name)
    return list(found.values())


def linked_repositories(text: str, name: str = "README.md") -> list[str]:
    """The repositories that a text links to, in order of appearance, without repetitions.

    Links of any form count, also bare addresses; pictures such as badges don't, unless they are themselves links.

    Parameters
    ----------
    text : str
    name : str
        The file's name, whose suffix tells the markup; see `gh_assets.collector.lists.markup.links_in`.
    """
    return repositories_of(links_in(text, name))
