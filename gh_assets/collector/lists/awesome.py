"""Find the GitHub repositories that addresses point to. `gh_assets.collector.lists.sources` reads the lists."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from gh_assets.github.names import NAME, OWNER, RESERVED_OWNERS

_OWNER = re.compile(OWNER)
_NAME = re.compile(NAME)


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
