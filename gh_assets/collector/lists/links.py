"""What the readers of all markups share: links of HTML, bare addresses, and the repositories that these point to."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import unquote, urlsplit

from gh_assets.errors import InputError
from gh_assets.github.names import RESERVED_OWNERS, is_full_name

_TAG_OPEN = re.compile(r"[a-zA-Z][^\s/>]*")
_ATTRIBUTE = re.compile(r"""[\s/]*([^\s/>][^\s/>=]*)(\s*=\s*(?:"([^"]*)"|'([^']*)'|(?!["'])([^\s>]*)))?""")
_TAG_CLOSE = re.compile(r"[\s/]*>")
_WITHOUT_VALUE = re.compile(r"\s*=")
_RAW_TEXT = frozenset({"script", "style"})

GITHUB_HOSTS = ("github.com", "www.github.com")


class UnreadableTextError(InputError):
    """A text cannot be parsed. The message is the reason alone, without the list's name."""


@dataclass
class HtmlLinks:
    """Links of a document.

    Attributes
    ----------
    urls : list of str
        Targets of ``<a href>``, in order.
    path : str
        Path of the file that GitHub rendered, from ``data-path``; empty if there is none.
    is_plain : bool
        Whether GitHub shows the file as plain text, without links.
    """

    urls: list[str] = field(default_factory=list)
    path: str = ""
    is_plain: bool = False


def html_links(html: str) -> HtmlLinks:
    """Return the links of an HTML document or fragment of any depth, well-formed or not.

    Python's own parser needs a minute for 100 kB of unclosed tags; this one reads each character once.
    """
    links = HtmlLinks()
    for tag, attributes in _start_tags(html):
        if tag == "a" and attributes.get("href"):
            links.urls.append(attributes["href"])
        elif tag == "div" and not links.path:
            links.path = attributes.get("data-path", "")
        elif tag == "div" and not links.urls and attributes.get("class") == "plain":
            links.is_plain = True
    return links


def _start_tags(html: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield start tags and their attributes, both in lower case; the first attribute of a name counts.

    An unclosed tag or comment extends to the end of the document, as in a browser.
    Source: html.spec.whatwg.org/multipage/parsing.html#tokenization.
    """
    position = html.find("<")
    while position != -1:
        position += 1
        opened = _TAG_OPEN.match(html, position)
        if opened is not None:
            attributes, position = _attributes(html, opened.end())
            if position == -1:
                return
            tag = opened[0].lower()
            yield tag, attributes
            if tag in _RAW_TEXT:
                end = re.compile(rf"</{tag}\b", re.IGNORECASE).search(html, position)
                position = len(html) if end is None else end.start()
        elif html.startswith("!--", position):
            # "<!-->" is a comment, too.
            end_of_comment = html.find("-->", position + 1)
            position = len(html) if end_of_comment == -1 else end_of_comment + 3
        elif html.startswith(("!", "?", "/"), position) and not html.startswith("![", position):
            end_of_tag = html.find(">", position)
            position = len(html) if end_of_tag == -1 else end_of_tag
        position = html.find("<", position)


def _attributes(html: str, position: int) -> tuple[dict[str, str], int]:
    """Return the attributes of a start tag and the position of its end, -1 if it has none."""
    attributes: dict[str, str] = {}
    while (end := _TAG_CLOSE.match(html, position)) is None:
        attribute = _ATTRIBUTE.match(html, position)
        if attribute is None or (attribute[2] is None and _WITHOUT_VALUE.match(html, attribute.end())):
            return attributes, -1  # the text ends within the tag, or within a value in quotes
        value = attribute[3] or attribute[4] or attribute[5] or ""
        attributes.setdefault(attribute[1].lower(), unescape(value))
        position = attribute.end()
    return attributes, end.end()


def without_punctuation(url: str) -> str:
    """Return a bare address without the punctuation of the sentence around it."""
    while True:
        shorter = url.rstrip(".,;:!?'\"*/+~=")
        if shorter.endswith(")") and shorter.count(")") > shorter.count("("):
            shorter = shorter[:-1]
        if shorter == url:
            return url
        url = shorter


def repository_of(url: str) -> str | None:
    """Return the repository that an address points into as ``owner/name``, or None if it points to none.

    Sub-paths, anchors, queries, ``.git``, trailing slashes and ``www.`` do not matter. Gists, users, organizations,
    topics and GitHub's own pages are not repositories.
    """
    try:
        address = urlsplit(re.sub(r"^git@github\.com:", "https://github.com/", url.strip()))
        host = address.hostname
    except ValueError:
        return None
    segments = [segment for part in address.path.split("/") if (segment := unquote(part).strip())]
    is_here = host in GITHUB_HOSTS and address.scheme in ("http", "https", "git", "ssh", "git+https", "")
    if not is_here or len(segments) < 2 or segments[0].lower() in RESERVED_OWNERS:
        return None
    owner, name = segments[0], re.sub(r"\.git$", "", segments[1], flags=re.IGNORECASE)
    return f"{owner}/{name}" if is_full_name(f"{owner}/{name}") and name not in (".", "..") else None


def repositories_of(urls: Iterable[str]) -> list[str]:
    """Return the repositories that addresses point into, in order, without repetitions.

    Names that differ only in case are one repository, in the spelling that comes first.
    """
    names: dict[str, str] = {}
    for name in filter(None, map(repository_of, urls)):
        names.setdefault(name.lower(), name)
    return list(names.values())
