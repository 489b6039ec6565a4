"""Find the GitHub repositories that addresses point to. `gh_assets.collector.lists.sources` reads the lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

RESERVED_OWNERS = frozenset(
    [
        "about", "account", "apps", "codespaces", "collections", "contact", "customer-stories", "dashboard",
        "discussions", "education", "enterprise", "events", "explore", "features", "gist", "issues", "join",
        "login", "logout", "marketplace", "notifications", "orgs", "organizations", "pricing", "pulls",
        "readme", "resources", "search", "security", "sessions", "settings", "signup", "site", "solutions",
        "sponsors", "stars", "topics", "trending", "users",
    ]
)  # fmt: skip
"""First path segments of github.com that are pages of GitHub itself, not owners of repositories.

Only certain ones are listed: a page mistaken for a repository costs one request and ends as "gone"; a repository
mistaken for a page would be lost.
"""

_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,60})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_FULL_NAME = re.compile(rf"{_OWNER.pattern}/{_NAME.pattern}")


def is_full_name(text: str) -> bool:
    """Return whether the text has the form ``owner/name``."""
    return _FULL_NAME.fullmatch(text) is not None


def repository_of(url: str) -> str | None:
    """Return the repository that an address points into as ``owner/name``, or None if it points to none.

    Sub-paths, anchors, queries, ``.git``, trailing slashes and ``www.`` do not matter. Gists, users, organizations,
    topics and GitHub's own pages are not repositories.
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
    """Return the repositories that addresses point into, in order, without repetitions.

    Names that differ only in case are one repository, in the spelling that comes first.
    """
    names: dict[str, str] = {}
    for url in urls:
        name = repository_of(url)
        if name is not None:
            names.setdefault(name.lower(), name)
    return list(names.values())
