"""Awesome lists: which GitHub repositories a Markdown text links to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from gh_assets.collector.client import RAW, GitHubClient
from gh_assets.errors import InputError

# First path segments of github.com that are pages of GitHub itself, not owners of repositories. Only sure ones: a
# page taken for a repository costs one request and ends as "gone"; a repository taken for a page would be lost.
_RESERVED_OWNERS = frozenset(
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
        "new",
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
    if len(segments) < 2 or segments[0].lower() in _RESERVED_OWNERS:
        return None
    owner, name = segments[0], re.sub(r"\.git$", "", segments[1], flags=re.IGNORECASE)
    if not _OWNER.fullmatch(owner) or not _NAME.fullmatch(name) or name in (".", ".."):
        return None
    return f"{owner}/{name}"


def linked_repositories(markdown: str) -> list[str]:
    """The repositories that a Markdown text links to, in order of appearance, without repetitions.

    Links of any form count (inline, reference, bare, ``<a href>``); pictures such as badges don't, unless they
    are themselves links. Names that differ only in case are one repository: the first spelling stays.
    """
    parser = MarkdownIt("gfm-like", {"html": True})
    if parser.linkify is not None:
        # As on GitHub: bare text is a link only with its scheme ("github.com/pkg/errors" in a sentence is none).
        parser.linkify.set({"fuzzy_link": False, "fuzzy_email": False})
    found: dict[str, str] = {}
    for url in _links(parser.parse(markdown)):
        name = repository_of(url)
        if name is not None:
            found.setdefault(name.lower(), name)
    return list(found.values())


def read_list(source: str, client: GitHubClient) -> str:
    """The Markdown of a list: a file, or the README of ``owner/name`` on GitHub.

    Raises
    ------
    InputError
        If it is neither, does not exist, or cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The awesome list {source} cannot be read: {error}.") from error
    if not is_full_name(source) or path.suffix.lower() in (".md", ".markdown") or source.startswith((".", "/", "~")):
        raise InputError(f"The awesome list {source!r} is neither a file that exists nor owner/name on GitHub.")
    location = f"/repos/{source}/readme"
    for _ in range(5):
        answer = client.get(location, accept=RAW)
        if answer.status in (301, 302, 307) and answer.headers.get("location"):
            location = answer.headers["location"]
            continue
        if answer.status == 200:
            return answer.content.decode("utf-8", errors="replace")
        break
    raise InputError(f"The awesome list {source} cannot be read from GitHub (status {answer.status}). Check its name.")


def fingerprint_of_list(source: str, client: GitHubClient, seen: str | None) -> str:
    """What tells one state of a list from another: the ETag of a README, or the hash of a file.

    Parameters
    ----------
    source : str
        As for `read_list`.
    client : GitHubClient
    seen : str or None
        What it was; if it still is that, asking costs no quota.

    Raises
    ------
    InputError
        If the list cannot be read.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return hashlib.sha256(read_list(source, client).encode()).hexdigest()
    location = f"/repos/{source}/readme"
    for _ in range(5):
        answer = client.get(location, accept=RAW, etag=seen)
        if answer.status == 304 and seen is not None:
            return seen
        if answer.status == 200:
            return answer.etag or hashlib.sha256(answer.content).hexdigest()
        if answer.status not in (301, 302, 307) or not answer.headers.get("location"):
            break
        location = answer.headers["location"]
    raise InputError(f"The awesome list {source} cannot be read from GitHub (status {answer.status}). Check its name.")


def _links(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "link_open":
            yield str(token.attrGet("href") or "")
        elif token.type in ("html_block", "html_inline"):
            anchors = _Anchors()
            anchors.feed(token.content)
            yield from anchors.urls
        if token.children:
            yield from _links(token.children)


class _Anchors(HTMLParser):
    """Collects the targets of ``<a href>``."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.urls += [value for name, value in attrs if name == "href" and value]
